"""What the index takes from a parquet file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loop_rl.store.rollout_files import ForeignSchema, columns_of, label_of, schema_version

_COLUMNS = [
    "rollout_id",
    "group_id",
    "iteration",
    "task_id",
    "family",
    "labels",
    "instruction",
    "end_reason",
    "reward",
    "success",
    "started_at",
    "duration_s",
]
_TURN_COLUMNS = [
    f"turns.list.element.{name}" for name in ("action_ids", "policy_version", "action_text", "observation")
]
ROW = [name.replace("labels", "label") for name in _COLUMNS]
ROW += ["num_turns", "action_tokens", "min_version", "max_version"]
# What reading a damaged or foreign file raises; ValueError where its text is not UTF-8.
UNUSABLE = (pa.ArrowException, OSError, ValueError)


def read_rows(path: Path) -> list[tuple[list, str]]:
    """(values of ROW, all words) of each rollout of a file; never its tokens.

    Raises FileNotFoundError where the file has gone, one of UNUSABLE where it is damaged or of another schema.
    """
    with pq.ParquetFile(path) as file:
        columns = columns_of(schema_version(file.schema_arrow), _COLUMNS)
        table = file.read(columns=columns + _TURN_COLUMNS, use_threads=False).combine_chunks()
    if not table.num_rows:
        return []
    turns = table["turns"].chunk(0)
    offsets, turns = turns.offsets.to_pylist(), turns.values
    num_tokens = pc.list_value_length(turns.field("action_ids")).to_pylist()
    versions, actions, observations = (
        turns.field(name).to_pylist() for name in ("policy_version", "action_text", "observation")
    )
    rows = []
    fields = [table[name].to_pylist() for name in columns]
    labels = _COLUMNS.index("labels")
    fields[labels] = [label_of(value) for value in fields[labels]]
    instructions = table["instruction"].to_pylist()
    for k, values in enumerate(zip(*fields, strict=True)):
        of = slice(offsets[k], offsets[k + 1])
        figures = (
            len(versions[of]),
            sum(num_tokens[of]),
            min(versions[of], default=None),
            max(versions[of], default=None),
        )
        rows.append(([*values, *figures], "\n".join([instructions[k], *actions[of], *observations[of]])))
    return rows


def read_advantages(path: Path) -> list[tuple[float, str]]:
    """(advantage, rollout id) of each rollout of an update file. Raises as `read_rows`."""
    with pq.ParquetFile(path) as file:
        if not {"rollout_id", "advantage"} <= set(file.schema_arrow.names):
            raise ForeignSchema("not an update file of this version: no columns rollout_id and advantage")
        table = file.read(columns=["advantage", "rollout_id"], use_threads=False)
    return list(zip(table["advantage"].to_pylist(), table["rollout_id"].to_pylist(), strict=True))
