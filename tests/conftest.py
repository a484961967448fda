"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPO = Path(__file__).resolve().parent.parent
TEST_PACK = ["--seed", "0", "--people", "12", "--tasks", "12", "6", "6", "3"]

settings.register_profile("no deadline", deadline=None)  # a busy machine takes its time
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def appworld_python() -> Path:
    """The interpreter of AppWorld's virtual environment."""
    python = REPO / ".venv-appworld" / "bin" / "python"
    if not python.exists():
        pytest.fail("needs AppWorld: run `make setup`")
    return python


@pytest.fixture(scope="session")
def appworld_root(appworld_python: Path, worker_id: str) -> Path:
    """A full root with a small built-in pack: 12 train, 6 dev, 6 test_normal and 3 test_challenge tasks.

    Each process of `pytest -n` has its own: tests choose names of experiments, and look at what is left of them.
    """
    root = REPO / ".appworld" / f"test-pack-{worker_id}"
    root.mkdir(parents=True, exist_ok=True)
    with open(root.with_suffix(".lock"), "w") as lock:  # somebody else may be testing the same checkout
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [appworld_python, "-m", "appworld_tasks.builtin", "generate", "--root", root, *TEST_PACK]
        if subprocess.run(command, cwd=REPO, capture_output=True).returncode != 0:
            shutil.rmtree(root / "data", ignore_errors=True)  # made by another version of the generator
            subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Qwen2 and its tokenizer in `base`, and adapters with non-zero weights in `v1` to `v3`."""
    from served import make_served_model

    return make_served_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def vllm_url(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server of `served_model`; its secret is `served.SECRET`."""
    from served import SECRET, served_config

    from loop_rl.serving.server import VllmServer

    log = tmp_path_factory.mktemp("logs") / "vllm-0.log"
    server = VllmServer(served_config(served_model), 0, log, secret=SECRET)
    server.start()
    try:
        server.wait_until_ready()
        yield server.url
    finally:
        server.stop()


# One process tests all of these: they share the server of `vllm_url`.
SERVED_FILES = ["policy", "endpoint", "sampler", "turns", "extending", "dataset"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake in a formula shows in seconds. Then the slow files, the longest first, so that several
    processes end together."""

    def seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("slow")
        return marker.args[0] if marker else math.inf

    items.sort(key=lambda item: -seconds(item))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """What `pytest -n` gives to a process: whole files, in the order of above, because of their fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    served = {f"test_{name}.py" for name in SERVED_FILES}

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "served" if Path(file).name in served else file

    return Files(config, log)
