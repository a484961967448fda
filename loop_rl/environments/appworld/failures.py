"""Why tasks fail: a taxonomy of stored rollouts, by rules that a reader can check by hand.

    evidence = Evidence.of_root(config.tasks.root)
    causes = find_causes(rollout, evidence)               # {"wrong answer", "unfinished pagination"}

Causes do not exclude each other, and some occur in rollouts that succeed, too: what counts is how much more often they
occur in those that fail. The rules see what is stored, which is the code, the API calls without their answers, and what
was printed; each says in `CAUSES` what it therefore misses.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appworld_tasks.reference import PagedApi, no_op_tests, paged_apis
from loop_rl.data.rollout import EndReason, Rollout, Turn
from loop_rl.environments.appworld.behaviour import SHOW_API_DOC, apis_in
from loop_rl.environments.appworld.ends import COMPLETED

_UNAUTHORIZED = "Response status code is 401"  # how AppWorld words it
_ANSWER = re.compile(r"\banswers?\b", re.IGNORECASE)
_NEED_NO_DOC = ("api_docs", "supervisor")
_PAGE_PARAMETERS = ("page_index", "page_limit", "access_token")
NUM_FAILED_TESTS = 20


@dataclass(frozen=True)
class Evidence:
    """What of AppWorld's data the rules need."""

    paged: Sequence[PagedApi]
    no_op_tests: Callable[[str], frozenset[str]]
    """Task id -> requirements that hold when nothing is done."""

    @classmethod
    def of_root(cls, root: str | Path) -> Evidence:
        """Of a full root. Raises RootError."""
        return cls(paged_apis(root), lambda task_id: no_op_tests(root, task_id))


@dataclass(frozen=True)
class Cause:
    """One kind of mistake."""

    label: str
    occurs: Callable[[Rollout, Evidence], bool]
    definition: str
    """The exact rule, and what it misses."""


def find_causes(rollout: Rollout, evidence: Evidence) -> set[str]:
    """Labels of the causes that apply to a rollout, successful or not."""
    return {cause.label for cause in CAUSES if cause.occurs(rollout, evidence)}


def count_causes(rollouts: Iterable[Rollout], evidence: Evidence) -> dict[str, dict[str, int]]:
    """{label: {"failed": rollouts that fail and have it, "successful": that succeed and have it}}; NONE_OF_THESE, too."""
    counts = {label: {"failed": 0, "successful": 0} for label in (*(cause.label for cause in CAUSES), NONE_OF_THESE)}
    for rollout in rollouts:
        outcome = "successful" if rollout.success else "failed"
        for label in find_causes(rollout, evidence) or {NONE_OF_THESE}:
            counts[label][outcome] += 1
    return counts


def failed_tests(rollouts: Iterable[Rollout]) -> list[tuple[str, int]]:
    """The unit tests that fail most often: (requirement, in how many rollouts), at most NUM_FAILED_TESTS."""
    counts = Counter(requirement for rollout in rollouts for requirement in set(rollout.failures))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:NUM_FAILED_TESTS]


def _out_of_turns(rollout: Rollout, evidence: Evidence) -> bool:
    return rollout.end_reason == EndReason.MAX_TURNS


def _context_full(rollout: Rollout, evidence: Evidence) -> bool:
    return rollout.end_reason == EndReason.CONTEXT_FULL


def _wrong_answer(rollout: Rollout, evidence: Evidence) -> bool:
    return rollout.end_reason == COMPLETED and any(_ANSWER.search(test) for test in rollout.failures)


def _collateral_damage(rollout: Rollout, evidence: Evidence) -> bool:
    return not evidence.no_op_tests(rollout.task_id).isdisjoint(rollout.failures)


def _authentication_error(rollout: Rollout, evidence: Evidence) -> bool:
    return any(_UNAUTHORIZED in turn.observation for turn in rollout.turns)


