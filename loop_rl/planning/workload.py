"""What there is to be done: episodes as numbers of tokens and seconds, measured in a run or assumed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

from loop_rl.config.settings import AgentConfig

ASSUMED_EPISODES = 500
"""The assumption: no rollout of these models in AppWorld's official tasks has been seen by this code."""
ASSUMED_PROMPT_TOKENS = 3000
ASSUMED_TURNS = 15
ASSUMED_ACTION_TOKENS = 150
ASSUMED_OBSERVATION_TOKENS = 300
ASSUMED_ENVIRONMENT_S = 1.0
_SPREAD = 0.6  # of the logarithm: a tenth of the episodes is more than twice as long as the median


@dataclass(frozen=True)
class Episode:
    """One rollout. Turn t appends context_tokens[t], then the policy writes action_tokens[t]."""

    context_tokens: tuple[int, ...]
    action_tokens: tuple[int, ...]
    environment: tuple[float, ...]
    """Units of work for AppWorld after each turn; the environment's curve says how many seconds a unit takes."""

    @property
    def num_tokens(self) -> int:
        return sum(self.context_tokens) + sum(self.action_tokens)


@dataclass(frozen=True)
class Workload:
    """A distribution of episodes, and the share of rollouts that the filter keeps for training."""

    episodes: tuple[Episode, ...]
    share_kept: float

    @property
    def tokens(self) -> float:
        """Mean tokens of an episode."""
        return fmean(episode.num_tokens for episode in self.episodes)

    @property
    def action_tokens(self) -> float:
        """Mean tokens that the policy writes in an episode."""
        return fmean(sum(episode.action_tokens) for episode in self.episodes)

    @property
    def turns(self) -> float:
        return fmean(len(episode.action_tokens) for episode in self.episodes)

    @property
    def held_tokens(self) -> float:
        """Mean tokens in the KV cache while an episode is being continued."""
        held = total = 0
        for episode in self.episodes:
            length = 0
            for context, action in zip(episode.context_tokens, episode.action_tokens, strict=True):
                length += context + action
                held += length * action
                total += action
        return held / total


def assumed_workload(agent: AgentConfig) -> Workload:
    """Episodes of an instruction-tuned model in AppWorld, within the limits of the config. Always the same ones."""
    rng = random.Random(0)

    def around(mean: float, most: int) -> int:
        return max(1, min(most, round(rng.lognormvariate(0, _SPREAD) * mean * 0.835)))  # 0.835: makes it the mean

    episodes = []
    for _ in range(ASSUMED_EPISODES):
        context, action, room = [], [], agent.max_context_tokens
        for turn in range(around(ASSUMED_TURNS, agent.max_turns)):
            appended = (
                around(ASSUMED_OBSERVATION_TOKENS, agent.max_observation_tokens) if turn else ASSUMED_PROMPT_TOKENS
            )
            if appended >= room:
                break
            written = min(around(ASSUMED_ACTION_TOKENS, agent.max_new_tokens), room - appended)
            context.append(appended)
            action.append(written)
            room -= appended + written
        episodes.append(Episode(tuple(context), tuple(action), (1.0,) * len(action)))
    if not all(episode.action_tokens for episode in episodes):
        raise ValueError(
            f"agent.max_context_tokens ({agent.max_context_tokens}) has no room for the assumed prompt of "
            f"{ASSUMED_PROMPT_TOKENS} tokens; give a measured run with --run"
        )
    return Workload(tuple(episodes), share_kept=0.85)
