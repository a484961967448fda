"""The built-in task pack: same seed same bytes, disjoint splits, and rewards that tell right from wrong.

AppWorld lives in its own virtual environment, so everything here goes through that environment's Python.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
APPWORLD_BIN = REPOSITORY / ".venv-appworld" / "bin"
DATASETS = ("train", "dev", "test_normal", "test_challenge")
# Every template once, and every dataset.
SMALL_PACK = [
    "--train-scenarios=12",
    "--dev-scenarios=1",
    "--test-normal-scenarios=1",
    "--test-challenge-scenarios=4",
    "--people=11",
]

# Runs one task of every template in every variant, and an agent that does nothing.
PROBE = """
import gc, json, os, sys
from pathlib import Path
from appworld_tasks.builtin import scenarios
from appworld_tasks.builtin.demonstrations import demonstrate
from appworld_tasks.builtin.population import plan_population
from appworld_tasks.builtin.task_writer import write_task
gc.disable()
partitions = ("train", "dev", "test_normal", "test_challenge")
population = plan_population(dict.fromkeys(partitions, 11), 0)
rewards = {}
for template in scenarios.TRAIN_TEMPLATES + scenarios.CHALLENGE_TEMPLATES:
    partition = "train" if template in scenarios.TRAIN_TEMPLATES else "test_challenge"
    task_id = "probe-" + template.replace("_", "-") + "_1"
    task = write_task(Path(os.environ["APPWORLD_ROOT"]) / "data", template, task_id, population, partition, 0)
    task.draft.flawed["nothing"] = []
    rewards[template] = {}
    log = Path(os.environ["APPWORLD_ROOT"], "experiments/outputs/demonstrations/tasks", task_id, "logs/api_calls.jsonl")
    for variant in ("solution", *task.draft.flawed):
        demonstration = demonstrate(task, variant)
        rewards[template][variant] = (demonstration["reward"], demonstration["success"])
        if variant == "solution":
            assert len(log.read_text().splitlines()) == task.draft.num_api_calls, template
        longest = max([len(turn["code"]) for turn in demonstration["turns"]], default=0)
        assert longest <= 330 and len(demonstration["turns"]) <= 4, (template, variant, longest)
Path(sys.argv[1]).write_text(json.dumps(rewards))
os._exit(0)
"""

VOCABULARIES = """
import json
from dataclasses import asdict
from appworld_tasks.builtin.vocabulary import PARTITION_SHARES, vocabulary
print(json.dumps({partition: asdict(vocabulary(partition)) for partition in PARTITION_SHARES}))
"""


def run(*command: str | Path, root: Path | None = None, check: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if root is not None:
        environment["APPWORLD_ROOT"] = str(root)
    result = subprocess.run(
        [str(APPWORLD_BIN / command[0]), *map(str, command[1:])],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def generate(root: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
    return run("python", "-m", "appworld_tasks.builtin", "generate", "--root", root, *options, check=check)


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pack")
    generate(root, *SMALL_PACK)
    return root


def test_same_seed_gives_the_same_bytes(pack, tmp_path):
    # First in the file: later tests leave compiled evaluations next to the tasks.
    generate(tmp_path, *SMALL_PACK)
    assert tree_hash(tmp_path / "data") == tree_hash(pack / "data")


def test_finished_pack_is_reused_and_another_one_refused(pack):
    assert "Reused" in generate(pack, *SMALL_PACK).stdout
    refused = generate(pack, *SMALL_PACK, "--seed=1", check=False)
    assert refused.returncode == 1
    assert "error:" in refused.stderr and "Traceback" not in refused.stderr


def test_root_that_appworld_would_take_for_ram_is_refused(tmp_path):
    refused = generate(tmp_path / "in-memory", *SMALL_PACK, check=False)
    assert refused.returncode == 1 and "memory" in refused.stderr


def test_datasets_have_three_tasks_per_scenario(pack):
    for dataset in DATASETS:
        task_ids = (pack / "data" / "datasets" / f"{dataset}.txt").read_text().split()
        assert task_ids and all(task_id.count("_") == 1 for task_id in task_ids)
        scenarios = {task_id.split("_")[0] for task_id in task_ids}
        assert sorted(task_ids) == sorted(f"{scenario}_{number}" for scenario in scenarios for number in (1, 2, 3))
        for scenario in scenarios:
            specs = [pack / "data" / "tasks" / f"{scenario}_{number}" / "specs.json" for number in (1, 2, 3)]
            assert len({json.loads(path.read_text())["supervisor"]["email"] for path in specs}) == 3


def test_splits_share_no_names_and_no_words(pack):
    vocabularies = json.loads(run("python", "-c", VOCABULARIES).stdout)
    for field in ("first_names", "last_names", "adjectives", "nouns"):
        values = [value for vocabulary in vocabularies.values() for value in vocabulary[field]]
        assert len(values) == len(set(values)), field
    everything = {
        dataset: {word for words in vocabularies[dataset].values() for word in words} for dataset in vocabularies
    }
    for dataset in DATASETS:
        others = set().union(*(words for name, words in everything.items() if name != dataset)) - everything[dataset]
        for task_id in (pack / "data" / "datasets" / f"{dataset}.txt").read_text().split():
            task_dir = pack / "data" / "tasks" / task_id
            supervisor = json.loads((task_dir / "specs.json").read_text())["supervisor"]
            assert supervisor["first_name"] in vocabularies[dataset]["first_names"]
            assert supervisor["last_name"] in vocabularies[dataset]["last_names"]
            public_data = json.loads((task_dir / "ground_truth" / "public_data.json").read_text())
            words = {word for value in public_data.values() for word in str(value).split()}
            assert not (words | {word.lower() for word in words}) & others, (task_id, words)


def test_rewards_tell_right_from_wrong(pack, tmp_path):
    out = tmp_path / "rewards.json"
    run("python", "-c", PROBE, out, root=pack)
    rewards = json.loads(out.read_text())
    assert len(rewards) == 16
    for template, by_variant in rewards.items():
        assert by_variant.pop("solution") == [1.0, True], template
        assert not by_variant.pop("nothing")[1], template
        assert 2 <= len(by_variant) <= 4, template
        for variant, (reward, success) in by_variant.items():
            assert reward < 1 and not success, (template, variant)
        assert any(reward > 0 for reward, _ in by_variant.values()), template


def test_appworld_verifies_and_evaluates_the_pack(pack):
    verified = run("appworld", "verify", "tasks", "--root", pack, root=pack)
    assert "Passed 39/39 tasks." in verified.stdout
    # The verification left its solutions as an experiment.
    evaluated = run("appworld", "evaluate", "verification", "dev", "--root", pack, root=pack)
    assert "100.0" in evaluated.stdout


def test_demonstrations_are_run_and_scored(tmp_path):
    out = tmp_path / "demonstrations.jsonl"
    options = ["--count=12", "--flawed-fraction=0.5", "--people=20", f"--out={out}"]
    run("python", "-m", "appworld_tasks.builtin", "demonstrations", "--root", tmp_path / "root", *options)
    demonstrations = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({demonstration["template"] for demonstration in demonstrations}) == 12
    for demonstration in demonstrations:
        assert demonstration["success"] == (demonstration["variant"] == "solution")
        assert demonstration["success"] == (demonstration["reward"] == 1)
        assert 2 <= len(demonstration["turns"]) <= 4
        assert all(turn["code"] and turn["output"] for turn in demonstration["turns"])
        assert set(demonstration["supervisor"]) == {"first_name", "last_name", "email", "phone_number"}
