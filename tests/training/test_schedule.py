import pytest
import tiny

from loop_rl.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("linear", [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_the_rate_rises_and_falls_by_hand(schedule, rates, tmp_path):
    settings = {"learning_rate": 1.0, "warmup_iterations": 2, "num_iterations": 6, "learning_rate_schedule": schedule}
    trainer = tiny.make_config(tmp_path, **settings).trainer
    assert [learning_rate(trainer, iteration) for iteration in range(6)] == pytest.approx(rates)
