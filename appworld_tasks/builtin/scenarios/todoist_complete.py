"""Action: complete the tasks of one priority in one Todoist project."""

from appworld_tasks.builtin.checks import check_completed, check_nothing_else_changed
from appworld_tasks.builtin.idioms import COMPLETE, GIVE_UP, LOGIN_CALLS, lines, log_in
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("todoist",)
DIFFICULTY = 2
TESTS = {
    "every task of that priority in the project is completed": "no_op_fail",
    "no other Todoist task was added, changed or removed": "no_op_pass",
    "the task was marked complete with status success": "no_op_fail",
    "no other data changed": "no_op_pass",
}


def set_up(stage: Stage) -> Draft:
    name, *others = stage.nouns(3)
    priority, *other_priorities = stage.rng.sample(["high", "medium", "low"], 3)
    projects = stage.projects([name, *others])
    priorities = [priority] * stage.rng.randrange(2, 4) + other_priorities
    stage.rng.shuffle(priorities)
    todos = stage.todos(projects[0], [{"is_completed": False, "priority": other} for other in priorities])
    wanted = [todo.id for todo in todos if todo.priority == priority]
    for project in projects[1:]:
        stage.todos(project, [{"is_completed": False, "priority": other} for other in priorities])

    opening = log_in("todoist")
    find = lines(
        "ps = apis.todoist.show_projects(access_token=token)",
        'ids = [p["project_id"] for p in ps if p["name"] == w[9]]',
    )
    find_any = lines("ps = apis.todoist.show_projects(access_token=token)", 'ids = [p["project_id"] for p in ps]')
    read = lines(
        'ts = apis.todoist.show_tasks(project_id=ids[0], access_token=token)["no_section_tasks"]',
        'print([t["priority"] for t in ts])',
    )
    every = "for t in ts:"
    matching = 'for t in [t for t in ts if t["priority"] == w[2]]:'
    matching_first = 'for t in [t for t in ts if t["priority"] == w[2]][:1]:'
    complete = lines(
        '    apis.todoist.update_task(task_id=t["task_id"], is_completed=True, access_token=token)', COMPLETE
    )
    return Draft(
        instruction=f"Complete all {priority} priority tasks in my Todoist project {name}.",
        public_data={"project_name": name, "priority": priority},
        private_data={"task_ids": wanted},
        num_api_calls=LOGIN_CALLS + 2 + len(wanted) + 1,
        solution=[opening, lines(find, read), lines(matching, complete)],
        flawed={
            "wrong_project": [opening, lines(find_any, read), lines(matching, complete)],
            "no_filter": [opening, lines(find, read), lines(every, complete)],
            "only_the_first": [opening, lines(find, read), lines(matching_first, complete)],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    added, updated, removed = models.changed_records("todoist.Task")
    wanted = set(private_data.task_ids)
    with test("every task of that priority in the project is completed"):
        test.case(wanted - {todo.id for todo in updated if todo.is_completed}, "==", set())
    with test("no other Todoist task was added, changed or removed"):
        test.case({todo.id for todo in added + updated + removed} - wanted, "==", set())
    check_completed(test, models)
    check_nothing_else_changed(test, models, allowed=["todoist.Task"])
