"""The report's figures: `RunData` in, Plotly figures out, without colours of text and ground, which the page's theme sets.

Every text that comes from a file goes through `label`: Plotly reads markup in labels.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from loop_rl.config.settings import AlgorithmConfig
from loop_rl.environments.behaviour import Ratio
from loop_rl.evaluation.tables import measures
from loop_rl.inspection.inert import inert
from loop_rl.inspection.report.run_data import BINS, RunData, Tally
from loop_rl.store.timeline import Span

COLOURS = ("#3f7fd0", "#cf7022", "#2a9a72", "#b8529e", "#8173d6", "#8f8a24")
"""Of runs and of phases; each readable on white and on near black."""
MAX_POINTS = 400
"""More iterations than this are averaged in neighbouring windows."""
MAX_SPANS = 2000
"""The timeline draws the last ones of each process."""
_MIN_GROUPS = 4  # a t interval over fewer would be guesswork
_NUM_TIME_BINS = 400

METRICS = (
    ("policy/entropy", "entropy, nats per token"),
    ("policy/approx_kl", "KL(behaviour, policy), nats per token"),
    ("policy/ratio_mean", "importance ratio, mean"),
    ("policy/ratio_max", "importance ratio, largest"),
    ("policy/clip_share", "share of tokens clipped"),
    ("policy/grad_norm", "gradient norm"),
    ("policy/loss", "loss"),
    ("policy/logprob_diff_max", "largest logprob difference, nats"),
    ("rollout/share_filtered", "share of rollouts filtered out"),
    ("rollout/staleness_mean", "staleness, mean, versions"),
    ("sampler/tokens_per_s", "sampler, action tokens per s"),
    ("policy/tokens_per_s", "trainer, tokens per s"),
)
"""(name in metrics.jsonl, what it is called here)"""


def label(text: str) -> str:
    """Text for a Plotly label: no markup, one line."""
    return html.escape(" ".join(inert(text).split()), quote=False)


def learning_curves(runs: Sequence[RunData]) -> go.Figure:
    """Return and success of the training rollouts, with bands; the measures of the evaluations, with intervals."""
    found = dict.fromkeys(name for run in runs for e in run.evaluations for name in measures(e.figures))
    names = list(found)[:2] or ["TGC", "SGC"]
    marks = " and ".join(f"{name} {mark}" for name, mark in zip(names, "●◇", strict=False))
    figure = _grid(["return (training rollouts)", "success (training rollouts)", f"{marks} (held-out tasks)"], 3)
    for index, run in enumerate(runs):
        for column, value in ((1, lambda t: t.reward / t.num), (2, lambda t: t.success / t.num)):
            _add_band(figure, column, index, run, value)
        for metric, symbol, dash in zip(names, ("circle", "diamond-open"), ("solid", "dot"), strict=False):
            _add_evaluations(figure, index, run, metric, symbol, dash)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", row=1)
    figure.update_yaxes(tickformat=".1f", row=1, col=1)
    figure.update_xaxes(title_text="iteration", row=1)
    figure.update_xaxes(title_text="policy version", row=1, col=3)
    return _finished(figure, 380, legend=len(runs) > 1)


def behaviours(runs: Sequence[RunData]) -> list[Ratio]:
    """Of the environments of these runs, each once."""
    return list(dict.fromkeys(ratio for run in runs for ratio in run.environment.behaviours))


def behaviour_curves(runs: Sequence[RunData]) -> go.Figure:
    """Each behaviour of the training rollouts by iteration."""
    ratios = behaviours(runs)
    figure = _grid([ratio.label for ratio in ratios], 4)
    for index, run in enumerate(runs):
        windows = _windows(sorted(run.iterations))
        counts = [sum((run.iterations[i].behaviour for i in window), Counter()) for window in windows]
        for place, ratio in enumerate(ratios):
            values = [ratio.value(count) for count in counts]
            _add_line(figure, place, 4, index, run, _centres(windows), values, first=place == 0)
    for place, ratio in enumerate(ratios):
        figure.update_yaxes(tickformat=".0%" if ratio.percent else None, row=place // 4 + 1, col=place % 4 + 1)
    figure.update_yaxes(rangemode="tozero")
    return _finished(figure, 460, legend=len(runs) > 1)


def metric_curves(runs: Sequence[RunData]) -> go.Figure:
    """The figures of metrics.jsonl that tell whether training is healthy, by iteration."""
    figure = _grid([title for _, title in METRICS], 4)
    for index, run in enumerate(runs):
        by_iteration = {line["iteration"]: line for line in run.metrics}
        windows = _windows(sorted(by_iteration))
        for place, (name, _) in enumerate(METRICS):
            found = [[by_iteration[i][name] for i in window if name in by_iteration[i]] for window in windows]
            values = [float(np.mean(numbers)) if numbers else None for numbers in found]
            _add_line(figure, place, 4, index, run, _centres(windows), values, first=place == 0)
    figure.update_yaxes(exponentformat="power")
    return _finished(figure, 640, legend=len(runs) > 1)


def distributions(run: RunData) -> go.Figure:
    """Return, lengths, staleness, importance ratio and entropy of early, middle and late iterations."""
    titles = ["return", "action tokens per rollout", "turns per rollout"]
    titles += ["staleness of tokens, versions", "importance ratio of tokens", "entropy of tokens, nats"]
    figure = _grid(titles, 3, spacing=0.2)
    parts = _thirds(sorted(run.iterations))
    names = ("return", "action tokens", "turns", "staleness", "importance ratio", "entropy")
    for place, name in enumerate(names):
        row, column = place // 3 + 1, place % 3 + 1
        sums = [_summed(run.iterations[i].histograms[name] for i in iterations) for _, iterations in parts]
        shown = _occupied(sums)
        for index, ((part, _), counts) in enumerate(zip(parts, sums, strict=True)):
            if counts.sum():
                trace = _histogram(name, counts[shown], BINS[name][shown.start : shown.stop + 1])
                trace.update(name=part, legendgroup=part, showlegend=place == 0, **_tone(trace, COLOURS[index]))
                figure.add_trace(trace, row=row, col=column)
    figure.update_yaxes(tickformat=".0%")
    figure.update_xaxes(range=[0, 1], row=1, col=1)
    figure.update_xaxes(type="log", row=1, col=2)
    figure.update_xaxes(dtick=1, row=1, col=3)
    figure.update_xaxes(dtick=1, row=2, col=1)
    ratios = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
    figure.update_xaxes(type="log", tickvals=ratios, row=2, col=2)
    figure.update_yaxes(type="log", tickformat=None, dtick=1, exponentformat="power", row=2, col=2)
    figure.update_xaxes(type="log", dtick=1, exponentformat="power", row=2, col=3)
    line = {"dash": "dot", "width": 1.5, "color": COLOURS[3]}
    for edge in clip_range(run.config.algorithm):
        figure.add_shape(type="line", x0=edge, x1=edge, xref="x5", y0=0, y1=1, yref="y5 domain", line=line)
    figure.update_layout(barmode="group")
    return _finished(figure, 560, legend=True)


def clip_range(algorithm: AlgorithmConfig) -> tuple[float, ...]:
    """Lowest and highest importance ratio that is not clipped; empty where the objective clips nothing."""
    epsilon = getattr(algorithm, "clip_epsilon", None)
    return (1 - epsilon, 1 + epsilon) if epsilon else ()


def scenario_map(run: RunData) -> go.Figure:
    """Mean return and share of successes of each scenario's rollouts, its sibling tasks together, by iteration."""
    names = sorted(run.scenarios, reverse=True)
    windows = _windows(sorted(run.iterations))
    visits = [[_together(run.scenarios[name].values(), window) for window in windows] for name in names]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=["mean return", "success"]
    )
    figure.update_layout(template=go.layout.Template())
    for column, quantity in ((1, "reward"), (2, "success")):
        figure.add_heatmap(
            x=_centres(windows),
            y=[label(name) for name in names],
            z=np.array([[getattr(t, quantity) / t.num if t.num else np.nan for t in row] for row in visits]),
            coloraxis="coloraxis",
            xgap=1 if len(windows) <= 100 else 0,
            ygap=1,
            hovertemplate="%{y}<br>iteration %{x}: %{z:.2f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": {"thickness": 12}})
    figure.update_xaxes(title_text="iteration", showgrid=False, zeroline=False)
    figure.update_yaxes(automargin=True, tickfont={"size": 10}, nticks=60, showgrid=False)
    figure.update_annotations(font_size=12.5)
    return _finished(figure, min(120 + 15 * len(names), 1000), legend=False)


