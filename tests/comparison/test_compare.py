"""Methods side by side: what is read of finished runs, and the intervals."""

import json
import random
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from loop_rl.comparison import compare
from loop_rl.comparison.bootstrap import mean_with_interval
from loop_rl.comparison.outcome import Outcome, read_outcome, version_after
from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config
from loop_rl.evaluation.selection import is_finished
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir

BABYAI = Path("configs/babyai.yaml")


def outcome(units: dict[str, float], seconds: float = 60.0) -> Outcome:
    return Outcome(units, before=0.25, num_rollouts=10, num_tokens=100.0, num_steps=4.0, seconds=seconds)


def test_the_interval_is_that_of_seeds_and_tasks_drawn_one_by_one():
    rng = random.Random(0)
    scores = [[rng.random() for _ in range(7)] for _ in range(4)]
    ours = mean_with_interval(np.array(scores))
    assert ours.mean == pytest.approx(statistics.fmean(x for row in scores for x in row))
    means = []
    for _ in range(20_000):
        rows, columns = rng.choices(range(4), k=4), rng.choices(range(7), k=7)
        means.append(statistics.fmean(scores[row][column] for row in rows for column in columns))
    means.sort()
    assert (ours.low, ours.high) == pytest.approx((means[500], means[19_500]), abs=0.01)


def test_a_difference_that_all_seeds_and_tasks_agree_on_is_certain():
    loop = [outcome({"a": 0.2, "b": 0.6}), outcome({"b": 0.5, "a": 0.1})]  # in another order
    grpo = [outcome({"a": 0.3, "b": 0.7}), outcome({"a": 0.2, "b": 0.6}, seconds=120.0)]
    first, second = compare.compare({"loop": loop, "grpo": grpo})
    assert (first.after.mean, first.difference, first.num_seeds) == (pytest.approx(0.35), None, 2)
    difference = second.difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert second.seconds == 90.0 and second.after.low < second.after.mean < second.after.high


def test_every_method_has_every_seed_and_a_run_of_its_own():
    entries = compare.entries_of(BABYAI, ["loop", "grpo"], 2, ["trainer.num_iterations=3"])
    assert [entry.config.name for entry in entries] == [
        "babyai-loop-seed0",
        "babyai-grpo-seed0",
        "babyai-loop-seed1",
        "babyai-grpo-seed1",
    ]
    assert {entry.config.trainer.num_iterations for entry in entries} == {3}
    for overrides, methods, message in (
        (["seed=3"], ["loop"], "seed=3: the comparison chooses it"),
        ([], ["loop", "loop"], "one is there twice"),
        ([], ["lop"], "method=lop: there are"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare.entries_of(BABYAI, methods, 1, overrides)


def make_run(folder, after: int, method: str = "loop") -> RunDir:
    """Finished after one iteration: of 4 tasks none was done before, `after` are now."""
    config = load_config(
        BABYAI, [f"runs_dir={folder}", "trainer.num_iterations=1", f"method={method}", f"name=babyai-{method}-seed0"]
    )
    run = RunDir.create(config)
    (rollout, *_), *_ = (group.rollouts for group in tiny.make_groups(1))
    run.policy_folder(1).mkdir(parents=True)
    for version, num_done in ((0, 0), (1, after)):
        file = run.evaluation_file(version, "test")
        file.parent.mkdir(parents=True, exist_ok=True)
        rollouts = [replace(rollout, task_id=f"task-{number}", success=number < num_done) for number in range(4)]
        write_rollouts(file.with_suffix(".parquet"), rollouts)
        file.write_text("{}")
    line = {"iteration": 0, "rollout/num_rollouts": 6, "rollout/action_tokens": 10.0, "policy/num_steps": 2}
    line |= {"time/wait_s": 1.0, "time/train_s": 2.0, "time/publish_s": 3.0}
    run.metrics_file.write_text(json.dumps(line) + "\n")
    return run


def test_an_outcome_is_read_of_a_finished_run_and_one_of_other_settings_is_refused(tmp_path, capsys):
    run = make_run(tmp_path, after=3)
    assert is_finished(run, run.config)
    result = read_outcome(run, run.config, "task_id")
    assert result == Outcome({f"task-{n}": float(n < 3) for n in range(4)}, 0.0, 6, 60.0, 2, 6.0)
    arguments = ["--bench", "babyai", "--methods", "loop", "--seeds", "1", "--dry-run", f"runs_dir={tmp_path}"]
    assert run_command_line([*arguments, "trainer.num_iterations=1"]) == 0
    assert "1 runs, 1 of them finished" in capsys.readouterr().out
    assert run_command_line([*arguments, "trainer.num_iterations=1", "trainer.learning_rate=0.5"]) == 1
    assert "another config (trainer.learning_rate=0.002 there, 0.5 asked for)" in capsys.readouterr().err


def test_the_version_after_some_seconds_is_the_last_one_that_was_published_by_then(tmp_path):
    run = make_run(tmp_path, after=3)
    assert [version_after(run, seconds) for seconds in (0.0, 5.9, 6.0, 100.0)] == [0, 0, 1, 1]


def test_both_tables_are_written_and_what_is_missing_is_said(tmp_path, capsys):
    make_run(tmp_path, after=3)
    make_run(tmp_path, after=1, method="ei")  # whose parts have other settings
    out = tmp_path / "table.json"
    overrides = [f"runs_dir={tmp_path}", "trainer.num_iterations=1"]
    arguments = ["--bench", "babyai", "--methods", "loop", "ei", "--seeds", "1", "--out", str(out), *overrides]
    assert run_command_line(arguments) == 0
    tables = json.loads(out.read_text())
    assert [[row["after"]["mean"] for row in rows] for rows in tables.values()] == [[0.75, 0.25]] * 2
    assert "after equal rollouts" in (said := capsys.readouterr().out) and "after equal minutes" in said
    assert out.with_suffix(".html").stat().st_size > 100_000
    assert run_command_line([*arguments, "--no-times"]) == 0
    assert list(json.loads(out.read_text())) == ["equal rollouts"]


def run_command_line(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["compare", *arguments])
        return compare.main()
