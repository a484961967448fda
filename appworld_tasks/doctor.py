"""What agent code is kept from on this machine: starts one worker, and tries everything from inside.

    python -m appworld_tasks.doctor --root .appworld/builtin --python .venv-appworld/bin/python

Prints a line for each protection. docs/security.md explains them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from appworld_tasks.pool import EngineError, WorkerLost, WorkerPool
from appworld_tasks.roots import GROUND_TRUTH, RootError, check_python, check_root

EXPERIMENT = "doctor"
VERSIONS = (
    "import importlib.metadata, platform; print(platform.python_version(), importlib.metadata.version('appworld'))"
)
# AppWorld replaces what agent code usually calls; these ways it leaves open. `probe` prints what a call does.
PREAMBLE = """
import os
_ctypes, _socket, _resource = (__import__(name) for name in ("ctypes", "socket", "resource"))
libc = _ctypes.CDLL(None, use_errno=True)
FileIO = __import__("_io").FileIO
def probe(call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        print("stopped", error.strerror)
    else:
        print("stopped" if isinstance(result, int) and result < 0 else "possible")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="AppWorld's data, for example .appworld/builtin")
    parser.add_argument("--python", type=Path, required=True, help="AppWorld's interpreter")
    args = parser.parse_args()
    try:
        return asyncio.run(examine(args.root, args.python))
    except (RootError, EngineError, WorkerLost) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


async def examine(root: Path, python: Path) -> int:
    """Print the table. Returns 1 when something that should be enforced is not. Raises as WorkerPool does."""
    root, python = check_root(root), check_python(python)
    async with WorkerPool(root, python, num_workers=1) as pool:
        versions = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True).stdout.split()
        print(f"{'kernel':28}{platform.release()}, as {'root' if os.geteuid() == 0 else 'user ' + str(os.geteuid())}")
        print(f"{'AppWorld':28}{versions[1]}, Python {versions[0]}, {python}")
        print(f"{'tasks':28}{root}\n{'workers see':28}{pool.worker_root}\n")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            seen = await _try_everything(pool, probes(root, pool.worker_root, listener.getsockname()[1]))
        broken = 0
        for name, why_not in pool.protections.items():
            stopped = "stopped" in seen[name] and "possible" not in seen[name]
            if not why_not and not stopped:
                why_not = "but should be; the attempt printed: " + " | ".join(seen[name].splitlines())
                broken += 1
            print(f"{name:28}{'NOT enforced' if why_not else 'enforced':14}{why_not}".rstrip())
    return int(broken > 0)


def probes(root: Path, worker_root: Path, port: int) -> dict[str, str]:
    """{protection: code that prints `possible` for whatever it should not be able to do}."""
    task = min(path.name for path in (worker_root / "data" / "tasks").iterdir())
    limits = {"memory": "DATA", "file size": "FSIZE", "CPU": "CPU"}
    return {
        "ground truth out of reach": f"probe(os.scandir, {str(root / 'data/tasks' / task / GROUND_TRUTH)!r})",
        "files read-only": f"probe(FileIO, {str(worker_root / 'data' / '.doctor')!r}, 'w')",
        "private outputs": f"names = {{entry.name for entry in os.scandir({str(worker_root / 'experiments/outputs')!r})}}\n"
        f"print('stopped' if names == {{{EXPERIMENT!r}}} else 'possible')",
        "private temporary folder": "print('possible' if os.stat('/tmp').st_dev == os.stat('/usr').st_dev or "
        "os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize > 2**30 else 'stopped')",
        "no network": f"probe(_socket.create_connection, ('127.0.0.1', {port}), 2)",
        "user of its own": f"print('possible' if os.getuid() in (0, {os.getuid()}) else 'stopped')",
        "signals": f"probe(libc.kill, os.getppid(), 0)\nprobe(libc.kill, {os.getpid()}, 0)",
        "process limit": "print('stopped' if 0 < _resource.getrlimit(_resource.RLIMIT_NPROC)[1] <= 1000 else 'possible')",
    } | {
        f"{name} limit": f"print('possible' if _resource.getrlimit(_resource.RLIMIT_{limit})[1] < 0 else 'stopped')"
        for name, limit in limits.items()
    }


async def _try_everything(pool: WorkerPool, codes: dict[str, str]) -> dict[str, str]:
    task = min(path.name for path in (pool.worker_root / "data" / "tasks").iterdir())
    try:
        async with pool.world(task, EXPERIMENT) as world:
            return {name: (await world.execute(PREAMBLE + code)).output.strip() for name, code in codes.items()}
    finally:
        (pool.worker_root / "data" / ".doctor").unlink(missing_ok=True)
        shutil.rmtree(pool.worker_root / "experiments" / "outputs" / EXPERIMENT, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
