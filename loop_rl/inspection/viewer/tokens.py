"""The tokens that the policy sampled, with what is known of each, and the scales that they are shaded by."""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from loop_rl.config.settings import AlgorithmConfig
from loop_rl.data.rollout import Rollout
from loop_rl.data.updates import RolloutUpdate


class NoTokenizer(ValueError):
    """Tokens cannot be decoded; one line that says why."""


@lru_cache(maxsize=1)
def load_decoder(path: str) -> Tokenizer:
    """The tokenizer of a model, for decoding only: without transformers, which takes seconds to import.

    Args:
        path: a local folder, or a hub name that is in this machine's cache; nothing is downloaded.

    Raises:
        NoTokenizer: there is no tokenizer.json, or it cannot be used.
    """
    file = Path(path) / "tokenizer.json"
    if not Path(path).is_dir():
        try:
            cached = try_to_load_from_cache(path, "tokenizer.json")
        except ValueError:  # not of the form of a hub name
            cached = None
        if not isinstance(cached, str):
            raise NoTokenizer(f"model.path {path}: neither a folder here nor in this machine's cache of the hub")
        file = Path(cached)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise NoTokenizer(f"{file}: not a readable tokenizer: {error}") from error


def pieces(decoder: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    """The text that each token adds. A character of several tokens stands at the last of them, the others are empty."""
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(decoder, token_id) or "" for token_id in token_ids]


@dataclass(frozen=True)
class Scale:
    """One way of shading: a value falls between two of the edges, and each interval has a colour."""

    name: str
    title: str
    edges: tuple[float, ...]
    diverging: bool
    """Colours go two ways from the middle interval; else one way from the first."""
    descending: bool = False
    """The first interval is the highest, as a log-probability of 0 is the least remarkable."""

    def level(self, value: float) -> int:
        """Number of the colour: -4 to 4 with 0 in the middle, or 0 to 6."""
        place = bisect(self.edges, value)
        if self.diverging:
            return place - len(self.edges) // 2
        return len(self.edges) - place if self.descending else place

    @property
    def legend(self) -> list[tuple[int, str]]:
        """(number of the colour, interval) from the lowest to the highest value."""
        numbers = [f"{edge:.3g}".replace("-", "−") for edge in self.edges]
        texts = [
            f"< {numbers[0]}",
            *(f"{a} to {b}" for a, b in itertools.pairwise(numbers)),
            f"≥ {numbers[-1]}",
        ]
        lows = [-math.inf, *self.edges]
        return [(self.level(low), text) for low, text in zip(lows, texts, strict=True)]


def scales(algorithm: AlgorithmConfig) -> list[Scale]:
    """The four scales. They are the same for every rollout of a run, so that two can be compared by eye; the middle of
    the advantage's is what the filter drops, that of the ratio ends where clipping begins."""
    # An objective or a filter of another kind has no such settings.
    clip, dropped = getattr(algorithm, "clip_epsilon", 0.1), getattr(algorithm, "min_abs_advantage", 0.01)
    above = sorted((max(dropped, 1e-6), 0.1, 0.25, 0.5))
    ratios = (1 - 4 * clip, 1 - 2 * clip, 1 - clip, 1 - clip / 10, 1 + clip / 10, 1 + clip, 1 + 2 * clip, 1 + 4 * clip)
    logprobs = tuple(math.log(p) for p in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99))
    return [
        Scale("advantage", "advantage", (*(-a for a in reversed(above)), *above), diverging=True),
        Scale("ratio", "importance ratio", ratios, diverging=True),
        Scale("logprob", "log-probability", logprobs, diverging=False, descending=True),
        Scale("entropy", "entropy at choice (nats)", (0.01, 0.1, 0.3, 0.7, 1.2, 2.0), diverging=False),
    ]


@dataclass(frozen=True)
class Token:
    """One sampled token."""

    text: str
    shades: str
    """Classes, one a scale that has a value here: `ratio-2`."""
    figures: str
    """Its number in the rollout, id and exact values."""


def describe_tokens(
    rollout: Rollout,
    update: RolloutUpdate | str,
    algorithm: AlgorithmConfig,
    decoder: Tokenizer,
    scales: Sequence[Scale],
) -> list[list[Token]]:
    """The tokens of each turn."""
    trained = isinstance(update, RolloutUpdate) and not why_missing(rollout, update, algorithm)
    turns, position = [], 0
    for turn in rollout.turns:
        tokens = []
        for t, text in enumerate(pieces(decoder, turn.action_ids)):
            values = {"logprob": turn.logprobs[t]}
            if isinstance(update, RolloutUpdate):
                values["advantage"] = update.advantages[position + t] if update.advantages else update.advantage
            if trained:
                values["entropy"] = update.entropies[position + t]
                # A float32 difference of log-probabilities may be large where the two disagree wholly.
                values["ratio"] = math.exp(min(update.logprobs[position + t] - turn.logprobs[t], 700.0))
            shades = " ".join(
                f"{scale.name}{scale.level(values[scale.name])}" for scale in scales if scale.name in values
            )
            figures = " · ".join(f"{scale.title} {values[scale.name]:.4g}" for scale in scales if scale.name in values)
            tokens.append(Token(text, shades, f"token {position + t} · id {turn.action_ids[t]} · {figures}"))
        turns.append(tokens)
        position += len(turn.action_ids)
    return turns


def why_missing(rollout: Rollout, update: RolloutUpdate | str, algorithm: AlgorithmConfig) -> str:
    """Why importance ratio and entropy are not known; empty when they are."""
    if isinstance(update, str):
        return update
    if not rollout.num_action_tokens:
        return "not trained on: no action tokens"
    if not update.trained:
        if algorithm.filter != "informative":
            return f"not trained on: left out by algorithm.filter {algorithm.filter}"
        return (
            f"not trained on: |advantage| {abs(update.advantage):.3g} is below algorithm.min_abs_advantage "
            f"{algorithm.min_abs_advantage:g}"
        )
    if not len(update.logprobs) == len(update.entropies) == rollout.num_action_tokens:
        return (
            f"the trainer's file has values of {len(update.logprobs)} tokens, the rollout {rollout.num_action_tokens}: "
            "they are not of the same episode"
        )
    return ""
