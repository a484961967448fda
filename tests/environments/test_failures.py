"""Causes of failure: each rule on rollouts that a hand can check."""

import json
import re
from pathlib import Path

import pytest

from appworld_tasks.reference import PagedApi, no_op_tests, paged_apis
from loop_rl.data.rollout import Rollout, Turn
from loop_rl.environments.appworld.behaviour import RATIOS
from loop_rl.environments.appworld.failures import (
    CAUSES,
    NONE_OF_THESE,
    Evidence,
    count_causes,
    failed_tests,
    find_causes,
)

LIBRARY = PagedApi("GET", re.compile("/spotify/library/songs"), page_limit=5)
EVIDENCE = Evidence([LIBRARY], lambda task_id: frozenset({"no other data changed"}))
FULL_PAGE = json.dumps([{"song_id": i} for i in range(5)])
SHORT_PAGE = json.dumps([{"song_id": 1}])


def turn(code: str = "", observation: str = "", calls: tuple[str, ...] = ()) -> Turn:
    return Turn([], [], [], 0, f"```python\n{code}\n```", code, observation, list(calls))


def rollout(*turns: Turn, end_reason: str = "completed", failures: tuple[str, ...] = ("a test",)) -> Rollout:
    fields = {
        "rollout_id": "r",
        "group_id": 0,
        "iteration": -1,
        "task_id": "t_1",
        "family": "t",
        "labels": {},
        "ending": "terminated",
    }
    outcome = {
        "end_reason": end_reason,
        "score": 0.0,
        "success": not failures,
        "passes": [],
        "failures": list(failures),
    }
    times = {"started_at": 0.0, "duration_s": 0.0, "generation_s": 0.0, "environment_s": 0.0}
    return Rollout(**fields, instruction="", **outcome, turns=list(turns), **times)


def page(index: int | None = None, **others) -> str:
    parameters = others if index is None else {"page_index": index, **others}
    return f"GET /spotify/library/songs {json.dumps({'access_token': 't'} | parameters)}"


@pytest.mark.parametrize(
    ("end_reason", "failure", "cause"),
    [
        ("max_turns", "a test", {"out of turns"}),
        ("context_full", "a test", {"context full"}),
        ("completed", "assert answers match.", {"wrong answer"}),
        ("max_turns", "assert answers match.", {"out of turns"}),  # it had no chance to answer
        ("completed", "no other data changed", {"collateral damage"}),
        ("no_code", "a test", set()),
        ("tampered", "tampered: venmo differs", set()),
    ],
)
def test_causes_seen_in_the_outcome(end_reason, failure, cause):
    assert find_causes(rollout(turn("1"), end_reason=end_reason, failures=(failure,)), EVIDENCE) == cause


def test_authentication_errors_are_seen_in_what_was_printed():
    denied = (
        'Execution failed. Traceback:\nException: Response status code is 401:\n{"message":"You are either not ..."}'
    )
    assert find_causes(rollout(turn("1", denied)), EVIDENCE) == {"authentication error"}
    assert not find_causes(rollout(turn("1", denied.replace("401", "422"))), EVIDENCE)


def test_documentation_counts_when_an_earlier_turn_has_read_it():
    read = turn("...", calls=('GET /api_docs/api_doc {"app_name": "venmo", "api_name": "login"}',))
    use = turn("apis.venmo.login(username=u)")
    unread = {"documentation not read"}
    assert find_causes(rollout(read, use), EVIDENCE) == set()
    assert find_causes(rollout(use, read), EVIDENCE) == unread
    both = turn(use.executed, calls=tuple(read.log))
    assert find_causes(rollout(both), EVIDENCE) == unread  # written before anything was read
    assert find_causes(rollout(read, turn("apis.venmo.show_account()")), EVIDENCE) == unread
    assert (
        find_causes(rollout(turn("apis.supervisor.show_profile(); apis.api_docs.show_app_descriptions()")), EVIDENCE)
        == set()
    )


