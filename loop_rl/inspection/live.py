"""What a person sees while a run trains: one view that renews itself in a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from loop_rl.config.settings import Config
from loop_rl.evaluation.tables import measures, percent_with_interval
from loop_rl.inspection.drift import drift_warnings
from loop_rl.store.run_dir import RunDir

_BLOCKS = "▁▂▃▄▅▆▇█"
_TREND_LENGTH = 32
# Row of the view, its figures with their formats, and the figure whose course is drawn.
_ROWS = [
    ("return", "{rollout/return:.3f}", "rollout/return"),
    ("success", "{rollout/success:.1%}", "rollout/success"),
    ("filtered", "{rollout/share_filtered:.0%} of the rollouts", "rollout/share_filtered"),
    (
        "staleness",
        "{rollout/staleness_mean:.2f} versions, at most {rollout/staleness_max:.0f}",
        "rollout/staleness_mean",
    ),
    ("turns", "{rollout/turns:.1f} a rollout, {rollout/action_tokens:.0f} tokens", "rollout/turns"),
    ("entropy", "{policy/entropy:.3g} nats a token", "policy/entropy"),
    ("ratio", "{policy/ratio_mean:.3f}, at most {policy/ratio_max:.2f}", "policy/ratio_max"),
    ("clipped", "{policy/clip_share:.1%} of the tokens", "policy/clip_share"),
    ("KL", "{policy/approx_kl:.2g} nats a token", "policy/approx_kl"),
    ("gradient norm", "{policy/grad_norm:.2g}, at most {policy/grad_norm_max:.2g}", "policy/grad_norm"),
    ("sampler", "{sampler/tokens_per_s:,.0f} tokens/s, {time/sample_s:.0f} s", "sampler/tokens_per_s"),
    (
        "trainer",
        "{policy/tokens_per_s:,.0f} tokens/s, {time/train_s:.0f} s, waited {time/wait_s:.0f} s",
        "policy/tokens_per_s",
    ),
]


class LiveView:
    """The state of a training run; `live_view` makes one and shows it."""

    def __init__(self, console: Console, run: RunDir, config: Config, history: list[Mapping[str, float]]) -> None:
        self._console = console
        self._run = run
        self._config = config
        self._history = list(history)
        self._num_earlier = len(history)
        self._started = time.time()
        self._evaluation = _last_evaluation(run, config)
        self._warnings: list[str] = []
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console)
        self._bars = {name: self._progress.add_task(name, total=None) for name in ("sampler", "trainer")}

    def add(self, line: Mapping[str, float]) -> None:
        """Take in the figures of a finished iteration."""
        self._history.append(line)
        before, self._warnings = self._warnings, drift_warnings(self._history, self._config.model.dtype)
        if not self._console.is_terminal:
            self._console.print(iteration_line(line, self._config.trainer.num_iterations), markup=False)
            for warning in self._warnings:
                if warning.partition(":")[0] not in {earlier.partition(":")[0] for earlier in before}:
                    self._console.print(f"warning: {warning}", markup=False)

    def advance(self, process: str, status: Mapping) -> None:
        """Take in a process's heartbeat."""
        if status:
            description = f"iteration {status['iteration'] + 1}: {status.get('phase', process)}"
            self._progress.update(
                self._bars[process], description=description, completed=status["done"], total=status["total"]
            )

    def seconds_left(self) -> float | None:
        """Of training; None before two iterations were seen."""
        ends = [line["written_at"] for line in self._history[self._num_earlier :]]
        if len(ends) < 2:
            return None
        per_iteration = statistics.median(b - a for a, b in itertools.pairwise(ends))
        left = self._config.trainer.num_iterations - len(self._history)
        return max(0.0, ends[-1] + left * per_iteration - time.time())

    def __rich__(self) -> Panel:
        done, total = len(self._history), self._config.trainer.num_iterations
        left = self.seconds_left()
        title = f"iteration {min(done + 1, total)} of {total} · {_clock(time.time() - self._started)}"
        title += f", about {_clock(left)} left" if left is not None else ""
        table = Table.grid(padding=(0, 2))
        table.add_row(self._evaluation[0], self._evaluation[1], "")
        if self._history:
            for name, template, trend in _ROWS:
                if trend in self._history[-1]:  # an iteration that was skipped has no figures of the policy
                    values = [line[trend] for line in self._history if trend in line]
                    table.add_row(name, template.format_map(self._history[-1]), Text(sparkline(values), style="cyan"))
        warnings = [Text(f"⚠ {warning}", style="yellow") for warning in self._warnings]
        return Panel(
            Group(table, self._progress, *warnings),
            title=Text(title),
            title_align="left",
            subtitle=Text(str(self._run.path)),
        )


@contextmanager
def live_view(console: Console, run: RunDir, config: Config, history: list[Mapping[str, float]]) -> Iterator[LiveView]:
    """Show a run while the body feeds the view; `history` are the figures of earlier iterations."""
    view = LiveView(console, run, config, history)
    if console.is_terminal:
        with Live(view, console=console, refresh_per_second=4):
            yield view
    else:
        yield view


def sparkline(values: list[float]) -> str:
    """The newest values as blocks between the smallest and the largest of them."""
    values = values[-_TREND_LENGTH:]
    low, high = min(values), max(values)
    steps = [int((value - low) / (high - low) * (len(_BLOCKS) - 1) + 0.5) if high > low else 0 for value in values]
    return "".join(_BLOCKS[step] for step in steps)


def _last_evaluation(run: RunDir, config: Config) -> tuple[str, str]:
    split = config.evaluation.select_split if config.evaluation.every else config.evaluation.split
    versions = [v for v in range(run.latest_version() + 1) if run.evaluation_file(v, split).exists()]
    if not versions:
        return f"held out: {split}", "not evaluated yet"
    figures = json.loads(run.evaluation_file(versions[-1], split).read_text())
    (name, *_) = measures(figures)
    return f"{name} {split}, version {versions[-1]}", f"{percent_with_interval(figures[name]['all'])} percent"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def iteration_line(figures: dict[str, float], num_iterations: int) -> str:
    """The most telling figures of one iteration."""
    parts = [
        f"iteration {figures['iteration'] + 1:>3}/{num_iterations}",
        f"return {figures['rollout/return']:.3f}",
        f"success {figures['rollout/success']:.1%}",
        f"filtered {figures['rollout/share_filtered']:.0%}",
        f"stale {figures['rollout/staleness_mean']:.2f}",
    ]
    if figures["policy/num_steps"]:
        if "policy/ratio_mean" in figures:  # of the clipped objective
            parts += [
                f"ratio {figures['policy/ratio_mean']:.3f} (max {figures['policy/ratio_max']:.2f})",
                f"clipped {figures['policy/clip_share']:.1%}",
                f"kl {figures['policy/approx_kl']:.4f}",
            ]
        parts += [f"entropy {figures['policy/entropy']:.3g}", f"grad {figures['policy/grad_norm']:.2g}"]
    else:
        parts.append("skipped: no advantage differs from zero")
    parts += [
        f"{figures['sampler/tokens_per_s']:.0f} tok/s sampled",
        f"sample {figures['time/sample_s']:.0f} s, train {figures['time/train_s']:.0f} s",
    ]
    return "  ".join(parts)
