"""Generate demonstrations: solutions and typical mistakes, really run in AppWorld and really scored.

They use the "warmup" partition of people and words, which no split of a pack uses, and train templates only.
"""

import gc
import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appworld.environment import AppWorld

from appworld_tasks.builtin.pack import PackSettings, generate
from appworld_tasks.builtin.population import Population, plan_population
from appworld_tasks.builtin.progress import track
from appworld_tasks.builtin.scenarios import TRAIN_TEMPLATES
from appworld_tasks.builtin.task_writer import WrittenTask, supervisor_fields, write_task

PARTITION = "warmup"
EXPERIMENT = "demonstrations"
# An AppWorld process grows with every episode, so it is replaced by a fresh fork now and then.
EPISODES_PER_PROCESS = 100


@dataclass(frozen=True)
class DemonstrationSettings:
    root: Path
    seed: int
    count: int
    flawed_fraction: float
    workers: int
    num_people: int


def write_demonstrations(settings: DemonstrationSettings, out: Path) -> None:
    """Write one JSON line a demonstration to `out`, in an order that depends on the seed alone."""
    pack = PackSettings(seed=settings.seed, scenarios={}, people={PARTITION: settings.num_people})
    generate(settings.root, pack)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    with partial.open("w") as file:
        lines = _run_all(settings)
        for line in track(lines, total=settings.count, label="demonstrations"):
            file.write(line + "\n")
    os.replace(partial, out)


def _run_all(settings: DemonstrationSettings) -> Iterator[str]:
    population = plan_population({PARTITION: settings.num_people}, settings.seed)
    jobs = ((settings, population, index) for index in range(settings.count))
    # Forking keeps the seconds that importing AppWorld costs from being paid again by every process. These short-lived
    # processes also do without the garbage collector, a tenth of their time.
    context = multiprocessing.get_context("fork")
    with context.Pool(settings.workers, initializer=gc.disable, maxtasksperchild=EPISODES_PER_PROCESS) as pool:
        yield from pool.imap(_run_one, jobs)


def _run_one(job: tuple[DemonstrationSettings, Population, int]) -> str:
    settings, population, index = job
    rng = random.Random(f"demonstration {settings.seed} {index}")
    template = TRAIN_TEMPLATES[index % len(TRAIN_TEMPLATES)]
    task_id = f"{PARTITION}-{index + 1:06d}-{template}".replace("_", "-") + "_1"
    data_dir = settings.root / "data"
    task = write_task(data_dir, template, task_id, population, PARTITION, settings.seed)
    is_flawed = rng.random() < settings.flawed_fraction
    variant = rng.choice(sorted(task.draft.flawed)) if is_flawed else "solution"
    demonstration = demonstrate(task, variant)
    shutil.rmtree(data_dir / "tasks" / task_id)
    shutil.rmtree(settings.root / "experiments" / "outputs" / EXPERIMENT / "tasks" / task_id)
    return json.dumps(demonstration)


def demonstrate(task: WrittenTask, variant: str) -> dict:
    """Run "solution" or one of the task's flawed variants and score it."""
    codes = task.draft.solution if variant == "solution" else task.draft.flawed[variant]
    world = AppWorld(task_id=task.task_id, experiment_name=EXPERIMENT)
    turns = [{"code": code, "output": world.execute(code)} for code in codes]
    result = world.evaluate()
    world.close()
    return {
        "template": task.template,
        "task_id": task.task_id,
        "variant": variant,
        "instruction": task.draft.instruction,
        "supervisor": supervisor_fields(task.supervisor),
        "datetime": task.now.isoformat(),
        "turns": turns,
        "reward": result.pass_count / result.num_tests,
        "success": result.success,
    }
