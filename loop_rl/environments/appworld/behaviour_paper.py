"""What the agent does, by the rules of arXiv 2502.01600, appendix A.1, word for word: to compare with its figures. Our own
counts of the same behaviours are in behaviour.py, and differ where these are coarse."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from loop_rl.environments.behaviour import Ratio, TextTurn

_CLOSED_BLOCK = re.compile(r"```(?:python|py)\n(.*?)```", re.DOTALL)
_API = re.compile(r"\bapis\.(\w+)\.(\w+)")
_DOC_CALL = re.compile(r"apis\.api_docs\.show_api_doc\(")
_ASSUMPTION = re.compile(r"assum(?:ed|e|ing)")
_FAILED = "Execution failed."

RATIOS = (
    Ratio(
        "paper: turns per rollout",
        "paper_turns",
        "rollouts",
        False,
        "Submissions that got a response; the one that ended the episode has none here.",
    ),
    Ratio(
        "paper: code characters per rollout",
        "paper_code_characters",
        "rollouts",
        False,
        "Inside all closed ```python and ```py blocks.",
    ),
    Ratio(
        "paper: turns with several cells",
        "paper_multi_cell_turns",
        "turns",
        True,
        "Share of turns with more than one closed ```python or ```py block.",
    ),
    Ratio(
        "paper: execution errors",
        "paper_errors",
        "paper_turns",
        True,
        "Share of responses that hold “Execution failed.”",
    ),
    Ratio(
        "paper: giving up",
        "paper_given_up",
        "paper_failed_endpoints",
        True,
        "Endpoints that a turn with an execution error attempted are failed, until a turn without one attempts them again: "
        "(failed - recovered) / failed, over all rollouts.",
    ),
    Ratio(
        "paper: show_api_doc calls per rollout",
        "paper_doc_calls",
        "rollouts",
        False,
        "Written in code, run or not.",
    ),
    Ratio(
        "paper: assumptions per rollout",
        "paper_assumptions",
        "rollouts",
        False,
        "“assume”, “assumed” or “assuming” in all that the agent writes, each place once.",
    ),
    Ratio("paper: dummies per rollout", "paper_dummies", "rollouts", False, "“dummy” in all that the agent writes."),
)


def count_behaviour(turns: Sequence[TextTurn]) -> Counter[str]:
    """Counts of one rollout."""
    texts = [turn.action_text for turn in turns]
    blocks_of = [_CLOSED_BLOCK.findall(text) for text in texts]
    answered = [turn for turn in turns if turn.observation]
    failed, recovered = _endpoints(turns)
    return Counter(
        paper_turns=len(answered),
        paper_code_characters=sum(len(block) for blocks in blocks_of for block in blocks),
        paper_multi_cell_turns=sum(len(blocks) > 1 for blocks in blocks_of),
        paper_errors=sum(_FAILED in turn.observation for turn in answered),
        paper_failed_endpoints=failed,
        paper_given_up=failed - recovered,
        paper_doc_calls=sum(len(_DOC_CALL.findall(block)) for blocks in blocks_of for block in blocks),
        paper_assumptions=sum(len(_ASSUMPTION.findall(text)) for text in texts),
        paper_dummies=sum(text.count("dummy") for text in texts),
    )


def _endpoints(turns: Sequence[TextTurn]) -> tuple[int, int]:
    """How many endpoints failed, each whenever it is not failed already, and how many of these failures were recovered."""
    failed = recovered = 0
    open_failures: set[tuple[str, str]] = set()
    for turn in turns:
        attempted = set(_API.findall(turn.executed))
        if _FAILED in turn.observation:
            failed += len(attempted - open_failures)
            open_failures |= attempted
        else:
            recovered += len(attempted & open_failures)
            open_failures -= attempted
    return failed, recovered
