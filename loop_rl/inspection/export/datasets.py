"""Training rollouts as data for others to train on, in TRL's conversational formats.

Messages are those the policy read and wrote: the prompt, then its actions and the outputs in turn, up to its last action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from loop_rl.agents.chat import Chat
from loop_rl.config.base import ConfigError
from loop_rl.config.load import dump_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.messages import Message
from loop_rl.data.rollout import Group, Rollout
from loop_rl.inspection.find import all_tasks
from loop_rl.store.rollout_files import read_group
from loop_rl.store.run_dir import RunDir

LICENCE_WARNING = (
    "Data derived from AppWorld's official tasks may not be published unencrypted: AppWorld's licence forbids it."
)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SFT_SCHEMA = pa.schema(
    [("messages", _MESSAGES), ("rollout_id", pa.string()), ("task_id", pa.string()), ("reward", pa.float64())]
)
PREFERENCES_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("task_id", pa.string()),
        ("chosen_rollout_id", pa.string()),
        ("rejected_rollout_id", pa.string()),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
    ]
)
_CARD = """\
# {title} of the run {name}

{summary}. {format}

```python
datasets.load_dataset("parquet", data_files="train.parquet", split="train")
```

{licence}

## Config of the run

```yaml
{config}```
"""


@dataclass(frozen=True)
class Filter:
    """Which rollouts to take; None takes all."""

    iterations: range | None = None
    difficulties: list[int] | None = None
    min_reward: float | None = None
    success: bool = False
    """Only those that pass every unit test."""
    end_reason: str | None = None

    def keeps(self, rollout: Rollout) -> bool:
        """A rollout without any action is never kept: it has nothing to learn from."""
        return (
            bool(rollout.turns)
            and (self.iterations is None or rollout.iteration in self.iterations)
            and (self.difficulties is None or rollout.labels.get("difficulty") in map(str, self.difficulties))
            and (self.min_reward is None or rollout.reward >= self.min_reward)
            and (rollout.success or not self.success)
            and (self.end_reason is None or rollout.end_reason == self.end_reason)
        )


def export_sft(run: RunDir, folder: Path, chosen: Filter) -> str:
    """Write one row a rollout to train.parquet, and a card; returns a sentence about what was written.

    Raises:
        ConfigError: nothing passes the filter, or a task is no longer the one that its rollouts are of.
        ValueError: a rollout file of the run is damaged.
    """
    conversations = _Conversations(run)

    def rows(group: Group) -> Iterator[dict]:
        for rollout in filter(chosen.keeps, group.rollouts):
            messages = conversations.prompt(rollout) + conversations.answer(rollout)
            names = {"rollout_id": rollout.rollout_id, "task_id": rollout.task_id, "reward": rollout.reward}
            yield {"messages": messages} | names

    num_rows, num_rollouts = _write(run, folder / "train.parquet", SFT_SCHEMA, rows)
    summary = f"{num_rows} of {num_rollouts} training rollouts, filtered by {_described(chosen)}"
    _card(run, "Demonstrations", summary, "`messages` is a conversation in TRL's format.", folder)
    return summary


def export_preferences(run: RunDir, folder: Path, chosen: Filter, min_gap: float) -> str:
    """Write one row for each two rollouts of a group whose rewards differ by `min_gap` or more, and a card; returns and
    raises as `export_sft`."""
    if not 0 < min_gap <= 1:
        raise ConfigError(f"--min-gap {min_gap}: expected a difference in reward above 0, at most 1")
    conversations = _Conversations(run)

    def rows(group: Group) -> Iterator[dict]:
        for better, worse in permutations(filter(chosen.keeps, group.rollouts), 2):
            if better.reward - worse.reward < min_gap:
                continue
            yield {
                "prompt": conversations.prompt(better),
                "chosen": conversations.answer(better),
                "rejected": conversations.answer(worse),
                "task_id": better.task_id,
                "chosen_rollout_id": better.rollout_id,
                "rejected_rollout_id": worse.rollout_id,
                "chosen_reward": better.reward,
                "rejected_reward": worse.reward,
            }

    num_rows, num_rollouts = _write(run, folder / "train.parquet", PREFERENCES_SCHEMA, rows)
    summary = (
        f"{num_rows} pairs among {num_rollouts} training rollouts, of one task and a reward at least {min_gap} apart, "
        f"filtered by {_described(chosen)}"
    )
    text = "`prompt`, `chosen` and `rejected` are conversations in TRL's format; the last two go on from the first."
    _card(run, "Preferences", summary, text, folder)
    return summary


class _Conversations:
    """Messages of a run's rollouts. Raises ChatError, TaskError."""

    def __init__(self, run: RunDir) -> None:
        config = run.config
        self._environment = make_part(ENVIRONMENT, config)
        self._chat = Chat.from_pretrained(config.model.path, config.agent)
        self._tasks = {task.task_id: task for _, task in all_tasks(self._environment)}

    def prompt(self, rollout: Rollout) -> list[Message]:
        """The messages before the first action. Raises ConfigError when the task is not the rollout's any more."""
        task = self._tasks.get(rollout.task_id)
        messages = self._environment.prompt(task) if task else []
        # Rollouts hold tokens only. That the messages give exactly these tokens shows that they are the right ones.
        if not task or self._chat.first_turn(messages) != rollout.turns[0].context_ids:
            raise ConfigError(
                f"task {rollout.task_id} is not the one that {rollout.rollout_id} is of; "
                "generate the tasks as they were when the run was made"
            )
        return messages

    def answer(self, rollout: Rollout) -> list[Message]:
        """From the first action to the last."""
        messages = []
        for turn in rollout.turns:
            messages += [
                {"role": "assistant", "content": turn.action_text},
                {"role": "user", "content": turn.observation},
            ]
        return messages[:-1]  # nobody acted on the last output


def _write(run: RunDir, path: Path, schema: pa.Schema, rows: Callable[[Group], Iterator[dict]]) -> tuple[int, int]:
    """Write the rows of every finished group; returns how many, and how many rollouts there were."""
    num_rows = num_rollouts = 0
    with pq.ParquetWriter(path, schema) as writer:
        for file in sorted(run.train_rollouts.glob("*.parquet")):
            group = read_group(file)
            table = pa.Table.from_pylist(list(rows(group)), schema=schema)
            num_rollouts += len(group.rollouts)
            num_rows += len(table)
            if len(table):
                writer.write_table(table)
    if not num_rows:
        raise ConfigError(f"{run.train_rollouts}: none of {num_rollouts} rollouts passes the filter; widen it")
    return num_rows, num_rollouts


def _described(chosen: Filter) -> str:
    parts = (
        f"iterations {chosen.iterations.start} to {chosen.iterations.stop - 1}" if chosen.iterations else "",
        f"difficulty {', '.join(map(str, chosen.difficulties))}" if chosen.difficulties else "",
        f"reward at least {chosen.min_reward}" if chosen.min_reward is not None else "",
        "success" if chosen.success else "",
        f"ended by {chosen.end_reason}" if chosen.end_reason else "",
    )
    return "; ".join(filter(None, parts)) or "nothing"


def _card(run: RunDir, title: str, summary: str, text: str, folder: Path) -> None:
    config = run.config
    data = DatasetCardData(
        pretty_name=f"{title} of {config.name}", task_categories=["text-generation"], tags=["loop_rl", "appworld"]
    )
    content = _CARD.format(
        title=title, name=config.name, summary=summary, format=text, licence=LICENCE_WARNING, config=dump_config(config)
    )
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{content}").save(folder / "README.md")
