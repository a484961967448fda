"""When each process of a run did what: spans of Unix time, one JSON line each in timeline/<process>.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loop_rl.machine.files import parse_lines, warn_of_damage
from loop_rl.store.run_dir import RunDir


@dataclass(frozen=True)
class Span:
    """One phase of one process."""

    process: str
    """launch, sampler or trainer."""
    phase: str
    start: float
    """Unix time in seconds."""
    end: float
    iteration: int | None = None
    """Training iteration that the phase belongs to, or the policy version of an evaluation."""


@dataclass
class Stopwatch:
    """How long a span took, once it is over."""

    seconds: float = 0.0


class Timeline:
    """Times the phases of one process, and records them unless told not to."""

    def __init__(self, run: RunDir, process: str, record: bool = True) -> None:
        self._file = run.timeline / f"{process}.jsonl"
        self._record = record

    @contextmanager
    def span(self, phase: str, iteration: int | None = None, at_least_s: float = 0.0) -> Iterator[Stopwatch]:
        """Time the body; nothing is recorded when it raises, when the process ends in it, or when it took less than
        `at_least_s` seconds."""
        stopwatch = Stopwatch()
        start, clock = time.time(), time.monotonic()
        yield stopwatch
        stopwatch.seconds = time.monotonic() - clock
        if not self._record or stopwatch.seconds < at_least_s:
            return
        self._file.parent.mkdir(exist_ok=True)
        line = {"phase": phase, "start": start, "end": time.time(), "iteration": iteration}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_timeline(run: RunDir, on_damage: Callable[[Path, str], None] = warn_of_damage) -> list[Span]:
    """All spans of a run by their start; a last line half-written by a killed process is left out, see also `parse_lines`."""
    spans = []
    for file in run.timeline.glob("*.jsonl"):
        whole, _, _ = file.read_bytes().rpartition(b"\n")
        spans += parse_lines(whole, partial(_span, file.stem), file, on_damage=on_damage)
    return sorted(spans, key=lambda span: span.start)


def _span(process: str, line: dict[str, Any]) -> Span:
    span = Span(process, **line)
    if not (isinstance(span.start, (int, float)) and isinstance(span.end, (int, float))):
        raise ValueError(line)
    return span
