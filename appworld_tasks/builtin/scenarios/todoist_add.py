"""Action: add a task with a priority to one of many Todoist projects; the wanted one is on the second default page."""

from appworld_tasks.builtin.app_data import todoist
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("todoist",)
DIFFICULTY = 1
TESTS = {
    "one task was added to the project and no other task was touched": "no_op_fail",
    "the new task has the title": "no_op_fail",
    "the new task has the priority": "no_op_fail",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    title = stage.titles(1)[0]
    priority = stage.rng.choice(["high", "low"])  # without asking for one it becomes medium
    projects = todoist.add_projects(stage, stage.titles(7))
    for project in projects[:3]:
        todoist.add_todos(stage, project, [{}] * stage.rng.randrange(1, 5))

    opening = log_in("todoist")
    fetch = "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)"
    select = 'i = [p["project_id"] for p in ps if p["name"] == <project>][0]'
    select_any = 'i = ps[0]["project_id"]'
    create = "apis.todoist.create_task(project_id=i, title=<title>, access_token=todoist_token"
    add = lines(f"{create}, priority=<priority>)", COMPLETE)
    add_plain = lines(f"{create})", COMPLETE)
    add_short = lines(f"{create}, priority=<priority>)".replace("<title>", "<title>.split()[0]"), COMPLETE)
    return Draft(
        instruction=f"Add a {priority} priority task called {title} to my Todoist project {projects[0].name}.",
        given={"priority": priority, "title": title, "project": projects[0].name},
        private_data={"project_id": projects[0].id},
        num_api_calls=3 + 1 + 2,
        solution=[opening, lines(fetch, select, "print(i)"), add],
        wrong={
            "wrong_project": [opening, lines(fetch, select_any, "print(i)"), add],
            "no_priority": [opening, lines(fetch, select, "print(i)"), add_plain],
            "half_a_title": [opening, lines(fetch, select, "print(i)"), add_short],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("todoist.Task")
    with test("one task was added to the project and no other task was touched"):
        test.case([todo.project_id for todo in added + updated + removed], "==", [private_data.project_id])
        test.case(len(added), "==", 1)
    with test("the new task has the title"):
        test.case([todo.title for todo in added], "==", [public_data.title])
    with test("the new task has the priority"):
        test.case([todo.priority for todo in added], "==", [public_data.priority])
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["todoist.Task"])
