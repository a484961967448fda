"""LOOP's update, Algorithm 1 of arXiv 2502.01600, the slow way: one process, one rollout at a time, whole logits.

    loop_update(model, groups, iteration=0, args=Args())

Shares with loop_rl only the data types and the order of the shuffle, so that the fast trainer can be held against it.
Left out on purpose: padding, micro-batches, ranks, sharding, recomputation, chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
    importance: str = "truncate"
    min_importance_weight: float = 0.0
    max_mean_log_weight: float = 0.0
    ratio: str = "token"
    average: str = "rollout"
    average_tokens: int | None = None
    minibatch_mean: str = "own"
    advantage: str = "leave_one_out"
    divide_by_std: bool = False
    filter: str = "informative"
    objective: str = "clipped"
    clip_high: float | None = None
    dual_clip: float = 0.0
    max_ratio: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: str = "k3"
    kl_in: str = "loss"
    entropy_coefficient: float = 0.0
    max_iteration_kl: float = 0.0
    min_difference: float = 0.1
    turn_discount: float | None = None
    beta: float = 0.1
    preferred_to: str = "recomputed"
    gamma: float = 1.0
    gae_lambda: float = 1.0
    gamma_token: float = 1.0
    lambda_token: float = 1.0
    gamma_turn: float = 0.99
    lambda_turn: float = 0.95
    critic: str = "head"
    bootstrap_limits: bool = False
    critic_learning_rate: float = 1e-4
    critic_warmup_iterations: int = 10
    value_clip: float | None = None
    first_token_weight: float = 1.0
    whiten: bool = False
    min_value: float = 0.0
    max_value: float = 1.0


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


def divergence(logprob, reference: float, estimator: str):
    """One token's k1, k2 or k3 of KL(theta || reference), as Schulman's note has them with r = reference / theta."""
    log_r = reference - logprob
    if estimator == "k1":
        return -log_r
    if estimator == "k2":
        return log_r**2 / 2
    r = log_r.exp() if isinstance(log_r, torch.Tensor) else math.exp(log_r)
    return (r - 1) - log_r


def token_term(t: int, args: Args, logprobs: list, reference: list, weights: list, advantage: float, turns: list):
    """What token t of a rollout contributes, its ratio, and whether a bound takes its gradient; before penalties."""
    # The tokens that share a ratio with this one.
    sharing = {
        "token": [t],
        "turn": [u for u in range(len(logprobs)) if turns[u] == turns[t]],
        "trajectory": range(len(logprobs)),
        "gspo": range(len(logprobs)),
    }[args.ratio]
    ratio = 1.0
    for u in sharing:
        ratio = ratio * logprobs[u].exp() / math.exp(reference[u])
    if args.ratio == "gspo":
        ratio = ratio ** (1 / len(logprobs))
    if args.objective == "likelihood":
        return advantage * logprobs[t], None, None
    if args.objective == "cispo":
        frozen = min(ratio.item(), args.max_ratio)
        return weights[t] * frozen * advantage * logprobs[t], ratio.item(), ratio.item() > args.max_ratio
    free = ratio * advantage
    high = args.clip_epsilon if args.clip_high is None else args.clip_high
    bounded = ratio.clamp(1 - args.clip_epsilon, 1 + high) * advantage
    term, clipped = torch.minimum(free, bounded), bounded.item() < free.item()
    if args.dual_clip and advantage < 0 and term.item() < args.dual_clip * advantage:
        term, clipped = torch.tensor(args.dual_clip * advantage), True
    return weights[t] * term, ratio.item(), clipped


def importance_of(start: list, behaviour: list, args: Args) -> list[float]:
    """The weight of each token of a rollout."""
    logs = [ours - theirs for ours, theirs in zip(start, behaviour, strict=True)]
    weights = []
    for log in logs:
        weight = math.exp(log)
        if args.importance == "mask":
            weight = weight if args.min_importance_weight <= weight <= args.max_importance_weight else 0.0
        elif args.max_importance_weight:
            weight = min(weight, args.max_importance_weight)
        weights.append(weight)
    if args.max_mean_log_weight and abs(sum(logs) / len(logs)) > args.max_mean_log_weight:
        weights = [0.0] * len(weights)
    return weights


def mean_over_minibatch(terms: list, turns: list, args: Args, num_rollouts: int, num_tokens: int):
    """One rollout's part of it."""
    missing = num_rollouts / args.minibatch_rollouts if args.minibatch_mean == "full" else 1.0
    if args.average == "rollout":
        return missing * sum(terms) / len(terms) / num_rollouts
    if args.average == "token":
        return missing * sum(terms) / num_tokens
    if args.average == "sum":
        return missing * sum(terms) / args.average_tokens / num_rollouts
    by_turn = [[term for term, of in zip(terms, turns, strict=True) if of == turn] for turn in set(turns)]
    return missing * sum(sum(part) / len(part) for part in by_turn) / len(by_turn) / num_rollouts


