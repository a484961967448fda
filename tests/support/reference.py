"""LOOP's update, Algorithm 1 of arXiv 2502.01600, the slow way: one process, one rollout at a time, whole logits.

    loop_update(model, groups, iteration=0, args=Args())

Shares with loop_rl only the data types and the order of the shuffle, so that the fast trainer can be held against it.
Left out on purpose: padding, micro-batches, ranks, sharding, recomputation, chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from loop_rl.data.rollout import Group
from loop_rl.training.batching import shuffled_minibatches


@dataclass
class Args:
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    clip_epsilon: float = 0.1
    min_abs_advantage: float = 0.01
    epochs: int = 2
    minibatch_rollouts: int = 32
    temperature: float = 1.0
    seed: int = 0
    ratio_to: str = "behaviour"
    max_importance_weight: float = 0.0


def loop_update(model: nn.Module, groups: list[Group], iteration: int, args: Args) -> tuple[dict, dict]:
    """One iteration's update of the model's trainable weights, in place, with a fresh AdamW.

    Returns the figures, and the last epoch's log-probabilities and entropies by index of the rollout that was kept.
    """
    # Advantage: A_k = R_k - mean of the others' rewards; and the filter.
    rollouts, advantages = [], []
    for group in groups:
        for k, rollout in enumerate(group.rollouts):
            others = [other.reward for j, other in enumerate(group.rollouts) if j != k]
            advantage = rollout.reward - sum(others) / len(others)
            if abs(advantage) >= args.min_abs_advantage:
                rollouts.append(rollout)
                advantages.append(advantage)

    # Where the ratio is not to the behaviour policy: to the policy as it is before the first step.
    start_logprobs, importance = [], []
    for rollout in rollouts:
        sequence = rollout.flatten()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([sequence.token_ids])).logits[0] / args.temperature
            start_logprobs.append(torch.log_softmax(logits, dim=-1))
        for t, is_action in enumerate(sequence.action_mask):
            if is_action:
                start = start_logprobs[-1][t - 1, sequence.token_ids[t]].item()
                importance.append(math.exp(start) / math.exp(sequence.logprobs[t]))

    # Update: N epochs over shuffled minibatches.
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=args.weight_decay)
    rollout_losses, grad_norms, ratios, clipped, kls, entropies = [], [], [], [], [], []
    tokens = {}
    for epoch in range(args.epochs):
        for minibatch in shuffled_minibatches(len(rollouts), args.minibatch_rollouts, args.seed, iteration, epoch):
            optimizer.zero_grad()
            for index in minibatch:
                sequence, advantage = rollouts[index].flatten(), advantages[index]
                logits = model(input_ids=torch.tensor([sequence.token_ids])).logits[0] / args.temperature
                distributions = torch.log_softmax(logits, dim=-1)
                terms, logprobs = [], []
                for t, is_action in enumerate(sequence.action_mask):
                    if not is_action:
                        continue
                    log_pi = distributions[t - 1]
                    logprobs.append(log_pi[sequence.token_ids[t]].item())
                    pi, pi_behaviour = log_pi[sequence.token_ids[t]].exp(), math.exp(sequence.logprobs[t])
                    ratio, weight = pi / pi_behaviour, 1.0
                    if args.ratio_to == "recomputed":
                        pi_start = start_logprobs[index][t - 1, sequence.token_ids[t]].exp()
                        ratio, weight = pi / pi_start, (pi_start / pi_behaviour).item()
                        if args.max_importance_weight > 0 and weight > args.max_importance_weight:
                            weight = args.max_importance_weight
                    free, bounded = (
                        ratio * advantage,
                        ratio.clamp(1 - args.clip_epsilon, 1 + args.clip_epsilon) * advantage,
                    )
                    terms.append(weight * torch.minimum(free, bounded))
                    ratios.append(ratio.item())
                    clipped.append(bounded.item() < free.item())
                    kls.append((ratio - 1 - ratio.log()).item())
                    entropies.append(-(log_pi.exp() * log_pi).sum().item())
                tokens[index] = {"logprobs": logprobs, "entropies": entropies[-len(logprobs) :]}
                loss = -torch.stack(terms).mean()
                (loss / len(minibatch)).backward()
                rollout_losses.append(loss.item())
            grad_norms.append(nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item())
            optimizer.step()

    def mean(values: list) -> float:
        return sum(values) / len(values)

    figures = {
        "loss": mean(rollout_losses),
        "grad_norm": mean(grad_norms),
        "grad_norm_max": max(grad_norms),
        "ratio_mean": mean(ratios),
        "ratio_max": max(ratios),
        "clip_share": mean(clipped),
        "approx_kl": mean(kls),
        "entropy": mean(entropies),
        "num_steps": len(grad_norms),
        "num_rollouts": len(rollout_losses),
        "num_action_tokens": len(ratios),
    }
    if args.ratio_to == "recomputed":
        limit = args.max_importance_weight or math.inf
        figures["importance_weight_mean"] = mean([min(weight, limit) for weight in importance])
        figures["importance_weight_max"] = max(importance)
        figures["importance_truncated_share"] = mean([weight > limit for weight in importance])
    return figures, tokens
