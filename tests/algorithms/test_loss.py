import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.aggregation import policy_loss
from loop_rl.algorithms.figures import TokenSums
from loop_rl.algorithms.importance import importance_weights, weight_figures
from loop_rl.algorithms.objectives import cispo, clipped
from loop_rl.algorithms.objectives.clipped import Settings, clipped_surrogate
from loop_rl.training.batching import MicroBatch

EPSILON = 0.1
# Ratio, advantage, min(r A, clip(r) A), d objective / d log pi = r A where the free term is the smaller, else 0.
BY_HAND = [
    (1.0, 2.0, 2.0, 2.0),
    (1.5, 2.0, 2.2, 0.0),  # good token already more likely: clipped
    (0.5, 2.0, 1.0, 1.0),  # good token less likely: pulled back without bound
    (1.5, -2.0, -3.0, -3.0),  # bad token more likely: pushed down without bound
    (0.5, -2.0, -1.8, 0.0),  # bad token already less likely: clipped
]


def surrogate(ratios, advantages):
    logprobs = torch.tensor([math.log(r) for r in ratios], requires_grad=True)
    return logprobs, clipped_surrogate(logprobs, torch.tensor(advantages), EPSILON)


def terms_of(ratios, advantages, behaviour=None, turns=None, objective=clipped, **settings):
    """What the objective makes of tokens with these ratios to log-probabilities of 0, all of one sample."""
    zeros_N = torch.zeros(len(ratios))
    columns_N = {"advantage": torch.tensor(advantages), "recomputed": zeros_N}
    columns_N["behaviour"] = zeros_N if behaviour is None else torch.tensor(behaviour)
    rows_N, turns_N = torch.zeros(len(ratios), dtype=torch.int64), torch.tensor(turns or [0] * len(ratios))
    batch = MicroBatch(
        zeros_N, 0, rows_N, rows_N, rows_N, columns_N, zeros_N, rows_N, turns_N, rows_N, [len(ratios)], 0
    )
    logprobs_N = torch.tensor([math.log(ratio) for ratio in ratios], requires_grad=True)
    if objective is clipped:
        settings |= {"clip_epsilon": EPSILON}
    return logprobs_N, objective.Objective(objective.Settings(**settings))(logprobs_N, batch)


def sums_of(ratios, advantages, entropies):
    _, terms = terms_of(ratios, advantages)
    return TokenSums.of({**terms.means, "entropy": entropies}, terms.maxima)


def test_ratios_of_turns_and_trajectories_by_hand():
    # Two turns of ratios 2 * 0.6 = 1.2 and 0.5; with A = 1: min(1.2, 1.1) and min(0.5, 0.9). The trajectory: 0.6, A = -1:
    # min(-0.6, -0.9).
    recomputed = {"ratio_to": "recomputed"}
    logprobs, terms = terms_of([2.0, 0.6, 0.5], [1.0] * 3, turns=[0, 0, 1], ratio="turn", **recomputed)
    assert terms.objective_N.tolist() == pytest.approx([1.1, 1.1, 0.5])
    assert terms.shown["clipped"].tolist() == [True, True, False]
    assert terms.shown["ratio"].tolist() == pytest.approx([1.2, 1.2, 0.5])
    terms.objective_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, 0.5])
    logprobs, terms = terms_of([2.0, 0.6, 0.5], [-1.0] * 3, turns=[0, 0, 1], ratio="trajectory", **recomputed)
    assert terms.objective_N.tolist() == pytest.approx([-0.9] * 3) and terms.shown["clipped"].tolist() == [True] * 3
    logprobs, terms = terms_of([2.0, 0.6, 0.5], [1.0] * 3, turns=[0, 0, 1], ratio="trajectory", **recomputed)
    assert terms.objective_N.tolist() == pytest.approx([0.6] * 3)
    terms.objective_N.sum().backward()  # each token's term moves with every token of the trajectory
    assert logprobs.grad.tolist() == pytest.approx([1.8] * 3)


def test_clip_higher_and_dual_clip_by_hand():
    # Range 0.9 to 1.3; c = 1.5. A = 1: 1.2 is within, 1.5 is cut to 1.3. A = -1: 1.2 counts, 2 is bounded by 1.5.
    _, terms = terms_of([1.2, 1.5, 1.2, 2.0, 0.5], [1.0, 1.0, -1.0, -1.0, -1.0], clip_high=0.3, dual_clip=1.5)
    assert terms.objective_N.tolist() == pytest.approx([1.2, 1.3, -1.2, -1.5, -0.9])
    assert terms.shown["clipped"].tolist() == [False, True, False, True, True]
    logprobs, terms = terms_of([2.0, 1.2], [-1.0, -1.0], dual_clip=1.5)
    terms.objective_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.0, -1.2])


