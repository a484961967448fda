"""Action: pin the notes of one tag made in the last days. Old notes were edited lately, and new ones are on page two."""

from appworld_tasks.builtin.app_data import simple_note
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "dev"
APPS = ("simple_note",)
DIFFICULTY = 2
TESTS = {
    "every such note is pinned": "no_op_fail",
    "these notes are otherwise as they were": "no_op_pass",
    "no other note was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    tag, *others = stage.nouns(4)
    days = rng.randrange(8, 25)
    # Tags, and days since the note was made and edited. A listing begins with the note that was edited last.
    made = [([tag], days - 2, days - 2)]
    made += [
        ([tag, rng.choice(others)], rng.randrange(3, days - 1), rng.randrange(3)) for _ in range(rng.randrange(2, 5))
    ]
    num_wanted = len(made)
    made += [([tag], rng.randrange(days + 2, days + 30), rng.randrange(3)) for _ in range(rng.randrange(2, 5))]
    made += [(rng.sample(others, 2), rng.randrange(3, days + 30), rng.randrange(3)) for _ in range(20)]
    titles = [f"{stage.nouns(1)[0].title()} {number}" for number in rng.sample(range(10, 100), len(made))]
    columns = [
        {"tags": tags, "created_at": stage.ago(days=first), "updated_at": stage.ago(days=last), "pinned": False}
        for tags, first, last in made
    ]
    notes = simple_note.add_notes(stage, [(title, tag) for title in titles], columns)
    wanted = notes[:num_wanted]

    opening = log_in("simple_note")
    fetch = all_pages("ns", "simple_note.search_notes", "")
    date = lines(
        "from datetime import datetime, timedelta", "start = (datetime.now() - timedelta(days=<days>)).isoformat()"
    )
    pick = lines('ids = [x["note_id"] for x in ns if <tag> in x["tags"] and x["created_at"] >= start]', "print(ids)")
    pick_any_tag = pick.replace('<tag> in x["tags"] and ', "")
    pick_edited = pick.replace("created_at", "updated_at")
    pin = lines(
        "for i in ids:",
        "    apis.simple_note.update_note(note_id=i, pinned=True, access_token=simple_note_token)",
        COMPLETE,
    )
    rename = 'apis.simple_note.update_account_name(last_name="Extra", access_token=simple_note_token)'
    read = lines(fetch, date, pick)
    return Draft(
        instruction=f"Pin all my notes with the tag {tag} that I created in the last {days} days.",
        given={"tag": tag, "days": days},
        private_data={"titles": {str(note.id): note.title for note in wanted}},
        num_api_calls=3 + PAGES + len(wanted) + 1,
        solution=[opening, read, pin],
        wrong={
            "any_tag": [opening, lines(fetch, date, pick_any_tag), pin],
            "edited_instead_of_made": [opening, lines(fetch, date, pick_edited), pin],
            "drops_tags": [opening, read, pin.replace("pinned=True", "pinned=True, tags=[]")],
            "does_more": [opening, read, lines(rename, pin)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("simple_note.Note")
    wanted = {int(number): title for number, title in private_data.titles.items()}
    changed = [note for note in updated if note.id in wanted]
    with test("every such note is pinned"):
        test.case({note.id for note in changed if note.pinned}, "==", set(wanted))
    with test("these notes are otherwise as they were"):
        test.case([note.title for note in changed], "==", [wanted[note.id] for note in changed])
        test.case([note.title for note in changed if public_data.tag not in note.tags], "==", [])
    with test("no other note was added, changed or removed"):
        test.case({note.id for note in added + updated + removed} - set(wanted), "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["simple_note.Note"])
