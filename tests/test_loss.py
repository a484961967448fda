import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.loss import TokenStats, clipped_surrogate, policy_loss

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
    return logprobs, clipped_surrogate(logprobs, torch.zeros(len(ratios)), torch.tensor(advantages), EPSILON)


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
    _, result = surrogate([2.0, 0.5], [1.0, 1.0])
    means = TokenStats.of(result, torch.tensor([1.0, 3.0])).means()
    # k3: (2 - 1 - ln 2 + 0.5 - 1 + ln 2) / 2 = 0.25
    assert means == pytest.approx(
        {"ratio_mean": 1.25, "ratio_max": 2.0, "clip_share": 0.5, "approx_kl": 0.25, "entropy": 2.0}
    )


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
    stats, loss = TokenStats(), 0.0
    for part in (slice(None, cut), slice(cut, None)):
        if ratios[part]:
            _, result = surrogate(ratios[part], advantages[part])
            stats += TokenStats.of(result, entropies[part])
            loss += policy_loss(result.objective_N, weights[part]).item()
    assert stats.means() == pytest.approx(TokenStats.of(whole, entropies).means(), rel=1e-9)
    assert loss == pytest.approx(policy_loss(whole.objective_N, weights).item(), rel=1e-5, abs=1e-5)


@given(tokens)
def test_kl_is_never_negative(pairs):
    ratios, advantages = zip(*pairs, strict=True)
    _, result = surrogate(ratios, advantages)
    assert TokenStats.of(result, torch.zeros(len(pairs))).kl >= -1e-12
