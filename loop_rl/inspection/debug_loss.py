"""The loss of one rollout, token by token, with the trainer's own functions, on one GPU or without.

    loop_rl debug-loss runs/tiny --rollout g000003-k1                # under the policy its iteration started from
    loop_rl debug-loss runs/tiny --rollout g000003-k1 --version 7    # under another

A line is one action token: its place in its sequence and its turn; the policy version that sampled it; what the objective
reads (behaviour: the log-probability it was sampled with; recomputed: the one under the policy that the iteration started
from, where algorithm.ratio_to asks for it; reference: the one under the untouched model, where a penalty does; advantage); its log-probability under the policy that is debugged (theta); what
the objective shows (of `clipped` the importance ratio, whether the clip takes its gradient away, and the importance weight,
which multiplies the objective); objective and weight, whose products with a minus sign add up to the rollout's loss; the
entropy of theta in nats. A minibatch's loss is the mean of its rollouts'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from loop_rl.agents.chat import load_tokenizer
from loop_rl.algorithms.aggregation import policy_loss
from loop_rl.algorithms.learning import make_objective
from loop_rl.algorithms.protocols import COMPUTED
from loop_rl.config.base import ConfigError
from loop_rl.config.parts import ADVANTAGE, PENALTIES, make_part, make_parts
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Column, Sample
from loop_rl.inspection.find import find_rollout
from loop_rl.machine.command import run_command
from loop_rl.store.rollout_files import read_group
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates
from loop_rl.training.batching import MicroBatch, average_of, collate, size_of
from loop_rl.training.model import PolicyModel, load_llm

_MIN_WIDTH = 175  # of the table, where the output is no terminal or a narrow one


@dataclass(frozen=True)
class TokenLoss:
    """One action token."""

    position: int
    """In the tokens of its sequence, from 0."""
    turn: int
    """From 1."""
    token_id: int
    policy_version: int
    columns: dict[str, float]
    """What the objective reads, by name."""
    logprob: float
    """log pi_theta."""
    shown: dict[str, float]
    """What the objective shows, by name."""
    objective: float
    weight: float
    entropy: float
    """In nats."""


@torch.no_grad()
def token_losses(
    rollout: Rollout,
    advantage: Column,
    policy: PolicyModel,
    config: Config,
    others: Mapping[str, PolicyModel] | None = None,
) -> tuple[list[TokenLoss], float]:
    """Every action token of a rollout, and the loss of a minibatch that holds this rollout alone.

    Args:
        others: by column: for "recomputed" the policy that the iteration started from, for "reference" the untouched model;
            those that the objective reads.

    Raises:
        ConfigError: the rollout has no action token, or the objective compares pairs.
    """
    if not rollout.num_action_tokens:
        raise ConfigError(f"{rollout.rollout_id}: ended before its first action ({rollout.end_reason}); it has no loss")
    objective = make_objective(config)
    if objective.compares_pairs:
        raise ConfigError(
            f"algorithm.objective: {config.algorithm.objective} is one number for a pair of rollouts; no token has a loss of its own"
        )
    samples = rollout.samples({"advantage": advantage})
    for name in COMPUTED & objective.reads:
        of_other_N, _ = _forward(others[name], _batch(samples, (), config, others[name]))
        for sample, part_n in zip(samples, of_other_N.split([s.num_action_tokens for s in samples]), strict=True):
            sample.columns[name] = part_n.tolist()
    batch = _batch(samples, objective.reads, config, policy)
    logprobs_N, entropies_N = _forward(policy, batch)
    terms = objective(logprobs_N, replace(batch, entropies_N=entropies_N))
    loss = policy_loss(terms.objective_N, batch.weights_N).item()
    rows_N = zip(
        (batch.positions_N + 1).tolist(),  # batch.positions_N are those of the tokens before
        [turn + 1 for sample in samples for turn in sample.turns],
        batch.targets_N.tolist(),
        batch.versions_N.tolist(),
        _rows({name: batch.columns_N[name] for name in sorted(objective.reads, key=_reading_order)}),
        logprobs_N.tolist(),
        _rows(terms.shown) if terms.shown else [{}] * logprobs_N.numel(),
        terms.objective_N.tolist(),
        batch.weights_N.tolist(),
        entropies_N.tolist(),
        strict=True,
    )
    return [TokenLoss(*row) for row in rows_N], loss


def _batch(samples: list[Sample], columns: Collection[str], config: Config, policy: PolicyModel) -> MicroBatch:
    minibatch = size_of(samples, range(len(samples)))
    return collate(samples, columns, average_of(config), minibatch).to(next(policy.parameters()).device)


def _forward(policy: PolicyModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    return policy(batch.input_ids_BT, batch.rows_N, batch.positions_N, batch.targets_N)


def _rows(columns_N: Mapping[str, Tensor]) -> list[dict[str, float]]:
    """Named tensors [N], token by token."""
    return [
        dict(zip(columns_N, row, strict=True)) for row in zip(*(c.tolist() for c in columns_N.values()), strict=True)
    ]


def load_policy(run: RunDir, config: Config, version: int) -> PolicyModel:
    """A policy version as the trainer has it, on the GPU if there is one.

    Raises:
        ConfigError: the run has no such version.
        OSError: config.model.path holds no model.
    """
    run.require_version(version)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    llm = load_llm(config, run.policy_folder(version) if version else None, device)
    return PolicyModel(llm, config.agent.temperature, config.trainer.logprob_chunk_tokens).eval()


def advantage_of(run: RunDir, rollout: Rollout) -> tuple[Column, str]:
    """The advantage of a training rollout, and where it comes from.

    Raises:
        ConfigError: a rollout that belongs to no iteration.
        ValueError: a file of the run is damaged.
    """
    if rollout.iteration < 0:
        raise ConfigError(
            f"{rollout.rollout_id}: belongs to no iteration, like all rollouts of evaluations and of groups that are not "
            "finished or were dropped, and so has no advantage; take one of rollouts/train"
        )
    updates = run.update_file(rollout.iteration)
    if updates.exists():
        for update in read_updates(updates, {rollout.rollout_id}):
            return (
                update.advantages or update.advantage,
                "trained on" if update.trained else "left out of training by the filter",
            )
    if any(penalty.charges for penalty in make_parts(PENALTIES, run.config)):
        raise ConfigError(
            f"{rollout.rollout_id}: not trained on yet, and what a penalty takes off its reward is known only then"
        )
    estimator = make_part(ADVANTAGE, run.config)
    if estimator.reads:
        raise ConfigError(
            f"{rollout.rollout_id}: not trained on yet, and what the critic expects of it is known only then"
        )
    group = read_group(run.group_file(rollout.group_id))
    index = [other.rollout_id for other in group.rollouts].index(rollout.rollout_id)
    return estimator(group.rollouts)[index]["advantage"], "not trained on yet"


def loss_table(tokens: list[TokenLoss], texts: list[str], title: str) -> Table:
    """Rows are tokens; texts[i] is what tokens[i] stands for, as it is."""
    table = Table(title=title)
    headings = ("position", "turn", "token", "version", *tokens[0].columns, "theta", *tokens[0].shown)
    for heading in (*headings, "objective", "weight", "entropy"):
        table.add_column(heading, justify="left" if heading == "token" else "right", no_wrap=True)
    for token, text in zip(tokens, texts, strict=True):
        table.add_row(
            str(token.position),
            str(token.turn),
            Text(repr(text)),  # escapes line ends and everything that a terminal would obey
            str(token.policy_version),
            *map(_cell, token.columns.values()),
            f"{token.logprob:.5f}",
            *map(_cell, token.shown.values()),
            f"{token.objective:+.5f}",
            f"{token.weight:.5f}",
            f"{token.entropy:.4f}",
        )
    return table


def _cell(value: float | bool) -> str:
    return ("yes" if value else "") if isinstance(value, bool) else f"{value:.5f}"


def _reading_order(name: str) -> tuple[bool, str]:
    """Log-probabilities first."""
    return name not in ("behaviour", *COMPUTED), name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--rollout", required=True, metavar="ID", help="id of a training rollout")
    parser.add_argument("--version", type=int, help="policy version (default: the one its iteration started from)")
    args = parser.parse_args()
    return run_command(lambda: _debug_loss(args), "stopped")


def _debug_loss(args: argparse.Namespace) -> None:
    run = RunDir.open(args.run_dir)
    config, rollout = run.config, find_rollout(run, args.rollout)
    advantage, trained = advantage_of(run, rollout)
    version = rollout.iteration if args.version is None else args.version
    tokenizer = load_tokenizer(config.model.path)
    disable_progress_bar()
    policy = load_policy(run, config, version)
    versions = {"recomputed": rollout.iteration, "reference": 0}
    others = {
        name: policy if versions[name] == version else load_policy(run, config, versions[name])
        for name in COMPUTED & make_objective(config).reads
    }
    tokens, loss = token_losses(rollout, advantage, policy, config, others)
    texts = [tokenizer.decode([token.token_id]) for token in tokens]
    console = Console(highlight=False)
    console.width = max(console.width, _MIN_WIDTH)
    console.print(loss_table(tokens, texts, f"{rollout.rollout_id} under policy version {version}"))
    total = -sum(token.weight * token.objective for token in tokens)
    num_clipped = sum(token.shown.get("clipped", False) for token in tokens)
    console.print(
        f"sum of -weight * objective over {len(tokens)} tokens: {total:.8f}; policy_loss: {loss:.8f}; "
        f"clipped: {num_clipped}; {trained}"
    )


if __name__ == "__main__":
    sys.exit(main())
