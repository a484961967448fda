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

from loop_rl.data.rollout import Group, Rollout
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
    ratio: str = "token"
    average: str = "rollout"


def sequences(rollout: Rollout) -> list[tuple[list[int], list[int], list[float], list[int]]]:
    """What the policy is asked to continue, one list of tokens for all turns, or where turns start anew one for each; with
    the places of its actions, their behaviour log-probabilities, and the number of the turn of each."""
    found = []
    for number, turn in enumerate(rollout.turns):
        if number == 0 or not turn.extends:
            found.append(([], [], [], []))
        tokens, places, logprobs, turns = found[-1]
        tokens.extend(turn.context_ids)
        for token, logprob in zip(turn.action_ids, turn.logprobs, strict=True):
            places.append(len(tokens))
            tokens.append(token)
            logprobs.append(logprob)
            turns.append(number)
    return found


def action_distributions(
    model: nn.Module, rollout: Rollout, temperature: float
) -> tuple[torch.Tensor, list, list, list]:
    """Log-probabilities of the whole vocabulary at each action token of a rollout, the tokens, their behaviour
    log-probabilities and turns."""
    rows, chosen, behaviour, turns = [], [], [], []
    for tokens, places, logprobs, numbers in sequences(rollout):
        logits = model(input_ids=torch.tensor([tokens])).logits[0] / temperature
        rows.append(torch.log_softmax(logits, dim=-1)[[place - 1 for place in places]])
        chosen += [tokens[place] for place in places]
        behaviour += logprobs
        turns += numbers
    return torch.cat(rows), chosen, behaviour, turns


def loop_update(model: nn.Module, groups: list[Group], iteration: int, args: Args) -> tuple[dict, dict]:
    """One iteration's update of the model's trainable weights, in place, with a fresh AdamW.

    Returns the figures, and the last epoch's log-probabilities and entropies by the id of the rollout.
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
        with torch.no_grad():
            distributions, chosen, behaviour, _ = action_distributions(model, rollout, args.temperature)
        start_logprobs.append([distributions[t, token].item() for t, token in enumerate(chosen)])
        importance += [math.exp(ours) / math.exp(b) for ours, b in zip(start_logprobs[-1], behaviour, strict=True)]

    # Update: N epochs over shuffled minibatches.
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=args.weight_decay)
    minibatch_losses, grad_norms, ratios, clipped, kls, entropies = [], [], [], [], [], []
    tokens = {}
    for epoch in range(args.epochs):
        for minibatch in shuffled_minibatches(len(rollouts), args.minibatch_rollouts, args.seed, iteration, epoch):
            optimizer.zero_grad()
            loss = 0.0
            num_minibatch_tokens = sum(rollouts[index].num_action_tokens for index in minibatch)
            for index in minibatch:
                distributions, chosen, behaviour, turns = action_distributions(model, rollouts[index], args.temperature)
                logprobs = [distributions[t, token] for t, token in enumerate(chosen)]
                reference = behaviour if args.ratio_to == "behaviour" else start_logprobs[index]
                terms = []
                for t, logprob in enumerate(logprobs):
                    # The tokens that share a ratio with this one.
                    sharing = [u for u in range(len(logprobs)) if turns[u] == turns[t] or args.ratio == "trajectory"]
                    ratio = 1.0
                    for u in [t] if args.ratio == "token" else sharing:
                        ratio = ratio * logprobs[u].exp() / math.exp(reference[u])
                    weight = math.exp(reference[t]) / math.exp(behaviour[t])
                    if args.max_importance_weight > 0 and weight > args.max_importance_weight:
                        weight = args.max_importance_weight
                    free = ratio * advantages[index]
                    bounded = ratio.clamp(1 - args.clip_epsilon, 1 + args.clip_epsilon) * advantages[index]
                    terms.append(weight * torch.minimum(free, bounded))
                    ratios.append(ratio.item())
                    clipped.append(bounded.item() < free.item())
                    own = logprob.exp() / math.exp(reference[t])
                    kls.append((own - 1 - own.log()).item())
                    entropies.append(-(distributions[t].exp() * distributions[t]).sum().item())
                tokens[rollouts[index].rollout_id] = {
                    "logprobs": [logprob.item() for logprob in logprobs],
                    "entropies": entropies[-len(logprobs) :],
                }
                if args.average == "rollout":
                    value = sum(terms) / len(terms) / len(minibatch)
                elif args.average == "token":
                    value = sum(terms) / num_minibatch_tokens
                else:
                    by_turn = [
                        [term for term, of in zip(terms, turns, strict=True) if of == turn] for turn in set(turns)
                    ]
                    value = sum(sum(part) / len(part) for part in by_turn) / len(by_turn) / len(minibatch)
                loss = loss - value
            loss.backward()
            minibatch_losses.append((loss.item(), len(minibatch)))
            grad_norms.append(nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item())
            optimizer.step()

    num_rollouts = sum(size for _, size in minibatch_losses)

    def mean(values: list) -> float:
        return sum(values) / len(values)

    figures = {
        "loss": sum(loss * size for loss, size in minibatch_losses) / num_rollouts,
        "grad_norm": mean(grad_norms),
        "grad_norm_max": max(grad_norms),
        "ratio_mean": mean(ratios),
        "ratio_max": max(ratios),
        "clip_share": mean(clipped),
        "approx_kl": mean(kls),
        "entropy": mean(entropies),
        "num_steps": len(grad_norms),
        "num_rollouts": num_rollouts,
        "num_action_tokens": len(ratios),
    }
    if args.ratio_to == "recomputed":
        limit = args.max_importance_weight or math.inf
        figures["importance_weight_mean"] = mean([min(weight, limit) for weight in importance])
        figures["importance_weight_max"] = max(importance)
        figures["importance_truncated_share"] = mean([weight > limit for weight in importance])
    return figures, tokens
