"""The run directory never mixes two runs and never loses one."""

import json
import multiprocessing
import os
import socket
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loop_rl.config.base import ConfigError, located
from loop_rl.config.load import load_config
from loop_rl.config.settings import TrackingConfig
from loop_rl.store.metrics import MetricsReader, MetricsWriter, read_metrics
from loop_rl.store.rollouts import RolloutStore
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import read_timeline

TINY = "configs/tiny.yaml"


def config(tmp_path, *overrides):
    return load_config(TINY, [f"runs_dir={tmp_path}", *overrides])


def test_the_same_config_opens_the_same_run(tmp_path):
    assert RunDir.create(config(tmp_path)) == RunDir.create(config(tmp_path)) == RunDir.open(tmp_path / "tiny")
    assert RunDir.open(tmp_path / "tiny").config == located(config(tmp_path), Path.cwd())


def test_another_config_under_the_same_name_is_refused_and_says_what_differs(tmp_path):
    RunDir.create(config(tmp_path))
    before = (tmp_path / "tiny" / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=r"another config \(trainer.learning_rate=0.\d+ there, 0.5 asked for\)"):
        RunDir.create(config(tmp_path, "trainer.learning_rate=0.5"))
    assert (tmp_path / "tiny" / "config.yaml").read_bytes() == before


def test_a_folder_that_is_no_run_is_not_touched(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and no run"):
        RunDir.create(config(tmp_path))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="not a run directory"):
        RunDir.open(tmp_path / "tiny")


def _try_lock(run, queue):
    try:
        run.lock("supervisor")
        queue.put("locked")
    except ConfigError as error:
        queue.put(str(error))


def test_more_iterations_are_no_other_run_and_fewer_are(tmp_path):
    run = RunDir.create(config(tmp_path, "trainer.num_iterations=4"))
    assert not RunDir(tmp_path / "nothing").is_extended_by(config(tmp_path))
    for overrides in (
        ["trainer.num_iterations=3"],
        ["trainer.num_iterations=8", "seed=5"],
        ["trainer.num_iterations=4"],
    ):
        assert not run.is_extended_by(config(tmp_path, *overrides))
    longer = config(tmp_path, "trainer.num_iterations=8")
    with pytest.raises(ConfigError, match="trainer.num_iterations=4 there, 8 asked for"):
        RunDir.create(longer)  # by whoever does not say so
    assert run.is_extended_by(longer)
    run.extend(longer)
    assert RunDir.create(longer).config.trainer.num_iterations == 8


