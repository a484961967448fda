"""Turn, Rollout and Group: the one data type that flows from sampler to trainer.

A rollout is kept as tokens, never as text to be tokenised again: what was sampled is what is trained on. Each turn
holds the context tokens appended since the last action, then the action tokens with the log-probability and the policy
version they were sampled with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from loop_rl.data.samples import Column, Sample


class EndReason(StrEnum):
    """Why an episode ended, where the environment did not end it itself; its own reasons are words of its own."""

    MAX_TURNS = "max_turns"
    CONTEXT_FULL = "context_full"
    WORKER_LOST = "worker_lost"  # the environment's process hung, crashed or was killed
    TIME_LIMIT = "time_limit"  # the whole episode took too long
    CUT_OFF = "cut_off"  # the trainer went on without it; scored, but not trained on
    GOES_ON = "goes_on"  # a piece of an episode: a batch of turns was full, a later rollout goes on with it
    INTERRUPTED = "interrupted"  # likewise, but no other goes on: the sampler was stopped, and with it the world


class Ending(StrEnum):
    """What an end says about what would have come after it."""

    TERMINATED = "terminated"  # nothing would have: the environment ended the episode
    TRUNCATED = "truncated"  # more would have: a limit cut it, and a critic's value stands for the rest
    BROKEN = "broken"  # nothing can be said: its world was lost

    @classmethod
    def of(cls, reason: str) -> Ending:
        """Of an `EndReason`, or of a reason of the environment's own that is not its time limit."""
        if reason == EndReason.WORKER_LOST:
            return cls.BROKEN
        return cls.TRUNCATED if reason in set(EndReason) else cls.TERMINATED


@dataclass
class Turn:
    """One action of the agent and what it was conditioned on."""

    context_ids: list[int]
    """What the policy read since its last action: the prompt in the first turn, later the previous observation. Where the
    turn does not extend those before, all that it read."""
    action_ids: list[int]
    """Tokens the policy sampled, the end-of-turn token included when it was sampled."""
    logprobs: list[float]
    """log pi_behaviour of each action token, under the distribution it was really sampled from."""
    policy_version: int
    """Version of the policy that sampled this turn; one request is answered by one adapter. -1: none did, it was demonstrated."""
    action_text: str
    executed: str
    """What the environment carried out: of AppWorld the code, of a game the action's name; empty where it did nothing."""
    observation: str
    """What the environment answered, as the agent saw it, after the cut; empty in the last turn of most episodes."""
    log: list[str] = field(default_factory=list)
    """What the environment adds for the reader, such as the API calls that the code made."""
    extends: bool = True
    """`context_ids` follow all that was read and written before; False: they are a whole prompt that starts anew, as with
    a memory window. Without effect in the first turn."""
    reward: float = 0.0
    """Of this step."""
    valid: bool = True
    """The text held an action that the environment knows; False: it did `executed` in its place, or nothing."""


@dataclass
class Rollout:
    """One episode of one task."""

    rollout_id: str
    group_id: int
    """Number of the group, counted from 0 as they begin; the K rollouts of a group share it."""
    iteration: int
    """Training iteration that trains on it, of several the first; -1 in evaluation, and until the sampler has assigned the group to
    one."""
    task_id: str
    family: str
    """Tasks of one family differ in details only; AppWorld calls it a scenario."""
    labels: dict[str, str]
    """What tables group tasks by, such as {"difficulty": "2"}."""
    instruction: str
    end_reason: str
    """An `EndReason`, or a word of the environment's own."""
    ending: str
    """An `Ending`."""
    score: float
    """What the finished episode is worth, on top of its turns' rewards; of AppWorld the fraction of the task's unit tests
    that pass."""
    success: bool
    """Everything that was asked for is done."""
    passes: list[str]
    failures: list[str]
    turns: list[Turn]
    started_at: float
    """Unix time in seconds."""
    duration_s: float
    generation_s: float
    """Seconds spent waiting for the policy."""
    environment_s: float
    """Seconds spent waiting for the environment, for its room and its score too."""
    next_ids: list[int] = field(default_factory=list)
    """What the policy would have read next, all of it, where something other than the environment's end kept it from that and it would
    have had room: what a critic expects there stands for the rest."""
    episode_id: str = ""
    """Of the episode that this is a piece of; empty where it is a whole one."""
    first_turn: int = 0
    """Turns of that episode before this piece."""
    earlier_reward: float = 0.0
    """Of those turns."""

    @property
    def reward(self) -> float:
        """What the whole episode is worth: its score and its turns' rewards."""
        return self.score + sum(turn.reward for turn in self.turns)

    @property
    def episode_return(self) -> float:
        """The reward, and that of the episode's earlier pieces."""
        return self.earlier_reward + self.reward

    @property
    def has_ended(self) -> bool:
        """The episode is over, and this not a piece that another one, or none, goes on from."""
        return self.end_reason not in (EndReason.GOES_ON, EndReason.INTERRUPTED)

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

    def samples(self, columns: Mapping[str, Column] | None = None) -> list[Sample]:
        """What is trained on. Turns that extend each other are one sample: the whole episode, or with a memory window
        each turn; a rollout without any action token gives none.

        Args:
            columns: for every action token of the rollout a number, or one number for all of them; each sample gets its
                part, beside "behaviour", the log-probabilities that the tokens were sampled with.
        """
        num_turns = sum(bool(turn.action_ids) for turn in self.turns)
        samples: list[Sample] = []
        start = 0
        for index, turn in enumerate(self.turns):
            num_context, num_action = len(turn.context_ids), len(turn.action_ids)
            if not (turn.extends and samples):
                samples.append(Sample(self.rollout_id, self.num_action_tokens, num_turns, group_id=self.group_id))
            sample, stop = samples[-1], start + num_action
            sample.token_ids += turn.context_ids + turn.action_ids
            sample.action_mask += [False] * num_context + [True] * num_action
            sample.turns += [index] * num_action
            sample.versions += [turn.policy_version] * num_action
            sample.columns.setdefault("behaviour", []).extend(turn.logprobs)
            for name, column in (columns or {}).items():
                part = [column] * num_action if isinstance(column, float) else column[start:stop]
                sample.columns.setdefault(name, []).extend(part)
            start = stop
        return [sample for sample in samples if sample.num_action_tokens]


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


@dataclass(frozen=True)
class Outcome:
    """How a group that is finished went."""

    group_id: int
    task_id: str
    rewards: tuple[float, ...]
    """Of its rollouts, in [0, 1]."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one rollout, as the endpoint counts them."""

    action_tokens: int
    """What the model wrote, all turns together."""
    tokens: int
    """Length of the whole conversation."""


def version_name(version: int) -> str:
    """What a policy version is called: on disk, by servers, and in the names of its evaluations."""
    return f"v{version:06d}"


def training_id(group_id: int, k: int) -> str:
    """Id of the k-th rollout of a group."""
    return f"g{group_id:06d}-k{k}"


def number_in_group(rollout_id: str) -> int:
    """k of a `training_id`."""
    return int(rollout_id.rpartition("-k")[2])
