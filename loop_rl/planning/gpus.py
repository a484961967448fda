"""GPUs by their data sheets. All figures are peaks; what share of them is reached is an assumption of timing.py."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node whose GPUs are joined by NVLink."""

    memory: float
    """Bytes that nvidia-smi shows as total."""
    bandwidth: float
    """Bytes per second between memory and cores."""
    flops: float
    """Dense bfloat16 operations per second."""
    link: float
    """Bytes per second to the other GPUs of the node, one direction."""


GPUS = {
    "h100": Gpu(memory=79.6 * GIB, bandwidth=3.35e12, flops=989e12, link=450e9),  # SXM, 80 GB
    "h200": Gpu(memory=139.8 * GIB, bandwidth=4.8e12, flops=989e12, link=450e9),  # SXM, 141 GB
    "a100": Gpu(memory=79.3 * GIB, bandwidth=2.04e12, flops=312e12, link=300e9),  # SXM, 80 GB
}
