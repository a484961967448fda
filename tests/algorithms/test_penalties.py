import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.penalties.kl import Penalty, Settings, kl

logprobs = st.floats(-8, -0.01)


def test_estimators_by_hand():
    # theta gives 0.5, the reference 0.25: d = ln 2; k3 = 1/2 - 1 + ln 2.
    theta, reference = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert kl(theta, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl(theta, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl(theta, reference, "k3").item() == pytest.approx(math.log(2) - 0.5)


@given(logprobs, logprobs)
def test_k2_and_k3_are_never_negative_and_zero_only_for_equals(theta, reference):
    for estimator in ("k2", "k3"):
        value = kl(torch.tensor([theta]).double(), torch.tensor([reference]).double(), estimator).item()
        assert value >= -1e-12
        assert (value < 1e-12) == (abs(theta - reference) < 1e-5) or abs(theta - reference) < 1e-3


def test_k1_and_k3_are_unbiased_and_the_gradient_of_k2_is_that_of_the_divergence():
    # Over all outcomes of a distribution, each weighted by its probability.
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.4, -0.2], dtype=torch.float64).log_softmax(0)
    theta = logits.log_softmax(0)
    exact = (theta.exp() * (theta - reference)).sum()
    for estimator in ("k1", "k3"):
        assert (theta.exp() * kl(theta, reference, estimator)).sum().item() == pytest.approx(exact.item())
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    weights = theta.exp().detach()  # what sampling gives: no gradient goes through it
    (of_k2,) = torch.autograd.grad((weights * kl(theta, reference, "k2")).sum(), logits, retain_graph=True)
    (of_k1,) = torch.autograd.grad((weights * kl(theta, reference, "k1")).sum(), logits)
    assert of_k2.tolist() == pytest.approx(expected.tolist())
    assert of_k1.tolist() == pytest.approx([0, 0, 0])  # why k1 is refused in the loss


def test_what_a_reward_is_charged_at_each_token():
    penalty = Penalty(Settings(kl_coefficient=0.5, kl_estimator="k1", kl_in="reward"))
    columns = {"recomputed": torch.tensor([-1.0, -2.0]), "reference": torch.tensor([-1.5, -4.0])}
    assert penalty.charge(columns).tolist() == pytest.approx([0.25, 1.0])
    assert penalty.charges == {"recomputed", "reference"} and not penalty.reads
