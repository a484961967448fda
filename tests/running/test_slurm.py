"""A run as a Slurm job on two nodes, which are this machine: submitted, placed, trained, and the allocation freed."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import slurm_cluster, why_not

from loop_rl.store.run_dir import RunDir

pytestmark = [
    pytest.mark.slow(300),
    pytest.mark.cluster,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
REPO = Path(__file__).resolve().parents[2]
PATIENCE_S = 600


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def submit(slurm: dict[str, str], runs_dir: Path, *settings: str) -> str:
    """`make train NODES=2` without the installation; returns the job's number."""
    command = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/tiny.yaml", "--nodes", "2"]
    result = subprocess.run(
        [*command, f"runs_dir={runs_dir}", *settings], cwd=REPO, env=slurm, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return re.search(r"Slurm job (\d+); its log: (\S+);", result.stdout).group(1)


def wait_for_end(slurm: dict[str, str], job: str, limit_s: float = PATIENCE_S) -> str:
    """The job's last state."""
    deadline = time.monotonic() + limit_s
    while True:
        shown = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True).stdout
        state = re.search(r"JobState=(\w+)", shown).group(1)
        if state not in ("PENDING", "RUNNING", "COMPLETING"):
            return state
        assert time.monotonic() < deadline, f"job {job} is still {state}"
        time.sleep(0.5)


def test_a_run_on_two_nodes(slurm, tmp_path, appworld_root):
    small = ["tasks.num_workers=4", "sampler.tasks_per_iteration=2", "sampler.rollouts_per_task=2", "agent.max_turns=2"]
    small += ["agent.max_eval_turns=1", "trainer.num_iterations=1", "evaluation.split=dev"]
    job = submit(slurm, tmp_path, f"tasks.root={appworld_root}", *small)
    state = wait_for_end(slurm, job)
    log = (tmp_path / f"tiny-{job}.log").read_text()
    assert state == "COMPLETED", log
    run = RunDir(tmp_path / "tiny")
    assert run.latest_version() == 1 and "Report: " in log
    assert "stress step" in (run.logs / "node-1" / "trainer.log").read_text()
    assert run.config.nodes.inference == run.config.nodes.training == 1


def test_a_run_that_breaks_fails_the_job_and_frees_the_nodes(slurm, tmp_path, appworld_root):
    job = submit(slurm, tmp_path, f"tasks.root={appworld_root}", "server.args=[--no-such-option]")
    assert wait_for_end(slurm, job) == "FAILED"
    assert "vLLM ended with exit status 2" in (tmp_path / f"tiny-{job}.log").read_text()
    sinfo = ["sinfo", "--noheader", "--Node", "--format=%T"]
    deadline = time.monotonic() + 30
    while subprocess.run(sinfo, env=slurm, capture_output=True, text=True).stdout.split() != ["idle", "idle"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
