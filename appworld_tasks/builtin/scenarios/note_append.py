"""Action: add a last line to one note; other notes are newer."""

from appworld_tasks.builtin.app_data import simple_note
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("simple_note",)
DIFFICULTY = 1
TESTS = {
    "the note ends with the new line": "no_op_fail",
    "the note's other lines are as they were": "no_op_pass",
    "no other note was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    titles = stage.titles(6)
    line, *items = stage.nouns(13)
    contents = ["\n".join(items[2 * index : 2 * index + 2]) for index in range(6)]
    # The note that is asked about is the oldest: a listing begins with the others.
    note = simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))[0]

    opening = log_in("simple_note")
    search = "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]"
    find = lines(search, 'i = note["note_id"]', "print(i)")
    find_any = find.replace("query=<note_title>, ", "")
    arguments = "note_id=i, added_content=<line>, access_token=simple_note_token"
    add = lines(f'apis.simple_note.add_content_to_note({arguments}, append_or_prepend="append")', COMPLETE)
    rename = 'apis.simple_note.update_account_name(last_name="Extra", access_token=simple_note_token)'
    overwrite = lines(
        "apis.simple_note.update_note(note_id=i, content=<line>, access_token=simple_note_token)", COMPLETE
    )
    return Draft(
        instruction=f"Add {line} as a new last line to my note {titles[0]}.",
        given={"line": line, "note_title": titles[0]},
        private_data={"note_id": note.id, "content": contents[0]},
        num_api_calls=3 + 1 + 2,
        solution=[opening, find, add],
        wrong={
            "wrong_note": [opening, find_any, add],
            "first_line_instead": [opening, find, add.replace('"append"', '"prepend"')],
            "overwrites": [opening, find, overwrite],
            "does_more": [opening, find, lines(rename, add)],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("simple_note.Note")
    text = models.end.simple_note.Note.by_id(private_data.note_id).content
    with test("the note ends with the new line"):
        test.case(text.splitlines()[-1], "==", public_data.line)
    with test("the note's other lines are as they were"):
        test.case(text.removesuffix(public_data.line).strip(), "==", private_data.content)
    with test("no other note was added, changed or removed"):
        test.case({note.id for note in added + updated + removed} - {private_data.note_id}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["simple_note.Note"])