def scenario_curves(run: RunData) -> dict[str, list[dict]]:
    """For the page's chooser: the traces of each scenario, its tasks one by one and together."""
    return {name: _siblings(tasks) for name, tasks in sorted(run.scenarios.items())}


def process_timeline(run: RunData) -> go.Figure:
    """What each process did, and below, on the same clock, how many rollouts were in flight."""
    origin, end = time_span(run)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.42, 0.58],
        vertical_spacing=0.08,
        subplot_titles=["processes", "rollouts in flight"],
    )
    figure.update_layout(template=go.layout.Template())
    phases = list(dict.fromkeys(span.phase for span in run.spans))
    for index, phase in enumerate(phases):
        spans = _last_spans(run.spans, phase)
        figure.add_bar(
            orientation="h",
            base=np.array([(span.start - origin) / 60 for span in spans]),
            x=np.array([(span.end - span.start) / 60 for span in spans]),
            y=[label(span.process) for span in spans],
            customdata=[
                [span.end - span.start, "" if span.iteration is None else f", iteration {span.iteration}"]
                for span in spans
            ],
            name=label(phase),
            marker={"color": COLOURS[index % len(COLOURS)], "line": {"width": 0}},
            hovertemplate="%{y}: " + label(phase) + "%{customdata[1]}<br>%{customdata[0]:.2f} s<extra></extra>",
            row=1,
            col=1,
        )
    edges = np.linspace(origin, end, _NUM_TIME_BINS + 1)
    in_generation, in_environment = rollouts_in_flight(run, edges)
    minutes = (edges[:-1] + edges[1:]) / 2 / 60 - origin / 60
    for name, values, colour in (
        ("in the environment", in_environment, "#6d8b3c"),
        ("in generation", in_generation, "#9a7fd1"),
    ):
        figure.add_scatter(
            x=minutes, y=values, name=name, stackgroup="rollouts", line={"width": 0.5, "color": colour}, row=2, col=1
        )
    figure.update_layout(barmode="overlay", bargap=0.25, hovermode="closest", legend={"traceorder": "normal"})
    figure.update_xaxes(range=[0, (end - origin) / 60])
    figure.update_xaxes(title_text="minutes since the start", row=2)
    figure.update_yaxes(automargin=True)
    figure.update_annotations(font_size=12.5)
    return _finished(figure, 460, legend=True)


