"""The report: what it says of a run, what it says is missing, and that text of agents stays text."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loop_rl.config.load import parse_config
from loop_rl.data.rollout import Rollout, Turn
from loop_rl.data.updates import TokenValues
from loop_rl.environments.appworld.figures import describe
from loop_rl.inspection.report import plots, report
from loop_rl.inspection.report.run_data import BINS, read_run
from loop_rl.store.rollout_files import write_rollouts
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import write_updates

HOSTILE = (
    "Execution failed. </pre><script>document.title = 'taken'</script><img src=http://example.org/x> \x1b[2J\u202e"
)
K = 3


def make_run(folder: Path, name: str = "made", iterations: int = 3, observation: str = "Execution failed.") -> RunDir:
    """A finished run: 4 groups an iteration of 2 scenarios, two evaluations, updates, metrics and a timeline."""
    tree = {"name": name, "runs_dir": str(folder), "model": {"path": "models/tiny"}}
    run = RunDir.create(parse_config(tree | {"trainer": {"num_iterations": iterations}}, source="test"))
    for iteration in range(iterations):
        run.policy_folder(iteration + 1).mkdir()
        everything = []
        for group_id in range(4 * iteration, 4 * iteration + 4):
            group = [make_rollout(group_id, k, iteration, observation) for k in range(K)]
            write_rollouts(run.group_file(group_id), group)
            everything += group
        tokens = {r.rollout_id: TokenValues([-0.5, -0.3, -0.1], [0.1, 0.2, 0.3]) for r in everything}
        write_updates(run.update_file(iteration), {r.rollout_id: 0.5 for r in everything}, tokens)
    for version in (0, iterations):
        make_evaluation(run, version, observation)
    names = [name for name, _ in plots.METRICS]
    lines = [{"iteration": i} | dict.fromkeys(names, i / 10) for i in range(iterations)]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    span = {"phase": "training", "start": 1000.0, "end": 1010.0, "iteration": 0}
    run.timeline.mkdir()
    (run.timeline / "trainer.jsonl").write_text(json.dumps(span) + "\n")
    return run


def make_rollout(group_id: int, k: int, iteration: int, observation: str) -> Rollout:
    scenario = "abc" if group_id % 2 else "def"
    first = Turn(
        [1], [2, 3], [-0.5, -0.25], max(iteration - 1, 0), "```python\nx\n```", "apis.venmo.login()", observation
    )
    second = Turn([4], [5], [-0.1], max(iteration, 0), "```python\ny\n```", "apis.supervisor.complete_task()", "")
    return Rollout(
        rollout_id=f"g{group_id:06d}-k{k}",
        group_id=group_id,
        iteration=iteration,
        task_id=f"{scenario}_{1 + group_id % 3}",
        family=scenario,
        labels={"difficulty": "1"},
        instruction="Do it.",
        end_reason="completed",
        score=k / (K - 1),
        ending="terminated",
        success=k == K - 1,
        passes=[],
        failures=[],
        turns=[first, second],
        started_at=1000.0 + group_id,
        duration_s=4.0,
        generation_s=2.0,
        environment_s=1.0,
    )


def make_evaluation(run: RunDir, version: int, observation: str = "") -> None:
    """Six tasks; version 0 solves two of them, any other all but one."""
    rollouts = [make_rollout(index, 2 if index < (5 if version else 2) else 0, -1, observation) for index in range(6)]
    path = run.evaluation_file(version, run.config.evaluation.split)
    write_rollouts(path.with_suffix(".parquet"), rollouts)
    path.write_text(json.dumps(describe(rollouts, rollouts)))


def read(run: RunDir):
    return read_run(run, on_file=lambda: None)


def page_of(run: RunDir) -> str:
    return report.write_report([run], run.path / "report.html").read_text()


def command(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["loop_rl report", *map(str, arguments)])
    return report.main(), *capsys.readouterr()


def test_the_page_says_how_the_run_ended(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path)
    status, printed, errors = command(monkeypatch, capsys, run.path)
    assert (status, errors) == (0, "")
    assert str(run.path / "report.html") in printed.replace("\n", "")
    page = (run.path / "report.html").read_text()
    assert "TGC 33.3 → 83.3 (+50.0)" in page
    assert "Every file could be read." in page
    assert '<ul class="notes">' not in page  # nothing is missing
    assert "100.0% (6 of 6)" in page  # giving up


def test_what_is_read_is_what_the_rollouts_hold(tmp_path):
    data = read(make_run(tmp_path, iterations=2))
    second = data.iterations[1]
    assert sorted(second.groups) == [4, 5, 6, 7]
    assert {tally.reward / tally.num for tally in second.groups.values()} == {0.5}
    # Two of three tokens of an episode are one version old.
    assert second.histograms["staleness"][:2].tolist() == [4 * K, 2 * 4 * K]
    ratios = np.exp([0.0, -0.05, 0.0])
    expected, _ = np.histogram(np.repeat(ratios, 4 * K), BINS["importance ratio"])
    assert second.histograms["importance ratio"].tolist() == expected.tolist()
    assert second.histograms["return"].sum() == 4 * K
    assert data.scenarios["abc"]["abc_2"][1].num == K
    assert data.num_rollouts == 2 * 4 * K + 2 * 6


def test_files_larger_than_a_batch(tmp_path):
    run = make_run(tmp_path, iterations=1)
    many = [make_rollout(0, k % K, 0, "") for k in range(200)]
    for k, rollout in enumerate(many):
        rollout.rollout_id = str(k)
        rollout.turns = [*rollout.turns[: k % 3], Turn([9] * k, [1] * k, [-1.0] * k, 0, str(k), "", "")]
    write_rollouts(run.group_file(0), many)
    data = read(run)
    # The three other groups hold K episodes of three tokens each.
    tokens = sum(rollout.num_action_tokens for rollout in many) + 3 * K * 3
    assert data.iterations[0].behaviour["action_tokens"] == tokens == data.iterations[0].histograms["staleness"].sum()
    assert data.iterations[0].behaviour["rollouts"] == 200 + 3 * K


def test_a_run_that_has_just_begun(tmp_path):
    run = make_run(tmp_path)
    for path in (run.metrics_file, *run.eval_rollouts.iterdir(), *run.timeline.iterdir(), *run.path.glob("updates/*")):
        path.unlink()
    run.policy_folder(3).rmdir()
    run.group_file(11).rename(run.unfinished_rollouts.with_name("elsewhere"))
    write_rollouts(run.unfinished_rollouts / "g000011-k0.parquet", [make_rollout(11, 0, 2, "")])
    page = page_of(run)
    for sentence in (
        "There is no evaluation on test_normal to show.",
        "Training is not finished: 2 of 3 iterations are done.",
        "1 finished rollouts belong to no iteration yet",
        "metrics.jsonl has no lines yet",
        "There is no updates/",
        "There is no timeline/",
        "so there is no before and after",
    ):
        assert sentence in page


def test_only_the_first_version_is_evaluated(tmp_path):
    run = make_run(tmp_path)
    for path in run.eval_rollouts.glob("v000003-*"):
        path.unlink()
    page = page_of(run)
    assert "no later version is evaluated" in page
    assert "The newest version, 3, has no evaluation on test_normal." in page


def test_only_evaluations(tmp_path):
    run = make_run(tmp_path)
    for path in run.train_rollouts.iterdir():
        path.unlink()
    assert "No training rollouts could be read" in page_of(run)


def test_a_truncated_file_is_listed_and_the_rest_is_shown(tmp_path):
    run = make_run(tmp_path)
    path = run.group_file(5)
    path.write_bytes(path.read_bytes()[:-200])
    run.update_file(0).write_bytes(b"PAR1")
    data = read(run)
    assert [path for path, _ in data.problems] == [run.update_file(0), path]
    assert len(data.iterations[1].groups) == 3
    page = page_of(run)
    assert "group-000005.parquet" in page and "iteration-000000.parquet" in page


def test_an_older_schema_is_named(tmp_path):
    run = make_run(tmp_path)
    for path in run.path.glob("rollouts/*/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"loop_rl.schema_version": "1"}), path)
    page = page_of(run)
    assert "rollout schema version 1, this code reads version 4" in page
    assert "group-000000.parquet and 13 more" in page
    assert "TGC 33.3 → 83.3 (+50.0)" in page  # the figures hold all the same


def test_a_file_of_other_columns_is_listed(tmp_path):
    run = make_run(tmp_path)
    table = pa.table({"reward": [1.0]}).replace_schema_metadata({"loop_rl.schema_version": "2"})
    pq.write_table(table, run.group_file(0))
    ((path, reason),) = read(run).problems
    assert path == run.group_file(0) and reason


def test_damaged_figures_and_timeline_are_listed(tmp_path):
    run = make_run(tmp_path)
    run.evaluation_file(3, "test_normal").write_text('{"TGC": {')
    run.evaluation_file(0, "test_normal").write_text('{"TGC": {}}')
    run.metrics_file.write_text('{"iteration": 0\n{"iteration": 1}\n')
    (run.timeline / "trainer.jsonl").write_text('{"what": 1}\n')
    data = read(run)
    assert len(data.problems) == 4
    assert not data.evaluations and data.metrics == [{"iteration": 1}] and not data.spans
    page_of(run)


def test_an_update_of_other_tokens_is_a_problem(tmp_path):
    run = make_run(tmp_path, iterations=1)
    write_updates(run.update_file(0), {"g000002-k1": 0.5}, {"g000002-k1": TokenValues([-1.0], [0.1])})
    ((path, reason),) = read(run).problems
    assert path == run.group_file(2) and "g000002-k1" in reason


def test_text_of_agents_and_tasks_is_shown_inert(tmp_path):
    run = make_run(tmp_path, observation=HOSTILE)
    rollout = make_rollout(0, 0, 0, HOSTILE)
    rollout.family = rollout.task_id = "<a href='javascript:alert(1)'>s</a></script>"
    write_rollouts(run.group_file(0), [rollout])
    (run.timeline / "trainer.jsonl").write_text(json.dumps({"phase": HOSTILE, "start": 1.0, "end": 2.0}) + "\n")
    page = page_of(run)
    ours = page[: page.index("<script>")] + page[page.index('<script type="application/json"') :]
    assert "<script>document" not in page and "<img" not in ours and "<a href='java" not in ours
    assert "\x1b" not in ours and "\u202e" not in ours
    assert "\\x1b[2J\\u202e" in ours  # written out in the example of giving up


def test_labels_of_figures_hold_no_markup():
    assert plots.label("<b>\x00a\n\u200bb</b>") == "&lt;b&gt;\\x00a \\u200bb&lt;/b&gt;"


def test_runs_side_by_side(tmp_path, monkeypatch, capsys):
    one, other = make_run(tmp_path), make_run(tmp_path, name="other", iterations=2)
    assert command(monkeypatch, capsys, one.path, other.path)[0] == 0
    page = (one.path / "report-compare.html").read_text()
    assert "made and other" in page
    assert '<th scope="row">trainer.num_iterations</th><td>3</td><td>2</td>' in page


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: run.config_file.unlink(), "not a run directory (no config.yaml)"),
        (lambda run: run.config_file.write_text("nmae: x\n"), "unknown setting nmae; did you mean name?"),
        (lambda run: [path.unlink() for path in run.path.glob("rollouts/*/*.*")], "no rollouts yet"),
    ],
)
def test_no_report_of_what_is_no_run(tmp_path, monkeypatch, capsys, spoil, message):
    run = make_run(tmp_path, iterations=1)
    spoil(run)
    status, _, errors = command(monkeypatch, capsys, run.path)
    assert status == 1
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors and str(run.path) in errors


def test_out_may_not_be_a_folder(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, iterations=1)
    status, _, errors = command(monkeypatch, capsys, run.path, "--out", tmp_path)
    assert status == 1 and "is a folder; name a file in it" in errors


def test_the_report_needs_no_torch():
    code = "import sys, loop_rl.inspection.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_many_iterations_are_drawn_in_windows():
    windows = plots._windows(list(range(1001)))
    assert len(windows) <= plots.MAX_POINTS
    assert [i for window in windows for i in window] == list(range(1001))


@pytest.mark.parametrize(("num", "quantile"), [(4, 3.182), (6, 2.571), (12, 2.201), (41, 2.021)])
def test_the_band_is_students_interval(num, quantile):
    values = [index % 2 for index in range(num)]
    low, high = plots.t_interval(values)
    error = np.std(values, ddof=1) / num**0.5
    assert (high - low) / 2 == pytest.approx(quantile * error, rel=0.005)
    assert plots.t_interval(values[:3]) is None


def test_time_in_flight_adds_up(tmp_path):
    run = make_run(tmp_path, iterations=2)
    data = read(run)
    edges = np.linspace(*plots.time_span(data), 50)
    generation, environment = plots.rollouts_in_flight(data, edges)
    width = edges[1] - edges[0]
    # Of 4 s, 2 are generation and 1 environment; what is neither is shared out between them.
    assert generation.sum() * width == pytest.approx(data.num_rollouts * 4 * 2 / 3)
    assert environment.sum() * width == pytest.approx(data.num_rollouts * 4 / 3)
    # A group starts each second and takes 4.
    assert plots.seconds_in_flight(data, training=True) == pytest.approx(7 + 4)
