"""Try every scenario: what `make tasks-check` runs.

For each scenario some tasks are written, with the people and words of its split, and run in the unmodified engine: the
solution in both styles, an agent that does nothing, and every wrong solution. `appworld verify tasks` then does AppWorld's own
checks on the same tasks.

It takes minutes, so the tests try some scenarios only, and hold that all were right with these very sources: CHECKED has their
digest, written when all are.
"""

import hashlib
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from appworld_tasks.builtin.demonstrations import EXPERIMENT, run_in_forks, run_solution, solutions
from appworld_tasks.builtin.pack import PackSettings, generate
from appworld_tasks.builtin.population import MIN_PEOPLE, Population, plan_population
from appworld_tasks.builtin.progress import track
from appworld_tasks.builtin.scenarios import SPLITS, load, load_all
from appworld_tasks.builtin.styles import Step, brief, careful, with_values
from appworld_tasks.builtin.task_writer import WrittenTask, write_task

HERE = Path(__file__).parent
CHECKED = HERE / "checked.txt"
MAX_TURNS = 7
MAX_TURN_CHARACTERS = 480
"""A turn longer than this is more than one step."""


@dataclass(frozen=True)
class CheckSettings:
    root: Path
    seed: int
    num_tasks: int
    workers: int
    show: bool


def check_scenarios(settings: CheckSettings, names: list[str]) -> bool:
    """Check the scenarios called `names`, print a line each and every problem; is everything right?"""
    people = dict.fromkeys(SPLITS, MIN_PEOPLE)
    generate(settings.root, PackSettings(settings.seed, instances={}, people=people), replace=True)
    for leftovers in ("data/tasks", "data/datasets", "experiments"):
        shutil.rmtree(settings.root / leftovers, ignore_errors=True)
    (settings.root / "data" / "tasks").mkdir()
    population = plan_population(people, settings.seed)
    jobs = [(settings, population, name, number) for name in names for number in range(settings.num_tasks)]
    task_problems: dict[str, list[str]] = {name: [] for name in names}
    task_ids: dict[str, list[str]] = {split: [] for split in SPLITS}
    results = track(run_in_forks(_check_one, jobs, settings.workers), total=len(jobs), label="checking")
    for (_, _, name, number), (problems, shown) in zip(jobs, results, strict=True):
        if shown:
            print(shown)
        task_ids[load(name).SPLIT].append(_task_id(name, number))
        task_problems[name] += [problem for problem in problems if problem not in task_problems[name]]
    for name, problems in task_problems.items():
        scenario = load(name)
        about = f"{name:28} {scenario.SPLIT:14} difficulty {scenario.DIFFICULTY}  {', '.join(scenario.APPS)}"
        print("\n    ".join([about + ("" if problems else "  ok"), *problems]))
    right = _verify(settings.root, task_ids) and not any(task_problems.values())
    if right and set(names) == set(load_all()):
        CHECKED.write_text(sources_digest() + "\n")
    return right


