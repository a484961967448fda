"""Rollouts as parquet files."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loop_rl.data.rollout import EndReason, Group, Rollout, Turn

SCHEMA_VERSION = 2  # 2: Turn.api_calls


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
