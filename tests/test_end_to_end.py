"""The whole thing for real: AppWorld, vLLM, sampler, DeepSpeed trainer, supervisor, on the embedded default.

One run, cut short in the ways a run gets cut short, must end where it should: with a policy that succeeds more often.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from loop_rl.inspection.debug_loss import load_policy, token_losses
from loop_rl.running.ranks import accelerate_command
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollout_files import read_group, read_rollouts, write_rollouts
from loop_rl.store.rollouts import assigned_groups
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import read_timeline
from loop_rl.store.updates import read_updates

pytestmark = pytest.mark.slow(400)

REPO = Path(__file__).resolve().parent.parent
NUM_ITERATIONS = 6
# Four that the policy solves once in ten attempts at first: few rollouts then show that it learns.
TASKS = ["train-001-contact-phone_2", "train-002-alarms-off-day_1", "train-004-file-count_2", "train-004-file-count_3"]
PATIENCE_S = 900


class Supervisor:
    """`make train`, without the installation."""

    def __init__(self, runs_dir: Path, root: Path) -> None:
        self.run = RunDir(runs_dir / "e2e")
        settings = [
            "name=e2e",
            f"runs_dir={runs_dir}",
            f"tasks.root={root}",
            f"trainer.num_iterations={NUM_ITERATIONS}",
            f"tasks.task_ids=[{','.join(TASKS)}]",
            f"sampler.tasks_per_iteration={len(TASKS)}",
            "sampler.max_staleness=2",
            # Fewer and smaller iterations than the default's, so bolder and more steps.
            "trainer.learning_rate=2e-3",
            "trainer.minibatch_rollouts=8",
            "evaluation.split=dev",
        ]
        self.command = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/tiny.yaml", *settings]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def wait_until(self, process: subprocess.Popen, condition) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.1)


def processes_of(run: RunDir) -> dict[int, str]:
    """Processes that name the run's folder or the one it is in on their command line, or descend from one that does."""
    commands, parents = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                commands[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                pass
    mine = {pid for pid, command in commands.items() if str(run.path.parent) in command}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return {pid: commands[pid] for pid in mine}


def rollout_files(run: RunDir) -> set[str]:
    return {path.name for path in run.train_rollouts.glob("*.parquet")}


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory, appworld_root) -> Supervisor:
    return Supervisor(tmp_path_factory.mktemp("runs"), appworld_root)


def test_ctrl_c_stops_everything_and_loses_nothing(supervisor):
    process = supervisor.start()
    run = supervisor.run
    supervisor.wait_until(
        process, lambda: run.latest_version() >= 1 and list(run.unfinished_rollouts.glob("*.parquet"))
    )
    running = processes_of(run)
    assert len(running) >= 4, running
    groups, pieces = rollout_files(run), {path.name for path in run.unfinished_rollouts.glob("*.parquet")}
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "stopped; the same command goes on from here" in output
    left = {
        pid: command for pid, command in running.items() if Path(f"/proc/{pid}").exists() and pid in processes_of(run)
    }
    assert not left
    kept = rollout_files(run) | {path.name for path in run.unfinished_rollouts.glob("*.parquet")}
    assert groups <= kept
    for piece in pieces - kept:  # its group was finished meanwhile
        group = piece[1:7]  # g000012-k3.parquet
        assert f"group-{group}.parquet" in kept