def test_geometric_mean_ratio_by_hand():
    # exp of the mean of log 4 and log 1: 2, cut to 1.1.
    _, terms = terms_of([4.0, 1.0], [1.0, 1.0], ratio="gspo", ratio_to="recomputed")
    assert terms.shown["ratio"].tolist() == pytest.approx([2.0, 2.0]) and terms.objective_N.tolist() == pytest.approx(
        [1.1, 1.1]
    )


def test_masks_by_hand():
    # Weights exp(0 - behaviour): 0.25, 1, 8. IcePop keeps [0.5, 5]. The mean log weight is ln 2 / 3 = 0.231.
    behaviour = [math.log(4), 0.0, -math.log(8)]
    to = {"ratio_to": "recomputed", "max_importance_weight": 5.0}
    _, terms = terms_of([1.0] * 3, [1.0] * 3, behaviour, importance="mask", min_importance_weight=0.5, **to)
    assert terms.objective_N.tolist() == [0.0, 1.0, 0.0]
    _, terms = terms_of([1.0] * 3, [1.0] * 3, behaviour, **to)
    assert terms.objective_N.tolist() == pytest.approx([0.25, 1.0, 5.0])
    for limit, kept in ((0.24, True), (0.22, False)):
        _, terms = terms_of([1.0] * 3, [1.0] * 3, behaviour, max_mean_log_weight=limit, **to)
        assert terms.objective_N.tolist() == pytest.approx([0.25, 1.0, 5.0] if kept else [0.0] * 3)


def test_cispo_keeps_the_gradient_of_every_token_by_hand():
    logprobs, terms = terms_of([2.0, 0.5], [1.0, -1.0], objective=cispo, max_ratio=1.28)
    assert terms.objective_N.tolist() == pytest.approx([1.28 * math.log(2.0), 0.5 * math.log(2.0)])
    terms.objective_N.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([1.28, -0.5])
    assert terms.shown["clipped"].tolist() == [True, False]


def test_surrogate_by_hand():
    ratios, advantages, objectives, gradients = zip(*BY_HAND, strict=True)
    logprobs, result = surrogate(ratios, advantages)
    result.objective_N.sum().backward()
    assert result.objective_N.tolist() == pytest.approx(list(objectives))
    assert logprobs.grad.tolist() == pytest.approx(list(gradients))
    assert result.clipped_N.tolist() == [False, True, False, False, True]


def test_loss_is_minus_the_mean_over_rollouts_of_the_mean_over_tokens():
    # Two rollouts of 1 and 3 action tokens: -(4 + (1 + 2 + 3)/3) / 2, each rollout counting alike.
    objective, weights = torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6])
    assert policy_loss(objective, weights).item() == pytest.approx(-3.0)


def test_statistics_by_hand():
    figures = sums_of([2.0, 0.5], [1.0, 1.0], torch.tensor([1.0, 3.0])).figures()
    # k3: (2 - 1 - ln 2 + 0.5 - 1 + ln 2) / 2 = 0.25
    assert figures == pytest.approx(
        {"ratio_mean": 1.25, "ratio_max": 2.0, "clip_share": 0.5, "approx_kl": 0.25, "entropy": 2.0}
    )


def test_golden_values_of_the_decoupled_objective():
    # ln of pi_behaviour, pi_proximal, pi_theta; worked out by hand for A = 2, eps = 0.1, C = 1.5:
    # weights 0.25/0.5 = 0.5, 0.6/0.2 = 3 -> 1.5, 0.3/0.2 = 1.5 (the limit itself is not truncated)
    # ratios 0.25/0.25 = 1, 0.9/0.6 = 1.5 -> 1.1, 0.15/0.3 = 0.5
    behaviour, proximal = torch.tensor([0.5, 0.2, 0.2]).log(), torch.tensor([0.25, 0.6, 0.3]).log()
    theta = torch.tensor([0.25, 0.9, 0.15]).log().requires_grad_()
    weights = importance_weights(proximal, behaviour, 1.5)
    result = clipped_surrogate(theta - proximal, torch.full((3,), 2.0), EPSILON)
    (weights * result.objective_N).sum().backward()
    assert weights.tolist() == pytest.approx([0.5, 1.5, 1.5])
    assert (weights * result.objective_N).tolist() == pytest.approx([1.0, 3.3, 1.5])
    assert theta.grad.tolist() == pytest.approx([1.0, 0.0, 1.5])
    assert importance_weights(proximal, behaviour, 0).tolist() == pytest.approx([0.5, 3.0, 1.5])
    figures = weight_figures(Settings(ratio_to="recomputed", max_importance_weight=1.6), proximal, behaviour)
    assert figures == pytest.approx(
        {"importance_weight_mean": 3.6 / 3, "importance_weight_max": 3.0, "importance_truncated_share": 1 / 3}
    )


