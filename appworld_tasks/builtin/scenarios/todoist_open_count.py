"""Question: how many tasks of one Todoist project are still open? Many are done, and other projects have tasks too."""

from appworld_tasks.builtin.app_data import todoist
from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

SPLIT = "test_normal"
APPS = ("todoist",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    # Every count differs, so that a wrong project or a wrong filter is always a wrong answer.
    num_open, num_done, other_open = stage.rng.sample(range(3, 15), 3)
    projects = todoist.add_projects(stage, stage.titles(7))
    done = [False] * num_open + [True] * num_done
    stage.rng.shuffle(done)
    todoist.add_todos(stage, projects[0], [{"is_completed": is_done} for is_done in done])
    for project in (projects[1], projects[-1]):
        todoist.add_todos(stage, project, [{"is_completed": False}] * other_open)

    opening = log_in("todoist")
    fetch = "ps = apis.todoist.show_projects(access_token=todoist_token, page_limit=20)"
    select = 'i = [p["project_id"] for p in ps if p["name"] == <project>][0]'
    select_any = 'i = ps[0]["project_id"]'
    read = 'ts = apis.todoist.show_tasks(project_id=i, access_token=todoist_token)["no_section_tasks"]'
    count = 'n = len([t for t in ts if not t["is_completed"]])'
    count_done = 'n = len([t for t in ts if t["is_completed"]])'
    find = lines(fetch, select, "print(i)")
    find_any = lines(fetch, select_any, "print(i)")
    return Draft(
        instruction=f"How many tasks in my Todoist project {projects[0].name} are not completed yet?",
        given={"project": projects[0].name},
        answer=num_open,
        num_api_calls=3 + 2 + 1,
        solution=[opening, find, lines(read, count, "print(n)"), submit("n")],
        wrong={
            "wrong_project": [opening, find_any, lines(read, count, "print(n)"), submit("n")],
            "no_filter": [opening, find, lines(read, "n = len(ts)", "print(n)"), submit("n")],
            "opposite_filter": [opening, find, lines(read, count_done, "print(n)"), submit("n")],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