def test_a_killed_trainer_ends_the_run_with_the_reason(supervisor):
    process = supervisor.start()
    run = supervisor.run

    def trainers() -> list[int]:
        return [
            pid
            for pid, command in processes_of(run).items()
            if "loop_rl.train " in command and "commands.launch" not in command
        ]

    supervisor.wait_until(process, lambda: run.latest_version() >= 2 and trainers())
    os.kill(trainers()[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "trainer ended with exit status" in output or "trainer killed by" in output
    assert not processes_of(run)


def test_the_run_goes_on_to_its_end_and_has_learned(supervisor):
    versions_before = supervisor.run.latest_version()
    groups_before = {
        name: (supervisor.run.train_rollouts / name).stat().st_mtime_ns for name in rollout_files(supervisor.run)
    }
    process = supervisor.start()
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert f"goes on after iteration {versions_before} of {NUM_ITERATIONS}" in output
    assert re.search(r"TGC.*\[.*\].*[+-]\d+\.\d", output), output
    lines = read_metrics(supervisor.run)
    assert [line["iteration"] for line in lines] == list(range(NUM_ITERATIONS))
    success = [line["rollout/success"] for line in lines]
    # 48 rollouts a side: two standard errors of the difference at most, so a policy that learns nothing passes in one run of
    # forty. One that gains 0.45, as this one does, fails in about one of a hundred.
    assert sum(success[-2:]) / 2 >= sum(success[:2]) / 2 + 0.2, success
    assert 1 <= max(line["rollout/staleness_max"] for line in lines) <= 2
    assert all(sum(line[f"staleness/{age}"] for age in range(3)) == pytest.approx(1) for line in lines)
    for name, modified in groups_before.items():  # nothing finished was sampled again
        assert (supervisor.run.train_rollouts / name).stat().st_mtime_ns == modified
    differences = [line["policy/logprob_diff_max"] for line in lines if "policy/logprob_diff_max" in line]
    assert differences and max(differences) < 1e-3
    check_what_readers_find(supervisor.run)
    check_every_token_is_of_the_version_it_names(supervisor.run)


def check_every_token_is_of_the_version_it_names(run: RunDir) -> None:
    """Its log-probability under the adapter of that version is the one it was sampled with; under others it is not."""
    rollouts = [rollout for path in run.train_rollouts.glob("*.parquet") for rollout in read_group(path).rollouts]
    crossing = [rollout for rollout in rollouts if len(set(rollout.policy_versions)) > 1]
    assert len(crossing) >= 5, "hardly any episode went on under a new version"
    difference, num_tokens = Counter(), Counter()  # by (version of the policy, version that the tokens name)
    for version in range(NUM_ITERATIONS):
        policy = load_policy(run, run.config, version)
        for rollout in (*crossing[:30], *rollouts[::12]):
            if version not in rollout.policy_versions:
                continue
            (sample,) = rollout.samples()
            tokens, _ = token_losses(rollout, 0.0, policy, run.config, policy)
            for token, behaviour, named in zip(tokens, sample.columns["behaviour"], sample.versions, strict=True):
                distance = abs(token.logprob - behaviour)
                assert named != version or distance < 1e-3, (rollout.rollout_id, version)
                difference[version, named] += distance
                num_tokens[version, named] += 1
    mean = {pair: difference[pair] / num_tokens[pair] for pair in num_tokens}
    assert sum(number for (version, named), number in num_tokens.items() if version == named) > 2000
    others = [pair for pair in num_tokens if pair[0] != pair[1] and num_tokens[pair] >= 50]
    assert others and all(mean[version, named] > 3 * mean[version, version] for version, named in others), mean


def check_what_readers_find(run: RunDir) -> None:
    """Every figure is documented, updates belong to rollouts, the timeline has every process, there is a report."""
    documented = re.findall(r"^\| `([^`]+)` \|", (REPO / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
    written = {re.sub(r"^staleness/\d+$", "staleness/1", name) for line in read_metrics(run) for name in line}
    assert written <= set(documented)
    for iteration in range(NUM_ITERATIONS):
        updates = {update.rollout_id: update for update in read_updates(run.update_file(iteration))}
        files = [path for path in run.train_rollouts.glob("*.parquet") if read_group(path).iteration == iteration]
        rollouts = [rollout for path in files for rollout in read_group(path).rollouts]
        assert updates.keys() == {rollout.rollout_id for rollout in rollouts}
        for rollout in rollouts:
            update = updates[rollout.rollout_id]
            num_values = rollout.num_action_tokens if update.trained else 0
            assert len(update.logprobs) == len(update.entropies) == num_values
            assert update.trained == (abs(update.advantage) >= 0.01 and rollout.num_action_tokens > 0)
    phases = {(span.process, span.phase) for span in read_timeline(run)}
    assert phases >= {("launch", "starting vLLM"), ("launch", "evaluation"), ("trainer", "waiting for rollouts")}
    assert phases >= {("trainer", "training"), ("trainer", "publishing")}
    assert run.report_file.stat().st_size > 100_000


def test_a_finished_run_is_left_alone(supervisor):
    before = {path: path.stat().st_mtime_ns for path in supervisor.run.path.rglob("*.safetensors")}
    result = subprocess.run(supervisor.command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert "is finished" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in supervisor.run.path.rglob("*.safetensors")} == before


def test_another_config_under_the_same_name_is_refused(supervisor):
    command = [*supervisor.command, "trainer.learning_rate=0.5"]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and "another config (trainer.learning_rate" in result.stderr


def test_appworld_evaluate_prints_the_same_figures(supervisor, appworld_root):
    figures = json.loads(supervisor.run.evaluation_file(NUM_ITERATIONS, "dev").read_text())
    appworld = REPO / ".venv-appworld" / "bin" / "appworld"
    command = [appworld, "evaluate", figures["experiment"], "dev", "--root", appworld_root]
    subprocess.run(command, cwd=REPO, check=True, capture_output=True, timeout=120)
    outputs = appworld_root / "experiments" / "outputs" / figures["experiment"]
    theirs = json.loads((outputs / "evaluations" / "dev.json").read_text())["aggregate"]
    assert theirs["task_goal_completion"] == round(100 * figures["TGC"]["all"]["value"], 1)
    assert theirs["scenario_goal_completion"] == round(100 * figures["SGC"]["all"]["value"], 1)


def _train(run: RunDir) -> subprocess.Popen:
    return subprocess.Popen(
        [*accelerate_command(1), "-m", "loop_rl.train", "--run-dir", str(run.path)],
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _replay(supervisor: Supervisor, folder: Path, num_iterations: int, flat: int) -> RunDir:
    """A run whose sampling is done already: the rollouts of another run; in iteration `flat` all have one reward."""
    run = RunDir(folder)
    shutil.copytree(supervisor.run.train_rollouts, run.train_rollouts)
    shutil.copytree(supervisor.run.iteration_file(0).parent, run.iteration_file(0).parent)
    config = supervisor.run.config_file.read_text()
    run.config_file.write_text(config.replace(f"num_iterations: {NUM_ITERATIONS}", f"num_iterations: {num_iterations}"))
    for group_id in assigned_groups(run, flat):
        rollouts = [replace(rollout, score=0.5) for rollout in read_rollouts(run.group_file(group_id))]
        write_rollouts(run.group_file(group_id), rollouts)
    return run


def _weights(run: RunDir, version: int) -> dict:
    return load_file(run.policy_folder(version) / "adapter_model.safetensors")


def _are_equal(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all((one[name] == other[name]).all() for name in one)


def test_killed_again_and_again_training_ends_with_the_same_weights(supervisor, tmp_path):
    """And an iteration in which no rollout has an advantage is skipped and counted, and changes nothing."""
    num_iterations = 3
    straight, broken = (_replay(supervisor, tmp_path / name, num_iterations, flat=1) for name in ("straight", "broken"))
    assert _train(straight).wait(PATIENCE_S) == 0
    # Killed while training the first iteration, after the first checkpoint, and just when the second policy appears.
    moments = [
        lambda: broken.read_status("trainer").get("phase") == "training",
        lambda: any(broken.checkpoints.glob("step-000001")),
        lambda: broken.latest_version() == 2,
    ]
    for moment in moments:
        process = _train(broken)
        while not moment():
            assert process.poll() is None
            time.sleep(0.01)
        for pid in processes_of(broken):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    assert _train(broken).wait(PATIENCE_S) == 0
    for version in range(1, num_iterations + 1):
        assert _are_equal(_weights(straight, version), _weights(broken, version))
    for run in (straight, broken):
        first, flat, last = read_metrics(run)
        assert [line["iteration"] for line in (first, flat, last)] == list(range(num_iterations))
        assert (flat["rollout/share_filtered"], flat["policy/num_steps"]) == (1.0, 0)
        assert first["policy/num_steps"] > 0 and last["policy/num_steps"] > 0
    assert _are_equal(_weights(broken, 1), _weights(broken, 2))
    assert not _are_equal(_weights(broken, 2), _weights(broken, 3))
