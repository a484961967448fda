"""What a run prints: one line an iteration, and the before/after table."""

from __future__ import annotations

import json

from rich.table import Table

from loop_rl.config import Config
from loop_rl.run_dir import RunDir


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
            f"entropy {figures['policy/entropy']:.3f}",
            f"grad {figures['policy/grad_norm']:.2f}",
        ]
    else:
        parts.append("skipped: no advantage differs from zero")
    parts += [
        f"{figures['sampler/tokens_per_s']:.0f} tok/s sampled",
        f"sample {figures['time/sample_s']:.0f} s, train {figures['time/train_s']:.0f} s",
    ]
    return "  ".join(parts)


def before_after_table(run: RunDir, config: Config) -> Table:
    """TGC and SGC, in percent with 95% confidence intervals, of the first and the last policy version."""
    versions = (0, config.trainer.num_iterations)
    figures = [json.loads(run.evaluation_file(v, config.evaluation.split).read_text()) for v in versions]
    table = Table(title=f"{config.evaluation.split}: percent, with 95% confidence interval")
    for heading, justify in (("", "left"), ("tasks", "right"), ("before", "right"), ("after", "right"), ("change", "right")):
        table.add_column(heading, justify=justify)
    before, after = figures
    for metric in ("TGC", "SGC"):
        for level in before[metric]:
            b, a = before[metric][level], after[metric][level]
            name = metric if level == "all" else f"{metric}, difficulty {level}"
            change = 100 * (a["value"] - b["value"])
            table.add_row(name, str(b["count"]), _percent(b), _percent(a), f"{change:+.1f}")
    return table


def _percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:5.1f} [{100 * figure['low']:5.1f}, {100 * figure['high']:5.1f}]"