def rollouts_in_flight(run: RunData, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rollouts in generation and in the environment, each averaged over the bins between `edges` (Unix seconds).

    An episode's share of each is spread evenly over its time: when within it each was is not kept.
    """
    names = ("started_at", "duration_s", "generation_s", "environment_s")
    started, duration, generation, environment = (np.array(run.times[name]) for name in names)
    both = np.maximum(generation + environment, 1e-9)
    return tuple(_mean_in_flight(started, duration, weight / both, edges) for weight in (generation, environment))


def seconds_in_flight(run: RunData, training: bool) -> float:
    """Seconds in which at least one rollout was in flight, of training or of evaluations."""
    kind = (np.array(run.times["iteration"]) >= 0) == training
    started = np.array(run.times["started_at"])[kind]
    order = np.argsort(started)
    started, ended = started[order], (started + np.array(run.times["duration_s"])[kind])[order]
    covered_until = np.maximum.accumulate(ended)
    return float(np.sum(np.clip(ended - np.maximum(started, np.r_[-np.inf, covered_until[:-1]]), 0, None)))


def time_span(run: RunData) -> tuple[float, float]:
    """First start and last end of anything that was recorded, Unix seconds; run.times or run.spans must hold some."""
    starts, durations = np.array(run.times["started_at"]), np.array(run.times["duration_s"])
    first = [float(starts.min())] if len(starts) else []
    last = [float((starts + durations).max())] if len(starts) else []
    return min(first + [span.start for span in run.spans]), max(last + [span.end for span in run.spans])


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% confidence interval of the mean of independent values; None below 4 of them."""
    if len(values) < _MIN_GROUPS:
        return None
    half = _t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def _t_quantile(degrees: int) -> float:
    """97.5% quantile of Student's t, by Fisher's expansion; off by less than 0.5% from 3 degrees of freedom on."""
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / degrees**power for power, term in enumerate(terms))


