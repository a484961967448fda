"""Question: how many tasks of one Todoist project are still open?"""

from appworld_tasks.builtin.checks import ANSWER_TESTS, check_answer
from appworld_tasks.builtin.idioms import GIVE_UP, LOGIN_CALLS, lines, log_in, submit
from appworld_tasks.builtin.scenario import Draft, Stage

APPS = ("todoist",)
DIFFICULTY = 2
TESTS = ANSWER_TESTS


def set_up(stage: Stage) -> Draft:
    name, *others = stage.nouns(3)
    # Every count differs, so that a wrong project or a wrong filter is always a wrong answer.
    num_open, num_done, other_open = stage.rng.sample(range(2, 8), 3)
    projects = stage.projects([name, *others])
    done = [False] * num_open + [True] * num_done
    stage.rng.shuffle(done)
    stage.todos(projects[0], [{"is_completed": is_done, "priority": "medium"} for is_done in done])
    for project in projects[1:]:
        stage.todos(project, [{"is_completed": False, "priority": "medium"}] * other_open)

    opening = log_in("todoist")
    find = lines(
        "ps = apis.todoist.show_projects(access_token=token)",
        'ids = [p["project_id"] for p in ps if p["name"] == w[7]]',
    )
    find_any = lines("ps = apis.todoist.show_projects(access_token=token)", 'ids = [p["project_id"] for p in ps]')
    read = lines(
        'ts = apis.todoist.show_tasks(project_id=ids[0], access_token=token)["no_section_tasks"]',
        'print([t["is_completed"] for t in ts])',
    )
    answer = submit('len([t for t in ts if not t["is_completed"]])')
    return Draft(
        instruction=f"How many tasks in my Todoist project {name} are not completed?",
        answer=num_open,
        public_data={"project_name": name},
        num_api_calls=LOGIN_CALLS + 2 + 1,
        solution=[opening, lines(find, read), answer],
        flawed={
            "wrong_project": [opening, lines(find_any, read), answer],
            "no_filter": [opening, lines(find, read), submit("len(ts)")],
            "opposite_filter": [opening, lines(find, read), submit('len([t for t in ts if t["is_completed"]])')],
            "gives_up": [opening, GIVE_UP],
        },
    )


def evaluate(test, public_data, private_data, main_user, models, ground_truth_answer):
    check_answer(test, models, ground_truth_answer)
