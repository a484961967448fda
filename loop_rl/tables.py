"""What a run prints: one line an iteration, and tables of TGC and SGC in percent."""

from __future__ import annotations

from rich.table import Table

METRICS = ("TGC", "SGC")
CAPTION = "TGC: task goal completion; SGC: scenario goal completion; in brackets the 95% confidence interval"


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
        parts += [
            f"ratio {figures['policy/ratio_mean']:.3f} (max {figures['policy/ratio_max']:.2f})",
            f"clipped {figures['policy/clip_share']:.1%}",
            f"kl {figures['policy/approx_kl']:.4f}",
            f"entropy {figures['policy/entropy']:.3g}",
            f"grad {figures['policy/grad_norm']:.2g}",
        ]
    else:
        parts.append("skipped: no advantage differs from zero")
    parts += [
        f"{figures['sampler/tokens_per_s']:.0f} tok/s sampled",
        f"sample {figures['time/sample_s']:.0f} s, train {figures['time/train_s']:.0f} s",
    ]
    return "  ".join(parts)


def evaluation_table(figures: dict, title: str) -> Table:
    """TGC and SGC of one evaluation."""
    table = _table(f"{title}, percent", "", "number", "value")
    for metric, level, name in _rows(figures):
        figure = figures[metric][level]
        table.add_row(name, str(figure["num"]), percent_with_interval(figure))
    return table


def before_after_table(before: dict, after: dict, title: str) -> Table:
    """TGC and SGC of two evaluations of the same split."""
    table = _table(f"{title}, percent", "", "number", "before", "after", "change")
    for metric, level, name in _rows(before):
        b, a = before[metric][level], after[metric][level]
        change = 100 * (a["value"] - b["value"])
        table.add_row(name, str(b["num"]), percent_with_interval(b), percent_with_interval(a), f"{change:+.1f}")
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, caption=CAPTION)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _rows(figures: dict) -> list[tuple[str, str, str]]:
    """(metric, level, what the row is called)"""
    return [
        (metric, level, metric if level == "all" else f"  difficulty {level}")
        for metric in METRICS
        for level in figures[metric]
    ]


def percent_with_interval(figure: dict[str, float]) -> str:
    """`value [low, high]`, in percent."""
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
