"""Verlog's advantage: generalised advantage estimation with one discount from token to token and another from turn to turn."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from loop_rl.algorithms.advantages.critic import CriticAdvantage, CriticSettings
from loop_rl.data.rollout import Rollout


class Settings(CriticSettings):
    """Of `advantage: dual_gae`."""

    gamma_token: float = Field(1.0, gt=0, le=1)
    """Discount from token to token of a turn. Verlog: 1."""
    lambda_token: float = Field(1.0, ge=0, le=1)
    """How far an advantage looks past the critic's next value, within a turn. Verlog: 1."""
    gamma_turn: float = Field(0.99, gt=0, le=1)
    """Discount from turn to turn. Verlog: 0.99."""
    lambda_turn: float = Field(0.95, ge=0, le=1)
    """As lambda_token, from a turn's last token to the next turn. Verlog: 0.95."""


class Advantage(CriticAdvantage):
    """GAE over the tokens of turns and over turns."""

    Settings = Settings

    def advantages(self, rollout: Rollout, values_N: Sequence[float]) -> list[float]:
        s = self.settings
        return dual_gae(*by_turn(rollout, values_N), s.gamma_token, s.lambda_token, s.gamma_turn, s.lambda_turn)


def by_turn(rollout: Rollout, values_N: Sequence[float]) -> tuple[list[float], list[list[float]]]:
    """Rewards and values of the turns that hold tokens; the episode's score belongs to the last of them, and the reward of a turn
    without tokens to the one before, or the first."""
    rewards: list[float] = []
    values: list[list[float]] = []
    early, start = 0.0, 0
    for turn in rollout.turns:
        stop = start + len(turn.action_ids)
        if turn.action_ids:
            rewards.append(turn.reward)
            values.append(list(values_N[start:stop]))
        elif rewards:
            rewards[-1] += turn.reward
        else:
            early += turn.reward
        start = stop
    if rewards:
        rewards[0] += early
        rewards[-1] += rollout.score
    return rewards, values


def dual_gae(
    rewards_T: Sequence[float],
    values_TL: Sequence[Sequence[float]],
    gamma_token: float,
    lambda_token: float,
    gamma_turn: float,
    lambda_turn: float,
) -> list[float]:
    """Advantages of all tokens, turn after turn. Verlog (2025), "dual discounting GAE"; nothing is worth anything after the last turn.

    Of a turn's last token: delta = r + gamma_turn V' - V and A = delta + gamma_turn lambda_turn A', V' and A' of the next turn's first
    token; of the tokens before: delta = gamma_token V' - V and A = delta + gamma_token lambda_token A', of the next token.

    Args:
        rewards_T: of the T turns, each at its last token.
        values_TL: of the state before each token, turn by turn.
    """
    backwards: list[float] = []
    advantage, next_value = 0.0, 0.0
    for reward, values_L in zip(reversed(rewards_T), reversed(values_TL), strict=True):
        gamma, decay = gamma_turn, gamma_turn * lambda_turn
        for value in reversed(values_L):
            advantage = reward + gamma * next_value - value + decay * advantage
            backwards.append(advantage)
            next_value, reward = value, 0.0
            gamma, decay = gamma_token, gamma_token * lambda_token
    return backwards[::-1]
