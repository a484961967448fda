"""Peak memory of a forward and backward pass is a straight line over the rollout's length; measured, not computed."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(50)

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "benchmarks"))

from trainer_memory import in_process_of_its_own, straight_line  # noqa: E402

LENGTHS = [2048, 2560, 3072, 4096]


# MiB per 1k tokens, from docs/scaling.md. A whole [tokens, vocabulary] tensor alone would be 32.
@pytest.mark.parametrize(
    ("variant", "expected"), [("checkpointing, chunks", 15.6), ("no checkpointing, no chunks", 203)]
)
def test_peak_memory_grows_linearly_and_by_as_much_as_documented(variant, expected):
    slope, distance = straight_line(in_process_of_its_own(variant, LENGTHS))
    assert distance < 0.05
    assert slope == pytest.approx(expected, rel=0.1)


def test_a_line_is_found_and_a_parabola_is_none():
    assert straight_line({1024: 30.0, 2048: 50.0, 4096: 90.0}) == pytest.approx((20.0, 0.0))
    _, distance = straight_line({n: (n / 1024) ** 2 for n in (2048, 3072, 4096, 6144)})
    assert distance > 0.05