def _add_band(figure: go.Figure, column: int, index: int, run: RunData, value: Callable[[Tally], float]) -> None:
    windows = _windows(sorted(run.iterations))
    groups = [[value(tally) for i in window for tally in run.iterations[i].groups.values()] for window in windows]
    x, means = _centres(windows), [float(np.mean(values)) for values in groups]
    intervals = [t_interval(values) for values in groups]
    colour = _colour(index)
    banded = [(at, *interval) for at, interval in zip(x, intervals, strict=True) if interval]
    if banded:
        at, low, high = np.array(banded).T
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        figure.add_scatter(
            x=np.r_[at, at[::-1]],
            y=np.r_[high, low[::-1]],
            fill="toself",
            fillcolor=_faint(colour),
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=f"run {index}",
            showlegend=False,
            row=1,
            col=column,
        )
    texts = [f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "too few groups" for interval in intervals]
    figure.add_scatter(
        x=x,
        y=means,
        name=label(run.name),
        legendgroup=f"run {index}",
        showlegend=column == 1,
        mode="lines+markers" if len(x) < 60 else "lines",
        line={"color": colour},
        marker={"size": 5},
        customdata=texts,
        hovertemplate="iteration %{x}: %{y:.3f}<br>95%: %{customdata}<extra>" + label(run.name) + "</extra>",
        row=1,
        col=column,
    )


def _add_evaluations(figure: go.Figure, index: int, run: RunData, metric: str, symbol: str, dash: str) -> None:
    evaluations = [e for e in run.evaluations if e.split == run.config.evaluation.split]
    found = [e.figures[metric]["all"] for e in evaluations]
    figure.add_scatter(
        x=[e.version for e in evaluations],
        y=[f["value"] for f in found],
        error_y={
            "array": [f["high"] - f["value"] for f in found],
            "arrayminus": [f["value"] - f["low"] for f in found],
            "thickness": 1.2,
        },
        mode="lines+markers",
        name=f"{label(run.name)} {metric}",
        legendgroup=f"run {index}",
        showlegend=False,
        line={"color": _colour(index), "dash": dash},
        marker={"symbol": symbol, "size": 9},
        hovertemplate=metric + " of version %{x}: %{y:.1%}<extra>" + label(run.name) + "</extra>",
        row=1,
        col=3,
    )


def _add_line(
    figure: go.Figure,
    place: int,
    columns: int,
    index: int,
    run: RunData,
    x: list[float],
    y: list[float | None],
    first: bool,
) -> None:
    """One run's curve in the small multiple at `place`; the first one stands for all in the legend."""
    figure.add_scatter(
        x=x,
        y=y,
        name=label(run.name),
        legendgroup=f"run {index}",
        showlegend=first,
        mode="lines+markers" if len(x) < 60 else "lines",
        marker={"size": 4},
        line={"color": _colour(index), "width": 1.6},
        row=place // columns + 1,
        col=place % columns + 1,
    )


def _histogram(name: str, counts: np.ndarray, edges: np.ndarray) -> go.Bar | go.Scatter:
    """Bars where the values are whole numbers, else a line of steps; heights are shares."""
    shares = counts / counts.sum()
    if name in ("staleness", "turns"):
        return go.Bar(x=(edges[:-1] + edges[1:]) / 2, y=shares)
    if name == "importance ratio":
        # On a logarithmic axis 0 has no place and would tear the line.
        shares = np.maximum(shares, 0.5 / counts.sum())
    fill = None if name == "importance ratio" else "tozeroy"
    return go.Scatter(x=edges, y=np.r_[shares, shares[-1]], mode="lines", fill=fill)


def _tone(trace: go.Bar | go.Scatter, colour: str) -> dict:
    if isinstance(trace, go.Bar):
        return {"marker": {"color": colour}}
    return {"line": {"color": colour, "shape": "hv", "width": 1.6}, "fillcolor": _faint(colour)}