def choose(groups: list[Group], charges: dict[str, list[float]], args: Args) -> tuple[list[Rollout], list[float]]:
    """The rollouts that are trained on, and their advantages."""
    rollouts, advantages = [], []
    for group in groups:
        rewards = [rollout.reward - sum(charges[rollout.rollout_id]) for rollout in group.rollouts]
        mean = sum(rewards) / len(rewards)
        std = max(math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards)), 1e-7)
        for k, rollout in enumerate(group.rollouts):
            others = [reward for j, reward in enumerate(rewards) if j != k]
            apart = max(rewards) - min(rewards) > args.min_difference
            advantage = {
                "leave_one_out": rewards[k] - sum(others) / len(others),
                "group_mean": rewards[k] - mean,
                "imitate": 1.0,
                "pair": apart * ((k == rewards.index(max(rewards))) - (k == rewards.index(min(rewards)))),
            }[args.advantage]
            if args.divide_by_std:
                advantage /= std
            if rollout.success if args.filter == "successful" else abs(advantage) >= args.min_abs_advantage:
                rollouts.append(rollout)
                advantages.append(advantage)
    return rollouts, advantages


def logprobs_of(model: nn.Module, groups: list[Group], args: Args) -> tuple[dict, dict]:
    """Log-probabilities by the id of the rollout, under the policy as it is and, where a KL asks, under the untouched model."""
    own, of_base = {}, {}
    for rollout in [rollout for group in groups for rollout in group.rollouts]:
        with torch.no_grad():
            distributions, chosen, _, _ = action_distributions(model, rollout, args.temperature)
            own[rollout.rollout_id] = [distributions[t, token].item() for t, token in enumerate(chosen)]
            if args.kl_coefficient or args.preferred_to == "reference":
                with model.disable_adapter():
                    distributions, _, _, _ = action_distributions(model, rollout, args.temperature)
                of_base[rollout.rollout_id] = [distributions[t, token].item() for t, token in enumerate(chosen)]
    return own, of_base


def charges_of(own: dict, of_base: dict, args: Args) -> dict[str, list[float]]:
    """What is taken off the reward at each token of each rollout."""
    if not args.kl_coefficient or args.kl_in == "loss":
        return {rollout_id: [0.0] * len(logprobs) for rollout_id, logprobs in own.items()}
    return {
        rollout_id: [
            args.kl_coefficient * divergence(a, b, args.kl_estimator)
            for a, b in zip(own[rollout_id], of_base[rollout_id], strict=True)
        ]
        for rollout_id in own
    }


