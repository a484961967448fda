"""Verlog's advantage: generalised advantage estimation with one discount from token to token and another from turn to turn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from pydantic import Field

from loop_rl.algorithms.advantages.critic import CriticAdvantage, CriticSettings


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
    bootstrap_limits: bool = True
    """What the critic expects next stands for the rest of an episode that a limit ended (`agent.max_turns`, a time limit, the
    environment's own limit of steps); false: nothing does. It does in any case where a batch of turns was full. Verlog as
    released: false."""


class Advantage(CriticAdvantage):
    """GAE over the tokens of turns and over turns."""

    Settings = Settings

    def advantages(
        self, rewards_N: Sequence[float], values_N: Sequence[float], lengths_T: Sequence[int], next_value: float
    ) -> list[float]:
        s = self.settings
        rewards_TL, values_TL = by_turn(rewards_N, lengths_T), by_turn(values_N, lengths_T)
        return dual_gae(rewards_TL, values_TL, s.gamma_token, s.lambda_token, s.gamma_turn, s.lambda_turn, next_value)


def by_turn(numbers_N: Sequence[float], lengths_T: Sequence[int]) -> list[Sequence[float]]:
    """Numbers of tokens, turn by turn."""
    ends = list(accumulate(lengths_T))
    return [numbers_N[end - length : end] for end, length in zip(ends, lengths_T, strict=True)]


def dual_gae(
    rewards_TL: Sequence[Sequence[float]],
    values_TL: Sequence[Sequence[float]],
    gamma_token: float,
    lambda_token: float,
    gamma_turn: float,
    lambda_turn: float,
    next_value: float = 0.0,
) -> list[float]:
    """Advantages of all tokens, turn after turn. Verlog (2025), "dual discounting GAE".

    Of a turn's last token: delta = r + gamma_turn V' - V and A = delta + gamma_turn lambda_turn A', V' and A' of the next turn's first
    token; of the tokens before: delta = gamma_token V' - V and A = delta + gamma_token lambda_token A', of the next token.

    Args:
        rewards_TL: of each token, turn by turn.
        values_TL: of the state before each token.
        next_value: of the state after the last turn, which has no advantage.
    """
    backwards: list[float] = []
    advantage = 0.0
    for rewards_L, values_L in zip(reversed(rewards_TL), reversed(values_TL), strict=True):
        gamma, decay = gamma_turn, gamma_turn * lambda_turn
        for reward, value in zip(reversed(rewards_L), reversed(values_L), strict=True):
            advantage = reward + gamma * next_value - value + decay * advantage
            backwards.append(advantage)
            next_value = value
            gamma, decay = gamma_token, gamma_token * lambda_token
    return backwards[::-1]