def sources_digest() -> str:
    """Of all that scenarios and their tasks are made by."""
    digest = hashlib.sha256()
    for file in sorted(HERE.rglob("*.py")):
        digest.update(f"{file.relative_to(HERE)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _task_id(name: str, number: int) -> str:
    return f"check-{number // 3:03d}-{name}".replace("_", "-") + f"_{number % 3 + 1}"


def _check_one(job: tuple[CheckSettings, Population, str, int]) -> tuple[list[str], str]:
    settings, population, name, number = job
    try:
        scenario = load(name)
        task = write_task(
            settings.root / "data", name, _task_id(name, number), population, scenario.SPLIT, settings.seed
        )
        return _problems(task, settings)
    except Exception as error:  # a mistake of a scenario's author; the others are checked all the same
        return [f"{type(error).__name__}: {error}"], ""


def _problems(task: WrittenTask, settings: CheckSettings) -> tuple[list[str], str]:
    scenario, draft = load(task.scenario), task.draft
    tests = scenario.TESTS
    problems, shown = _shape_problems(task), [f"\n=== {task.task_id}: {draft.instruction}  answer {draft.answer!r}"]
    flipped: set[str] = set()
    experiments = {"nothing": []} | {
        variant: [Step("", with_values(code, draft)) for code in turns] for variant, turns in solutions(task).items()
    }
    experiments["brief solution"] = brief(draft.solution, draft)
    experiments["careful solution"] = careful(draft.solution, draft, random.Random(task.task_id), "forgets_token")
    for variant, steps in experiments.items():
        outputs, result = run_solution(task, steps)
        failed = {failure["requirement"] for failure in result.failures}
        shown.append(f"--- {variant}: {result.pass_count}/{result.num_tests}, failed {sorted(failed)}")
        for step, output in zip(steps, outputs, strict=True):
            shown += [step.code, *(f"  | {line}" for line in output[:600].splitlines())]
        if variant.endswith("solution"):
            problems += [f"{variant} fails {sorted(failed)}"] * bool(failed)
            mended = variant == "careful solution"  # it has a slip in it
            errors = [] if mended else [output for output in outputs if output.startswith("Execution failed")]
            problems += [f"{variant} raises an error: {output[-300:]}" for output in errors]
        else:
            problems += [f"{variant} succeeds"] * (not failed)
        if variant == "solution":
            calls = _num_api_calls(settings.root, task.task_id)
            problems += [f"num_api_calls is {draft.num_api_calls}, but {calls} were made"] * (
                calls != draft.num_api_calls
            )
        elif variant == "nothing":
            expected = {requirement for requirement, label in tests.items() if label == "no_op_fail"}
            problems += [f"doing nothing fails {sorted(failed)}, TESTS says {sorted(expected)}"] * (failed != expected)
        elif not variant.endswith("solution"):
            flipped |= failed
    problems += [f"no wrong solution fails {requirement!r}" for requirement in tests.keys() - flipped]
    return problems, "\n".join(shown) if settings.show else ""


def _shape_problems(task: WrittenTask) -> list[str]:
    """What can be told without running anything."""
    scenario, draft = load(task.scenario), task.draft
    apis = set(re.findall(r"apis\.(\w+)\.(\w+)\(", "\n".join(draft.solution)))
    apps = {app for app, _ in apis} - {"supervisor"}
    problems = []
    if apps != set(scenario.APPS):
        problems.append(f"APPS is {sorted(scenario.APPS)}, but the solution uses {sorted(apps)}")
    if len(draft.solution) > MAX_TURNS:
        problems.append(f"the solution has {len(draft.solution)} turns; at most {MAX_TURNS}")
    if any(len(code) > MAX_TURN_CHARACTERS for code in draft.solution):
        problems.append(f"a turn of the solution is longer than {MAX_TURN_CHARACTERS} characters; take two")
    if scenario.DIFFICULTY == 1 and (len(apps) > 1 or len(apis) > 7):
        problems.append(f"difficulty 1 has one app and at most 7 APIs, not {sorted(apps)} and {len(apis)}")
    if scenario.DIFFICULTY == 3 and (len(apps) < 2 or len(apis) < 7):
        problems.append(f"difficulty 3 has two apps or more and at least 7 APIs, not {sorted(apps)} and {len(apis)}")
    return problems


def _num_api_calls(root: Path, task_id: str) -> int:
    log = root / "experiments" / "outputs" / EXPERIMENT / "tasks" / task_id / "logs" / "api_calls.jsonl"
    return len(log.read_text().splitlines())


def _verify(root: Path, task_ids: dict[str, list[str]]) -> bool:
    """Run `appworld verify tasks` on the tasks just written."""
    (root / "data" / "datasets").mkdir()
    # AppWorld verifies train and dev, so that is where all of them go.
    everything = [task_id for ids in task_ids.values() for task_id in ids]
    for split, ids in (("train", everything), ("dev", everything[:1])):
        (root / "data" / "datasets" / f"{split}.txt").write_text("".join(f"{task_id}\n" for task_id in ids))
    command = [Path(sys.executable).with_name("appworld"), "verify", "tasks", "--root", root]
    print("appworld verify tasks:", end=" ", flush=True)
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    num = len(set(everything))
    passed = re.search(r"Passed (\d+)/(\d+) tasks", result.stdout)
    print(passed[0] if passed else result.stdout[-2000:] + result.stderr[-2000:])
    return passed is not None and passed[1] == passed[2] and int(passed[2]) >= num
