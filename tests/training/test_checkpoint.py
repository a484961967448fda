"""Resuming is exact, and a kill at the worst moment loses nothing that was published."""

import json
import os
import shutil
import signal
import time

import pytest
import tiny
import torch
import trainer_ranks

from loop_rl.store.run_dir import RunDir
from loop_rl.training.checkpoint import latest_checkpoint

pytestmark = pytest.mark.slow(100)

NUM_RANKS = 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories of trainers that were killed with SIGKILL while saving, and resumed by new processes."""
    folder = tmp_path_factory.mktemp("runs")
    tiny.save_model(folder / "model")
    tiny.save_model(folder / "tied", tied=True)
    kill_while_saving(folder)
    survivors = [path.name for path in (folder / "killed/checkpoints").iterdir()]
    (folder / "survivors.json").write_text(json.dumps(survivors))
    shutil.copytree(folder / "zero3/checkpoints/step-000001", folder / "other-ranks")
    state = json.loads((folder / "other-ranks/state.json").read_text())
    (folder / "other-ranks/state.json").write_text(json.dumps(state | {"num_ranks": 3}))
    trainer_ranks.run("resumed", folder, NUM_RANKS)
    return folder


def kill_while_saving(folder):
    launcher = trainer_ranks.launch("interrupted", folder, NUM_RANKS)
    while not list((folder / "killed/checkpoints").glob(".step-00000[3-9].unfinished/engine")):
        assert launcher.poll() is None, (folder / f"interrupted-{NUM_RANKS}.log").read_text()[-4000:]
        time.sleep(0.001)
    for rank in range(NUM_RANKS):
        os.kill(int((folder / f"pid-{rank}").read_text()), signal.SIGKILL)
    assert launcher.wait(timeout=60) != 0


@pytest.mark.parametrize("case", trainer_ranks.RESUME_CASES)
def test_resuming_in_new_processes_gives_the_very_same_weights(runs, case):
    uninterrupted, resumed = runs / case / "policy/v000002", runs / case / "resumed"
    files = sorted(path.name for path in uninterrupted.iterdir())
    assert any(name.endswith(".safetensors") for name in files)
    for name in files:
        assert (resumed / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.mark.parametrize("case", ["critic", "critic-adapter"])
def test_resuming_gives_the_very_same_critic(runs, case):
    first, again = (torch.load(runs / case / name) for name in ("critic.pt", "critic-resumed.pt"))
    assert first.keys() == again.keys() and all(torch.equal(weight, again[name]) for name, weight in first.items())


@pytest.mark.parametrize("case", trainer_ranks.RESUME_CASES)
def test_resuming_puts_random_generators_back(runs, case):
    for rank in range(NUM_RANKS):
        first, again = (runs / case / f"{name}-{rank}.json" for name in ("draws", "draws-resumed"))
        assert first.read_text() == again.read_text()


def test_kill_leaves_whole_checkpoints_under_their_names(runs):
    survivors = json.loads((runs / "survivors.json").read_text())
    # The two that are kept; three when the kill came after the rename and before the oldest was deleted.
    assert 2 <= len([name for name in survivors if name.startswith("step-")]) <= 3


def test_leftovers_of_the_kill_are_cleaned_and_old_checkpoints_deleted(runs):
    names = sorted(path.name for path in (runs / "killed/checkpoints").iterdir())
    last = int(names[-1].removeprefix("step-"))
    assert names == [f"step-{last - 1:06d}", f"step-{last:06d}"]
    assert latest_checkpoint(RunDir(runs / "killed")).name == names[-1]


def test_a_published_policy_is_not_replaced(runs):
    (published,) = (runs / "killed/policy").iterdir()
    # Version 2 of the case the endless saver had last trained: published after loading, not after training on.
    expected = runs / "zero3/policy/v000002/adapter_model.safetensors"
    assert (published / "adapter_model.safetensors").read_bytes() == expected.read_bytes()


def test_checkpoint_leaves_the_frozen_base_out(runs):
    files = list((runs / "zero2/checkpoints/step-000001/engine").glob("*model_states.pt"))
    assert files
    for file in files:
        assert all("lora_" in name for name in torch.load(file, weights_only=False)["module"])


def test_of_whole_models_the_newest_and_the_evaluated_are_kept(runs):
    kept = sorted(path.name for path in (runs / "full-zero2-offload/policy").iterdir())
    # Published: 2, 3, ..., 7 with keep_checkpoints at 3. Version 2 has figures, of version 3 an evaluation is under way.
    assert kept == ["v000002", "v000003", "v000005", "v000006", "v000007"]
    assert len(list((runs / "zero2/policy").iterdir())) == 6  # adapters are all kept


def test_another_number_of_ranks_is_refused_in_one_line(runs):
    refusals = json.loads((runs / "refusals.json").read_text())
    expected = f"{runs / 'other-ranks'}: saved with num_ranks=3, cannot be resumed with num_ranks=2"
    assert refusals == [expected] * len(trainer_ranks.RESUME_CASES)


def test_a_new_run_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(RunDir(tmp_path)) is None
