"""The behaviours of the agent, counted in rollouts."""

import pytest

from loop_rl.data.rollout import Turn
from loop_rl.environments.appworld import behaviour_paper
from loop_rl.environments.appworld.behaviour import RATIOS, count_behaviour, failures
from loop_rl.environments.babyai import ACTIONS
from loop_rl.environments.babyai import Environment as BabyAI

FAILED = "Execution failed. Traceback:\nException: Response status code is 422"


def turn(code: str = "", observation: str = "", text: str | None = None, calls: tuple[str, ...] = ()) -> Turn:
    return Turn([], [], [], 0, f"```python\n{code}\n```" if text is None else text, code, observation, list(calls))


def value(label: str, *turns: Turn, end_reason: str = "completed") -> float | None:
    (row,) = [row for row in RATIOS if row.label.startswith(label)]
    return row.value(count_behaviour(turns, end_reason, num_action_tokens=7))


def test_doc_calls_are_those_that_reached_appworld():
    one = turn("...", calls=('GET /api_docs/api_doc {"app_name": "venmo"}', "GET /api_docs/api_descriptions {}"))
    two = turn("apis.api_docs.show_api_doc()", calls=("GET /api_docs/api_doc {}", "GET /api_docs/api_doc {}"))
    assert value("show_api_doc", one, two) == 3


def test_turns_with_more_than_one_block_count_once_closed_or_not():
    two = turn("a", text="First\n```python\na\n```\nthen\n```python\nb\n```")
    cut = turn("a", text="```python\na\n```\n```python\nb\n```\n```python\nc = ")
    inline = turn("a", text="I write ```python inside a sentence.\n```python\na\n```")
    assert value("turns with more than one", two, cut, inline, turn("a")) == 0.5


def test_words_of_assumption_and_placeholders_in_thought_and_code():
    first = turn("x = 'dummy_token'", text="I Assume so, assuming it is. Dummy.\n```python\nx = 'dummy_token'\n```")
    assert value("words of assumption", first, turn("consume()")) == 2
    assert value("placeholder", first, turn("consume()")) == 2


@pytest.mark.parametrize(
    ("following", "gave_up"),
    [
        ('apis.supervisor.complete_task(status="fail")', True),
        ("", True),  # no code: the agent ends the episode by talking
        ("apis.venmo.show_account(token=t)\napis.supervisor.complete_task()", False),  # the failed API again
        ("apis.spotify.login()\napis.supervisor.complete_task()", True),  # another one
        ("apis.api_docs.show_api_doc(app_name='venmo')", False),  # looks for the mistake
        ("print(1)", False),
    ],
)
def test_giving_up_is_to_complete_without_trying_again(following, gave_up):
    turns = [turn("apis.venmo.show_account()", FAILED), turn(following, "1\n"), turn("apis.supervisor.complete_task()")]
    assert failures(turns) == ([0], [0] if gave_up else [])


@pytest.mark.parametrize(
    ("code", "observation"),
    [
        ("apis.venmo.show_account()", "{'Execution failed': 1}"),  # it did not fail
        ("1 / 0", "Execution failed. Traceback:\nZeroDivisionError"),  # no API
        ("apis.supervisor.complete_task(answer=x)", FAILED),  # to complete again is to try again
    ],
)
def test_what_is_no_failed_call(code, observation):
    assert failures([turn(code, observation), turn("apis.supervisor.complete_task()")]) == ([], [])


def test_a_failure_in_the_last_turn_says_nothing_about_giving_up():
    assert failures([turn("apis.venmo.show_account()", FAILED)]) == ([], [])
    assert value("giving up", turn("apis.venmo.show_account()", FAILED)) is None


def test_the_papers_own_counts_by_hand():
    turns = [
        turn("apis.venmo.show_account()\napis.phone.login()", FAILED, "I assume.\n```py\nab\n```\n```python\ncd\n```"),
        turn("apis.venmo.show_account()", FAILED),  # failed already
        turn("apis.venmo.show_account()\napis.api_docs.show_api_doc()", "{}"),  # recovered; phone.login is not
        turn("apis.venmo.show_account(dummy)", FAILED, "an assumption, dummy assuming"),  # failed anew
        turn("apis.supervisor.complete_task()"),
    ]
    counts = behaviour_paper.count_behaviour(turns)
    assert (counts["paper_failed_endpoints"], counts["paper_given_up"]) == (3, 2)
    assert (counts["paper_turns"], counts["paper_errors"]) == (4, 3)
    assert (counts["paper_multi_cell_turns"], counts["paper_doc_calls"]) == (1, 1)
    assert (counts["paper_assumptions"], counts["paper_dummies"]) == (2, 1)
    assert counts["paper_code_characters"] == 6 + sum(len(turns[i].executed) + 1 for i in (1, 2, 4))


def test_counts_add_up():
    both = count_behaviour([turn("a"), turn("b")], "completed", num_action_tokens=5)
    both.update(count_behaviour([turn("a")], "max_turns", num_action_tokens=2))
    assert (both["rollouts"], both["completed"], both["turns"], both["action_tokens"]) == (2, 1, 3, 7)


def test_every_environment_counts_valid_actions_and_its_own_behaviours_only():
    turns = [Turn([], [], [], 0, text, "go forward", "", valid=text in ACTIONS) for text in ("go forward", "fly", "x")]
    counts = BabyAI.count_behaviour(turns, "completed", num_action_tokens=6)
    assert {ratio.label: ratio.value(counts) for ratio in BabyAI.behaviours} == {
        "valid actions": 1 / 3,
        "turns per rollout": 3,
        "action tokens per rollout": 6,
    }
    assert BabyAI.gave_up(turns) is None
