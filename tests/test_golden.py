"""What an older loop_rl computed, this one computes too, bit for bit; and it reads the run that was made then.

Bits depend on the processor. Where it is another one than the files were made on, training's figures are held to 1e-3 and
what was sampled is left out, because a token may be another for a last digit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import golden
import pytest

pytestmark = pytest.mark.slow(220)

VALUES = json.loads(golden.VALUES.read_text())
SAME_PROCESSOR = VALUES["processor"] == golden.processor()


@pytest.fixture(scope="module", autouse=True)
def portable():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in golden.PORTABLE.items():
            patch.setenv(name, value)
        yield


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_three_iterations_give_the_same_weights_and_figures(tmp_path, num_ranks):
    found = golden.trained(tmp_path, num_ranks, golden.TESTED[num_ranks])
    for variant in golden.TESTED[num_ranks]:
        values = VALUES["trained"][str(num_ranks)][variant]
        for ours, theirs in zip(found[variant]["figures"], values["figures"], strict=True):
            if SAME_PROCESSOR:
                assert {name: ours[name] for name in theirs} == theirs, variant
            else:
                assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-3, abs=1e-5), variant
        assert found[variant]["weights"] == values["weights"] or not SAME_PROCESSOR, variant


def run_in_this_processors_portable_way(code: str) -> str:
    """In a process of its own: what libraries read when they are loaded has been read here."""
    env = os.environ | {"PYTHONPATH": f"{golden.REPO}:{golden.REPO}/tests/support", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=golden.REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not SAME_PROCESSOR, reason="made on another processor")
def test_a_fixed_policy_writes_the_same_episodes_token_by_token(appworld_root):
    code = f"import golden, json; print(json.dumps(golden.sampled({str(appworld_root)!r})))"
    assert json.loads(run_in_this_processors_portable_way(code)) == VALUES["sampled"]


def test_prompts_are_the_same(appworld_root):
    assert golden.prompts(appworld_root) == VALUES["prompts"]


def test_recorded_episodes_have_the_same_goal_completion():
    assert golden.completion() == VALUES["completion"]


@pytest.fixture
def old_run(tmp_path, appworld_root, appworld_python):
    """The run of then, with its tasks where they are here."""
    folder = tmp_path / "golden"
    shutil.copytree(golden.RECORDED, folder)
    text = (folder / "config.yaml").read_text()
    text = text.replace("runs_dir: runs", f"runs_dir: {tmp_path}")
    (folder / "config.yaml").write_text(text.replace(".appworld/test-pack-golden", str(appworld_root)))
    return folder


def loop_rl(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "loop_rl", *map(str, arguments)]
    env = os.environ | {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=golden.REPO, env=env, capture_output=True, text=True)


def test_a_run_of_schema_2_is_reported_exported_debugged_and_replayed(old_run, tmp_path):
    report = loop_rl("report", old_run, "--out", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "report.html").read_text()
    assert "cannot be read" not in page and "TGC" in page

    export = loop_rl("export", old_run, "--to", tmp_path / "sft", "sft")
    assert export.returncode == 0 and "27 of 27" in export.stdout + export.stderr, export

    debug = loop_rl("debug-loss", old_run, "--rollout", "g000002-k2")
    assert debug.returncode == 0, debug.stderr
    assert VALUES["debug_loss"] in debug.stdout

    replay = loop_rl("replay", old_run, "--rollout", "g000000-k0")
    assert replay.returncode == 0 and "differs" not in replay.stdout, replay.stdout + replay.stderr

    evaluate = loop_rl("evaluate", "--run-dir", old_run, "--version", 3, "--split", "dev")
    assert evaluate.returncode == 0 and "SGC" in evaluate.stdout, evaluate.stderr


def test_a_run_of_schema_2_is_indexed_and_viewed(old_run):
    from starlette.testclient import TestClient

    from loop_rl.inspection.viewer.index import Index
    from loop_rl.inspection.viewer.view import Viewer
    from loop_rl.store.run_dir import RunDir

    run = RunDir(old_run)
    index = Index(run)
    index.update()
    assert index.problems() == ([], 0)
    client = TestClient(Viewer(run, index).app(), base_url="http://localhost")
    assert "27 of" in client.get("/?source=training").text.replace("<strong>", "").replace("</strong>", "")
    page = client.get("/rollout/g000000-k0").text
    assert "scenario" in page and "difficulty" in page and "API" not in client.get("/?label=1").headers
