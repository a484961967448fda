"""One warm process that forks ready-made workers, and makes sure that nothing they start outlives them.

Started by `appworld_tasks.processes` as `python fork_server.py CONTROL_FD SETTINGS`. Importing AppWorld and opening a
first world take seconds; a fork of a process that has done both takes milliseconds and shares its memory.

Linux only: it is the subreaper of everything below it, so that a process which agent code started and detached
becomes its child when its parent dies, and is killed.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import isolation
import linux
from channel import Channel


def parent_of_every_process() -> dict[int, int]:
    """{pid: pid of its parent} for all processes of the machine."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
    return parents


class ForkServer:
    """Forks workers on request and reports their deaths, over the control socket (JSON lines)."""

    def __init__(
        self,
        control: socket.socket,
        role: Any,
        settings: dict[str, Any],
        max_memory_bytes: int,
        runs_agent_code: bool,
        isolated: isolation.Isolation | None,
    ) -> None:
        self.control = control
        self.role = role
        self.runs_agent_code = runs_agent_code
        self.isolated = isolated
        self.settings = settings
        self.max_memory_bytes = max_memory_bytes
        self.pid = os.getpid()
        self.workers: dict[int, int] = {}  # pid -> id
        self.connections: list[int] = []  # of workers that are still to be forked

    def run(self, protections: dict[str, str]) -> None:
        """Serve until the other side closes the control socket, or dies."""
        woken, self.wakeup = socket.socketpair()
        woken.setblocking(False)
        self.wakeup.setblocking(False)
        signal.set_wakeup_fd(self.wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.woken = woken
        self.send({"event": "ready", "protections": protections})
        buffer = b""
        while True:
            readable, _, _ = select.select([self.control, woken], [], [])
            if woken in readable:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                self.reap()
            if self.control in readable:
                received, descriptors, _, _ = socket.recv_fds(self.control, 65536, 64)
                if not received:
                    break
                self.connections += descriptors
                *lines, buffer = (buffer + received).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    command = getattr(self, request.pop("command"))
                    command(**request)

    def send(self, message: dict[str, Any]) -> None:
        self.control.sendall(json.dumps(message).encode() + b"\n")

    def fork(self, id: int) -> None:
        """Fork a worker that serves the connection sent along."""
        descriptor = self.connections.pop(0)
        if self.isolated:
            self.isolated.add_worker(id)
        pid = os.fork()
        if pid == 0:
            self.become_worker(id, descriptor)
        os.close(descriptor)
        self.workers[pid] = id
        self.send({"event": "forked", "id": id, "pid": pid})

    def become_worker(self, id: int, descriptor: int) -> NoReturn:
        exit_now = os._exit
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()  # a group of its own, to be killed as one; and no terminal's Ctrl-C
            linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # so that what agent code detaches still counts as its own
            self.control.close()
            self.woken.close()
            self.wakeup.close()
            for connection in self.connections:
                os.close(connection)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            os.close(null)
            if self.isolated:
                self.isolated.confine(id)
            isolation.limit_resources(self.max_memory_bytes, own_user=self.isolated is not None)
            if self.runs_agent_code:
                isolation.restrict_privileges()
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user would have undone this
            if os.getppid() != self.pid:
                exit_now(1)  # the fork server died before it was watched
            channel = Channel(socket.socket(fileno=descriptor))
            os.register_at_fork(after_in_child=lambda: exit_now(0))  # agent code has no business forking this process
            self.role.serve(channel, self.settings)
        except Exception as error:
            # Nobody else could say why a worker that was not confined has answered nothing.
            reply = {"lost": "crashed", "detail": f"the worker cannot start: {type(error).__name__}: {error}"}
            os.write(descriptor, json.dumps(reply).encode() + b"\n")
        finally:
            exit_now(0)  # an orderly interpreter exit can hang for minutes

    def discard(self, id: int) -> None:
        """Kill a worker; its death is reported like any other."""
        for pid, worker_id in self.workers.items():
            if worker_id == id:
                os.kill(pid, signal.SIGKILL)

    def collect(self, id: int, experiment_name: str, task_id: str) -> None:
        """Bring the outputs of a worker's closed world out; report what is wrong with them."""
        problem = ""
        if self.isolated and id in self.workers.values():
            try:
                self.isolated.collect(id, experiment_name, task_id)
            except (ValueError, OSError) as error:
                problem = str(error)
        self.send({"event": "collected", "id": id, "problem": problem})

    def reap(self) -> None:
        """Collect the dead; with a worker, kill all that it started."""
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            id = self.workers.get(dead.si_pid)
            if id is None:
                os.waitpid(dead.si_pid, 0)
                continue
            # First the group, then the wait: until then its number cannot be given to another.
            self.kill_group(dead.si_pid)
            os.waitpid(dead.si_pid, 0)
            del self.workers[dead.si_pid]
            self.kill_orphans(dead.si_pid)
            if self.isolated:
                self.isolated.remove_worker(id)
            signal_name = None if dead.si_code == os.CLD_EXITED else signal.Signals(dead.si_status).name
            self.send({"event": "exited", "id": id, "code": dead.si_status, "signal": signal_name})

    def kill_group(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def kill_orphans(self, worker: int) -> None:
        """Kill what a dead worker has left: the kernel hands descendants of the dead to this subreaper, as children."""
        deadline = time.monotonic() + 10  # something that forks faster than it dies must not stop everyone else
        while time.monotonic() < deadline:
            parents = parent_of_every_process()
            orphans = [pid for pid, parent in parents.items() if parent == self.pid and pid not in self.workers]
            if not orphans:
                return
            if self.isolated:
                self.isolated.kill_user(worker)
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def kill_everything(self) -> None:
        for pid in self.workers:
            self.kill_group(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in list(self.workers):
            os.waitpid(pid, 0)
            del self.workers[pid]
            self.kill_orphans(pid)


def main() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    role_name, full_root = settings.pop("role"), settings.pop("full_root", None)
    linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    isolated, protections = None, {}
    runs_agent_code = role_name == "worker"
    if runs_agent_code:  # before AppWorld is imported: a process with threads cannot be moved
        isolated = isolation.Isolation(full_root, os.environ["APPWORLD_ROOT"])
        why_not = isolated.works()
        protections = isolation.protections(why_not)
        if why_not:
            isolated = None
        else:
            isolated.enter()
    gc.disable()  # until everything is warm: nothing made here becomes garbage, and looking for it takes a tenth of the time
    try:
        import appworld.apps.supervisor  # noqa: F401  the part that `appworld install` unpacks
        import scorer
        import worker
    except ImportError as error:
        Channel(control).send({"event": "not_installed", "detail": str(error)})
        os._exit(1)
    role = {"worker": worker, "scorer": scorer}[role_name]
    max_memory_bytes = settings.pop("max_memory_bytes")
    role.warm_up()
    gc.collect()
    gc.enable()
    gc.freeze()  # a later collection would touch, and so copy, every page that the forks share
    server = ForkServer(control, role, settings, max_memory_bytes, runs_agent_code, isolated)
    try:
        server.run(protections)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the other side died between two messages
    finally:
        server.kill_everything()
        os._exit(0)


if __name__ == "__main__":
    main()
