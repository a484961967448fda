"""Batches of turns: each has its number, of turns that are young enough, and no turn that was done is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import pairwise

import pytest
from served import SECRET, served_config
from test_agent import CHAT
from test_sampler import SamplerProcess

from loop_rl.agents.episode import Agent
from loop_rl.agents.policy import Generation
from loop_rl.config.load import parse_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.rollout import Rollout
from loop_rl.environments.babyai import ACTIONS
from loop_rl.sampling.collect import collect
from loop_rl.sampling.sources.turns import TurnBatches
from loop_rl.store.rollout_files import read_group
from loop_rl.store.run_dir import RunDir
from loop_rl.store.turn_journal import TurnJournal

SIZE = 10


def make_run(tmp_path, max_staleness: int = 1, num_iterations: int = 4, num_workers: int = 3) -> RunDir:
    tree = {
        "name": "t",
        "runs_dir": str(tmp_path),
        "model": {"path": "none"},
        "tasks": {"environment": "babyai", "levels": ["goto"], "max_steps": 4, "num_workers": num_workers},
        "agent": {"memory": "window", "max_turns": 9, "max_context_tokens": 6000},
        "sampler": {"source": "turns", "turns_per_iteration": SIZE, "max_staleness": max_staleness},
        "algorithm": {"advantage": "dual_gae", "filter": "everything", "critic_warmup_iterations": 0},
        "trainer": {"num_iterations": num_iterations},
        "evaluation": {"split": "test"},
    }
    return RunDir.create(parse_config(tree, "test"))


class Policy:
    """Acts at random, as version `version`; every turn lasts some rounds of the event loop, or until it may go on."""

    def __init__(self) -> None:
        self.version, self.num_turns, self.rng = 0, 0, random.Random(0)
        self.may_go_on: dict[int, asyncio.Event] = {}
        """By the number of the turn."""

    async def sample(self, prompt_ids, *, max_tokens, temperature, seed, version) -> Generation:
        number, self.num_turns = self.num_turns, self.num_turns + 1
        of_version = self.version
        if number in self.may_go_on:
            await self.may_go_on[number].wait()
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        ids = [*CHAT.encode(f"ACTION: {self.rng.choice(ACTIONS)}"), CHAT.end_of_turn_id]
        return Generation(ids, [-1.0] * len(ids), of_version)


class Killed(Exception):
    """What a test does to a sampler."""


def play(run: RunDir, policy: Policy, until=None) -> TurnBatches:
    """Sample until all batches are full, or `until` says so; then everything is let go of, as by a kill."""
    config = run.config
    environment = make_part(ENVIRONMENT, config)
    batches = TurnBatches(run, config, environment.training_tasks(), lambda: policy.version)
    agent = Agent.training(policy, CHAT, config.agent, keeps_next=True)

    async def work() -> None:
        num = config.tasks.num_workers
        sampling = collect(batches.jobs(), environment, lambda _: agent, num, batches.finished)
        tasks = [asyncio.create_task(sampling), asyncio.create_task(batches.assign())]
        try:
            while not all(task.done() for task in tasks):
                await asyncio.sleep(0)
                # As the trainer does: a version for each iteration, a while after its turns are there.
                if policy.version < batches.num_assigned < config.trainer.num_iterations and policy.rng.random() < 0.1:
                    policy.version += 1
                    batches.wake()
                if until and until(batches):
                    raise Killed
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    with contextlib.suppress(Killed):
        asyncio.run(work())
    return batches


def read(run: RunDir) -> list[list[Rollout]]:
    """The rollouts of each iteration."""
    num = run.config.trainer.num_iterations
    return [read_group(run.group_file(i)).rollouts for i in range(num) if run.iteration_file(i).exists()]


def check(iterations: list[list[Rollout]], max_staleness: int) -> dict[str, list[Rollout]]:
    """What holds of every run; returns the pieces of each episode."""
    episodes: dict[str, list[Rollout]] = {}
    for iteration, rollouts in enumerate(iterations):
        assert sum(len(rollout.turns) for rollout in rollouts) == SIZE
        for rollout in rollouts:
            assert all(0 <= iteration - version <= max_staleness for version in rollout.policy_versions)
            assert (rollout.iteration, rollout.group_id) == (iteration, iteration)
            episodes.setdefault(rollout.episode_id, []).append(rollout)
        assert len({rollout.rollout_id for rollout in rollouts}) == len(rollouts)
    for pieces in episodes.values():
        assert pieces[0].first_turn == 0 and pieces[0].earlier_reward == 0
        for piece, following in pairwise(pieces):
            assert piece.end_reason == "goes_on" and piece.ending == "truncated"
            assert following.first_turn == piece.first_turn + len(piece.turns)
            # What the critic is asked about is what the next piece begins with, token by token.
            assert following.turns[0].context_ids == piece.next_ids and not following.turns[0].extends
            assert following.earlier_reward == pytest.approx(piece.episode_return)
        if pieces[-1].ending == "terminated":
            assert not pieces[-1].next_ids and pieces[-1].success
        else:
            assert pieces[-1].next_ids
    return episodes


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_every_batch_has_its_number_of_turns_none_too_old_and_episodes_go_on(tmp_path, max_staleness):
    run, policy = make_run(tmp_path, max_staleness), Policy()
    play(run, policy)
    iterations = read(run)
    assert len(iterations) == 4
    episodes = check(iterations, max_staleness)
    assert any(len(pieces) > 1 for pieces in episodes.values())
    ends = {pieces[-1].end_reason for pieces in episodes.values()}
    assert "step_limit" in ends  # the environment's own limit: it would have gone on
    assert not list(run.unfinished_rollouts.glob("*"))
    if max_staleness == 0:
        assert policy.num_turns == 4 * SIZE  # nothing that is not trained on


def test_a_slow_turn_holds_back_its_own_batch_alone(tmp_path):
    run, policy = make_run(tmp_path, max_staleness=1), Policy()
    policy.may_go_on[1] = asyncio.Event()
    seen = []

    def until(batches: TurnBatches) -> bool:
        seen.append((batches.num_assigned, batches._begun[1]))
        if batches._begun[1] == SIZE:  # all turns of the next batch have begun, so the slow one delayed none of them
            policy.may_go_on[1].set()
        return False

    play(run, policy, until)
    assert (0, SIZE) in seen
    check(read(run), max_staleness=1)


@pytest.mark.parametrize("num_kills", [1, 3])
def test_a_kill_loses_no_turn_that_was_done_and_says_which_episodes_it_ended(tmp_path, num_kills):
    run, kept = make_run(tmp_path, num_workers=4), {}
    for kill in range(num_kills):
        batches = play(run, Policy(), until=lambda batches, n=7 + kill: batches.num_finished >= min(n, SIZE - 1))
        for batch, turns in TurnJournal(run).read(batches.num_assigned).items():
            kept |= {(done.episode, done.number): (batch, done.turn) for done in turns}
    with (run.unfinished_rollouts / "turns-000000.jsonl").open("a") as file:
        file.write('{"episode": 9, "tas')  # torn by the kill
    policy = Policy()
    play(run, policy)
    iterations = read(run)
    episodes = check(iterations, max_staleness=1)
    found = {
        (int(rollout.episode_id[1:]), rollout.first_turn + i): (iteration, turn)
        for iteration, rollouts in enumerate(iterations)
        for rollout in rollouts
        for i, turn in enumerate(rollout.turns)
    }
    assert kept.keys() <= found.keys() and len(found) == 4 * SIZE
    for key, (batch, turn) in kept.items():
        iteration, theirs = found[key]
        assert (iteration, theirs.action_ids, theirs.executed) == (batch, turn.action_ids, turn.executed)
    interrupted = [pieces[-1] for pieces in episodes.values() if pieces[-1].end_reason == "interrupted"]
    assert interrupted and all(rollout.next_ids and not rollout.has_ended for rollout in interrupted)


@pytest.mark.parametrize("has_list", [False, True])
def test_killed_before_or_after_the_list_that_names_its_rollouts(tmp_path, monkeypatch, has_list):
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TurnJournal, "close", lambda *_: None)  # not lived to see
        play(run, Policy(), until=lambda _: run.iteration_file(0).exists())
    first = read_group(run.group_file(0)).rollouts
    if not has_list:
        run.iteration_file(0).unlink()
    policy = Policy()
    policy.version = 1
    play(run, policy)
    iterations = read(run)
    check(iterations, max_staleness=1)
    assert [[turn.action_ids for turn in rollout.turns] for rollout in iterations[0]] == [
        [turn.action_ids for turn in rollout.turns] for rollout in first
    ]


@pytest.mark.slow(25)
def test_a_sampler_that_is_killed_in_mid_batch_goes_on_with_what_was_done(tmp_path, served_model, vllm_url):
    sections = {
        "runs_dir": str(tmp_path),
        "tasks": {"environment": "babyai", "levels": ["goto"], "prompt": "compact", "num_workers": 4},
        "agent": {"memory": "window", "max_turns": 20, "max_new_tokens": 6},
        "sampler": {"source": "turns", "turns_per_iteration": 60, "max_staleness": 1},
        "algorithm": {"advantage": "dual_gae", "filter": "everything", "critic_warmup_iterations": 0},
        "trainer": {"num_iterations": 2},
        "evaluation": {"split": "test"},
    }
    run = RunDir.create(served_config(served_model, **sections))
    (run.path / "secret").write_text(SECRET)
    with SamplerProcess(run, vllm_url) as sampler:
        sampler.wait_until(lambda: len(TurnJournal(run).read(0).get(0, ())) > 20)
    kept = {(done.episode, done.number): done.turn.action_ids for done in TurnJournal(run).read(0).get(0, ())}
    with SamplerProcess(run, vllm_url) as sampler:
        assert sampler.wait()[0] == 0
    first, second = (read_group(run.group_file(i)).rollouts for i in range(2))
    assert [sum(len(rollout.turns) for rollout in rollouts) for rollouts in (first, second)] == [60, 60]
    found = {
        (int(rollout.episode_id[1:]), rollout.first_turn + i): turn.action_ids
        for rollout in first + second
        for i, turn in enumerate(rollout.turns)
    }
    assert len(kept) > 20 and kept.items() <= found.items()
    assert any(rollout.end_reason == "interrupted" for rollout in first + second)
