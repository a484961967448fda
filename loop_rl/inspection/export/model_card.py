"""README.md of an exported policy, as the hub shows it: where it comes from, its figures, how to use it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import ModelCard, ModelCardData

from loop_rl.config.load import dump_config
from loop_rl.config.settings import Config
from loop_rl.evaluation.tables import measures
from loop_rl.store.run_dir import RunDir

_TEXT = """\
# {name}, policy version {version}

{what} of `{base}`, trained as an agent for [AppWorld](https://appworld.dev) with LOOP, Leave-One-Out PPO
([arXiv 2502.01600](https://arxiv.org/abs/2502.01600)), by loop_rl: version {version} of {num_iterations} iterations.

## Figures

{figures}

## Data

{data}

## Use

```
{command}
```

The policy expects the `{prompt}` prompt of loop_rl and its turns: one block of Python, then what it printed.

## Config

```yaml
{config}```
"""


def model_card(run: RunDir, version: int, kind: str) -> ModelCard:
    """The card of a policy version; `kind` is adapter or merged.

    Raises:
        ValueError: a rollout file or the figures of an evaluation are damaged.
    """
    config = run.config
    is_adapter = kind == "adapter"
    data = ModelCardData(
        # A folder of this machine means nothing to the hub.
        base_model=None if Path(config.model.path).is_dir() else config.model.path,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["loop_rl", "reinforcement-learning", "appworld", "agent"] + (["lora"] if is_adapter else []),
    )
    text = _TEXT.format(
        name=config.name,
        version=version,
        what=_what(config, is_adapter),
        base=config.model.path,
        num_iterations=config.trainer.num_iterations,
        figures=_figures(run, version),
        data=_data(run, config, version),
        command=_adapter_command(config) if is_adapter else f"vllm serve . --dtype {config.model.dtype}",
        environment=config.tasks.environment,
        prompt=getattr(config.tasks, "prompt", "its own"),
        config=dump_config(config),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _what(config: Config, is_adapter: bool) -> str:
    if config.model.lora is None:
        return "All weights"
    return "LoRA adapter" if is_adapter else "Merged model"


def _adapter_command(config: Config) -> str:
    return (
        f"vllm serve {config.model.path} --dtype {config.model.dtype} --enable-lora "
        f"--max-lora-rank {config.model.lora.rank} --lora-modules policy=."
    )


def _figures(run: RunDir, version: int) -> str:
    files = [path for path in run.evaluations_of(version) if path.suffix == ".json"]
    if not files:
        return "This version has not been evaluated."
    lines = [
        "Percent, with 95% confidence intervals; TGC is task goal completion, SGC scenario goal completion.",
        "",
        "| split | measure | tasks | number | value |",
        "|---|---|---|---|---|",
    ]
    for file in files:
        split, figures = file.stem.partition("-")[2], _read_figures(file)
        lines += [
            f"| {split} | {measure} | {level} | {figure['num']} | "
            f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}] |"
            for measure in measures(figures)
            for level, figure in figures[measure].items()
        ]
    return "\n".join(lines)


def _read_figures(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(
            f"{file}: not readable figures ({error}); remove it, or evaluate that version again"
        ) from error


def _data(run: RunDir, config: Config, version: int) -> str:
    num_groups = version * config.sampler.tasks_per_iteration
    if num_groups == 0:
        return "None: version 0 is the untouched base model."
    task_ids = [id for group_id in range(num_groups) for id in _task_ids(run.group_file(group_id))]
    return (
        f"{len(task_ids)} rollouts of {len(set(task_ids))} tasks (split `{config.tasks.train_split}`"
        f"{_chosen(config)}) of {config.tasks.environment}, "
        f"{config.sampler.rollouts_per_task} of a task and {config.sampler.tasks_per_iteration} tasks an iteration."
    )


def _chosen(config: Config) -> str:
    difficulties = getattr(config.tasks, "difficulties", None)
    return f", difficulties {', '.join(map(str, difficulties))}, of `{config.tasks.root}`" if difficulties else ""


def _task_ids(group_file: Path) -> list[str]:
    try:
        return pq.read_table(group_file, columns=["task_id"])["task_id"].to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{group_file}: not a readable rollout file: {error}") from error
