"""What there is to be done: episodes as numbers of tokens and seconds, measured in a run or assumed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import fmean

from loop_rl.config.settings import Config

ASSUMED_EPISODES = 500
"""The assumption: no rollout of these models in AppWorld's official tasks has been seen by this code."""
ASSUMED_PROMPT_TOKENS = 3000
ASSUMED_TURNS = 15
ASSUMED_ACTION_TOKENS = 150
ASSUMED_OBSERVATION_TOKENS = 300
ASSUMED_ENVIRONMENT_S = 1.0
ASSUMED_WINDOW_RULES, ASSUMED_GAME_TURNS = 400, 150
ASSUMED_GAME_OBSERVATION_TOKENS, ASSUMED_GAME_ACTION_TOKENS, ASSUMED_GAME_WORK = 150, 100, 0.005
"""Likewise, of games that are read through a window: rules, an observation and a reply with a thought; a step takes milliseconds."""
_SPREAD = 0.6  # of the logarithm: a tenth of the episodes is more than twice as long as the median


@dataclass(frozen=True)
class Episode:
    """One rollout. Turn t appends context_tokens[t], or with a window begins anew with so many; then the policy writes
    action_tokens[t]."""

    context_tokens: tuple[int, ...]
    action_tokens: tuple[int, ...]
    environment: tuple[float, ...]
    """Units of work for the environment after each turn; its curve says how many seconds a unit of AppWorld's takes."""
    windowed: bool = False
    """Each turn is read anew, and a sample of its own."""

    @property
    def num_tokens(self) -> int:
        return sum(self.context_tokens) + sum(self.action_tokens)

    @property
    def samples(self) -> tuple[int, ...]:
        """Tokens of each sequence that is trained on."""
        if not self.windowed:
            return (self.num_tokens,)
        return tuple(map(sum, zip(self.context_tokens, self.action_tokens, strict=True)))


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
                length = context if episode.windowed else length + context + action
                held += length * action
                total += action
        return held / total


def assumed_workload(config: Config) -> Workload:
    """Episodes of an instruction-tuned model, within the limits of the config. Always the same ones. With batches of turns, the pieces
    of them that `tasks.num_workers` episodes at a time give to a batch."""
    rng = random.Random(0)
    agent = config.agent
    make = _windowed_episode if agent.memory == "window" else _whole_episode
    episodes = [make(config, rng) for _ in range(ASSUMED_EPISODES)]
    if not all(episode.action_tokens for episode in episodes):
        raise ValueError(
            f"agent.max_context_tokens ({agent.max_context_tokens}) has no room for the assumed prompt of "
            f"{ASSUMED_PROMPT_TOKENS} tokens; give a measured run with --run"
        )
    if config.sampler.source == "turns":
        episodes = [piece for episode in episodes for piece in _pieces(episode, turns_of_a_piece(config))]
    return Workload(tuple(episodes), share_kept=1.0 if config.algorithm.filter == "everything" else 0.85)


def turns_of_a_piece(config: Config) -> int:
    """Of the turns of a batch, those that one of the episodes that are under way gives to it."""
    return max(1, round(config.sampler.turns_per_iteration / config.tasks.num_workers))


def groups_of_an_iteration(config: Config) -> tuple[int, int]:
    """How many groups an iteration has, and rollouts a group."""
    sampler = config.sampler
    if sampler.source == "turns":
        return max(1, round(sampler.turns_per_iteration / turns_of_a_piece(config))), 1
    return sampler.tasks_per_iteration, sampler.rollouts_per_task


def _around(rng: random.Random, mean: float, most: int) -> int:
    return max(1, min(most, round(rng.lognormvariate(0, _SPREAD) * mean * 0.835)))  # 0.835: makes it the mean


def _whole_episode(config: Config, rng: random.Random) -> Episode:
    agent = config.agent
    context, action, room = [], [], agent.max_context_tokens
    for turn in range(_around(rng, ASSUMED_TURNS, agent.max_turns)):
        appended = (
            _around(rng, ASSUMED_OBSERVATION_TOKENS, agent.max_observation_tokens) if turn else ASSUMED_PROMPT_TOKENS
        )
        if appended >= room:
            break
        written = min(_around(rng, ASSUMED_ACTION_TOKENS, agent.max_new_tokens), room - appended)
        context.append(appended)
        action.append(written)
        room -= appended + written
    return Episode(tuple(context), tuple(action), (1.0,) * len(action))


def _windowed_episode(config: Config, rng: random.Random) -> Episode:
    """As long as the prompt of a full window, at every turn."""
    agent = config.agent
    observation = min(ASSUMED_GAME_OBSERVATION_TOKENS, agent.max_observation_tokens)
    reply = min(ASSUMED_GAME_ACTION_TOKENS, agent.max_new_tokens)
    prompt = ASSUMED_WINDOW_RULES + observation + agent.window * (observation + reply)
    turns = _around(rng, ASSUMED_GAME_TURNS, min(agent.max_turns, getattr(config.tasks, "max_steps", agent.max_turns)))
    actions = tuple(_around(rng, reply, agent.max_new_tokens) for _ in range(turns))
    contexts = (min(prompt, agent.max_context_tokens - max(actions)),) * turns
    return Episode(contexts, actions, (ASSUMED_GAME_WORK,) * turns, windowed=True)


def _pieces(episode: Episode, num_turns: int) -> list[Episode]:
    starts = range(0, len(episode.action_tokens) - num_turns + 1, num_turns)
    parts = (episode.context_tokens, episode.action_tokens, episode.environment)
    return [Episode(*(part[start : start + num_turns] for part in parts), windowed=True) for start in starts]
