"""Warm processes inside AppWorld's virtual environment, forked ahead of need, each used once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

from appworld_tasks.roots import RootError, check_python

ENGINE = Path(__file__).parent / "engine"
START_TIMEOUT_S = 300.0  # importing AppWorld and opening a first world: 5 s, minutes on a cold network file system
SERVER_TIMEOUT_S = 60.0  # for the fork server to fork, kill or count
EXIT_TIMEOUT_S = 5.0
MAX_STARTS = 3
MAX_MEMORY_BYTES = 4 * 2**30  # of one process of agent code; beyond it Python raises MemoryError there
# What the processes inherit. Anything else, tokens and keys above all, is not for agent code to read.
ENVIRONMENT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "APPWORLD_CACHE")


SERVER_LOST = "server"


class WorkerLost(RuntimeError):
    """A process is gone, and what it worked on with it; the pool replaces it and goes on.

    `reason` is one of "timeout" (killed by the watchdog), "crashed" (killed by a signal, or an error in AppWorld),
    "exited" (ended by agent code), "protocol" (it sent nonsense), SERVER_LOST (the fork server is gone, and all its
    processes with it, whatever they did).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class EngineError(RuntimeError):
    """The fork server cannot be started; nothing can run."""


class ForkedProcess:
    """One process forked by the fork server, and the connection to it."""

    def __init__(self, server: ForkServer, id: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        self.server = server
        self.id = id
        self.pid: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[WorkerLost] = loop.create_future()
        self.outputs_problem: asyncio.Future[str] = loop.create_future()
        self._reader = reader
        self._writer = writer

    async def call(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request, return the reply. Raises WorkerLost; after that, or when cancelled, discard the process.

        Agent code may write replies too: nothing may be expected of one but that it is an object.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(json.dumps(request).encode() + b"\n")
                line = await self._reader.readline()
        except TimeoutError:
            raise WorkerLost("timeout", f"no answer within {timeout_s:g} s") from None
        except ConnectionError:
            line = b""
        except ValueError as error:  # a line beyond the reader's limit
            raise WorkerLost("protocol", str(error)) from None
        if not line:
            raise await self._how_it_ended()
        try:
            reply = json.loads(line)
            lost = reply.get("lost")
        except (ValueError, AttributeError, RecursionError):
            raise WorkerLost("protocol", f"unreadable answer {line[:100]!r}") from None
        if lost is not None:
            detail = str(reply.get("detail"))[:2000].encode("utf-8", "replace").decode()
            raise WorkerLost(lost if lost in ("crashed", "exited") else "protocol", detail)
        return reply

    async def _how_it_ended(self) -> WorkerLost:
        try:
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                return await asyncio.shield(self.exited)
        except TimeoutError:
            return WorkerLost("crashed", "closed its connection")

    def disconnect(self) -> None:
        self._writer.close()


class ForkServer:
    """The parent side of one run of `engine/fork_server.py`."""

    def __init__(self, python: Path, root: Path, settings: dict[str, Any], max_line_bytes: int) -> None:
        self._python = python
        self._root = root
        self._settings = {**settings, "max_memory_bytes": MAX_MEMORY_BYTES}
        self._max_line_bytes = max_line_bytes
        self._processes: dict[int, ForkedProcess] = {}
        self._next_id = 0
        self.protections: dict[str, str] = {}
        self.dead = False

    async def start(self) -> None:
        """Start it and wait until it is warm. Raises RootError (AppWorld is not installed) or EngineError."""
        ours, theirs = socket.socketpair()
        # asyncio forbids sending descriptors through its own sockets; a duplicate shares the connection.
        self._sender = ours.dup()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the server
        environment = {name: os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ}
        environment |= {
            "APPWORLD_ROOT": str(self._root),
            "IPYTHONDIR": str(self._root / ".ipython"),  # not the user's, whose settings would apply
            "PYTHONHASHSEED": "0",  # the order of sets is part of what an agent sees
        }
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                self._python,
                ENGINE / "fork_server.py",
                str(theirs.fileno()),
                json.dumps(self._settings),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=self._root,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, which then ends this in order
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await self._next_line()
        except TimeoutError:
            line = b""
        except asyncio.CancelledError:
            await self.close()
            raise
        event = json.loads(line) if line else {"event": "none"}
        if event["event"] != "ready":
            await self.close()
            if event["event"] == "not_installed":
                raise RootError(f"{self._python}: AppWorld is not installed here ({event['detail']}); run `make setup`")
            raise EngineError(f"AppWorld does not start on {self._root}: {self._last_lines() or 'it says nothing'}")
        self.protections = event["protections"]
        self._listener = asyncio.create_task(self._listen())

    def _last_lines(self) -> str:
        self._log.seek(0)
        return " | ".join(self._log.read().decode("utf-8", "replace").split("\n")[-6:]).strip(" |")

    async def _listen(self) -> None:
        """Hand the server's events to those who wait for them, until it is gone."""
        while line := await self._next_line():
            event = json.loads(line)
            process = self._processes.get(event["id"])
            if process is None:
                continue  # an answer about a process that has exited since the question
            if event["event"] == "forked":
                process.pid.set_result(event["pid"])
            elif event["event"] == "collected":
                process.outputs_problem.set_result(event["problem"])
            elif event["event"] == "exited":
                del self._processes[process.id]
                if event["signal"]:
                    process.exited.set_result(WorkerLost("crashed", f"killed by {event['signal']}"))
                else:
                    process.exited.set_result(WorkerLost("exited", f"exit code {event['code']}"))
        self.kill()
        for process in self._processes.values():
            if process.pid.done():
                # The workers die with the server; what they started may not.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid.result(), signal.SIGKILL)
            process.exited.set_result(WorkerLost(SERVER_LOST, "the fork server died"))
        self._processes.clear()

    async def _next_line(self) -> bytes:
        try:
            return await self._reader.readline()
        except ConnectionError:
            return b""

    def _send(self, command: str, process: ForkedProcess, *descriptors: int, **arguments: str) -> None:
        message = json.dumps({"command": command, "id": process.id, **arguments}).encode() + b"\n"
        # When the server has died, the listener tells everyone.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._sender, [message], descriptors)

    async def fork(self) -> ForkedProcess:
        """A new process. Raises WorkerLost when the server is dead or does not answer."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours, limit=self._max_line_bytes)
            process = ForkedProcess(self, self._next_id, reader, writer)
            if self.dead:
                process.disconnect()
                raise WorkerLost(SERVER_LOST, "the fork server died")
            self._next_id += 1
            self._processes[process.id] = process
            self._send("fork", process, theirs.fileno())
        await _first_of(process.pid, process.exited)
        if not process.pid.done():
            self.kill()
            process.disconnect()
            raise WorkerLost(SERVER_LOST, "the fork server does not fork")
        return process

    async def collect(self, process: ForkedProcess, experiment_name: str, task_id: str) -> None:
        """Bring the outputs of the process's closed world to where scorers look for them. Raises WorkerLost."""
        process.outputs_problem = asyncio.get_running_loop().create_future()
        self._send("collect", process, experiment_name=experiment_name, task_id=task_id)
        await _first_of(process.outputs_problem, process.exited)
        if not process.outputs_problem.done():
            lost = process.exited.result() if process.exited.done() else WorkerLost("crashed", "outputs not collected")
            raise WorkerLost(lost.reason, lost.detail)
        if problem := process.outputs_problem.result():
            raise WorkerLost("protocol", problem)

    async def discard(self, process: ForkedProcess) -> None:
        """Kill a process and everything below it; returns when all of it is gone."""
        process.disconnect()
        if not process.exited.done():
            self._send("discard", process)
            await _first_of(process.exited)
            if not process.exited.done():
                self.kill()

    def kill(self) -> None:
        """End a server that does not answer; its processes die with it."""
        self.dead = True
        if self._process.returncode is None:
            # Not self._process.kill(): it may reap the process before asyncio does, which then complains.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End the server and everything below it, within EXIT_TIMEOUT_S."""
        self.dead = True
        with contextlib.suppress(OSError):
            self._sender.shutdown(socket.SHUT_WR)  # from here on it ends by itself, whatever happens to this process
        try:
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self._sender.close()
        self._writer.close()
        for process in self._processes.values():
            process.disconnect()


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, timeout=SERVER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)


class ProcessPool:
    """A fixed number of forked processes, first come first served.

    An async context manager. A process that is released is killed, with all that it has started, and replaced in the
    background: whatever agent code, or a replay of its calls, has left in it is gone. A fork server that died is
    started again.
    """

    def __init__(
        self,
        python: str | Path,
        root: Path,
        num_processes: int,
        settings: dict[str, Any],
        max_line_bytes: int = 2**24,
    ) -> None:
        if num_processes < 1:
            raise ValueError(f"need at least 1 process, not {num_processes}")
        self._server_arguments = (check_python(python), root, settings, max_line_bytes)
        self._server: ForkServer | None = None
        self._server_lock = asyncio.Lock()
        self._num_processes = num_processes
        # One item for each process that is not in use; for one that cannot be had, the error that says why.
        self._free: asyncio.Queue[ForkedProcess | Exception] = asyncio.Queue()
        self._background: set[asyncio.Task[None]] = set()
        self.wait_seconds = 0.0
        self.num_server_starts = 0

    async def __aenter__(self) -> Self:
        await self._live_server()
        for _ in range(self._num_processes):
            self._in_background(self._provide())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.shield(self._close())

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._server is not None:
            await self._server.close()

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _live_server(self) -> ForkServer:
        """The fork server, started if need be. Raises RootError, or EngineError after MAX_STARTS failures in a row."""
        async with self._server_lock:
            if self._server is not None and self._server.dead:
                await self._server.close()
                self._server = None
            for attempt in range(1, MAX_STARTS + 1):
                if self._server is None:
                    server = ForkServer(*self._server_arguments)
                    try:
                        await server.start()
                    except EngineError:
                        if attempt == MAX_STARTS:
                            raise
                    else:
                        self._server = server
                        self.num_server_starts += 1
            assert self._server is not None
            return self._server

    async def _provide(self) -> None:
        """Fork a process and make it available."""
        while True:
            try:
                server = await self._live_server()
                self._free.put_nowait(await server.fork())
                return
            except (EngineError, RootError) as error:
                self._free.put_nowait(error)
                return
            except WorkerLost:
                continue  # the server died just now

    async def _replace(self, process: ForkedProcess) -> None:
        await process.server.discard(process)
        await self._provide()

    @property
    def protections(self) -> dict[str, str]:
        """What its processes are kept from: {protection: "" when it is enforced here, or why it is not}."""
        return self._server.protections if self._server else {}

    async def acquire(self) -> ForkedProcess:
        """A process for the caller alone, to be released. Raises EngineError when there is none to be had any more."""
        started = time.monotonic()
        while True:
            process = await self._free.get()
            if isinstance(process, Exception):
                self._free.put_nowait(process)  # for the next in line
                raise process
            if not process.exited.done():
                break
            self._in_background(self._replace(process))  # it died while nobody used it
        self.wait_seconds += time.monotonic() - started
        return process

    def release(self, process: ForkedProcess) -> None:
        """Give a process back, to be replaced."""
        self._in_background(self._replace(process))
