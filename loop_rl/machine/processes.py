"""Child processes of the supervisor: started in a session of their own, ended whole, never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
# torch's launcher writes this line when a rank has failed, and then 40 lines about itself.
_RANK_FAILED = re.compile(r"failed \(exitcode: -?\d+\) local_rank: \d+")


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent ends, however that happens (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sig)


class ManagedProcess:
    """A command whose output goes to a log file.

    It runs in its own session, so a Ctrl-C in the terminal reaches the supervisor alone, which then ends its children
    in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log_file = log.open("ab")
        self.log_offset = self._log_file.tell()
        self._process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(env or {}),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes] | None:
        """The other end of the process's stdin, if that is a pipe."""
        return self._process.stdin

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    def how_it_ended(self) -> str:
        """Of a process that has ended."""
        status = self.poll()
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"

    def epitaph(self, num_lines: int = 15) -> str:
        """How the process ended, and the last lines that it wrote."""
        return f"{self.name} {self.how_it_ended()}; last lines of {self.log}:\n{self.log_tail(num_lines)}"

    def log_tail(self, num_lines: int = 15) -> str:
        """The last lines that this start of the process wrote, without what a launcher of ranks adds to their errors."""
        with self.log.open("rb") as file:
            file.seek(self.log_offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
        reports = [index for index, line in enumerate(lines) if _RANK_FAILED.search(line)]
        if reports:
            lines = lines[: reports[0] + 1]
        return "\n".join(lines[-num_lines:])

    def request_stop(self, sig: int = signal.SIGINT) -> None:
        """Signal the process itself; it ends its own children."""
        if self.poll() is None:
            self._process.send_signal(sig)

    def wait(self, timeout_s: float) -> bool:
        """True when it has ended within `timeout_s` seconds."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill_session(self) -> None:
        """SIGKILL whatever is left of the process's session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log_file.close()


def stop_all(processes: Sequence[ManagedProcess], timeout_s: float = 5.0) -> None:
    """Ask all to stop at once, give them `timeout_s` seconds together, then kill what is left."""
    for process in processes:
        process.request_stop()
    deadline = time.monotonic() + timeout_s
    for process in processes:
        process.wait(max(0.0, deadline - time.monotonic()))
        process.kill_session()
