"""Generate demonstrations: solutions and wrong solutions, really run in AppWorld and really scored.

They use the "warmup" partition of people and words, which no split of a pack uses. The file is JSON lines, one
demonstration each: `datasets.load_dataset("json", data_files=...)` reads it.
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
from appworld.evaluator import TestTracker

from appworld_tasks.builtin.pack import PackSettings, generate
from appworld_tasks.builtin.population import Population, plan_population
from appworld_tasks.builtin.progress import track
from appworld_tasks.builtin.scenarios import load, of_split
from appworld_tasks.builtin.styles import Step, brief, careful, habit_names, wrong_solutions
from appworld_tasks.builtin.task_writer import WrittenTask, supervisor_fields, write_task

PARTITION = "warmup"
EXPERIMENT = "demonstrations"
# An AppWorld process grows with every episode, so it is replaced by a fresh fork now and then.
EPISODES_PER_PROCESS = 100
# Of the wrong solutions, these have a habit that fits any scenario; the others a mistake of their scenario.
HABIT_FRACTION = 0.7
# Of careful demonstrations: no slip in half of them.
SLIPS = (None, None, "guesses_name", "forgets_token")


@dataclass(frozen=True)
class DemonstrationSettings:
    root: Path
    seed: int
    count: int
    splits: tuple[str, ...]
    """Whose scenarios are demonstrated."""
    style: str
    """"careful" or "brief"."""
    wrong_fraction: float
    workers: int
    num_people: int


def write_demonstrations(settings: DemonstrationSettings, out: Path) -> None:
    """Write one JSON line a demonstration to `out`, in an order that depends on the seed alone."""
    pack = PackSettings(seed=settings.seed, instances={}, people={PARTITION: settings.num_people})
    generate(settings.root, pack)
    shutil.rmtree(settings.root / "data" / "tasks")  # what an interrupted run has left
    (settings.root / "data" / "tasks").mkdir()
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
    yield from run_in_forks(_run_one, jobs, settings.workers)


def run_in_forks(function, jobs, workers: int) -> Iterator:
    """`function` of every job, in order, each in one of `workers` forked processes that are replaced now and then.

    Forking keeps the seconds that importing AppWorld costs from being paid again by every process. These short-lived
    processes also do without the garbage collector, a tenth of their time.
    """
    context = multiprocessing.get_context("fork")
    with context.Pool(workers, initializer=gc.disable, maxtasksperchild=EPISODES_PER_PROCESS) as pool:
        yield from pool.imap(function, jobs)


def _run_one(job: tuple[DemonstrationSettings, Population, int]) -> str:
    settings, population, index = job
    rng = random.Random(f"demonstration {settings.seed} {index}")
    names = [name for split in settings.splits for name in of_split(split)]
    scenario = names[index % len(names)]
    task_id = f"{PARTITION}-{index + 1:06d}-{scenario}".replace("_", "-") + "_1"
    data_dir = settings.root / "data"
    task = write_task(data_dir, scenario, task_id, population, PARTITION, settings.seed)
    variant = _choose_variant(task, settings.wrong_fraction, rng)
    turns = solutions(task)[variant]
    if settings.style == "brief":
        steps = brief(turns, task.draft)
    else:
        steps = careful(turns, task.draft, rng, rng.choice(SLIPS))
    demonstration = demonstrate(task, variant, steps)
    remove_task(settings.root, task_id)
    return json.dumps(demonstration)


def solutions(task: WrittenTask) -> dict[str, list[str]]:
    """The task's "solution" and its wrong solutions, as turns of code."""
    return {"solution": task.draft.solution, **wrong_solutions(task.draft, load(task.scenario).APPS)}


def _choose_variant(task: WrittenTask, wrong_fraction: float, rng: random.Random) -> str:
    if rng.random() >= wrong_fraction:
        return "solution"
    habits = habit_names(task.draft, load(task.scenario).APPS)
    return rng.choice(habits if rng.random() < HABIT_FRACTION or not task.draft.wrong else sorted(task.draft.wrong))


def run_solution(task: WrittenTask, steps: list[Step], experiment: str = EXPERIMENT) -> tuple[list[str], TestTracker]:
    """Run the steps in a fresh world; return the REPL's outputs and AppWorld's evaluation."""
    world = AppWorld(task_id=task.task_id, experiment_name=experiment)
    outputs = [world.execute(step.code) for step in steps]
    result = world.evaluate()
    world.close()
    return outputs, result


def remove_task(root: Path, task_id: str) -> None:
    """Remove a task and what was run of it."""
    shutil.rmtree(root / "data" / "tasks" / task_id)
    shutil.rmtree(root / "experiments" / "outputs" / EXPERIMENT / "tasks" / task_id)


def demonstrate(task: WrittenTask, variant: str, steps: list[Step]) -> dict:
    """One demonstration: the task, its turns as run, and how they scored."""
    outputs, result = run_solution(task, steps)
    turns = [
        {"thought": step.thought, "code": step.code, "output": output}
        for step, output in zip(steps, outputs, strict=True)
    ]
    return {
        "scenario": task.scenario,
        "task_id": task.task_id,
        "variant": variant,
        "instruction": task.draft.instruction,
        "supervisor": supervisor_fields(task.supervisor),
        "datetime": task.now.isoformat(),
        "turns": turns,
        "reward": result.pass_count / result.num_tests,
        "success": result.success,
    }
