"""Data sets that are gathered once: demonstrations that are really done, rejection sampling by a real server, and what each
iteration takes of them."""

import asyncio
import json
import os
from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from served import SECRET, served_config

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import first_seeds, training_job
from loop_rl.agents.policy import ContextFull, PolicyError
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.rollout import Rollout, Turn
from loop_rl.sampling.sources import demonstrations, rejection, search
from loop_rl.sampling.sources.dataset import NothingToLearn, groups_of
from loop_rl.sampling.sources.search import Tree, one_turn
from loop_rl.serving.client import PolicyClient
from loop_rl.store.rollout_files import read_group, read_rollouts
from loop_rl.store.run_dir import RunDir

pytestmark = pytest.mark.slow(15)

IMITATION = {"advantage": "imitate", "filter": "successful", "objective": "likelihood"}


PREFERENCE = {"advantage": "pair", "turn_discount": None, "objective": "preference"}


def make_run(folder, served_model, source: dict, algorithm: dict = IMITATION, **tasks) -> RunDir:
    config = served_config(
        served_model,
        name="gathered",
        runs_dir=str(folder),
        tasks={"environment": "babyai", "levels": ["goto"], "train_tasks": 12, "num_workers": 6} | tasks,
        agent={"max_turns": 20, "max_context_tokens": 2048, "max_new_tokens": 12},
        sampler={"tasks_per_iteration": 5} | source,
        algorithm=algorithm,
        trainer={"num_iterations": 4},
        evaluation={"split": "test"},
    )
    run = RunDir.create(config)
    (run.path / "secret").write_text(SECRET)
    os.chmod(run.path / "secret", 0o600)
    return run


