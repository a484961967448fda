"""Reference solutions, cut into what an agent would write."""

from appworld_tasks.reference import SolutionStep, solution_steps, steps_of

SOURCE = """\
# Canary
import x

def helper():
    pass

def solution(apis, requester) -> None:
    # first
    # really
    a = 1  # one
    for i in range(3):
        # inside
        print("# no comment", i)  # yes

    b = {  # dict
        "k": 1,
    }
    # last
    apis.supervisor.complete_task()
"""


def test_a_top_level_statement_is_a_step_with_its_comments_and_without():
    assert steps_of(SOURCE) == [
        SolutionStep("first really one", "a = 1"),
        SolutionStep("inside yes", 'for i in range(3):\n    print("# no comment", i)'),
        SolutionStep("dict", 'b = {\n    "k": 1,\n}'),
        SolutionStep("last", "apis.supervisor.complete_task()"),
    ]


def test_a_task_without_a_solution_has_none(tmp_path):
    for folder in ("datasets", "base_dbs", "api_docs", "tasks/t_1"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    assert solution_steps(tmp_path, "t_1") is None
