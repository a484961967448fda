"""Node processes for real, on this machine, with the test as their head: they meet and train, and no failure hangs."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import loop_rl.running.cluster
import loop_rl.running.node
from loop_rl.config.base import ConfigError
from loop_rl.running.cluster import Cluster, NodeLost
from loop_rl.running.hosts import LocalHosts, SshHosts
from loop_rl.store.metrics import read_metrics
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir

pytestmark = pytest.mark.slow(250)

REPO = Path(__file__).resolve().parents[2]
PATIENCE_S = 600


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunDir:
    """Of one inference node, the test, and two that train, with one rank each."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny.save_model(tmp_path / "model")
    config = tiny.make_config(tmp_path / "model", num_iterations=1, num_processes=1)
    nodes = config.nodes.model_copy(update={"inference": 1, "training": 2})
    return RunDir.create(config.model_copy(update={"runs_dir": str(tmp_path / "runs"), "nodes": nodes}))


@pytest.fixture
def cluster(run):
    cluster = Cluster(run, run.config, LocalHosts(("local-0", "local-1", "local-2"), ("", "", "")))
    cluster.start()
    yield cluster
    cluster.stop()
    assert not processes_of(run)


def processes_of(run: RunDir) -> dict[int, str]:
    """Command lines that name the run, by process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(run.path) in command:
                found[int(folder.name)] = command
    return found


def wait_until(condition, limit_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


def failure(cluster: Cluster, limit_s: float = 60) -> str:
    deadline = time.monotonic() + limit_s
    with pytest.raises(NodeLost) as error:
        while time.monotonic() < deadline:
            cluster.check()
            time.sleep(0.1)
    return str(error.value)


def ranks(run: RunDir, index: int) -> list[int]:
    """Processes that train on a node."""
    node = run.read_status(f"node-{index}")["pid"]
    found = []
    for pid, command in processes_of(run).items():
        if "loop_rl.train " in command and "commands.launch" not in command:
            parent = pid
            while parent > 1 and parent != node:
                parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
            found += [pid] * (parent == node)
    return found


def test_two_nodes_meet_and_train_together(run, cluster):
    groups = tiny.make_groups(3, version=-1)  # of no version that trains: made-up log-probabilities are not compared
    RolloutStore(run).assign(0, {group.group_id: group.rollouts for group in groups}, dropped=[])
    cluster.wait_until_reported()
    assert cluster.is_training() and cluster.urls == []
    time.sleep(1)
    assert not ranks(run, 1)  # not before they may
    cluster.train()
    deadline = time.monotonic() + PATIENCE_S
    while cluster.is_training():
        cluster.check()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    cluster.check()
    assert run.latest_version() == 1
    assert [line["iteration"] for line in read_metrics(run)] == [0]
    for index in (1, 2):
        assert "stress step" in (run.logs / "node-1" / "trainer.log").read_text()
        assert (run.logs / f"node-{index}" / "trainer.log").exists()


def test_a_killed_rank_ends_every_node_and_is_named(run, cluster):
    cluster.wait_until_reported()
    cluster.train()
    wait_until(lambda: run.read_status("trainer").get("phase") == "waiting" and ranks(run, 2))
    os.kill(ranks(run, 2)[0], signal.SIGKILL)
    message = failure(cluster)
    assert "node 2 (local-2) ended with exit status 1" in message
    assert "trainer ended with exit status" in message and "node-2/trainer.log" in message
    assert "failed (exitcode: -9) local_rank: 0" in message and "ChildFailedError" not in message


def test_a_killed_node_process_leaves_nothing_behind(run, cluster):
    cluster.wait_until_reported()
    cluster.train()
    wait_until(lambda: ranks(run, 1) and ranks(run, 2))
    os.kill(run.read_status("node-1")["pid"], signal.SIGKILL)
    assert "node 1 (local-1) killed by SIGKILL" in failure(cluster)
    wait_until(lambda: not any("loop_rl.train" in c and "machine_rank 0" in c for c in processes_of(run).values()), 20)


def test_nodes_end_when_the_head_is_gone(run, cluster):
    cluster.wait_until_reported()
    assert len(processes_of(run)) == 2
    cluster.dismiss()  # stdin at its end: what a dead head or a cut remote shell looks like
    wait_until(lambda: not processes_of(run), 15)


def test_a_node_that_says_nothing_any_more_is_lost(run, cluster, monkeypatch):
    cluster.wait_until_reported()
    monkeypatch.setattr(loop_rl.running.cluster, "SILENCE_S", 3.0)
    monkeypatch.setattr(loop_rl.running.cluster, "_STOP_S", 1.0)
    os.kill(run.read_status("node-2")["pid"], signal.SIGSTOP)
    assert "node 2 (local-2): no sign of life for 3 s" in failure(cluster)


def test_a_host_that_cannot_be_reached_is_named_with_what_the_remote_shell_said(run, tmp_path):
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "ssh: connect to host $1 port 22: Connection refused" >&2\nexit 255\n')
    shell.chmod(0o755)
    cluster = Cluster(run, run.config, SshHosts(("127.0.0.1", "127.0.0.2", "127.0.0.3"), (str(shell),)))
    cluster.start()
    try:
        with pytest.raises(
            NodeLost, match=r"node 1 \(127\.0\.0\.2\) ended with exit status 255(.|\n)*Connection refused"
        ):
            cluster.wait_until_reported()
    finally:
        cluster.stop()


def test_a_run_of_two_nodes_goes_on_after_a_killed_rank_and_stops_on_ctrl_c(tmp_path):
    settings = ["name=two", f"runs_dir={tmp_path}", "tasks.held_out_tasks=2", "trainer.num_iterations=50"]
    settings += ["sampler.tasks_per_iteration=2", "sampler.rollouts_per_task=2", "evaluation.every=1"]
    command = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/babyai.yaml", "--local-nodes", "2"]
    head = subprocess.Popen(
        [*command, "--restarts", "1", *settings],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    run = RunDir(tmp_path / "two")
    try:
        wait_until(lambda: run.latest_version() >= 1)
        version = run.latest_version()
        os.kill(ranks(run, 1)[0], signal.SIGKILL)
        wait_until(lambda: run.latest_version() > version + 1)
        wait_until(run.evaluation_file(1, "dev").exists)  # judged beside the training
        head.send_signal(signal.SIGINT)
        output, _ = head.communicate(timeout=PATIENCE_S)
    finally:
        head.kill()
    assert head.returncode == 130 and "stopped; the same command goes on from here" in output
    assert not processes_of(run)
    assert "node 1 (local-1) ended with exit status 1" in output and "Everything was stopped." in output
    assert re.search(r"goes on after iteration \d+ of 50 \(restart 1 of 1\)", output)


def test_a_node_that_sees_another_disk_says_so(run, monkeypatch):
    monkeypatch.setattr(loop_rl.running.node, "_SHARED_S", 0.0)
    run.write_status("head", token="theirs")
    with pytest.raises(ConfigError, match=r"not the head's run directory .* file system that all nodes share"):
        loop_rl.running.node.work(run, 1, "127.0.0.1", "ours")