def listed(run: RunDir) -> list[list[int]]:
    """Groups of each iteration."""
    return [json.loads(run.iteration_file(i).read_text())["groups"] for i in range(run.config.trainer.num_iterations)]


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_has_every_group_once_in_an_order_of_its_own(num_groups, size, seed):
    group_ids = list(range(100, 100 + num_groups))
    per_epoch = -(-num_groups // size)
    iterations = [groups_of(group_ids, size, seed, iteration) for iteration in range(2 * per_epoch)]
    assert all(0 < len(chosen) <= size for chosen in iterations)
    for epoch in (iterations[:per_epoch], iterations[per_epoch:]):
        assert sorted(group_id for chosen in epoch for group_id in chosen) == group_ids


def test_demonstrations_are_done_in_the_environment_and_learnt_from_in_epochs(tmp_path, served_model):
    run = make_run(tmp_path, served_model, {"source": "demonstrations"})
    config, environment = run.config, make_part(ENVIRONMENT, run.config)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    tasks = environment.training_tasks()
    asyncio.run(demonstrations.gather(run, config, tasks, environment, chat))

    iterations = listed(run)
    assert [len(groups) for groups in iterations][:2] == [5, 5]
    assert set().union(*iterations[:3]) == set(range(12))  # an epoch: every task once
    rollouts = [
        rollout for path in sorted(run.train_rollouts.glob("*.parquet")) for rollout in read_group(path).rollouts
    ]
    assert len(rollouts) == 12 and all(rollout.success for rollout in rollouts)
    by_task = {task.task_id: environment.demonstration(task) for task in tasks}
    for rollout in rollouts:
        assert [turn.action_text for turn in rollout.turns] == by_task[rollout.task_id]
        assert {turn.policy_version for turn in rollout.turns} == {-1}
        assert all(turn.action_ids[-1] == chat.end_of_turn_id for turn in rollout.turns)

    # Again, as after a restart, and with more iterations: nothing is gathered anew.
    before = {path: path.stat().st_mtime_ns for path in run.train_rollouts.glob("*.parquet")}
    more = config.model_copy(update={"trainer": config.trainer.model_copy(update={"num_iterations": 6})})
    run.iteration_file(3).unlink()
    asyncio.run(demonstrations.gather(run, more, tasks, environment, chat))
    assert listed(run)[:4] == iterations and run.iteration_file(5).exists()
    assert {path: path.stat().st_mtime_ns for path in run.train_rollouts.glob("*.parquet")} == before


def test_a_script_begins_again_with_the_episode_and_ends_where_there_is_no_room(served_model):
    config = served_config(served_model)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    job = training_job(config, None, 0, 0)
    policy = demonstrations.scripted(job, chat, ["one", "two"])
    first, second, *_ = sorted(first_seeds(job))

    async def say(seed: int, room: int = 50) -> str:
        return chat.action_text((await policy.sample([1], room, 1.0, seed, None)).token_ids)

    # With a memory window the same prompt may come again; only an attempt's first request has such a seed.
    assert [asyncio.run(say(seed)) for seed in (first, 5, second, 6)] == ["one", "two", "one", "two"]
    with pytest.raises(ContextFull):
        asyncio.run(say(first, room=1))


def test_rejection_sampling_tries_a_task_no_more_once_it_is_done(tmp_path, served_model, vllm_url):
    source = {"source": "rejection", "temperatures": [0.5, 1.0], "attempts": 2}
    run = make_run(tmp_path, served_model, source, max_steps=4)
    config, environment = run.config, make_part(ENVIRONMENT, run.config)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    tasks = environment.training_tasks()

    async def gather() -> None:
        async with PolicyClient.of_run(run, config, [vllm_url], chat.end_of_turn_id) as policy:
            await rejection.gather(run, config, tasks, environment, chat, policy)

    asyncio.run(gather())
    files = [*run.train_rollouts.glob("*.parquet"), *run.unfinished_rollouts.glob("*.parquet")]
    rollouts = {rollout.rollout_id: rollout for path in files for rollout in read_rollouts(path)}
    # A policy that names no action walks forward, which is what some of these tasks ask for.
    done = {rollout.group_id for rollout in rollouts.values() if rollout.success}
    assert 0 < len(done) < 12
    for group_id in range(12):
        for temperature in range(2):
            first, second = (f"g{group_id:06d}-k{2 * temperature + attempt}" for attempt in range(2))
            assert (second in rollouts) == (not rollouts[first].success)
    assert {turn.policy_version for rollout in rollouts.values() for turn in rollout.turns} == {0}
    assert all(set(groups) <= done for groups in listed(run)) and set().union(*listed(run)) == done


def test_nothing_that_succeeded_is_nothing_to_learn(tmp_path, served_model):
    run = make_run(tmp_path, served_model, {"source": "demonstrations"})
    environment = make_part(ENVIRONMENT, run.config)
    environment.demonstration = lambda task: ["turn left"]
    chat = Chat.from_pretrained(run.config.model.path, run.config.agent)
    with pytest.raises(NothingToLearn, match="none of 12 rollouts did its task"):
        asyncio.run(demonstrations.gather(run, run.config, environment.training_tasks(), environment, chat))
    assert not run.iteration_file(0).exists() and len(list(run.unfinished_rollouts.glob("*.parquet"))) == 12


def searched(actions: str, reward: float) -> Rollout:
    """An episode that read nothing but its prompt, and wrote a token a turn."""
    turns = [
        Turn([1, 2] if number == 0 else [3], [ord(action)], [-1.0], 0, action, "", "")
        for number, action in enumerate(actions)
    ]
    (rollout, *_), *_ = (group.rollouts for group in tiny.make_groups(1))
    return replace(rollout, rollout_id="r", turns=turns, score=reward)


def test_a_search_leaves_the_tree_where_two_actions_are_not_known_yet():
    tree = Tree(exploration=1.0)
    assert tree.select() == []
    tree.add(searched("abc", 1.0))
    assert tree.select() == []  # one action is known
    tree.add(searched("xyz", 0.0))
    (best,) = tree.select()
    assert best.turn.action_text == "a" and not best.is_end
    tree.add(searched("abd", 0.5))  # b becomes known
    assert best.visits == 2 and best.value == 0.75
    # Q + c sqrt(log N / (1 + n)): 0.75 + sqrt(log 3 / 3) = 1.36 against sqrt(log 3 / 2) = 0.74.
    assert [node.turn.action_text for node in tree.select()] == ["a"]
    for _ in range(3):
        tree.visit_again([best])
    assert best.visits == 5 and tree.root.visits == 6 and best.value == 0.75


def test_pairs_are_two_actions_after_the_same_beginning_and_train_on_these_alone():
    tree = Tree(exploration=1.0)
    for actions, reward in (("ab", 1.0), ("xy", 0.0), ("ac", 0.0), ("acd", 0.5), ("xz", 0.0)):
        tree.add(searched(actions, reward))
    pairs = [(better.turn.action_text, worse.turn.action_text) for better, worse in tree.pairs()]
    assert pairs == [("a", "x")]  # after "a" only "c" is known, after "x" both are worth the same
    tree.add(searched("ab", 1.0))
    _, second = tree.pairs()
    assert [node.turn.action_text for node in second] == ["b", "c"]
    rollout = one_turn(second[0], 9, 0)
    (sample,) = rollout.samples()
    assert sample.token_ids == [1, 2, ord("a"), 3, ord("b")] and sample.action_mask == [False] * 4 + [True]
    assert (rollout.group_id, rollout.reward) == (9, 1.0)


def test_searches_that_all_end_alike_are_nothing_to_prefer(tmp_path, served_model, vllm_url):
    source = {"source": "search", "searches": 3}
    run = make_run(tmp_path, served_model, source, PREFERENCE, max_steps=2)
    config, environment = run.config, make_part(ENVIRONMENT, run.config)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    tasks = environment.training_tasks()[:4]

    async def gather() -> None:
        async with PolicyClient.of_run(run, config, [vllm_url], chat.end_of_turn_id) as policy:
            await search.gather(run, config, tasks, environment, chat, policy)

    # Whatever this policy says, it walks forward.
    with pytest.raises(NothingToLearn, match="no two actions led to different rewards"):
        asyncio.run(gather())
    searches = [rollout for path in run.unfinished_rollouts.glob("*.parquet") for rollout in read_rollouts(path)]
    assert {rollout.group_id for rollout in searches} == {0, 1, 2, 3}
    by_id = {rollout.rollout_id: rollout for rollout in searches}
    third, others = by_id["g000000-k2"], [by_id["g000000-k0"], by_id["g000000-k1"]]
    # The third goes on from one of the first two: the world was made anew by doing the same again.
    assert third.turns[0].action_ids in [other.turns[0].action_ids for other in others]


def test_a_search_whose_policy_does_not_answer_says_so(tmp_path, served_model):
    run = make_run(tmp_path, served_model, {"source": "search", "searches": 3}, PREFERENCE)
    config, environment = run.config, make_part(ENVIRONMENT, run.config)
    chat = Chat.from_pretrained(config.model.path, config.agent)

    async def gather() -> None:
        urls = ["http://127.0.0.1:9"]
        async with PolicyClient(urls, chat.end_of_turn_id, run.logs, SECRET, patience_s=1.0) as policy:
            await search.gather(run, config, environment.training_tasks(), environment, chat, policy)

    with pytest.raises(PolicyError, match="no vLLM server"):
        asyncio.run(gather())
