"""The simulation by its properties: what must hold whatever the numbers."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop_rl.planning.simulation import (
    ASYNCHRONOUS,
    DISCIPLINES,
    ONE_BEHIND,
    SYNCHRONOUS,
    Curve,
    Discipline,
    System,
    simulate,
)
from loop_rl.planning.workload import Episode, Workload

G, K = 3, 4


def workload(seed=0, spread=True):
    rng = random.Random(seed)
    turns = [rng.randint(1, 6) if spread else 3 for _ in range(40)]
    lengths = [tuple(rng.randint(1, 30) if spread else 10 for _ in range(n)) for n in turns]
    return Workload(tuple(Episode((5,) * len(n), n, (1.0,) * len(n)) for n in lengths), share_kept=1.0)


def system(generation=0.01, environment=0.5, training=0.002, workers=8, **changes):
    made = System(
        workers, Curve(generation, 0.001), Curve(environment, 0.0), lambda rollouts: training * sum(map(sum, rollouts))
    )
    return replace(made, **changes)


def run(made, discipline, iterations=8, left_out=2, **arguments):
    return simulate(made, workload(**arguments), discipline, G, K, iterations, left_out)


@settings(deadline=None, max_examples=60)
@given(
    staleness=st.integers(0, 5),
    wait=st.booleans(),
    workers=st.integers(1, 40),
    training=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    most=st.sampled_from([1, 3, float("inf")]),
    replicas=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_every_rollout_is_trained_on_once_and_no_token_is_too_old(
    staleness, wait, workers, training, most, replicas, seed
):
    discipline = Discipline("any", staleness, wait)
    made = system(workers=workers, training=training, max_requests=most, num_replicas=replicas)
    outcome = simulate(made, workload(seed), discipline, G, K, iterations=6, left_out=1, seed=seed)
    trained = [group for batch in outcome.batches for group in batch]
    assert [len(batch) for batch in outcome.batches] == [G] * 6
    assert len(set(trained)) == len(trained)  # once at most
    if wait:
        assert max(trained) < (6 + staleness) * G  # and none from further ahead than allowed
    if staleness == 0:
        assert trained == list(range(6 * G))
    assert min(outcome.staleness) >= 0 and max(outcome.staleness) <= staleness
    assert sum(outcome.staleness.values()) == pytest.approx(1)
    assert 0 <= outcome.sampler_idle < 1 and 0 <= outcome.trainer_idle <= 1
    assert outcome.rollouts_per_minute == pytest.approx(60 * G * K / outcome.iteration_s)


def test_synchronous_means_that_sampling_and_training_never_overlap():
    # Training takes the same whatever it runs beside, so the times simply add up: what the one does not wait, the other does.
    sampling_only = run(system(training=0.0), SYNCHRONOUS)
    both = run(system(training=0.02), SYNCHRONOUS)
    assert both.iteration_s > sampling_only.iteration_s
    assert both.trainer_idle == pytest.approx(sampling_only.iteration_s / both.iteration_s, rel=1e-6)
    slowed = system(training=0.02, training_beside_sampling=5.0)
    slowed = replace(slowed, generation=replace(slowed.generation, beside_training=5.0))
    assert run(slowed, SYNCHRONOUS).iteration_s == pytest.approx(both.iteration_s)
    assert run(slowed, ONE_BEHIND).iteration_s > run(system(training=0.02), ONE_BEHIND).iteration_s


def test_with_infinitely_fast_sampling_the_trainer_never_waits():
    made = system(generation=0.0, environment=0.0, training=1.0)
    made = replace(made, generation=Curve(0.0, 0.0))
    for discipline in DISCIPLINES:
        outcome = run(made, discipline)
        assert outcome.trainer_idle == pytest.approx(0, abs=1e-9)


def test_with_infinitely_fast_training_the_sampler_never_waits_but_for_stragglers():
    assert run(system(training=0.0), ASYNCHRONOUS).sampler_idle < 0.02
    assert run(system(training=0.0), SYNCHRONOUS).sampler_idle > run(system(training=0.0), ONE_BEHIND).sampler_idle


@pytest.mark.parametrize("training", [0.001, 0.01, 0.05])
def test_the_more_staleness_is_allowed_the_faster(training):
    times = [run(system(training=training), discipline, iterations=20).iteration_s for discipline in DISCIPLINES]
    assert times[0] > times[1] > 0.98 * times[2]


@pytest.mark.parametrize("discipline", DISCIPLINES, ids=lambda discipline: discipline.name)
def test_more_machines_are_never_slower(discipline):
    def iteration_s(**changes):
        return run(system(**changes), discipline, iterations=20, spread=False).iteration_s

    by_replicas = [iteration_s(num_replicas=n, generation=0.05) for n in (1, 2, 4)]
    by_workers = [iteration_s(workers=n) for n in (2, 4, 12)]
    by_ranks = [iteration_s(training=0.04 / n) for n in (1, 2, 4, 8)]
    for times in (by_replicas, by_workers, by_ranks):
        assert times == sorted(times, reverse=True)


def test_what_can_be_computed_by_hand():
    # 12 alike episodes of 3 turns, 12 workers: 3 * (10 tokens * (0.01 + 12 * 0.001) s + 0.5 s) = 2.16 s, then training
    # 12 * 45 tokens * 0.001 s = 0.54 s.
    made = system(training=0.001, workers=12)
    outcome = run(made, SYNCHRONOUS, spread=False)
    assert outcome.iteration_s == pytest.approx(2.16 + 0.54)
    assert outcome.trainer_idle == pytest.approx(2.16 / 2.70)
    assert outcome.sampler_idle == pytest.approx(0.54 / 2.70)
    # Two replicas share the requests; a cache for 3 requests each makes them queue: two batches one after the other.
    assert run(replace(made, num_replicas=2), SYNCHRONOUS, spread=False).iteration_s == pytest.approx(2.70 - 0.18)
    assert run(replace(made, max_requests=6), SYNCHRONOUS, spread=False).iteration_s > 2.70 - 0.18


def test_the_same_seed_gives_the_same_outcome():
    assert run(system(), ASYNCHRONOUS) == run(system(), ASYNCHRONOUS)
