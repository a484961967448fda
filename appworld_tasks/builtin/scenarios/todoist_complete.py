"""Action: complete the tasks of one priority in one of many Todoist projects; all projects have such tasks."""

from appworld_tasks.builtin.app_data import todoist
from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "train"
APPS = ("todoist",)
DIFFICULTY = 2
TESTS = {
    "every task of that priority in the project is completed": "no_op_fail",
    "these tasks are otherwise as they were": "no_op_pass",
    "no other Todoist task was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    priority, *others = stage.rng.sample(["high", "medium", "low"], 3)
    projects = todoist.add_projects(stage, stage.titles(7))
    priorities = [priority] * stage.rng.randrange(2, 5) + stage.rng.choices(others, k=4)
    stage.rng.shuffle(priorities)
    todos = todoist.add_todos(stage, projects[0], [{"priority": other} for other in priorities])
    wanted = [todo for todo in todos if todo.priority == priority]
    for project in (projects[1], projects[-1]):
        todoist.add_todos(stage, project, [{"priority": other} for other in (priority, *others)])

    opening = log_in("todoist")
    fetch = "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)"
    select = 'i = [p["project_id"] for p in ps if p["name"] == <project>][0]'
    select_any = 'i = ps[0]["project_id"]'
    read = 'ts = apis.todoist.show_tasks(project_id=i, access_token=todoist_token)["no_section_tasks"]'
    pick = lines('ids = [t["task_id"] for t in ts if t["priority"] == <priority>]', "print(ids)")
    pick_all = lines('ids = [t["task_id"] for t in ts]', "print(ids)")
    update = lines(
        "for i in ids:",
        "    apis.todoist.update_task(task_id=i, is_completed=True, access_token=todoist_token)",
        COMPLETE,
    )
    lower = update.replace("is_completed=True", 'is_completed=True, priority="low", title="Done"')
    return Draft(
        instruction=f"Complete all {priority} priority tasks in my Todoist project {projects[0].name}.",
        given={"priority": priority, "project": projects[0].name},
        private_data={"titles": {str(todo.id): todo.title for todo in wanted}},
        num_api_calls=3 + 2 + len(wanted) + 1,
        solution=[opening, lines(fetch, select, "print(i)"), lines(read, pick), update],
        wrong={
            "wrong_project": [opening, lines(fetch, select_any, "print(i)"), lines(read, pick), update],
            "no_filter": [opening, lines(fetch, select, "print(i)"), lines(read, pick_all), update],
            "only_the_first": [
                opening,
                lines(fetch, select, "print(i)"),
                lines(read, pick),
                update.replace("ids:", "ids[:1]:"),
            ],
            "rewrites_them": [opening, lines(fetch, select, "print(i)"), lines(read, pick), lower],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("todoist.Task")
    wanted = {int(number): title for number, title in private_data.titles.items()}
    changed = [todo for todo in updated if todo.id in wanted]
    with test("every task of that priority in the project is completed"):
        test.case({todo.id for todo in changed if todo.is_completed}, "==", set(wanted))
    with test("these tasks are otherwise as they were"):
        test.case({todo.title for todo in changed} - set(wanted.values()), "==", set())
        test.case({todo.priority for todo in changed} - {public_data.priority}, "==", set())
    with test("no other Todoist task was added, changed or removed"):
        test.case({todo.id for todo in added + updated + removed} - set(wanted), "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["todoist.Task"])
