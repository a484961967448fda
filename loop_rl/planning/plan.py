"""The planner: what a run needs of each GPU, how long an iteration takes, and how to split the nodes.

    python -m loop_rl.plan --config configs/qwen2.5-32b.yaml --nodes 2
    python -m loop_rl.plan --config configs/qwen2.5-32b.yaml --nodes 2,4,8,16
    python -m loop_rl.plan --config configs/qwen2.5-1.5b.yaml --gpus-per-node 1
    python -m loop_rl.plan --config configs/qwen2.5-7b.yaml --gpu a100 agent.max_context_tokens=16384
    python -m loop_rl.plan --config configs/qwen2.5-7b.yaml --run runs/qwen2.5-7b

Starts nothing and needs no GPU. Memory is a sum of terms, time a simulation of some iterations; what both rest on is
printed and explained in docs/planning.md. What cannot fit is refused with the setting to change. `--run` takes the
lengths of episodes and AppWorld's speed from a real run instead of assuming them.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loop_rl.config.load import load_config
from loop_rl.config.settings import Config
from loop_rl.machine.command import run_command
from loop_rl.planning.gpus import GIB, GPUS, Gpu
from loop_rl.planning.layout import DoesNotFit, Layout, Need, check, layouts, system
from loop_rl.planning.memory import longest_microbatch
from loop_rl.planning.shapes import ModelShape, model_shape
from loop_rl.planning.simulation import ASYNCHRONOUS, ONE_BEHIND, SYNCHRONOUS, Curve, Discipline, Outcome, simulate
from loop_rl.planning.timing import Assumptions
from loop_rl.planning.workload import Workload, assumed_workload, groups_of_an_iteration
from loop_rl.store.run_dir import RunDir

WIDTH = 118
_ITERATIONS = 5
_LEFT_OUT = 2


@dataclass(frozen=True)
class Split:
    """A layout that fits, and the simulated iteration under each discipline."""

    layout: Layout
    need: Need
    outcomes: list[Outcome]
    """In the order of `disciplines`."""


@dataclass(frozen=True)
class Machines:
    """What there is to plan for."""

    nodes: int
    gpus_per_node: int
    gpu_name: str

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.gpu_name]

    def __str__(self) -> str:
        return f"{self.nodes} x {self.gpus_per_node} {self.gpu_name.upper()} ({self.gpu.memory / GIB:.0f} GiB)"


def splits(
    config: Config,
    machines: Machines,
    shape: ModelShape,
    guess: Assumptions,
    workload: Workload,
    environment: Curve | None = None,
) -> list[Split]:
    """Every split that fits, in the order of `layouts`.

    Args:
        environment: AppWorld's measured speed; by default the assumed one.

    Raises:
        DoesNotFit: the config's own split does not, or of several nodes none does.
    """
    found, refused = [], []
    for layout in layouts(config, machines.nodes, machines.gpus_per_node):
        try:
            need = check(shape, config, layout, machines.gpu)
        except DoesNotFit as error:
            if machines.nodes == 1 and not found:
                raise
            refused.append(error)
            continue
        simulated = system(shape, config, layout, need, machines.gpu, guess, workload, environment)
        sizes = groups_of_an_iteration(config)
        outcomes = [
            simulate(simulated, workload, discipline, *sizes, _ITERATIONS, _LEFT_OUT)
            for discipline in disciplines(config)
        ]
        found.append(Split(layout, need, outcomes))
    if not found:
        raise refused[-1]
    return found


def best(found: list[Split], config: Config) -> Split:
    """The split with the shortest iteration at the config's `sampler.max_staleness`."""
    return min(found, key=lambda split: split.outcomes[_own_discipline(config)].iteration_s)


def disciplines(config: Config) -> list[Discipline]:
    """What is simulated: staleness 0, 1 and more; the config's own, with its `sampler.over_stale`, is one of them."""
    own = config.sampler.max_staleness
    chosen = [SYNCHRONOUS, ONE_BEHIND, ASYNCHRONOUS if own < 2 else Discipline("asynchronous", own)]
    index = _own_discipline(config)
    chosen[index] = replace(chosen[index], wait=config.sampler.over_stale == "refuse")
    return chosen


def _own_discipline(config: Config) -> int:
    return min(config.sampler.max_staleness, 2)


def print_plan(
    console: Console,
    config: Config,
    all_machines: list[Machines],
    guess: Assumptions,
    run: RunDir | None = None,
) -> None:
    """Print the plan for each of the machines, one after the other.

    Raises:
        ValueError: something cannot fit, or is not known; one line.
    """
    shape, source = model_shape(config.model.path)
    environment = None
    if run:
        from loop_rl.planning.measured import measure  # reads rollouts, for which pyarrow takes a second

        measured = measure(run)
        workload, environment = measured.workload, measured.system.environment
    else:
        workload = assumed_workload(config)
    lora = config.model.lora
    trained = f"adapter {shape.num_adapter_parameters(lora.rank) / 1e6:.0f} million" if lora else "all of them trained"
    console.print(
        f"{config.model.path}: {shape.num_parameters / 1e9:.2f} billion parameters, {trained}; sizes from {source}"
    )
    for machines in all_machines:
        found = splits(config, machines, shape, guess, workload, environment)
        chosen = best(found, config)
        shown = found[0] if machines.nodes == 1 else chosen
        console.print()
        console.print(_memory_table(config, machines, shown))
        console.print()
        console.print(_splits_table(config, machines, found, chosen))
        console.print(_verdict(config, chosen))
    console.print()
    console.print(_assumptions(guess, workload, run, config.sampler.source == "turns"))