def test_paths_are_found_from_any_folder_and_after_a_move(tmp_path, monkeypatch):
    tiny = Path(TINY).resolve()
    repository, moved = tmp_path / "repository", tmp_path / "moved"
    (repository / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(repository)
    given = load_config(tiny, ["model.path=models/mine", "tasks.root=nowhere"])
    path = RunDir.create(given).path.resolve()
    monkeypatch.chdir("/")
    read = RunDir(path).config
    assert (read.model.path, read.run_dir) == (f"{repository}/models/mine", path)
    assert read.tasks.root == "nowhere"  # as typed, so that whoever misses it says it so
    repository.rename(moved)
    path = moved / "runs" / "tiny"
    with pytest.raises(
        ConfigError, match=rf"started in {repository}, which is gone.* write that folder into {path}/started_in"
    ):
        _ = RunDir(path).config
    monkeypatch.chdir(moved)
    assert RunDir(path).config.model.path == f"{moved}/models/mine"
    RunDir.create(given)  # the same command in the new place: from now on it is found from anywhere again
    monkeypatch.chdir("/")
    assert RunDir(path).config.model.path == f"{moved}/models/mine"


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    read = load_config(TINY, ["model.path=~/mine", "runs_dir=~/runs", "tasks.root=~/tasks"])
    assert (read.model.path, read.runs_dir, read.tasks.root) == (
        f"{tmp_path}/mine",
        f"{tmp_path}/runs",
        f"{tmp_path}/tasks",
    )


def test_two_supervisors_cannot_work_on_one_run(tmp_path):
    run = RunDir.create(config(tmp_path))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with run.lock("supervisor"):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        process = context.Process(target=_try_lock, args=(run, queue))
        process.start()
        assert f"another supervisor works on this run ({holder})" in queue.get(timeout=60)
        process.join()
    run.lock("supervisor").close()


def test_who_may_wait_is_told_for_whom_and_gets_the_run_afterwards(tmp_path):
    run = RunDir.create(config(tmp_path))
    first, order = run.lock("evaluation-v000001-dev"), []

    def wait(holder):
        order.append(holder)
        threading.Timer(0.1, lambda: (order.append("released"), first.close())).start()

    with run.lock("evaluation-v000001-dev", wait):
        order.append("mine")
    with run.lock("evaluation-v000002-dev", wait):  # another version is nobody's business
        pass
    assert order == [f"process {os.getpid()} on {socket.gethostname()}", "released", "mine"]


def test_versions_and_heartbeats(tmp_path):
    run = RunDir.create(config(tmp_path))
    assert run.latest_version() == 0
    run.policy_folder(3).mkdir()
    (run.policy / ".v000004.unfinished").mkdir()
    assert run.latest_version() == 3
    assert run.read_status("sampler") == {}
    run.write_status("sampler", iteration=2)
    assert run.read_status("sampler")["iteration"] == 2


def test_a_line_that_a_full_disk_has_torn_is_named_and_left_out(tmp_path, capsys):
    run = RunDir.create(config(tmp_path))
    whole = [json.dumps({"iteration": i, "rollout/return": 0.5}) for i in range(3)]
    run.metrics_file.write_text("\n".join([whole[0], whole[1][:9] + whole[1], whole[2], '{"iteration": 3']))
    assert [line["iteration"] for line in read_metrics(run)] == [0, 2]
    error = f"warning: {run.metrics_file}: line 2 is damaged (was the disk full?) and left out\n"
    assert capsys.readouterr().err == error
    run.timeline.mkdir(exist_ok=True)
    spans = [{"phase": "a", "start": 1.0, "end": 2.0, "iteration": 0}, {"phase": "a", "start": "?", "end": 2.0}]
    (run.timeline / "trainer.jsonl").write_bytes(b"\xff\n" + b"\n".join(json.dumps(s).encode() for s in spans) + b"\n")
    assert [span.start for span in read_timeline(run)] == [1.0]
    assert capsys.readouterr().err.count("is damaged") == 2
    MetricsWriter(run, 2, TrackingConfig(trackers=[])).close()
    assert [json.loads(line)["iteration"] for line in run.metrics_file.read_text().splitlines()] == [0]


def test_a_resumed_run_takes_back_metrics_of_iterations_done_again(tmp_path):
    run = RunDir.create(config(tmp_path))
    run.metrics_file.write_text(
        "".join(json.dumps({"iteration": i}) + "\n" for i in range(4)) + '{"iteration": 4, "half'
    )
    reader = MetricsReader(run)
    assert [line["iteration"] for line in reader.new_lines()] == [0, 1, 2, 3]
    writer = MetricsWriter(run, first_iteration=2, tracking=TrackingConfig())
    for iteration in (2, 3, 4):
        writer.write(iteration, {"rollout/return": 0.5})
        assert [line["iteration"] for line in reader.new_lines()] == [4] * (iteration == 4)
    writer.close()
    assert [line["iteration"] for line in read_metrics(run)] == [0, 1, 2, 3, 4]


def test_figures_go_to_tensorboard_and_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunDir.create(config(tmp_path))
    writer = MetricsWriter(run, 0, TrackingConfig(trackers=["wandb"]))
    writer.write(0, {"rollout/return": 0.5})
    writer.close()
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("rollout/return")] == [(0, 0.5)]
    (wandb_file,) = run.path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"rollout/return" in wandb_file.read_bytes()


def test_figures_without_iterations_are_an_older_version_s_but_for_an_empty_file_just_begun(tmp_path):
    run = RunDir.create(config(tmp_path))
    run.metrics_file.touch()  # the trainer came first
    RolloutStore(run)
    run.metrics_file.write_text('{"iteration": 0}\n')
    with pytest.raises(ConfigError, match="made by an older loop_rl, which cannot be resumed"):
        RolloutStore(run)