def _documentation_unread(rollout: Rollout, evidence: Evidence) -> bool:
    read: set[tuple[str, str]] = set()
    for turn in rollout.turns:
        called = {api for api in apis_in(turn.executed) if api[0] not in _NEED_NO_DOC}
        if called - read:
            return True
        # Only now: code that reads and calls in one turn was written before anything was read.
        docs = [_parameters(line.removeprefix(SHOW_API_DOC)) for line in turn.log if line.startswith(SHOW_API_DOC)]
        read |= {(str(doc.get("app_name")), str(doc.get("api_name"))) for doc in docs if doc is not None}
    return False


def _unfinished_pagination(rollout: Rollout, evidence: Evidence) -> bool:
    """Whether a listing was left at a page that came back full, or at its first page of unknown length."""
    # (API path and filters) -> (page, its limit, its length or None where it was not printed)
    listings: dict[tuple[str, str], list[tuple[int, int, int | None]]] = defaultdict(list)
    for turn in rollout.turns:
        calls = _paged_calls(turn, evidence.paged)
        length = _printed_length(turn.observation) if len(calls) == 1 else None
        for path, limit, parameters in calls:
            filters = {name: value for name, value in parameters.items() if name not in _PAGE_PARAMETERS}
            index, limit = parameters.get("page_index", 0), parameters.get("page_limit", limit)
            if isinstance(index, int) and isinstance(limit, int):  # else the agent called it wrongly, and got no page
                listings[path, json.dumps(filters, sort_keys=True)].append((index, limit, length))
    return any(_left_unfinished(pages) for pages in listings.values())


def _left_unfinished(pages: list[tuple[int, int, int | None]]) -> bool:
    if any(length is not None and length < limit for _, limit, length in pages):
        return False
    last, _, length = max(pages, key=lambda page: page[0])
    return last == 0 or length is not None


def _paged_calls(turn: Turn, paged: Sequence[PagedApi]) -> list[tuple[str, int, dict]]:
    """(path, default page limit, parameters) of the turn's calls to APIs that answer in pages."""
    calls = []
    for line in turn.log:
        method, path, parameters = [*line.split(" ", 2), "", ""][:3]
        api = next((api for api in paged if method == api.method and api.path.fullmatch(path)), None)
        if api is not None and (values := _parameters(parameters)) is not None:
            calls.append((path, api.page_limit, values))
    return calls


def _parameters(text: str) -> dict | None:
    """Parameters of a call; None where its line was cut when it was stored."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _printed_length(observation: str) -> int | None:
    """Length of a list that is all that was printed."""
    try:
        printed = json.loads(observation)
    except (ValueError, RecursionError):
        return None
    return len(printed) if isinstance(printed, list) else None


NONE_OF_THESE = "none of these"
CAUSES = (
    Cause("out of turns", _out_of_turns, "The episode ended by its limit of turns."),
    Cause("context full", _context_full, "The episode ended because no token fitted into the context any more."),
    Cause(
        "wrong answer",
        _wrong_answer,
        "The agent completed the task and a test whose text has the word “answer” fails. Includes an answer that was not "
        "given, or given where none was asked for.",
    ),
    Cause(
        "collateral damage",
        _collateral_damage,
        "A test fails that an agent that does nothing passes (AppWorld's label no_op_pass): something changed that should "
        "not. Where a task says that only certain tables may change, so does changing the right table wrongly.",
    ),
    Cause(
        "authentication error",
        _authentication_error,
        "What was printed holds “Response status code is 401”, how AppWorld words a missing, wrong or expired access token "
        "or a wrong password. Misses errors that the code caught and did not print; counts those the agent recovered from.",
    ),
    Cause(
        "documentation not read",
        _documentation_unread,
        "Code names an API, the apps api_docs and supervisor aside, whose show_api_doc no earlier turn had called. What "
        "the prompt's example or search_api_docs shows does not count as read.",
    ),
    Cause(
        "unfinished pagination",
        _unfinished_pagination,
        "Of an API that takes page_index, called with the same filters, the last page that was asked for is the first one, "
        "or is known to be full; unless a page is known to be short. A page's length is known where it is all that its "
        "turn printed, and its turn's only paged call. So one page that held everything, unprinted, or was all that was "
        "needed, counts; a fixed number of pages that was too small does not.",
    ),
)
"""In the order in which they are printed."""