def _memory_table(config: Config, machines: Machines, split: Split) -> Table:
    layout = split.layout
    table = Table(title=f"memory per GPU, GiB: {machines}, {layout.name} infer : train", width=WIDTH)
    for heading in ("inference", "", "training", ""):
        table.add_column(heading, justify="left" if heading else "right")
    server = [(name, f"{size / GIB:.2f}") for name, size in split.need.server.items()]
    training = [(name, f"{size / GIB:.2f}") for name, size in split.need.training.items()]
    for row in range(max(len(server), len(training))):
        table.add_row(
            *(server[row] if row < len(server) else ("", "")), *(training[row] if row < len(training) else ("", ""))
        )
    table.add_section()
    totals = [sum(split.need.server.values()), sum(split.need.training.values())]
    table.add_row(*(part for total in totals for part in ("total", f"{total / GIB:.2f}")))
    table.caption = (
        f"training: ZeRO {config.trainer.zero_stage} over {layout.num_ranks} ranks, {longest_microbatch(config):,} tokens, "
        f"{'with' if config.trainer.activation_checkpointing else 'without'} checkpointing. inference: a replica's KV cache "
        f"holds {split.need.kv_tokens:,} tokens, {split.need.kv_tokens / config.agent.max_context_tokens:.1f} episodes of "
        "the greatest length"
    )
    return table


def _splits_table(config: Config, machines: Machines, found: list[Split], chosen: Split) -> Table:
    table = Table(title=f"one iteration: {machines}", width=WIDTH)
    table.add_column("infer : train")
    table.add_column("replicas", justify="right")
    table.add_column("ranks", justify="right")
    for index, discipline in enumerate(disciplines(config)):
        own = " (config)" if index == _own_discipline(config) else ""
        table.add_column(f"{discipline.name}{own}", justify="right")
    for split in found:
        layout = split.layout
        table.add_row(
            f"{layout.name}{'  best' if split is chosen else ''}",
            str(layout.num_replicas),
            str(layout.num_ranks),
            *(
                f"{outcome.iteration_s / 60:.1f} min {outcome.rollouts_per_minute:>4.0f}/min "
                f"{100 * outcome.sampler_idle:>2.0f} {100 * outcome.trainer_idle:>2.0f}"
                for outcome in split.outcomes
            ),
            style="bold" if split is chosen else "",
        )
    table.caption = (
        "minutes an iteration, rollouts a minute, percent of the time that the sampler's workers and the trainer are idle; "
        f"asynchronous: at most {disciplines(config)[-1].max_staleness} versions behind"
    )
    return table


def _verdict(config: Config, chosen: Split) -> str:
    synchronous, outcome = chosen.outcomes[0], chosen.outcomes[_own_discipline(config)]
    hours = outcome.iteration_s * config.trainer.num_iterations / 3600
    slower = "training" if outcome.trainer_idle < outcome.sampler_idle else "sampling"
    ages = ", ".join(f"{share:.0%} {age} behind" for age, share in outcome.staleness.items())
    return (
        f"best split {chosen.layout.name}: {config.trainer.num_iterations} iterations in {hours:.1f} hours, evaluation left "
        f"out; {synchronous.iteration_s / outcome.iteration_s:.2f} times as fast as synchronous; {slower} takes "
        f"longer; tokens: {ages}"
    )


def _assumptions(guess: Assumptions, workload: Workload, run: RunDir | None, by_turns: bool) -> str:
    origin = f"measured in {run.path}" if run else "assumed"
    lines = [
        f"{'Pieces of episodes' if by_turns else 'Episodes'} ({origin}): {workload.turns:.1f} turns, {workload.tokens:,.0f} tokens, of which the policy writes "
        f"{workload.action_tokens:,.0f}; {workload.share_kept:.0%} are kept for training.",
        "Assumed, not measured: " + ", ".join(f"{f.name} {getattr(guess, f.name):g}" for f in fields(guess)) + ".",
    ]
    if run:
        lines.append(
            "AppWorld's speed is that of the run's machine, whatever environment_s, environment_core_s and cores say."
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see configs/")
    parser.add_argument("--nodes", type=_numbers, default=[1], help="number of nodes, or several: 2,4,8,16; default 1")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="default 8; 1 is shared by server and trainer")
    parser.add_argument("--gpu", choices=list(GPUS), default="h100", help="default h100")
    parser.add_argument("--mfu", type=float, default=Assumptions.mfu, help="share of peak FLOP/s in training")
    parser.add_argument("--run", type=Path, help="run directory to take lengths and AppWorld's speed from")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted settings, such as trainer.zero_stage=3"
    )
    args = parser.parse_args()
    return run_command(lambda: _plan(args), "stopped")


def _numbers(text: str) -> list[int]:
    """`2,4,8` as numbers; argparse makes one line of its ValueError."""
    return [int(part) for part in text.split(",")]


def _plan(args: argparse.Namespace) -> None:
    for name, value in (("nodes", min(args.nodes)), ("gpus-per-node", args.gpus_per_node)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, not {value}")
    if not 0 < args.mfu <= 1:
        raise ValueError(f"--mfu is a share of the peak, in (0, 1], not {args.mfu}")
    config = load_config(args.config, args.overrides)
    machines = [Machines(nodes, args.gpus_per_node, args.gpu) for nodes in args.nodes]
    run = RunDir.open(args.run) if args.run else None
    console = Console(width=max(WIDTH, Console().width), highlight=False, soft_wrap=not sys.stdout.isatty())
    try:
        print_plan(console, config, machines, Assumptions(mfu=args.mfu), run)
    except DoesNotFit as error:
        raise DoesNotFit(f"{args.config}: {error}") from error
