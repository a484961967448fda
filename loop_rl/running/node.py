"""One node of a run on several, other than the first: serves the policy, or trains.

    python -m loop_rl.running.node --run-dir /shared/runs/big --index 1 --head 10.0.0.1 --token 5f2c

`loop_rl.launch` on the first node, the head, starts it there by srun, ssh or as a plain process, and nobody else does.
They speak by three roads:

- stdin, from the head: one line of JSON with environment variables, then an empty line a second as a sign of life, and
  `train` when a training node is to begin. At its end, or after a minute of silence, the head is gone: all is stopped.
- status/node-<index>.json in the run directory, to the head and the other nodes: a sign of life a second, the address
  found, the servers' URLs, the port where the training nodes meet.
- stdout, a log, which the head keeps, and the exit status: 0 after training, 1 with the reason when something broke.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.machine.command import run_command
from loop_rl.machine.devices import is_cpu_build, visible_gpus
from loop_rl.machine.network import interface_of, own_address, reserve_port
from loop_rl.machine.processes import ManagedProcess, stop_all
from loop_rl.running.ranks import Rendezvous, accelerate_command, trainer_environment
from loop_rl.serving.replicas import Replicas
from loop_rl.serving.roles import Role, check_gpus, role_of
from loop_rl.serving.server import ServerFailed
from loop_rl.store.run_dir import RunDir
from loop_rl.store.secret import secret

BEAT_S = 1.0
SILENCE_S = 60.0
"""Seconds without a sign of life after which the other side counts as gone. Links may be cut for shorter; directory
entries of a network file system may be half as old."""
_SHARED_S = 40.0
_MEET_S = 60.0
_POLL_S = 0.3


class NodeFailed(RuntimeError):
    """A process of this node ended although it should not have, or another node is not found."""


class Link:
    """The link to the head: hears it on stdin, and shows what this node has to say."""

    def __init__(self, run: RunDir, index: int, token: str) -> None:
        self._run = run
        self._name = f"node-{index}"
        self._fields: dict[str, Any] = {"token": token, "host": socket.gethostname(), "pid": os.getpid()}
        self.may_train = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def publish(self, **fields: Any) -> None:
        """Add to what others read of this node."""
        self._fields = self._fields | fields
        self._run.write_status(self._name, **self._fields)

    def _follow(self) -> None:
        """Ends the process, as Ctrl-C would, when the head is gone."""
        heard = time.monotonic()
        unread = b""
        while time.monotonic() < heard + SILENCE_S:
            try:
                self.publish()
            except OSError as error:
                print(f"error: {self._run.status}: {error.strerror}", file=sys.stderr, flush=True)
                break
            if select.select([sys.stdin], [], [], BEAT_S)[0]:
                data = os.read(sys.stdin.fileno(), 65_536)
                if not data:
                    break
                heard = time.monotonic()
                *lines, unread = (unread + data).split(b"\n")
                if b"train" in lines:
                    self.may_train.set()
        else:
            print(f"error: no sign of the head for {SILENCE_S:.0f} s", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGINT)


def work(run: RunDir, index: int, head: str, token: str) -> None:
    """Do this node's part until it is done, or the head says so by closing stdin.

    Raises:
        ConfigError: this node does not see the head's run directory, or lacks GPUs.
        NodeFailed, ServerFailed: a process broke; the others of this node were stopped.
    """
    _wait_for_token(run, token)
    config = run.config
    role = role_of(config, index)
    if not is_cpu_build():
        check_gpus(config, role, len(visible_gpus()), f"node {index} ({socket.gethostname()})")
    address = own_address(head)
    link = Link(run, index, token)
    if role == Role.INFERENCE:
        _serve(run, config, index, address, link)
    else:
        _train(run, config, index, address, link, token)


def _serve(run: RunDir, config: Config, index: int, address: str, link: Link) -> None:
    replicas = Replicas(config, logs_of(run, index), secret(run), host=address)
    link.publish(address=address, urls=[])
    link.start()
    try:
        replicas.start()
        replicas.wait_until_ready()
        link.publish(urls=replicas.urls)
        while True:
            replicas.tend()
            time.sleep(_POLL_S)
    finally:
        replicas.stop()


def _train(run: RunDir, config: Config, index: int, address: str, link: Link, token: str) -> None:
    first, num_nodes = config.nodes.inference, config.nodes.training
    port = reserve_port(address)
    link.publish(address=address, port=port.getsockname()[1])
    link.start()
    link.may_train.wait()  # as long as the first evaluation takes; ends with the head
    meet = _meeting_point(run, first, token)
    port.close()
    command = accelerate_command(
        config.trainer.num_processes, Rendezvous(num_nodes, index - first, meet["address"], meet["port"])
    )
    interface = interface_of(address)
    # Left to themselves gloo takes the address that the host's own name has, often a loopback, and NCCL any interface.
    env = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    env = {name: value for name, value in env.items() if name not in os.environ}
    env |= trainer_environment(config, Role.TRAINING)
    trainer = ManagedProcess(
        "trainer",
        [*command, "-m", "loop_rl.train", "--run-dir", str(run.path)],
        logs_of(run, index) / "trainer.log",
        env,
    )
    try:
        while (status := trainer.poll()) is None:
            time.sleep(_POLL_S)
        if status != 0:
            raise NodeFailed(trainer.epitaph())
    finally:
        stop_all([trainer])


def _meeting_point(run: RunDir, first: int, token: str) -> dict[str, Any]:
    """Address and port that the first training node has published."""
    deadline = time.monotonic() + _MEET_S
    while time.monotonic() < deadline:
        status = run.read_status(f"node-{first}")
        if status.get("token") == token and "port" in status:
            return status
        time.sleep(_POLL_S)
    raise NodeFailed(f"node {first}, where the training nodes meet, has published no port within {_MEET_S:.0f} s")


def _wait_for_token(run: RunDir, token: str) -> None:
    """See that the run directory is the head's. A network file system may need a moment."""
    deadline = time.monotonic() + _SHARED_S
    while run.read_status("head").get("token") != token:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{run.path}: not the head's run directory on {socket.gethostname()}; the repository and runs_dir must "
                f"lie on a file system that all nodes share, at the same path"
            )
        time.sleep(_POLL_S)


def logs_of(run: RunDir, index: int) -> Path:
    """Where the processes of a node other than the first write."""
    return run.logs / f"node-{index}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True, help="of the head, on a shared file system")
    parser.add_argument("--index", type=int, required=True, help="of this node; the head is 0")
    parser.add_argument("--head", required=True, help="address of the head")
    parser.add_argument("--token", required=True, help="of the head's status file")
    args = parser.parse_args()
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as first_line:  # reads no further than its end
        os.environ |= json.loads(first_line.readline() or "{}")
    run = RunDir(args.run_dir)
    return run_command(
        lambda: work(run, args.index, args.head, args.token), "stopped", (NodeFailed, ServerFailed, RuntimeError)
    )


if __name__ == "__main__":
    sys.exit(main())