def _siblings(tasks: dict[str, dict[int, Tally]]) -> list[dict]:
    visited = sorted({iteration for tallies in tasks.values() for iteration in tallies})
    traces = []
    for index, (task_id, tallies) in enumerate(sorted(tasks.items())):
        marker = {
            "size": 10,
            "symbol": "circle-open",
            "color": COLOURS[(1 + index) % len(COLOURS)],
            "line": {"width": 2},
        }
        windows = _windows([iteration for iteration in visited if iteration in tallies])
        found = [_together([tallies], window) for window in windows]
        name = f"{label(task_id)}, return"
        traces.append(_trace(windows, [t.reward / t.num for t in found], name) | {"mode": "markers", "marker": marker})
    windows = _windows(visited)
    found = [_together(tasks.values(), window) for window in windows]
    both = (("return of the scenario", "reward", "solid"), ("success", "success", "dot"))
    for name, quantity, dash in both:
        line = {"color": COLOURS[0], "dash": dash, "width": 1.6}
        values = [getattr(t, quantity) / t.num for t in found]
        traces.append(_trace(windows, values, name) | {"mode": "lines", "line": line})
    return traces


def _trace(windows: list[list[int]], values: list[float], name: str) -> dict:
    return {"x": _centres(windows), "y": [round(value, 4) for value in values], "name": name}


def _together(tasks: Iterable[dict[int, Tally]], iterations: list[int]) -> Tally:
    """The rollouts of sibling tasks in some iterations."""
    found = [tally for task in tasks for i in iterations if (tally := task.get(i))]
    return Tally(sum(t.num for t in found), sum(t.reward for t in found), sum(t.success for t in found))


def _mean_in_flight(started: np.ndarray, duration: np.ndarray, weight: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Weighted number in flight, averaged over each bin: the difference of what had been spent by its two edges."""

    def spent(points: np.ndarray, at: np.ndarray) -> np.ndarray:
        # Sum of weight * (at - point) over the points before `at`.
        order = np.argsort(points)
        place = np.searchsorted(points[order], at)
        weights = np.r_[0, np.cumsum(weight[order])]
        moments = np.r_[0, np.cumsum(weight[order] * (points[order] - edges[0]))]
        return weights[place] * (at - edges[0]) - moments[place]

    total = spent(started, edges) - spent(started + duration, edges)
    return np.diff(total) / np.diff(edges)


def _windows(iterations: list[int]) -> list[list[int]]:
    """The iterations in order, in neighbouring windows of one size: one each up to `MAX_POINTS` of them."""
    size = max(1, math.ceil(len(iterations) / MAX_POINTS))
    return [iterations[start : start + size] for start in range(0, len(iterations), size)]


def _centres(windows: list[list[int]]) -> list[float]:
    return [window[0] if len(window) == 1 else (window[0] + window[-1]) / 2 for window in windows]


def _thirds(iterations: list[int]) -> list[tuple[str, list[int]]]:
    """Early, middle and late iterations and what the legend calls them; fewer parts of fewer iterations."""
    edges = np.linspace(0, len(iterations), min(3, len(iterations)) + 1).round().astype(int)
    parts = [iterations[first:last] for first, last in pairwise(edges)]
    return [(f"iterations {part[0]}–{part[-1]}" if len(part) > 1 else f"iteration {part[0]}", part) for part in parts]


def _occupied(histograms: list[np.ndarray]) -> slice:
    """The range of bins that any of the histograms uses."""
    (used,) = np.nonzero(_summed(histograms))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)


def _summed(histograms: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum(list(histograms), axis=0)


def _last_spans(spans: list[Span], phase: str) -> list[Span]:
    return [span for span in spans if span.phase == phase][-MAX_SPANS:]


def _grid(titles: Sequence[str], columns: int, spacing: float = 0.14) -> go.Figure:
    figure = make_subplots(
        rows=math.ceil(len(titles) / columns),
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.2 / columns,
        vertical_spacing=spacing,
    )
    figure.update_layout(template=go.layout.Template())
    figure.update_annotations(font_size=12.5)
    return figure


def _finished(figure: go.Figure, height: int, legend: bool) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 46, "r": 16, "t": 56 if legend else 36, "b": 54},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.0, "yref": "container", "yanchor": "top", "x": 0},
    )
    return figure


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
