"""Where AppWorld's official tasks are expected, and what is said when they are not there."""

import subprocess
import sys
from pathlib import Path

import pytest

from appworld_tasks.builtin.pack import MANIFEST_NAME
from appworld_tasks.builtin.scenarios import SPLITS
from appworld_tasks.official import check_official, download
from appworld_tasks.roots import RootError

pytestmark = pytest.mark.slow(10)

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the layout of the official data, and nothing in it."""
    for folder in ("datasets", "base_dbs", "api_docs", "tasks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for split in SPLITS:
        (tmp_path / "data" / "datasets" / f"{split}.txt").touch()
    return tmp_path


def test_data_that_is_there_is_left_alone(root):
    assert check_official(root) == download(root, python="/nowhere") == root


def test_no_data(tmp_path):
    with pytest.raises(RootError, match=r"data/ is missing\); run `make tasks-official`, or set APPWORLD_ROOT"):
        check_official(tmp_path)


def test_the_builtin_tasks_are_not_the_official_ones(root):
    (root / "data" / MANIFEST_NAME).touch()
    with pytest.raises(RootError, match="these are the built-in tasks"):
        download(root)


def test_half_a_download(root):
    (root / "data/datasets/test_normal.txt").unlink()
    with pytest.raises(RootError, match=r"datasets/test_normal.txt is missing; remove .*/data and run"):
        check_official(root)


def test_without_internet_one_line_says_what_to_do(tmp_path, appworld_python, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody answers there
    command = [sys.executable, "-m", "appworld_tasks.official", "--root", tmp_path / "official"]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "the download failed (ConnectionError" in result.stderr or "ProxyError" in result.stderr
    assert "run `make tasks-official` on a machine that has it" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "TASKS=oficial"], "TASKS=oficial: choose builtin or official"),
        (["eval"], "RUN= or MODEL= is missing"),
        (["eval", "RUN=runs/x", "TASKS=official"], "leave TASKS= out"),
        (["eval", "RUN=runs/x", "MODEL=y"], "leave MODEL= and ENDPOINT= out"),
        (["eval", "MODEL=y", "POLICY=3"], "POLICY= goes with RUN="),
    ],
)
def test_contradictions_on_makes_command_line(arguments, message):
    result = subprocess.run(["make", "-n", *arguments], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 2 and message in result.stderr


def test_official_tasks_are_one_setting():
    command = ["make", "-n", "train", "TASKS=official", "APPWORLD_ROOT=/data/appworld"]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "-m appworld_tasks.official --root /data/appworld --check" in result.stdout
    assert "tasks.root=/data/appworld" in result.stdout
