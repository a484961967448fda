"""Turn, Rollout, Group and their parquet schema: the one data type that flows from sampler to trainer.

A rollout is kept as tokens, never as text to be tokenised again: what was sampled is what is trained on. Each turn
holds the context tokens appended since the last action, then the action tokens with the log-probability and the policy
version they were sampled with.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 2  # 2: Turn.api_calls


class EndReason(StrEnum):
    """Why an episode ended. Every episode has exactly one."""

    COMPLETED = "completed"  # the agent called complete_task
    MAX_TURNS = "max_turns"
    CONTEXT_FULL = "context_full"
    NO_CODE = "no_code"  # a turn without a code block
    WORKER_LOST = "worker_lost"  # the AppWorld process hung, crashed or was killed
    TIME_LIMIT = "time_limit"  # the whole episode took too long
    CUT_OFF = "cut_off"  # the trainer went on without it; scored, but not trained on
    TAMPERED = "tampered"  # however it ended, its state is not what its API calls give; reward 0


@dataclass
class Turn:
    """One action of the agent and what it was conditioned on."""

    context_ids: list[int]
    """Tokens appended before the action: the prompt in the first turn, later the previous observation."""
    action_ids: list[int]
    """Tokens the policy sampled, the end-of-turn token included when it was sampled."""
    logprobs: list[float]
    """log pi_behaviour of each action token, under the distribution it was really sampled from."""
    policy_version: int
    """Version of the policy that sampled this turn; one request is answered by one adapter."""
    action_text: str
    code: str
    """The code that ran; empty when the turn held no code block."""
    observation: str
    """REPL output as the agent saw it, after the cut; empty in the last turn of most episodes."""
    api_calls: list[str] = field(default_factory=list)
    """AppWorld API calls that the code made, in order: method, path and the parameters as JSON."""


@dataclass
class Rollout:
    """One episode of one task."""

    rollout_id: str
    group_id: int
    """Number of the group, counted from 0 as they begin; the K rollouts of a group share it."""
    iteration: int
    """Training iteration that trains on it; -1 in evaluation, and until the sampler has assigned the group to one."""
    task_id: str
    scenario_id: str
    difficulty: int
    instruction: str
    end_reason: str
    reward: float
    """Fraction of the task's unit tests that pass, in [0, 1]."""
    success: bool
    """Every unit test passed."""
    passes: list[str]
    failures: list[str]
    turns: list[Turn]
    started_at: float
    """Unix time in seconds."""
    duration_s: float
    generation_s: float
    """Seconds spent waiting for the policy."""
    environment_s: float
    """Seconds spent waiting for AppWorld, lease and scoring included."""

    @property
    def num_action_tokens(self) -> int:
        return sum(len(turn.action_ids) for turn in self.turns)

    @property
    def num_tokens(self) -> int:
        return sum(len(turn.context_ids) + len(turn.action_ids) for turn in self.turns)

    @property
    def policy_versions(self) -> list[int]:
        """Policy version of each turn."""
        return [turn.policy_version for turn in self.turns]

    def flatten(self) -> TokenSequence:
        """The whole episode as one token sequence of length T = num_tokens."""
        tokens, mask, logprobs, versions = [], [], [], []
        for turn in self.turns:
            num_context, num_action = len(turn.context_ids), len(turn.action_ids)
            tokens += turn.context_ids + turn.action_ids
            mask += [False] * num_context + [True] * num_action
            logprobs += [0.0] * num_context + turn.logprobs
            versions += [-1] * num_context + [turn.policy_version] * num_action
        return TokenSequence(tokens, mask, logprobs, versions)


@dataclass(frozen=True)
class TokenSequence:
    """A rollout laid out flat; the four lists have the same length T."""

    token_ids: list[int]
    action_mask: list[bool]
    """True where the policy wrote the token; prompts and REPL output are context."""
    logprobs: list[float]
    """Behaviour log-probability; 0 at context tokens."""
    versions: list[int]
    """Policy version that sampled the token; -1 at context tokens."""


@dataclass
class Group:
    """The rollouts of one task that share a baseline: K, or at least 2 where some are missing."""

    group_id: int
    iteration: int
    rollouts: list[Rollout] = field(default_factory=list)
    cut: list[Rollout] = field(default_factory=list)
    """Rollouts that were cut off; they take no part in training."""

    @property
    def rewards(self) -> list[float]:
        return [rollout.reward for rollout in self.rollouts]


_TURN = pa.struct(
    [
        ("context_ids", pa.list_(pa.int32())),
        ("action_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("policy_version", pa.int32()),
        ("action_text", pa.string()),
        ("code", pa.string()),
        ("observation", pa.string()),
        ("api_calls", pa.list_(pa.string())),
    ]
)
SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("group_id", pa.int32()),
        ("iteration", pa.int32()),
        ("task_id", pa.string()),
        ("scenario_id", pa.string()),
        ("difficulty", pa.int32()),
        ("instruction", pa.string()),
        ("end_reason", pa.string()),
        ("reward", pa.float64()),
        ("success", pa.bool_()),
        ("passes", pa.list_(pa.string())),
        ("failures", pa.list_(pa.string())),
        ("turns", pa.list_(_TURN)),
        ("started_at", pa.float64()),
        ("duration_s", pa.float64()),
        ("generation_s", pa.float64()),
        ("environment_s", pa.float64()),
    ],
    metadata={"loop_rl.schema_version": str(SCHEMA_VERSION)},
)


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write rollouts to one parquet file, visible under `path` only when complete.

    Raises:
        OSError: the file could not be written (a full disk, say); nothing is left under `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot in front hides the unfinished file from the *.parquet glob that readers use.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A lone surrogate in REPL output cannot be stored as UTF-8; the tokens are what training uses.
        rows = [_encodable(asdict(rollout)) for rollout in rollouts]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write rollouts: {os.strerror(error.errno) if error.errno else error}", str(path)
        ) from error


def read_rollouts(path: Path, rollout_ids: Container[str] | None = None) -> list[Rollout]:
    """Read one parquet file of rollouts; `rollout_ids` leaves all others unread.

    Raises:
        ValueError: the file is truncated or damaged, or was written with another schema version.
    """
    filters = None if rollout_ids is None else [("rollout_id", "in", rollout_ids)]
    try:
        schema = pq.read_schema(path)
        rows = pq.read_table(path, filters=filters).to_pylist() if schema.equals(SCHEMA) else None
    except (pa.ArrowException, OSError, ValueError) as error:  # the latter where text is not UTF-8
        raise ValueError(f"{path}: not a readable rollout file: {' '.join(str(error).split())}") from error
    if rows is None:
        version = (schema.metadata or {}).get(b"loop_rl.schema_version", b"none").decode("utf-8", "replace")
        raise ValueError(
            f"{path}: rollout schema version {version}, this code reads version {SCHEMA_VERSION}; "
            "use the loop_rl that wrote it"
        )
    return [Rollout(**(row | {"turns": [Turn(**turn) for turn in row["turns"]]})) for row in rows]


def read_group(path: Path) -> Group:
    """Read the file of one finished group."""
    rollouts = read_rollouts(path)
    if not rollouts:
        raise ValueError(f"{path}: holds no rollouts")
    cut = [rollout for rollout in rollouts if rollout.end_reason == EndReason.CUT_OFF]
    kept = [rollout for rollout in rollouts if rollout.end_reason != EndReason.CUT_OFF]
    return Group(rollouts[0].group_id, rollouts[0].iteration, kept, cut)


def _encodable(value):
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and value and not isinstance(value[0], (int, float)):
        return [_encodable(item) for item in value]
    return value
