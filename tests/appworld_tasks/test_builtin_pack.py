"""The built-in task pack: same seed same bytes, disjoint splits, and rewards that tell right from wrong.

AppWorld lives in its own virtual environment, so everything here goes through that environment's Python.
"""

import hashlib
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from datasets import load_dataset

pytestmark = pytest.mark.slow(330)

REPOSITORY = Path(__file__).resolve().parents[2]
APPWORLD_BIN = REPOSITORY / ".venv-appworld" / "bin"
SPLITS = ("train", "dev", "test_normal", "test_challenge")
SMALL_PACK = ["--tasks", "6", "3", "3", "6", "--people=11"]
APPS = {"amazon", "phone", "file_system", "spotify", "venmo", "gmail", "splitwise", "simple_note", "todoist"}

SCENARIOS = """
import json
from appworld_tasks.builtin.scenarios import load_all
print(json.dumps({name: [s.SPLIT, s.DIFFICULTY, s.APPS, s.__doc__] for name, s in load_all().items()}))
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


def builtin(command: str, root: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess:
    return run("python", "-m", "appworld_tasks.builtin", command, "--root", root, *options, check=check)


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pack")
    builtin("generate", root, *SMALL_PACK)
    return root


@pytest.fixture(scope="module")
def scenarios() -> dict[str, list]:
    return json.loads(run("python", "-c", SCENARIOS).stdout)


def test_same_seed_gives_the_same_bytes(pack, tmp_path):
    # First in the file: later tests leave compiled evaluations next to the tasks.
    builtin("generate", tmp_path, *SMALL_PACK)
    assert tree_hash(tmp_path / "data") == tree_hash(pack / "data")


def test_finished_pack_is_reused_and_another_one_refused(pack):
    assert "Reused" in builtin("generate", pack, *SMALL_PACK).stdout
    refused = builtin("generate", pack, *SMALL_PACK, "--seed=1", check=False)
    assert refused.returncode == 1
    assert "error:" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--tasks", "12", "3", "3", "4"], "multiple of 3"),
        (["--people", "3"], "3 people for train: choose 11 to"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path, options, word):
    refused = builtin("generate", tmp_path, *options, check=False)
    assert refused.returncode != 0 and word in refused.stderr and "Traceback" not in refused.stderr


def test_root_that_appworld_would_take_for_ram_is_refused(tmp_path):
    refused = builtin("generate", tmp_path / "in-memory", *SMALL_PACK, check=False)
    assert refused.returncode == 1 and "memory" in refused.stderr


def test_the_scenarios_span_appworld(scenarios):
    assert Counter(difficulty for _, difficulty, _, _ in scenarios.values()) == {1: 15, 2: 15, 3: 15}
    assert {app for _, _, apps, _ in scenarios.values() for app in apps} == APPS
    assert all(doc.startswith(("Question", "Action")) for *_, doc in scenarios.values())
    for split in SPLITS:  # each has every difficulty
        assert {difficulty for of, difficulty, _, _ in scenarios.values() if of == split} == {1, 2, 3}
    seen = {app for split, _, apps, _ in scenarios.values() for app in apps if split == "train"}
    for name, (split, _, apps, _) in scenarios.items():
        assert (set(apps) <= seen) == (split != "test_challenge"), name


def test_splits_have_three_tasks_per_scenario(pack):
    for split in SPLITS:
        task_ids = (pack / "data" / "datasets" / f"{split}.txt").read_text().split()
        assert task_ids and all(task_id.count("_") == 1 for task_id in task_ids)
        instances = {task_id.split("_")[0] for task_id in task_ids}
        assert sorted(task_ids) == sorted(f"{instance}_{number}" for instance in instances for number in (1, 2, 3))
        for instance in instances:
            specs = [pack / "data" / "tasks" / f"{instance}_{number}" / "specs.json" for number in (1, 2, 3)]
            assert len({json.loads(path.read_text())["supervisor"]["email"] for path in specs}) == 3


def test_no_scenario_person_or_value_crosses_a_split(pack, scenarios):
    vocabularies = json.loads(run("python", "-c", VOCABULARIES).stdout)
    for field in ("first_names", "last_names", "adjectives", "nouns"):
        values = [value for vocabulary in vocabularies.values() for value in vocabulary[field]]
        assert len(values) == len(set(values)), field
    everything = {split: {word for words in vocabularies[split].values() for word in words} for split in vocabularies}
    for split in SPLITS:
        others = set().union(*(words for name, words in everything.items() if name != split)) - everything[split]
        for task_id in (pack / "data" / "datasets" / f"{split}.txt").read_text().split():
            scenario = re.fullmatch(rf"{split}-\d+-(.*)_\d", task_id.replace(split.replace("_", "-"), split, 1))[1]
            scenario = scenario.replace("-", "_")
            assert scenarios[scenario][0] == split, task_id
            task_dir = pack / "data" / "tasks" / task_id
            supervisor = json.loads((task_dir / "specs.json").read_text())["supervisor"]
            assert supervisor["first_name"] in vocabularies[split]["first_names"]
            assert supervisor["last_name"] in vocabularies[split]["last_names"]
            given = json.loads((task_dir / "ground_truth" / "public_data.json").read_text())
            words = {word for value in given.values() for word in str(value).split()}
            assert not (words | {word.lower() for word in words}) & others, (task_id, words)


def test_scenarios_hold_what_the_guide_promises(tmp_path):
    some = ["note_pay", "venmo_sent_total", "contact_phone", "todoist_add", "note_append"]
    checked = builtin("check", tmp_path, "--tasks=1", *(f"--scenario={name}" for name in some))
    lines = checked.stdout.splitlines()
    assert sum(line.endswith("  ok") for line in lines) == len(some), checked.stdout
    assert lines[-1] == f"appworld verify tasks: Passed {len(some) + 1}/{len(some) + 1} tasks"


def test_every_scenario_held_it_with_these_very_sources():
    digest = run("python", "-c", "from appworld_tasks.builtin.check import sources_digest; print(sources_digest())")
    checked = REPOSITORY / "appworld_tasks" / "builtin" / "checked.txt"
    assert checked.read_text() == digest.stdout, (
        "run `make tasks-check`: it writes this file when all scenarios are right"
    )


def test_a_scenario_that_is_wrong_is_named(tmp_path):
    refused = builtin("check", tmp_path, "--scenario=note_pai", check=False)
    assert refused.returncode == 1 and "no scenario 'note_pai'" in refused.stderr and "note_pay" in refused.stderr


def test_appworld_evaluates_the_pack(pack):
    verified = run("appworld", "verify", "tasks", "--root", pack, root=pack)
    assert "Passed 9/9 tasks." in verified.stdout
    # The verification left its solutions as an experiment.
    evaluated = run("appworld", "evaluate", "verification", "dev", "--root", pack, root=pack)
    assert "100.0" in evaluated.stdout


@pytest.fixture(scope="module")
def demonstrations_root(tmp_path_factory) -> Path:
    """Where demonstrations of either style are run; the base databases are the same."""
    return tmp_path_factory.mktemp("demonstrations")


@pytest.mark.parametrize(("style", "wrong_fraction"), [("brief", "0.5"), ("careful", "0")])
def test_demonstrations_are_run_and_scored(demonstrations_root, tmp_path, style, wrong_fraction):
    """`datasets` reads them, each is what its variant says, and a careful agent reads before it calls."""
    out = tmp_path / "demonstrations.jsonl"
    options = ["--count=9", f"--style={style}", f"--wrong-fraction={wrong_fraction}", "--people=20", f"--out={out}"]
    builtin("demonstrations", demonstrations_root, *options)
    demonstrations = list(load_dataset("json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")))
    assert len({demonstration["scenario"] for demonstration in demonstrations}) == 9
    for demonstration in demonstrations:
        assert demonstration["success"] == (demonstration["variant"] == "solution")
        assert demonstration["success"] == (demonstration["reward"] == 1)
        assert all(turn["code"] and turn["output"] for turn in demonstration["turns"])
        assert set(demonstration["supervisor"]) == {"first_name", "last_name", "email", "phone_number"}
    if style == "careful":
        assert any("Execution failed" in turn["output"] for d in demonstrations for turn in d["turns"])
        for demonstration in demonstrations:
            assert_documentation_is_read_first(demonstration["turns"])


def assert_documentation_is_read_first(turns: list[dict]) -> None:
    """Every function that exists is called only after its documentation was printed."""
    read: set[str] = set()
    for turn in turns:
        for call in re.findall(r"apis\.(\w+\.\w+)\(", turn["code"]):
            if call == "api_docs.show_api_doc":
                read.add(".".join(re.findall(r'_name="(\w+)"', turn["code"])))
            elif not call.startswith("api_docs.") and "Execution failed" not in turn["output"]:
                assert call in read, (call, turn["code"])
