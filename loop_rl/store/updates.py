"""What the trainer made of an iteration's rollouts, token by token: updates/iteration-000003.parquet, a row a rollout.

Together with the rollout itself it gives the importance ratio of every token, exp(logprobs - the rollout's own).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from loop_rl.data.samples import Column
from loop_rl.data.updates import RolloutUpdate, TokenValues
from loop_rl.machine.files import replacing

_SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("advantage", pa.float64()),
        ("advantages", pa.list_(pa.float32())),
        ("trained", pa.bool_()),
        ("logprobs", pa.list_(pa.float32())),
        ("entropies", pa.list_(pa.float32())),
    ]
)


def write_updates(path: Path, advantages: Mapping[str, Column], tokens: Mapping[str, TokenValues]) -> None:
    """Write the rows of one iteration, visible under `path` only when complete; replaces an earlier file.

    Args:
        advantages: of every rollout of the iteration, by rollout id; one number or one for each action token.
        tokens: of the rollouts that were trained on.
    """
    rows = []
    for rollout_id, advantage in advantages.items():
        values, of_tokens = tokens.get(rollout_id, TokenValues([], [])), []
        if not isinstance(advantage, float):
            of_tokens, advantage = list(advantage), fmean(advantage) if advantage else 0.0
        is_trained = rollout_id in tokens
        rows.append(RolloutUpdate(rollout_id, advantage, is_trained, values.logprobs, values.entropies, of_tokens))
    with replacing(path) as unfinished:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA), unfinished)


def read_updates(path: Path, rollout_ids: Container[str] | None = None) -> list[RolloutUpdate]:
    """Read the file of one iteration; `rollout_ids` leaves all other rollouts unread.

    Raises:
        ValueError: the file is missing, truncated or damaged.
    """
    filters = None if rollout_ids is None else [("rollout_id", "in", rollout_ids)]
    try:
        rows = pq.read_table(path, schema=_SCHEMA, filters=filters).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:  # the latter where text is not UTF-8
        raise ValueError(f"{path}: not a readable update file: {' '.join(str(error).split())}") from error
    # Before "advantages" every rollout had one.
    return [RolloutUpdate(**row | {"advantages": row["advantages"] or []}) for row in rows]
