"""Rollouts as parquet files."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loop_rl.data.rollout import Ending, EndReason, Group, Rollout, Turn
from loop_rl.machine.files import replacing

SCHEMA_VERSION = 4
"""3: what the environment adds is `executed` and `log`, a turn has a reward, a rollout family, labels and ending. 4: a rollout may be a
piece of an episode, and says what would have been read next."""


_TURN = pa.struct(
    [
        ("context_ids", pa.list_(pa.int32())),
        ("action_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("policy_version", pa.int32()),
        ("action_text", pa.string()),
        ("executed", pa.string()),
        ("observation", pa.string()),
        ("log", pa.list_(pa.string())),
        ("extends", pa.bool_()),
        ("reward", pa.float64()),
        ("valid", pa.bool_()),
    ]
)


SCHEMA = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("group_id", pa.int32()),
        ("iteration", pa.int32()),
        ("task_id", pa.string()),
        ("family", pa.string()),
        ("labels", pa.string()),
        ("instruction", pa.string()),
        ("end_reason", pa.string()),
        ("ending", pa.string()),
        ("reward", pa.float64()),
        ("score", pa.float64()),
        ("success", pa.bool_()),
        ("passes", pa.list_(pa.string())),
        ("failures", pa.list_(pa.string())),
        ("turns", pa.list_(_TURN)),
        ("started_at", pa.float64()),
        ("duration_s", pa.float64()),
        ("generation_s", pa.float64()),
        ("environment_s", pa.float64()),
        ("next_ids", pa.list_(pa.int32())),
        ("episode_id", pa.string()),
        ("first_turn", pa.int32()),
        ("earlier_reward", pa.float64()),
    ],
    metadata={"loop_rl.schema_version": str(SCHEMA_VERSION)},
)
_NEW_IN_4 = ("next_ids", "episode_id", "first_turn", "earlier_reward")
_SCHEMA_3 = pa.schema(
    [field for field in SCHEMA if field.name not in _NEW_IN_4], metadata={"loop_rl.schema_version": "3"}
)


_TURN_2 = pa.struct(
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


_SCHEMA_2 = pa.schema(
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
        ("turns", pa.list_(_TURN_2)),
        ("started_at", pa.float64()),
        ("duration_s", pa.float64()),
        ("generation_s", pa.float64()),
        ("environment_s", pa.float64()),
    ],
    metadata={"loop_rl.schema_version": "2"},
)


def write_rollouts(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Write rollouts to one parquet file, visible under `path` only when complete.

    Raises:
        OSError: the file could not be written (a full disk, say); nothing is left under `path`.
    """
    try:
        with replacing(path) as unfinished:
            pq.write_table(pa.Table.from_pylist([_row(rollout) for rollout in rollouts], schema=SCHEMA), unfinished)
    except OSError as error:
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
        version = schema_version(pq.read_schema(path))
        rows = pq.read_table(path, filters=filters).to_pylist()
    except ForeignSchema as error:
        raise ValueError(f"{path}: {error}") from error
    except (pa.ArrowException, OSError, ValueError) as error:  # the latter where text is not UTF-8
        raise ValueError(f"{path}: not a readable rollout file: {' '.join(str(error).split())}") from error
    return [_rollout(_from_schema_2(row) if version == 2 else row) for row in rows]


_NAMES_2 = {"family": "scenario_id", "labels": "difficulty", "executed": "code", "log": "api_calls", "valid": "code"}
"""Of columns that schema 2 called otherwise. A turn was valid when it held code."""


class ForeignSchema(ValueError):
    """A parquet file of another schema; the message says which."""


def schema_version(schema: pa.Schema) -> int:
    """Of a file of rollouts, one that can be read. Raises ForeignSchema."""
    written = (schema.metadata or {}).get(b"loop_rl.schema_version", b"none").decode("utf-8", "replace")
    for version, known in ((SCHEMA_VERSION, SCHEMA), (3, _SCHEMA_3), (2, _SCHEMA_2)):
        if written == str(version) and schema.equals(known):
            return version
    raise ForeignSchema(
        f"rollout schema version {written}, this code reads version {SCHEMA_VERSION}; use the loop_rl that wrote it"
    )


def columns_of(version: int, names: Iterable[str]) -> list[str]:
    """What columns of `SCHEMA`, or of its turns, are called in a file of this version."""
    return [_NAMES_2.get(name, name) if version == 2 else name for name in names]


def label_of(value: str | int) -> str:
    """The label that is shown, of a cell of the column `labels`, whichever the version."""
    return str(value) if isinstance(value, int) else next(iter(json.loads(value).values()), "")


def _row(rollout: Rollout) -> dict[str, Any]:
    row = asdict(rollout) | {"reward": rollout.reward, "labels": json.dumps(rollout.labels)}
    return _encodable(row)


def _rollout(row: dict[str, Any]) -> Rollout:
    del row["reward"]  # the sum of what else is there
    return Rollout(**row | {"labels": json.loads(row["labels"]), "turns": [Turn(**turn) for turn in row["turns"]]})


def _from_schema_2(row: dict[str, Any]) -> dict[str, Any]:
    """A row of AppWorld's, before there were other environments: as `SCHEMA` has it."""
    row |= {
        "family": row.pop("scenario_id"),
        "labels": json.dumps({"difficulty": str(row.pop("difficulty"))}),
        "ending": str(Ending.of(row["end_reason"])),
        "score": row["reward"],
    }
    for turn in row["turns"]:
        turn["valid"] = bool(turn["code"])
        turn |= {"executed": turn.pop("code"), "log": turn.pop("api_calls"), "extends": True, "reward": 0.0}
    return row


def read_group(path: Path) -> Group:
    """Read the file of one finished group."""
    rollouts = read_rollouts(path)
    if not rollouts:
        raise ValueError(f"{path}: holds no rollouts")
    cut = [rollout for rollout in rollouts if rollout.end_reason == EndReason.CUT_OFF]
    kept = [rollout for rollout in rollouts if rollout.end_reason != EndReason.CUT_OFF]
    return Group(rollouts[0].group_id, rollouts[0].iteration, kept, cut)


def _encodable(value):
    # A lone surrogate in what an environment says cannot be stored as UTF-8; the tokens are what training uses.
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and value and not isinstance(value[0], (int, float)):
        return [_encodable(item) for item in value]
    return value
