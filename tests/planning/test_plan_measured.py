"""What the planner reads out of a run, from a run whose every second is known."""

import json

import numpy as np
import pytest

from loop_rl.config.load import load_config
from loop_rl.data.rollout import Rollout, Turn
from loop_rl.machine.files import write_atomically
from loop_rl.planning.measured import _fit, measure
from loop_rl.planning.simulation import SYNCHRONOUS, simulate
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir

ITERATIONS, GROUPS, K = 6, 2, 2
SAMPLING_S, TRAINING_S = 10.0, 5.0  # one after the other, so an iteration takes 15 s


def make_rollout(group: int, k: int, iteration: int) -> Rollout:
    """Two turns of 10 + 20 tokens: 6 s of generation and 4 s in AppWorld."""
    turns = [Turn([1] * 10, [2] * 20, [-1.0] * 20, iteration, "", "", "") for _ in range(2)]
    texts = {"task_id": "t_1", "family": "t", "ending": "terminated", "instruction": "", "end_reason": "completed"}
    return Rollout(
        rollout_id=f"g{group:06d}-k{k}",
        group_id=group,
        iteration=iteration,
        labels={},
        score=1.0,
        success=True,
        passes=[],
        failures=[],
        turns=turns,
        started_at=1000 + iteration * (SAMPLING_S + TRAINING_S),
        duration_s=SAMPLING_S,
        generation_s=6.0,
        environment_s=4.0,
        **texts,
    )


@pytest.fixture
def run(tmp_path):
    overrides = [f"runs_dir={tmp_path}", "sampler.max_staleness=0", "tasks.num_workers=8"]
    overrides += [f"sampler.tasks_per_iteration={GROUPS}", f"sampler.rollouts_per_task={K}"]
    run = RunDir.create(load_config("configs/tiny.yaml", overrides))
    run.timeline.mkdir(exist_ok=True)
    spans, figures = [], []
    for i in range(ITERATIONS):
        for group in range(i * GROUPS, (i + 1) * GROUPS):
            write_rollouts(run.group_file(group), [make_rollout(group, k, i) for k in range(K)])
        write_atomically(run.iteration_file(i), json.dumps({"groups": list(range(i * GROUPS, (i + 1) * GROUPS))}))
        start = 1000 + i * (SAMPLING_S + TRAINING_S) + SAMPLING_S
        spans.append({"phase": "training", "start": start, "end": start + TRAINING_S, "iteration": i})
        tokens = 2 * GROUPS * K * 60  # two epochs
        figures.append({"iteration": i, "policy/num_tokens": tokens, "time/train_s": TRAINING_S})
        figures[-1] |= {"time/publish_s": 0.0, "rollout/share_filtered": 0.0}
    (run.timeline / "trainer.jsonl").write_text("".join(json.dumps(span) + "\n" for span in spans))
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in figures))
    return run


def test_a_run_is_measured_as_it_was(run):
    measured = measure(run)
    assert measured.iteration_s == pytest.approx(15)
    assert measured.trainer_idle == pytest.approx(10 / 15)
    assert measured.sampler_idle == pytest.approx(1 - 4 * 10 / (8 * 15))  # 4 rollouts on 8 workers
    assert measured.rollouts_per_minute == pytest.approx(16)
    assert measured.staleness == {0: 1.0}
    assert measured.workload.tokens == 60 and measured.workload.share_kept == 1


def test_the_simulation_gives_back_the_run_it_was_calibrated_by(run):
    measured = measure(run)
    outcome = simulate(measured.system, measured.workload, SYNCHRONOUS, GROUPS, K)
    assert outcome.iteration_s == pytest.approx(15, rel=0.05)
    assert outcome.trainer_idle == pytest.approx(measured.trainer_idle, abs=0.05)
    assert outcome.sampler_idle == pytest.approx(measured.sampler_idle, abs=0.05)


def test_a_curve_is_found_again():
    rng = np.random.default_rng(0)
    work, load, beside = rng.uniform(50, 200, 300), rng.uniform(1, 12, 300), rng.integers(0, 2, 300).astype(float)
    seconds = work * (0.01 + 0.002 * load + 0.005 * beside)
    curve = _fit(work, seconds, load, beside)
    assert (curve.base_s, curve.per_request_s) == pytest.approx((0.01, 0.002))
    assert curve.beside_training == pytest.approx(1 + 0.005 / (0.01 + 0.002 * load.mean()))
    assert _fit(work, 0.002 * work * load, load, beside).base_s == pytest.approx(0)


def test_a_run_that_is_too_short_or_too_old_is_refused(run):
    (run.timeline / "trainer.jsonl").write_text("")
    with pytest.raises(ValueError, match="timeline/trainer.jsonl lacks iterations"):
        measure(run)
    run.metrics_file.write_text(run.metrics_file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="1 iterations are done; to calibrate by a run takes 4 at least"):
        measure(run)
