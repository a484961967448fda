"""What a person sees while a run trains: figures, drift, time left; plain lines where there is no terminal."""

import io
import json
import time

from rich.console import Console

from loop_rl.config.load import load_config
from loop_rl.inspection.drift import drift_warnings
from loop_rl.inspection.live import live_view, sparkline
from loop_rl.store.run_dir import RunDir
from loop_rl.store.timeline import Timeline, read_timeline

HEALTHY = {
    "rollout/return": 0.5,
    "rollout/success": 0.25,
    "rollout/share_filtered": 0.1,
    "rollout/staleness_mean": 0.5,
    "rollout/staleness_max": 1,
    "rollout/turns": 6.0,
    "rollout/action_tokens": 180.0,
    "policy/num_steps": 4,
    "policy/entropy": 0.02,
    "policy/ratio_mean": 1.0,
    "policy/ratio_max": 2.0,
    "policy/clip_share": 0.01,
    "policy/approx_kl": 0.001,
    "policy/grad_norm": 0.01,
    "policy/grad_norm_max": 0.02,
    "policy/tokens_per_s": 2000.0,
    "policy/logprob_diff_mean": 1e-6,
    "sampler/tokens_per_s": 500.0,
    "time/sample_s": 20.0,
    "time/train_s": 10.0,
    "time/wait_s": 5.0,
    "end/worker_lost": 0.0,
}


def figures(iteration, **changes):
    return HEALTHY | {"iteration": iteration, "written_at": time.time() - 100 + 10 * iteration} | changes


def warnings(*changes, dtype="float32"):
    return drift_warnings([figures(i, **change) for i, change in enumerate(changes)], dtype)


def test_a_healthy_run_is_not_warned_of():
    assert drift_warnings([], "float32") == warnings({}) == warnings({}, {}, {}, {}) == []


def test_each_drift_has_its_warning():
    assert warnings({}, {"policy/entropy": 0.0019})[0].startswith("entropy collapse")
    assert warnings({"policy/ratio_max": 21.0})[0].startswith("ratio explosion")
    assert warnings({"policy/logprob_diff_mean": 0.002})[0].startswith("sampler/trainer mismatch")
    assert warnings({"policy/logprob_diff_mean": 0.02}, dtype="bfloat16") == []
    assert "95% of the rollouts are filtered" in warnings({"rollout/share_filtered": 0.95})[0]
    assert "10% of the episodes lost" in warnings({"end/worker_lost": 0.1})[0]
    starving = {"time/wait_s": 90.0}
    assert warnings(starving, starving) == []
    assert warnings(starving, starving, starving) == []  # the first iteration has to wait
    assert "waited for rollouts 90%" in warnings({}, starving, starving, starving)[0]


def test_an_iteration_that_was_skipped_is_no_drift():
    skipped = {name: value for name, value in figures(1).items() if not name.startswith("policy/")}
    assert drift_warnings([figures(0), skipped | {"policy/num_steps": 0}], "float32") == []


def make_run(tmp_path):
    config = load_config("configs/tiny.yaml", [f"runs_dir={tmp_path}", "trainer.num_iterations=12"])
    return RunDir.create(config), config


def test_plain_lines_name_a_drift_once(tmp_path):
    run, config = make_run(tmp_path)
    out = io.StringIO()
    with live_view(Console(file=out, soft_wrap=True), run, config, history=[figures(0)]) as view:
        for i in (1, 2, 3):
            view.add(figures(i, **{"policy/ratio_max": 20.0 + i}))
    lines = out.getvalue().splitlines()
    assert [line[:20] for line in lines if line.startswith("iteration")] == [
        f"iteration   {i}/12  re" for i in (2, 3, 4)
    ]
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: ratio explosion: the largest importance ratio is 21"
    ]


def test_the_view_in_a_terminal_shows_figures_progress_evaluation_and_time_left(tmp_path):
    run, config = make_run(tmp_path)
    tgc = {"TGC": {"all": {"value": 0.308, "low": 0.229, "high": 0.401, "num": 120}}}
    run.evaluation_file(0, "test_normal").write_text(json.dumps(tgc))
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with live_view(console, run, config, history=[]) as view:
        assert view.seconds_left() is None
        for i in range(8):
            view.add(figures(i, **{"rollout/return": i / 10, "end/worker_lost": 0.5}))
        assert 5 < view.seconds_left() <= 40  # 4 iterations of 10 s are left, and the last one ended 30 s ago
        view.advance("sampler", {"iteration": 8, "phase": "sampling", "done": 45, "total": 72})
        console.print(view)
    shown = console.file.getvalue()
    for piece in ("iteration 9 of 12", "left", "30.8 [22.9, 40.1] percent", "0.700", "▁▂▃▄▅▆▇█", "45/72"):
        assert piece in shown, piece
    assert "⚠ AppWorld: 50%" in shown


def test_sparkline_of_equal_values_is_flat():
    assert sparkline([2.0, 2.0]) == "▁▁" and len(sparkline([0.0] * 100)) == 32


def test_timeline_keeps_whole_spans_of_every_process_in_order(tmp_path):
    run, _ = make_run(tmp_path)
    trainer, sampler = Timeline(run, "trainer"), Timeline(run, "sampler")
    with trainer.span("training", 3) as training, sampler.span("waiting for the policy"):
        time.sleep(0.01)
    with Timeline(run, "other-rank", record=False).span("training"), sampler.span("too short", at_least_s=60):
        pass
    try:
        with trainer.span("publishing"):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with (run.timeline / "trainer.jsonl").open("a") as file:
        file.write('{"phase": "half')
    spans = read_timeline(run)
    assert [(s.process, s.phase, s.iteration) for s in spans] == [
        ("trainer", "training", 3),
        ("sampler", "waiting for the policy", None),
    ]
    assert training.seconds >= 0.01 and spans[0].start <= spans[1].start <= spans[1].end <= spans[0].end
