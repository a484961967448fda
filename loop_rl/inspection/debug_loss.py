"""The loss of one rollout, token by token, with the trainer's own functions, on one GPU or without.

    loop_rl debug-loss runs/tiny --rollout g000003-k1                # under the policy its iteration started from
    loop_rl debug-loss runs/tiny --rollout g000003-k1 --version 7    # under another

A line is one action token: its place in the episode and its turn; the log-probability it was sampled with (behaviour)
and the policy version that sampled it; its log-probability under the policy that the importance ratio is to (proximal:
that of behaviour, or with algorithm.ratio_to=recomputed under the policy that the iteration started from) and under the
policy that is debugged (theta); the importance ratio, and whether the clip takes its gradient away; the rollout's
advantage; the importance weight, which multiplies the objective; objective and weight, whose products with a minus sign
add up to the rollout's loss; the entropy of theta in nats. A minibatch's loss is the mean of its rollouts'.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from loop_rl.agents.chat import load_tokenizer
from loop_rl.algorithms.advantages.leave_one_out import leave_one_out
from loop_rl.algorithms.aggregation import policy_loss
from loop_rl.algorithms.importance import importance_weights
from loop_rl.algorithms.objectives.clipped import clipped_surrogate
from loop_rl.config.base import ConfigError
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout
from loop_rl.data.samples import Sample
from loop_rl.inspection.find import find_rollout
from loop_rl.machine.command import run_command
from loop_rl.store.rollout_files import read_group
from loop_rl.store.run_dir import RunDir
from loop_rl.store.updates import read_updates
from loop_rl.training.batching import collate
from loop_rl.training.model import PolicyModel, load_llm

_MIN_WIDTH = 175  # of the table, where the output is no terminal or a narrow one


@dataclass(frozen=True)
class TokenLoss:
    """One action token."""

    position: int
    """In the episode's tokens, from 0."""
    turn: int
    """From 1."""
    token_id: int
    behaviour_logprob: float
    policy_version: int
    proximal_logprob: float
    """What the ratio divides by."""
    logprob: float
    """log pi_theta."""
    ratio: float
    clipped: bool
    advantage: float
    importance_weight: float
    objective: float
    """Multiplied by the importance weight."""
    weight: float
    entropy: float
    """In nats."""


@torch.no_grad()
def recomputed_logprobs(rollout: Rollout, policy: PolicyModel) -> list[float]:
    """Of the rollout's action tokens under a policy: under the one its iteration started from, `token_losses` needs them
    where `algorithm.ratio_to` is `recomputed`."""
    batch = collate([Sample(rollout.flatten(), 0.0)], num_rollouts=1).to(next(policy.parameters()).device)
    return policy(batch.input_ids_BT, batch.rows_N, batch.positions_N, batch.targets_N)[0].tolist()


@torch.no_grad()
def token_losses(
    rollout: Rollout,
    advantage: float,
    policy: PolicyModel,
    config: Config,
    proximal_logprobs: list[float] | None = None,
) -> tuple[list[TokenLoss], float]:
    """Every action token of a rollout, and the loss of a minibatch that holds this rollout alone.

    Args:
        proximal_logprobs: what the ratio is to; None for those that the tokens were sampled with.

    Raises:
        ConfigError: the rollout has no action token.
    """
    if not rollout.num_action_tokens:
        raise ConfigError(f"{rollout.rollout_id}: ended before its first action ({rollout.end_reason}); it has no loss")
    batch = collate([Sample(rollout.flatten(), advantage, proximal_logprobs)], num_rollouts=1)
    batch = batch.to(next(policy.parameters()).device)
    logprobs_N, entropies_N = policy(batch.input_ids_BT, batch.rows_N, batch.positions_N, batch.targets_N)
    surrogate = clipped_surrogate(
        logprobs_N, batch.proximal_logprobs_N, batch.advantages_N, config.algorithm.clip_epsilon
    )
    importance_N = importance_weights(
        batch.proximal_logprobs_N, batch.behaviour_logprobs_N, config.algorithm.max_importance_weight
    )
    objective_N = importance_N * surrogate.objective_N
    loss = policy_loss(objective_N, batch.weights_N).item()
    columns_N = (
        (batch.positions_N + 1).tolist(),  # batch.positions_N are those of the tokens before
        [index + 1 for index, turn in enumerate(rollout.turns) for _ in turn.action_ids],
        batch.targets_N.tolist(),
        batch.behaviour_logprobs_N.tolist(),
        batch.versions_N.tolist(),
        batch.proximal_logprobs_N.tolist(),
        logprobs_N.tolist(),
        surrogate.log_ratio_N.exp().tolist(),
        surrogate.clipped_N.tolist(),
        batch.advantages_N.tolist(),
        importance_N.tolist(),
        objective_N.tolist(),
        batch.weights_N.tolist(),
        entropies_N.tolist(),
    )
    return [TokenLoss(*row) for row in zip(*columns_N, strict=True)], loss


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


def advantage_of(run: RunDir, rollout: Rollout) -> tuple[float, str]:
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
            return update.advantage, "trained on" if update.trained else "left out of training by the filter"
    group = read_group(run.group_file(rollout.group_id))
    index = [other.rollout_id for other in group.rollouts].index(rollout.rollout_id)
    return leave_one_out(group.rewards)[index], "not trained on yet"


def loss_table(tokens: list[TokenLoss], texts: list[str], title: str) -> Table:
    """Rows are tokens; texts[i] is what tokens[i] stands for, as it is."""
    table = Table(title=title)
    headings = (
        "position",
        "turn",
        "token",
        "behaviour",
        "version",
        "proximal",
        "theta",
        "ratio",
        "clipped",
        "advantage",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "token" else "right", no_wrap=True)
    for heading in ("importance", "objective", "weight", "entropy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for token, text in zip(tokens, texts, strict=True):
        table.add_row(
            str(token.position),
            str(token.turn),
            Text(repr(text)),  # escapes line ends and everything that a terminal would obey
            f"{token.behaviour_logprob:.5f}",
            str(token.policy_version),
            f"{token.proximal_logprob:.5f}",
            f"{token.logprob:.5f}",
            f"{token.ratio:.5f}",
            "yes" if token.clipped else "",
            f"{token.advantage:+.4f}",
            f"{token.importance_weight:.5f}",
            f"{token.objective:+.5f}",
            f"{token.weight:.5f}",
            f"{token.entropy:.4f}",
        )
    return table


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
    policy, proximal = load_policy(run, config, version), None
    if config.algorithm.ratio_to == "recomputed":
        start = policy if version == rollout.iteration else load_policy(run, config, rollout.iteration)
        proximal = recomputed_logprobs(rollout, start)
    tokens, loss = token_losses(rollout, advantage, policy, config, proximal)
    texts = [tokenizer.decode([token.token_id]) for token in tokens]
    console = Console(highlight=False)
    console.width = max(console.width, _MIN_WIDTH)
    console.print(loss_table(tokens, texts, f"{rollout.rollout_id} under policy version {version}"))
    total = -sum(token.weight * token.objective for token in tokens)
    num_clipped = sum(token.clipped for token in tokens)
    console.print(
        f"sum of -weight * objective over {len(tokens)} tokens: {total:.8f}; policy_loss: {loss:.8f}; "
        f"clipped: {num_clipped}; {trained}"
    )


if __name__ == "__main__":
    sys.exit(main())