@pytest.mark.parametrize(
    ("turns", "unfinished"),
    [
        ([turn(calls=(page(),))], True),  # the first page only, of unknown length
        ([turn(calls=(page(0), page(1), page(2)))], False),
        ([turn("a", SHORT_PAGE, (page(),))], False),  # seen to be all there is
        ([turn("a", FULL_PAGE, (page(),))], True),
        ([turn("a", FULL_PAGE, (page(0),)), turn("b", FULL_PAGE, (page(1),))], True),
        ([turn("a", FULL_PAGE, (page(0),)), turn("b", SHORT_PAGE, (page(1),))], False),
        ([turn("a", FULL_PAGE, (page(0, page_limit=20),))], False),  # 5 of 20
        ([turn("a", FULL_PAGE, (page(0), page(1)))], False),  # whose page was printed is not known
        ([turn(calls=(page(0), page(1), page(0, genre="jazz")))], True),  # another listing
        ([turn(calls=(page(0, page_limit=5), page(1, page_limit=20)))], False),  # the same
        ([turn(calls=("GET /spotify/songs/7 {}",))], False),  # has no pages
    ],
)
def test_unfinished_pagination(turns, unfinished):
    assert find_causes(rollout(*turns), EVIDENCE) == ({"unfinished pagination"} if unfinished else set())


def test_calls_that_no_honest_agent_makes_are_passed_over():
    odd = [page("x"), page(None, page_limit=[]), "GET /spotify/library/songs {cut", "[3 more API calls]", "", "GET"]
    odd += ['GET /api_docs/api_doc {"app_name": [], "api_name": {}}', "GET /api_docs/api_doc []"]
    assert find_causes(rollout(turn("1", "[" * 100_000, tuple(odd))), EVIDENCE) == set()


def test_counts_are_of_rollouts_and_say_how_often_successful_ones_have_the_cause():
    first_page = turn(calls=(page(),))
    rollouts = [rollout(first_page, first_page), rollout(first_page, failures=()), rollout(turn())]
    counts = count_causes(rollouts, EVIDENCE)
    assert list(counts) == [*(cause.label for cause in CAUSES), NONE_OF_THESE]
    assert counts["unfinished pagination"] == {"failed": 1, "successful": 1}
    assert counts[NONE_OF_THESE] == {"failed": 1, "successful": 0}
    assert counts["wrong answer"] == {"failed": 0, "successful": 0}


def test_failed_tests_come_the_most_frequent_first():
    rollouts = [rollout(failures=("b", "a")), rollout(failures=("b",)), rollout(failures=())]
    assert failed_tests(rollouts) == [("b", 2), ("a", 1)]


def test_the_evidence_in_appworlds_own_files(tmp_path):
    for folder in ("tasks/t_1/ground_truth", "datasets", "base_dbs", "api_docs/standard"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    paged = [{"name": "page_index", "default": 0}, {"name": "page_limit", "default": 7}]
    docs = {
        "show_songs": {"method": "get", "path": "/spotify/lists/{list_id}/songs", "parameters": paged},
        "show_song": {
            "method": "get",
            "path": "/spotify/songs/{song_id}",
            "parameters": [{"name": "song_id", "default": None}],
        },
    }
    (tmp_path / "data/api_docs/standard/spotify.json").write_text(json.dumps(docs))
    (api,) = paged_apis(tmp_path)
    assert (api.method, api.page_limit) == ("GET", 7)
    assert api.path.fullmatch("/spotify/lists/12/songs") and not api.path.fullmatch("/spotify/lists/1/2/songs")
    labels = [{"requirement": "x", "label": "no_op_fail"}, {"requirement": "y", "label": "no_op_pass"}]
    tests = tmp_path / "data/tasks/t_1/ground_truth/test_data.json"
    for content, expected in ((labels, {"y"}), (None, set())):  # AppWorld allows both
        tests.write_text(json.dumps(content))
        assert no_op_tests(tmp_path, "t_1") == expected


def test_every_rule_is_in_the_documentation():
    documentation = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    for label, definition in [(rule.label, rule.definition) for rule in (*CAUSES, *RATIOS)]:
        assert f"| {label} | {definition} |" in documentation
