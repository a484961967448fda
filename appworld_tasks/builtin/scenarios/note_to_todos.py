"""Action across two apps: add the items of a note that a Todoist project lacks, due some days from today."""

from datetime import timedelta

from appworld_tasks.builtin.app_data import simple_note, todoist
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("simple_note", "todoist")
DIFFICULTY = 3
TESTS = {
    "every missing item is one new task of the project": "no_op_fail",
    "the new tasks are due on that day": "no_op_fail",
    "no other Todoist task was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    rng = stage.rng
    days = rng.randrange(2, 30)
    titles = stage.titles(4)
    items = stage.nouns(24)
    contents = ["\n".join(items[6 * index : 6 * index + 6]) for index in range(4)]
    # The note that is asked about is the oldest: a listing begins with the others.
    simple_note.add_notes(stage, list(zip(titles, contents, strict=True)))
    known = rng.sample(items[:6], rng.randrange(1, 4))
    missing = [item for item in items[:6] if item not in known]
    projects = todoist.add_projects(stage, stage.titles(7))
    # Items of other notes are in the project, and what it lacks is in another project.
    present = [*known, *rng.sample(items[6:], 3)]
    rng.shuffle(present)
    todoist.add_todos(stage, projects[0], [{"title": item, "is_completed": item == known[0]} for item in present])
    todoist.add_todos(stage, projects[-1], [{"title": item} for item in missing])

    read_note = lines(
        "note = apis.simple_note.search_notes(query=<note_title>, access_token=simple_note_token)[0]",
        'text = apis.simple_note.show_note(note_id=note["note_id"], access_token=simple_note_token)["content"]',
        "print(text)",
    )
    fetch = "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)"
    select = 'i = [p["project_id"] for p in ps if p["name"] == <project>][0]'
    read = lines(
        'ts = apis.todoist.show_tasks(project_id=i, access_token=todoist_token)["no_section_tasks"]',
        'old = [t["title"] for t in ts]',
        "print(old)",
    )
    pick = lines("titles = [l for l in text.splitlines() if l not in old]", "print(titles)")
    date = lines(
        "from datetime import datetime, timedelta",
        'day = (datetime.now() + timedelta(days=<days>)).strftime("%Y-%m-%d")',
        "print(day)",
    )
    create = "apis.todoist.create_task(project_id=i, title=title, due_date=day, access_token=todoist_token)"
    add = lines("for title in titles:", f"    {create}", COMPLETE)
    opening = log_in("simple_note", "todoist")

    def attempt(read_note=read_note, select=select, pick=pick, date=date):
        return [opening, read_note, lines(fetch, select, "print(i)"), lines(read, pick), date, add]

    return Draft(
        instruction=f"Add every item of my note {titles[0]} that my Todoist project {projects[0].name} does not have "
        f"yet to that project, as a task due in {days} days.",
        given={"note_title": titles[0], "project": projects[0].name, "days": days},
        private_data={
            "titles": sorted(missing),
            "project_id": projects[0].id,
            "day": (stage.now + timedelta(days=days)).strftime("%Y-%m-%d"),
        },
        num_api_calls=4 + 2 + 2 + len(missing) + 1,
        solution=attempt(),
        wrong={
            "wrong_note": attempt(read_note=read_note.replace("query=<note_title>, ", "")),
            "wrong_project": attempt(select='i = ps[0]["project_id"]'),
            "all_items": attempt(pick=pick.replace(" if l not in old", "")),
            "only_the_first": attempt(pick=pick.replace("not in old]", "not in old][:1]")),
            "due_today": attempt(date=date.replace("<days>", "0")),
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("todoist.Task")
    asked = [t for t in added if t.project_id == private_data.project_id and t.title in private_data.titles]
    with test("every missing item is one new task of the project"):
        test.case(sorted(todo.title for todo in asked), "==", private_data.titles)
    with test("the new tasks are due on that day"):
        test.case({str(todo.due_date)[:10] for todo in asked}, "==", {private_data.day})
    with test("no other Todoist task was added, changed or removed"):
        test.case({todo.id for todo in added + updated + removed} - {todo.id for todo in asked}, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["todoist.Task"])