def variance(values: list[float]) -> float:
    """Of a population."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def hidden_states(model: nn.Module, rollout: Rollout) -> torch.Tensor:
    """[tokens, width], what a critic sees of each action token."""
    found = []
    for tokens, places, _, _ in sequences(rollout):
        states = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0]
        found += [states[place - 1] for place in places]
    return torch.stack(found)


def values_of(critic: nn.ModuleDict, model: nn.Module, rollout: Rollout) -> torch.Tensor:
    """[tokens]. A critic is a `head` on what the policy sees, or on what a model of its own does, its `llm`."""
    if "llm" in critic:
        return critic["head"](hidden_states(critic["llm"], rollout)).flatten()
    with torch.no_grad():
        states = hidden_states(model, rollout)
    return critic["head"](states).flatten()


def value_of_next(critic: nn.Module, model: nn.Module, rollout: Rollout, args: Args) -> float:
    """What a critic makes of what would have been read next."""
    if not rollout.next_ids or not (args.bootstrap_limits or rollout.end_reason == "goes_on"):
        return 0.0
    with torch.no_grad():
        reader = dict(critic.items()).get("llm", model)
        states = reader(input_ids=torch.tensor([rollout.next_ids]), output_hidden_states=True).hidden_states[-1][0]
        return min(max(critic["head"](states[-1]).item(), args.min_value), args.max_value)


def value_error(value, old: float, target: float, args: Args):
    """Squared, of one token; at least that of the value kept near the old one."""
    error = (value - target) ** 2
    if args.value_clip is None:
        return error
    near = min(max(value, old - args.value_clip), old + args.value_clip)
    return max(error, (near - target) ** 2)


def critic_advantages(
    rollout: Rollout, values: list[float], charges: list[float], rest: float, args: Args
) -> list[float]:
    """A_t, the sum over all later tokens u of (gamma lambda)^(u - t) (r_u + gamma V_(u+1) - V_u)."""
    rewards = []
    for turn in rollout.turns:
        rewards += [0.0] * (len(turn.action_ids) - 1) + [turn.reward]
    rewards[-1] += rollout.score
    rewards = [reward - charge for reward, charge in zip(rewards, charges, strict=True)]
    if args.advantage == "dual_gae":
        turns = [number for number, turn in enumerate(rollout.turns) for _ in turn.action_ids]
        advantages = [0.0] * len(values)
        for t in reversed(range(len(values))):
            crosses = t + 1 == len(values) or turns[t + 1] != turns[t]
            gamma, lam = (args.gamma_turn, args.lambda_turn) if crosses else (args.gamma_token, args.lambda_token)
            next_value, next_advantage = (values[t + 1], advantages[t + 1]) if t + 1 < len(values) else (rest, 0.0)
            advantages[t] = rewards[t] + gamma * next_value - values[t] + gamma * lam * next_advantage
        return advantages
    following = [*values[1:], rest]
    deltas = [r + args.gamma * after - v for r, after, v in zip(rewards, following, values, strict=True)]
    decay = args.gamma * args.gae_lambda
    return [sum(decay ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]


def loop_update(
    model: nn.Module, groups: list[Group], iteration: int, args: Args, critic: nn.ModuleDict | None = None
) -> tuple[dict, dict]:
    """One iteration's update of the model's trainable weights, and of the critic's, in place, each with a fresh AdamW.

    Returns the figures, and the last epoch's log-probabilities and entropies by the id of the rollout.
    """
    start, of_base = logprobs_of(model, groups, args)
    charges = charges_of(start, of_base, args)

    # Advantage: A_k = R_k - mean of the others' rewards, or another one; and the filter.
    returns, first_values = {}, {}
    if critic:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        advantages = []
        for rollout in rollouts:
            with torch.no_grad():
                values = values_of(critic, model, rollout).clamp(args.min_value, args.max_value).tolist()
            rest = value_of_next(critic, model, rollout, args)
            advantages.append(critic_advantages(rollout, values, charges[rollout.rollout_id], rest, args))
            first_values[rollout.rollout_id] = values
            returns[rollout.rollout_id] = [a + v for a, v in zip(advantages[-1], values, strict=True)]
        if args.whiten:
            numbers = [a for of_rollout in advantages for a in of_rollout]
            mean, std = sum(numbers) / len(numbers), math.sqrt(variance(numbers))
            advantages = [[(a - mean) / std for a in of_rollout] for of_rollout in advantages]
        critic_weights = [p for p in critic.parameters() if p.requires_grad]
        critic_optimizer = torch.optim.AdamW(critic_weights, lr=args.critic_learning_rate, weight_decay=0.0)
    else:
        rollouts, advantages = choose(groups, charges, args)
    value_losses, value_grad_norms = [], []
    if args.objective == "preference":
        return preference_update(model, rollouts, advantages, start, of_base, iteration, args)

    # Update: N epochs over shuffled minibatches.
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=args.weight_decay)
    minibatch_losses, grad_norms, ratios, clipped, kls, entropies, kls_to_base = [], [], [], [], [], [], []
    logprob_sum, tokens, stopped = 0.0, {}, False
    minibatches = [
        minibatch
        for epoch in range(args.epochs)
        for minibatch in shuffled_minibatches(len(rollouts), args.minibatch_rollouts, args.seed, iteration, epoch)
    ]
    for minibatch in minibatches:
        optimizer.zero_grad()
        loss, value_loss, log_ratio_sum, seen = 0.0, 0.0, 0.0, {}
        num_minibatch_tokens = sum(rollouts[index].num_action_tokens for index in minibatch)
        for index in minibatch:
            rollout = rollouts[index]
            distributions, chosen, behaviour, turns = action_distributions(model, rollout, args.temperature)
            logprobs = [distributions[t, token] for t, token in enumerate(chosen)]
            reference = behaviour if args.ratio_to == "behaviour" else start[rollout.rollout_id]
            importance = importance_of(reference, behaviour, args)
            terms = []
            if critic:
                errors = []
                for t, value in enumerate(values_of(critic, model, rollout)):
                    is_first = t == 0 or turns[t] != turns[t - 1]
                    old, target = first_values[rollout.rollout_id][t], returns[rollout.rollout_id][t]
                    errors.append(
                        (args.first_token_weight if is_first else 1.0) * value_error(value, old, target, args)
                    )
                value_loss = value_loss + mean_over_minibatch(errors, turns, args, len(minibatch), num_minibatch_tokens)
            for t, logprob in enumerate(logprobs):
                advantage = advantages[index][t] if critic else advantages[index]
                term, ratio, is_clipped = token_term(t, args, logprobs, reference, importance, advantage, turns)
                entropy = -(distributions[t].exp() * distributions[t]).sum()
                if args.kl_coefficient and args.kl_in == "loss":
                    kl = divergence(logprob, of_base[rollout.rollout_id][t], args.kl_estimator)
                    term = term - args.kl_coefficient * kl
                    kls_to_base.append(kl.item())
                term = term + args.entropy_coefficient * entropy
                terms.append(term)
                ratios.append(ratio)
                clipped.append(is_clipped)
                own = logprob.exp() / math.exp(reference[t])
                kls.append((own - 1 - own.log()).item())
                entropies.append(entropy.item())
                logprob_sum += logprob.item()
                log_ratio_sum += logprob.item() - reference[t]
            seen[rollout.rollout_id] = {
                "logprobs": [logprob.item() for logprob in logprobs],
                "entropies": entropies[-len(logprobs) :],
            }
            loss = loss - mean_over_minibatch(terms, turns, args, len(minibatch), num_minibatch_tokens)
        minibatch_losses.append((loss.item(), len(minibatch)))
        if args.max_iteration_kl and abs(log_ratio_sum / len(minibatch)) > args.max_iteration_kl:
            stopped = True
            break
        tokens |= seen
        if critic:
            critic_optimizer.zero_grad()
            value_loss.backward()
            value_grad_norms.append(nn.utils.clip_grad_norm_(critic_weights, args.max_grad_norm).item())
            critic_optimizer.step()
            value_losses.append(value_loss.item() * len(minibatch))
            if iteration < args.critic_warmup_iterations:
                grad_norms.append(0.0)
                continue
        loss.backward()
        grad_norms.append(nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item())
        optimizer.step()

    num_rollouts = sum(size for _, size in minibatch_losses)

    def mean(values: list) -> float:
        return sum(values) / len(values)

    figures = {
        "loss": sum(loss * size for loss, size in minibatch_losses) / num_rollouts,
        "grad_norm": mean(grad_norms),
        "grad_norm_max": max(grad_norms),
        "entropy": mean(entropies),
        "num_steps": len(grad_norms),
        "num_rollouts": num_rollouts,
        "num_action_tokens": len(ratios),
    }
    if args.objective == "likelihood":
        figures["logprob_mean"] = logprob_sum / len(ratios)
    else:
        figures |= {
            "ratio_mean": mean(ratios),
            "ratio_max": max(ratios),
            "clip_share": mean(clipped),
            "approx_kl": mean(kls),
        }
    if critic:
        figures["value_loss"] = sum(value_losses) / num_rollouts
        figures["value_grad_norm"] = mean(value_grad_norms)
        pairs = [
            (value, target)
            for rollout_id, values in first_values.items()
            for value, target in zip(values, returns[rollout_id], strict=True)
        ]
        targets = [target for _, target in pairs]
        errors = [target - value for value, target in pairs]
        figures["explained_variance"] = 1 - variance(errors) / variance(targets)
    if kls_to_base:
        figures["kl_to_base"] = mean(kls_to_base)
    if args.max_iteration_kl:
        figures["stopped_by_kl"] = float(stopped)
    if args.ratio_to == "recomputed" and args.objective != "likelihood":
        pairs = [(start[r.rollout_id], [logprob for turn in r.turns for logprob in turn.logprobs]) for r in rollouts]
        free = [math.exp(ours - theirs) for pair in pairs for ours, theirs in zip(*pair, strict=True)]
        by_token = replace(args, max_mean_log_weight=0.0)
        used = [weight for pair in pairs for weight in importance_of(*pair, by_token)]
        figures["importance_weight_mean"] = mean(used)
        figures["importance_weight_max"] = max(free)
        figures["importance_truncated_share"] = mean([a != b for a, b in zip(free, used, strict=True)])
    return figures, tokens


def preference_update(
    model: nn.Module, rollouts: list[Rollout], signs: list[int], start: dict, of_base: dict, iteration: int, args: Args
) -> tuple[dict, dict]:
    """As `loop_update`, of DMPO or DPO on pairs: each two rollouts of a group, the better of which has the sign 1."""
    pairs: dict[int, list[tuple[Rollout, int]]] = {}
    for rollout, sign in zip(rollouts, signs, strict=True):
        pairs.setdefault(rollout.group_id, []).append((rollout, sign))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=args.weight_decay)
    losses, grad_norms, margins, entropies, tokens, num_pairs = [], [], [], [], {}, 0
    for epoch in range(args.epochs):
        for minibatch in shuffled_minibatches(len(pairs), args.minibatch_rollouts // 2, args.seed, iteration, epoch):
            optimizer.zero_grad()
            loss = 0.0
            for index in minibatch:
                margin, num_tokens = 0.0, 0
                for rollout, sign in list(pairs.values())[index]:
                    distributions, chosen, _, turns = action_distributions(model, rollout, args.temperature)
                    reference = (start if args.preferred_to == "recomputed" else of_base)[rollout.rollout_id]
                    places = sorted(set(turns))
                    logprobs, own_entropies = [], []
                    for t, token in enumerate(chosen):
                        logprobs.append(distributions[t, token])
                        own_entropies.append(-(distributions[t].exp() * distributions[t]).sum().item())
                        weight = 1.0
                        if args.turn_discount is not None:  # the share of all discounts that comes from this turn on
                            discounts = [args.turn_discount**k for k in range(len(places))]
                            weight = sum(discounts[places.index(turns[t]) :]) / sum(discounts)
                        margin = margin + args.beta * sign * weight * (logprobs[t] - reference[t])
                    entropies += own_entropies
                    num_tokens += len(chosen)
                    tokens[rollout.rollout_id] = {
                        "logprobs": [logprob.item() for logprob in logprobs],
                        "entropies": own_entropies,
                    }
                margins += [margin.item()] * num_tokens
                loss = loss + torch.log(1 + torch.exp(-margin)) / len(minibatch)
            losses += [loss.item()] * len(minibatch)
            num_pairs += len(minibatch)
            loss.backward()
            grad_norms.append(nn.utils.clip_grad_norm_(weights, args.max_grad_norm).item())
            optimizer.step()
    figures = {
        "loss": sum(losses) / num_pairs,
        "grad_norm": sum(grad_norms) / len(grad_norms),
        "grad_norm_max": max(grad_norms),
        "entropy": sum(entropies) / len(entropies),
        "num_steps": len(grad_norms),
        "num_rollouts": 2 * num_pairs,
        "num_action_tokens": len(entropies),
        "preference_margin": sum(margins) / len(margins),
        # From least to most: rounding decides the margins of a first step, which are 0.
        "preference_accuracy": [sum(margin > bound for margin in margins) / len(margins) for bound in (1e-5, -1e-5)],
    }
    return figures, tokens
