"""vLLM servers that are killed or hang: restarted by `Replicas`, gone around by `PolicyClient`, exact all the while."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import SECRET, served_config

from loop_rl.agents.policy import Generation
from loop_rl.serving.client import PolicyClient
from loop_rl.serving.replicas import Replicas
from loop_rl.serving.server import ServerFailed, VllmServer

pytestmark = pytest.mark.slow(170)

STOP_ID = 2  # <|im_end|>
PROMPT = list(range(40, 80))


@pytest.fixture(scope="module")
def replicas(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    config = served_config(served_model, server={"replicas": 2, "hang_timeout_s": 20.0})
    replicas = Replicas(config, tmp_path_factory.mktemp("logs"), SECRET)
    try:
        replicas.start()
        replicas.wait_until_ready()
        yield replicas
    finally:
        replicas.stop()


def engine_of(pid: int) -> int:
    """The process of a server that computes."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, fields = stat.read_text().rpartition(")")
        except OSError:
            continue
        if int(fields.split()[1]) == pid and "EngineCor" in name:
            return int(stat.parent.name)
    raise AssertionError(f"process {pid} has no engine below it")


@pytest.mark.parametrize("fault", ["server killed", "engine killed", "engine hangs"])
def test_a_replica_that_fails_costs_no_request_and_comes_back_with_its_versions(
    replicas, served_model, fault, monkeypatch
):
    monkeypatch.setattr("loop_rl.serving.replicas._LOOK_EVERY_S", 1.0)
    process = replicas._replicas[0].server.process

    async def tend() -> None:
        while True:
            replicas.tend()
            await asyncio.sleep(0.3)

    async def sample() -> None:
        policy = PolicyClient(replicas.urls, STOP_ID, "runs/x/logs", SECRET, patience_s=60.0)
        tending = asyncio.create_task(tend())
        async with policy:
            await policy.load_version(1, served_model / "v1")
            while not all(server.in_service for server in policy._servers):
                await asyncio.sleep(0.05)
            expected = [await policy.sample(PROMPT, 60, 1.0, seed) for seed in range(6)]
            under_way = [asyncio.create_task(policy.sample(PROMPT, 60, 1.0, seed)) for seed in range(6)]
            await asyncio.sleep(0.02)
            victim = process.pid if fault == "server killed" else engine_of(process.pid)
            os.kill(victim, signal.SIGSTOP if fault == "engine hangs" else signal.SIGKILL)
            assert the_same(await asyncio.gather(*under_way), expected)
            # What is published while it is out it holds when it is back.
            await policy.load_version(2, served_model / "v2")
            while not policy._servers[0].in_service:
                assert not tending.done(), tending.exception()
                await asyncio.sleep(0.1)
            policy._servers[1].in_service = False  # only the one that was killed is left to answer
            assert (await policy.sample(PROMPT, 8, 1.0, seed=0)).policy_version == 2
            assert the_same([await policy.sample(PROMPT, 60, 1.0, 3, version=1)], expected[3:4])
        tending.cancel()

    asyncio.run(asyncio.wait_for(sample(), 400))
    assert replicas._replicas[0].server.process is not process


def the_same(samples: list[Generation], expected: list[Generation]) -> bool:
    assert [sample.policy_version for sample in samples] == [sample.policy_version for sample in expected]
    return [sample.token_ids for sample in samples] == [sample.token_ids for sample in expected]


def test_a_replica_that_keeps_ending_is_named_in_the_end(served_model, tmp_path, monkeypatch):
    # It ends when the test lets it, so it is seen that nobody waits for it.
    go = tmp_path / "go"
    script = (
        "import os, time\nend = time.time() + 120\n"
        f"while time.time() < end and not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        f"os.remove({str(go)!r})\nprint('RuntimeError: no memory')\nraise SystemExit(3)"
    )
    monkeypatch.setattr(VllmServer, "command", lambda _: [sys.executable, "-c", script])
    replicas = Replicas(served_config(served_model), tmp_path, SECRET)
    replicas.start()
    try:
        with pytest.raises(
            ServerFailed, match=r"(?s)vllm-0 at http://.* ended with exit status 3, after 3 restarts.*no memory"
        ):
            for _ in range(3000):
                replicas.tend()
                if replicas._replicas[0].server.process.poll() is None:
                    go.touch()
                time.sleep(0.05)
    finally:
        replicas.stop()


def test_a_replica_that_is_silent_is_started_again(served_model, tmp_path, monkeypatch):
    monkeypatch.setattr("loop_rl.serving.replicas._MAX_SILENCE_S", 0.2)
    monkeypatch.setattr("loop_rl.serving.replicas._LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(VllmServer, "command", lambda _: [sys.executable, "-c", "import time; time.sleep(60)"])
    replicas = Replicas(served_config(served_model), tmp_path, SECRET)
    replicas.start()
    try:
        (replica,) = replicas._replicas
        first = replica.server.process
        replica.silent_since = time.monotonic()  # as `wait_until_ready` leaves it
        deadline = time.monotonic() + 10
        while replica.server.process is first:
            assert time.monotonic() < deadline
            replicas.tend()
            time.sleep(0.05)
        assert first.poll() == -signal.SIGKILL
    finally:
        replicas.stop()
