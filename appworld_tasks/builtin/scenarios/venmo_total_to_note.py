"""Action across three apps: note down what a relative was sent on Venmo lately. The payments span two pages."""

from appworld_tasks.builtin.app_data import phone, simple_note, venmo
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, PAGES, all_pages, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("phone", "simple_note", "venmo")
DIFFICULTY = 3
TESTS = {
    "the note ends with the total": "no_op_fail",
    "the note's other lines are as they were": "no_op_pass",
    "no other note was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    rng, me = stage.rng, stage.supervisor
    # The contact book is listed by email address; the first one is somebody else.
    people = sorted(stage.people(7), key=lambda person: person.email)
    relationships = rng.sample(phone.RELATIVES, 7)
    phone.add_contacts(stage, [(p, [name]) for p, name in zip(people, relationships, strict=True)])
    wanted = rng.randrange(1, 7)
    person, days = people[wanted], rng.randrange(5, 25)
    # The person was paid long ago, lately, and last of all; the first contact was paid more than the person ever.
    others = [p for p in people if p != person]
    receivers = [person] * rng.randrange(2, 5) + rng.choices(others, k=rng.randrange(20, 24))
    rng.shuffle(receivers)
    receivers.append(person)  # on the second page
    long_ago = [(me, p, rng.randrange(4, 90), stage.ago(days=days + 20 - i)) for i, p in enumerate(people)]
    lately = [(me, p, rng.randrange(4, 90), stage.ago(hours=90 - i)) for i, p in enumerate(receivers)]
    more = [(me, people[0], 600, stage.ago(hours=95)), (person, me, rng.randrange(4, 90), stage.ago(hours=1))]
    venmo.add_payments(stage, [*long_ago, *more, *lately])
    # The note that is asked about is the oldest: a listing begins with the others.
    notes = [(t, "\n".join(f"{noun}: {rng.randrange(4, 90)}" for noun in stage.nouns(3))) for t in stage.titles(4)]
    note = simple_note.add_notes(stage, notes)[0]

    contact = lines(
        "cs = apis.phone.search_contacts(relationship=<relationship>, access_token=phone_token, page_limit=20)",
        'email = cs[0]["email"]',
        "print(email)",
    )
    date = lines(
        "from datetime import datetime, timedelta",
        "start = (datetime.now() - timedelta(days=<days>)).isoformat()",
        "print(start)",
    )
    fetch = all_pages("ts", "venmo.show_transactions", 'direction="sent"')
    select = 'ts = [t for t in ts if t["receiver"]["email"] == email and t["created_at"] >= start]'
    add_up = 'n = int(sum(t["amount"] for t in ts))'
    search = "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]"
    find = lines(search, 'i = note["note_id"]', "print(i)")
    arguments = 'note_id=i, append_or_prepend="append", added_content=str(n), access_token=simple_note_token'
    add = lines(f"apis.simple_note.add_content_to_note({arguments})", COMPLETE)
    rename = 'apis.venmo.update_account_name(last_name="Extra", access_token=venmo_token)'
    add_first = add.replace('"append"', '"prepend"')
    opening = log_in("phone", "simple_note", "venmo")

    def attempt(contact=contact, select=select, find=find, add=add):
        return [opening, contact, date, lines(fetch, select, add_up, "print(n)"), find, add]

    return Draft(
        instruction=f"Add up what I sent my {relationships[wanted]} on Venmo in the last {days} days and write the "
        f"total in whole dollars as a new last line into my note {note.title}.",
        given={"relationship": relationships[wanted], "days": days, "note_title": note.title},
        private_data={
            "note_id": note.id,
            "content": note.content,
            "total": str(sum(n for _, receiver, n, _ in lately if receiver == person)),
        },
        num_api_calls=5 + 1 + PAGES + 1 + 2,
        solution=attempt(),
        wrong={
            "wrong_person": attempt(contact=contact.replace("relationship=<relationship>, ", "")),
            "all_time": attempt(select=select.replace(' and t["created_at"] >= start', "")),
            "wrong_note": attempt(find=find.replace("query=<note_title>, ", "")),
            "first_line_instead": attempt(add=add_first),
            "does_more": attempt(add=lines(rename, add)),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("simple_note.Note")
    text = models.end.simple_note.Note.by_id(private_data.note_id).content
    with test("the note ends with the total"):
        test.case(text.splitlines()[-1].strip(" $").removesuffix(".0"), "==", private_data.total)
    with test("the note's other lines are as they were"):
        test.case(text.splitlines()[:3], "==", private_data.content.splitlines())
    with test("no other note was added, changed or removed"):
        test.case({note.id for note in added + updated + removed} - {private_data.note_id}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["simple_note.Note"])