def slow_decoupled_objective(theta, proximal, behaviour, advantage, epsilon, limit):
    """As AReaL writes it, for one token: min(pi_theta / pi_b A, pi_prox / pi_b clip(pi_theta / pi_prox) A), where its
    first factor is below the limit of TIS."""
    weight = proximal / behaviour
    if limit and weight > limit:
        behaviour = proximal / limit
    clipped = min(max(theta / proximal, 1 - epsilon), 1 + epsilon)
    return min(theta / behaviour * advantage, proximal / behaviour * clipped * advantage)


probabilities = st.floats(0.01, 1)


@given(probabilities, probabilities, probabilities, st.floats(-1, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_weight_times_surrogate_is_the_decoupled_objective(theta, proximal, behaviour, advantage, limit):
    logs = [torch.tensor([math.log(p)]) for p in (theta, proximal, behaviour)]
    surrogate_1 = clipped_surrogate(logs[0] - logs[1], torch.tensor([advantage]), EPSILON)
    objective = (importance_weights(logs[1], logs[2], limit) * surrogate_1.objective_N).item()
    expected = slow_decoupled_objective(theta, proximal, behaviour, advantage, EPSILON, limit)
    assert objective == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(st.lists(probabilities, min_size=1, max_size=9), st.sampled_from([0.0, 1.0, 2.0]))
def test_equal_policies_weigh_exactly_one(values, limit):
    logprobs = torch.tensor(values).log()
    assert torch.equal(importance_weights(logprobs, logprobs, limit), torch.ones(len(values)))


def test_a_piece_without_action_tokens_counts_nothing():
    assert sums_of([], [], torch.zeros(0)) == TokenSums()


tokens = st.lists(st.tuples(st.floats(0.05, 20), st.floats(-1, 1)), min_size=1, max_size=20)


@given(tokens)
def test_surrogate_never_promises_more_than_the_free_objective(pairs):
    ratios, advantages = zip(*pairs, strict=True)
    logprobs, result = surrogate(ratios, advantages)
    result.objective_N.sum().backward()
    for i, (ratio, advantage) in enumerate(pairs):
        assert result.objective_N[i].item() <= ratio * advantage + 1e-4
        assert result.objective_N[i].item() <= (1 + math.copysign(EPSILON, advantage)) * advantage + 1e-4
        if result.clipped_N[i]:
            assert logprobs.grad[i] == 0


@given(tokens, st.integers(0, 20))
def test_statistics_and_loss_do_not_depend_on_the_cut_into_microbatches(pairs, cut):
    ratios, advantages = zip(*pairs, strict=True)
    _, whole = surrogate(ratios, advantages)
    entropies, weights = torch.linspace(0, 3, len(pairs)), torch.linspace(0.1, 1, len(pairs))
    sums, loss = TokenSums(), 0.0
    for part in (slice(None, cut), slice(cut, None)):
        if ratios[part]:
            _, result = surrogate(ratios[part], advantages[part])
            sums += sums_of(ratios[part], advantages[part], entropies[part])
            loss += policy_loss(result.objective_N, weights[part]).item()
    assert sums.figures() == pytest.approx(sums_of(ratios, advantages, entropies).figures(), rel=1e-9)
    assert loss == pytest.approx(policy_loss(whole.objective_N, weights).item(), rel=1e-5, abs=1e-5)


@given(tokens)
def test_kl_is_never_negative(pairs):
    ratios, advantages = zip(*pairs, strict=True)
    assert sums_of(ratios, advantages, torch.zeros(len(pairs))).sums["approx_kl"] >= -1e-12
