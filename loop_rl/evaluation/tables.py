"""What a run prints: one line an iteration, and the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from loop_rl.environments.behaviour import Ratio

_NAMES = {"TGC": "task goal completion", "SGC": "scenario goal completion"}


def measures(figures: dict) -> list[str]:
    """The measures that the figures of an evaluation have, in order: those with values and intervals."""
    return [name for name, values in figures.items() if isinstance(values, dict) and "value" in values.get("all", ())]


def evaluation_table(figures: dict, title: str) -> Table:
    """The measures of one evaluation."""
    table = _table(figures, f"{title}, percent", "", "number", "value")
    for metric, level, name in _rows(figures):
        figure = figures[metric][level]
        table.add_row(name, str(figure["num"]), percent_with_interval(figure))
    return table


def before_after_table(before: dict, after: dict, title: str, behaviours: Sequence[Ratio]) -> Group:
    """The measures of two evaluations of the same split, and below them what the agent does differently."""
    table = _table(before, f"{title}, percent", "", "number", "before", "after", "change")
    for metric, level, name in _rows(before):
        b, a = before[metric][level], after[metric][level]
        change = 100 * (a["value"] - b["value"])
        table.add_row(name, str(b["num"]), percent_with_interval(b), percent_with_interval(a), f"{change:+.1f}")
    both = {"before": before, "after": after}
    counted = any("behaviour" in figures for figures in both.values())
    return Group(table, *([behaviour_table(both, behaviours)] if counted else []))


def details(figures: dict, columns: dict[str, dict], behaviours: Sequence[Ratio]) -> list[Table]:
    """What else was counted. columns: the figures to be shown side by side, by heading; behaviours: of the environment."""
    tables = [failures_table(figures), failed_tests_table(figures)] if "failures" in figures else []
    return [*tables, behaviour_table(columns, behaviours)] if "behaviour" in figures else tables


def behaviour_table(columns: dict[str, dict], behaviours: Sequence[Ratio]) -> Table:
    """Every behaviour in the figures of each evaluation; "–" where an older loop_rl wrote them, which counted none."""
    table = Table(title="what the agent does")
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for ratio in behaviours:
        table.add_row(ratio.label, *(_behaviour(ratio, figures) for figures in columns.values()))
    return table


def _behaviour(ratio: Ratio, figures: dict) -> str:
    value = ratio.value(figures.get("behaviour", {}))
    if value is None:
        return "–"
    return f"{value:.1%}" if ratio.percent else f"{value:.2f}"


def summary(figures: dict) -> str:
    """Turns and tokens of an evaluation's episodes, and how they ended; two lines."""
    ends = ", ".join(f"{reason} {num}" for reason, num in figures["end_reasons"].items())
    return (
        f"{figures['num_tasks']} tasks: {figures['turns_per_task']:.1f} turns a task, "
        f"{figures['action_tokens_per_task']:,.0f} tokens written, {figures['tokens_per_task']:,.0f} in all\n"
        f"ended: {ends}" + (f"; tampered: {figures['num_tampered']}" if "num_tampered" in figures else "")
    )


def failures_table(figures: dict) -> Table:
    """How often each cause occurs in failed and in successful tasks."""
    num_failed = figures["num_failed"]
    num_successful = figures["num_tasks"] - num_failed
    table = Table(title="causes of failure", caption="a task can have several; docs/metrics.md has the rules")
    for heading in ("", f"{num_failed} failed", f"{num_successful} successful"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, counts in figures["failures"].items():
        table.add_row(label, _share(counts["failed"], num_failed), _share(counts["successful"], num_successful))
    return table


def failed_tests_table(figures: dict) -> Table:
    """The unit tests that fail most often."""
    table = Table(title="tests that failed most often")
    table.add_column("test")
    table.add_column("tasks", justify="right")
    for requirement, num in figures["failed_tests"]:
        table.add_row(escape(_printable(requirement)), str(num))
    return table


def _share(num: int, of: int) -> str:
    return f"{num} ({num / of:.0%})" if of else "–"


def _printable(text: str) -> str:
    """One line, without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _table(figures: dict, title: str, *headings: str) -> Table:
    names = [f"{name}: {_NAMES[name]}" for name in measures(figures) if name in _NAMES]
    table = Table(title=title, caption="; ".join([*names, "in brackets the 95% confidence interval"]))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _rows(figures: dict) -> list[tuple[str, str, str]]:
    """(metric, level, what the row is called)"""
    return [
        (metric, level, metric if level == "all" else f"  {level_name(level)}")
        for metric in measures(figures)
        for level in figures[metric]
    ]


def level_name(level: str) -> str:
    """What a part of the tasks is called: a number is a difficulty, other labels speak for themselves."""
    return f"difficulty {level}" if level.isdigit() else level


def percent_with_interval(figure: dict[str, float]) -> str:
    """`value [low, high]`, in percent."""
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
