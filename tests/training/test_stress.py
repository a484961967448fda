"""The stress step before the first rollout: it leaves no trace, and says what to change when memory is short."""

import pytest
import tiny
import trainer_ranks

from loop_rl.training.batching import plan_microbatches
from loop_rl.training.stress import longest_sample, microbatch_rollouts

pytestmark = pytest.mark.slow(100)


@pytest.fixture(scope="module")
def stressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stressed")
    tiny.save_model(folder / "model")
    tiny.save_model(folder / "tied", tied=True)
    trainer_ranks.run("stress", folder, 2)
    return folder


@pytest.mark.parametrize("case", trainer_ranks.STRESS_CASES)
def test_training_goes_on_as_if_it_had_not_been(stressed, case):
    with_it = stressed / case / "with"
    weights = [next((with_it / name).glob("*.safetensors")).relative_to(with_it) for name in ("before", "after")]
    for file in [*weights, "figures-0.json", "figures-1.json"]:
        assert (stressed / case / "with" / file).read_bytes() == (stressed / case / "without" / file).read_bytes(), file
    before, after = ((stressed / case / "with" / file).read_bytes() for file in weights)
    assert before != after


def test_peak_memory_and_seconds_are_printed_by_one_rank(stressed):
    lines = [line for line in (stressed / "stress-2.log").read_text().splitlines() if "peak" in line]
    assert len(lines) == len(trainer_ranks.STRESS_CASES)
    assert all(line.startswith("stress step of 1 x 100 tokens on each rank: peak ") for line in lines)


def test_too_little_memory_is_one_line_that_names_the_settings(tmp_path):
    tiny.save_model(tmp_path / "model")
    trainer_ranks.run("no_room", tmp_path, 1)
    assert (tmp_path / "no-room.txt").read_text() == (
        "stress step of 1 x 16384 tokens on each rank: out of memory; lower trainer.logprob_chunk_tokens (16), "
        "raise trainer.sequence_parallel_size (1, up to num_processes), or lower agent.max_context_tokens (16384)"
    )


def test_no_microbatch_of_training_is_larger():
    config = tiny.make_config("model", max_context_tokens=100, max_tokens_per_microbatch=350)
    assert microbatch_rollouts(config) == 3
    longest = longest_sample(config, ["advantage"])
    assert longest.num_tokens == 100
    plan = plan_microbatches([[longest.num_tokens]] * 3, 1, config.trainer.max_tokens_per_microbatch)
    assert plan == [[[0, 1, 2]]]
    assert microbatch_rollouts(tiny.make_config("model", max_context_tokens=1000)) == 1
    assert microbatch_rollouts(config, pairs=True) == 2
    assert microbatch_rollouts(tiny.make_config("model", max_context_tokens=1000), pairs=True) == 2
