"""What the agent does, counted in stored rollouts: the behaviours that the paper says LOOP changes.

counts = count_behaviour(rollout.turns, rollout.end_reason, rollout.num_action_tokens)
for ratio in RATIOS:
    print(ratio.label, ratio.value(counts))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from loop_rl.environments.appworld.ends import COMPLETED
from loop_rl.environments.behaviour import ACTION_TOKENS, TURNS, Ratio, TextTurn

_BLOCK_OPENS = re.compile(r"^```python[ \t]*$", re.MULTILINE)
_ASSUMPTION = re.compile(r"\bassum\w*", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"dummy", re.IGNORECASE)
_API = re.compile(r"\bapis\.(\w+)\.(\w+)[ \t]*\(")
_COMPLETE_TASK = ("supervisor", "complete_task")
FAILED = "Execution failed"  # how AppWorld's REPL begins the report of an exception
SHOW_API_DOC = "GET /api_docs/api_doc "
"""How `Turn.log` begins a call of show_api_doc."""


RATIOS = (
    Ratio(
        "show_api_doc calls per rollout",
        "doc_calls",
        "rollouts",
        False,
        "Calls that reached AppWorld, by Turn.log.",
    ),
    Ratio(
        "turns with more than one code block",
        "multi_block_turns",
        "turns",
        True,
        "Share of turns that open two or more ```python blocks; only the first is run.",
    ),
    Ratio(
        "giving up after a failed API call",
        "given_up",
        "failed_calls",
        True,
        "Of the turns whose code calls an API (complete_task aside), whose observation starts with “Execution failed” and "
        "that another turn follows: the share where that next turn calls complete_task, or holds no code, and calls none of "
        "the APIs of the failed turn again.",
    ),
    Ratio(
        "words of assumption per rollout",
        "assumptions",
        "rollouts",
        False,
        "Words that begin with “assum”, upper or lower case, in all that the agent writes.",
    ),
    Ratio(
        "placeholder values per rollout",
        "placeholders",
        "rollouts",
        False,
        "Occurrences of “dummy”, upper or lower case, in all that the agent writes.",
    ),
    TURNS,
    ACTION_TOKENS,
    Ratio("completed", "completed", "rollouts", True, "Share of rollouts that end by complete_task, rightly or not."),
)


def count_behaviour(turns: Sequence[TextTurn], end_reason: str, num_action_tokens: int) -> Counter[str]:
    """Counts of one rollout. A failed call is one of `failures`; the words are counted in thought and code."""
    failed, given_up = failures(turns)
    texts = [turn.action_text for turn in turns]
    return Counter(
        rollouts=1,
        completed=int(end_reason == COMPLETED),
        turns=len(turns),
        action_tokens=num_action_tokens,
        doc_calls=sum(call.startswith(SHOW_API_DOC) for turn in turns for call in turn.log),
        multi_block_turns=sum(len(_BLOCK_OPENS.findall(text)) > 1 for text in texts),
        failed_calls=len(failed),
        given_up=len(given_up),
        assumptions=sum(len(_ASSUMPTION.findall(text)) for text in texts),
        placeholders=sum(len(_PLACEHOLDER.findall(text)) for text in texts),
    )


def failures(turns: Sequence[TextTurn]) -> tuple[list[int], list[int]]:
    """Indices of the turns with a failed API call, and of those after which the agent gave up.

    A failed API call is a turn whose code calls an API other than complete_task and whose observation starts with
    "Execution failed", for whatever reason (the API's answer, a name that does not exist, a mistake of syntax). The
    last turn of an episode is none: nothing shows what the agent would have done next.

    The agent gave up when its next turn calls complete_task or holds no code (which ends the episode), and calls none
    of the failed turn's APIs again.
    """
    failed, given_up = [], []
    for index, (turn, following) in enumerate(pairwise(turns)):
        tried = apis_in(turn.executed) - {_COMPLETE_TASK}
        if not tried or not turn.observation.startswith(FAILED):
            continue
        failed.append(index)
        called = apis_in(following.executed)
        if (not following.executed or _COMPLETE_TASK in called) and not called & tried:
            given_up.append(index)
    return failed, given_up


def apis_in(code: str) -> set[tuple[str, str]]:
    """(app, API) of every `apis.app.api(` in the code, run or not."""
    return set(_API.findall(code))
