"""Several hosts on one machine: network namespaces of our own, joined by a switch that is one more of them.

Each has its own host name, addresses and hosts file, and shares the disk with the others, as nodes of a cluster do. A
remote shell that enters them takes the place of ssh. Nothing of it is seen from outside; needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REMOTE_SHELL = """#!/bin/sh
# Like ssh: remote-shell HOST 'command line'
exec ip netns exec "$1" unshare --uts sh -c 'hostname "$0" && exec sh -c "$1"' "$1" "$2"
"""
MISSING = "" if os.geteuid() == 0 and shutil.which("ip") else "network namespaces need root and iproute2"


class Network:
    """Hosts named after this process, `h<pid>a` and so on; `folder` gets the host file and the remote shell."""

    def __init__(self, folder: Path, num_hosts: int) -> None:
        pid = os.getpid()
        self.names = [f"h{pid}{letter}" for letter in "abcdef"[:num_hosts]]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(num_hosts)]
        self._switch = f"h{pid}switch"
        self.hostfile = folder / "hosts"
        self.hostfile.write_text("".join(f"{name}\n" for name in self.names))
        self.remote_shell = folder / "remote-shell"
        self.remote_shell.write_text(_REMOTE_SHELL)
        self.remote_shell.chmod(0o755)

    @staticmethod
    def enter(host: str) -> list[str]:
        """What to put before a command so that it runs on a host."""
        return ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", f'hostname {host} && exec "$@"', "sh"]

    def cut(self, index: int) -> None:
        """Pull the cable of a host; packets vanish, nobody is told."""
        _run("ip", "-n", self._switch, "link", "set", f"port{index}", "down")

    def heal(self, index: int) -> None:
        """Put it back."""
        _run("ip", "-n", self._switch, "link", "set", f"port{index}", "up")

    def make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        known = "".join(f"{a} {n}\n" for a, n in zip(self.addresses, self.names, strict=True))
        for index, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            hosts_file = Path("/etc/netns") / name / "hosts"  # `ip netns exec` puts it in the place of /etc/hosts
            hosts_file.parent.mkdir(parents=True)
            hosts_file.write_text(f"127.0.0.1 localhost\n{known}")
            _run("ip", "netns", "add", name)
            port = ["name", f"port{index}", "netns", self._switch]
            _run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", *port)
            _run("ip", "-n", self._switch, "link", "set", f"port{index}", "master", "bridge", "up")
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")

    def remove(self) -> None:
        for name in (*self.names, self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


@contextmanager
def network(folder: Path, num_hosts: int) -> Iterator[Network]:
    """A network for the time of the body."""
    net = Network(folder, num_hosts)
    try:
        net.make()
        yield net
    finally:
        net.remove()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
