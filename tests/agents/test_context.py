"""What the policy reads before each action, with a memory window."""

import asyncio

import pytest
from test_agent import CHAT, Script, make_job

from loop_rl.agents.context import Window
from loop_rl.agents.episode import Agent, run_episode
from loop_rl.config.load import parse_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.data.messages import message


def read(context: Window) -> list[str]:
    """Contents of the messages of the next prompt."""
    ids, extends = context.prompt()
    assert not extends
    text = CHAT.decode(ids)
    assert text.endswith("<|im_start|>assistant\n")
    parts = text.removesuffix("<|im_start|>assistant\n").split("<|im_start|>")[1:]
    return [part.partition("\n")[2].removesuffix("\n").removesuffix("<|im_end|>") for part in parts]


def window(size: int, thoughts: int | None = None) -> Window:
    def prompt_from(observation: str) -> list:
        return [message("system", "rules"), message("user", f"mission, {observation}")]

    return Window(CHAT, "o0", prompt_from, size, size if thoughts is None else thoughts)


def act(context: Window, number: int) -> None:
    ids = [*CHAT.encode(f"THINK {number} ACTION: a{number}"), CHAT.end_of_turn_id]
    assert context.add(ids, f"a{number}", f"o{number + 1}", "") == f"o{number + 1}"


def test_the_window_begins_with_its_oldest_observation_as_an_episode_does():
    context = window(2)
    prompts = [read(context)]
    for number in range(4):
        act(context, number)
        prompts.append(read(context))
    said = [f"THINK {number} ACTION: a{number}" for number in range(4)]
    assert prompts == [
        ["rules", "mission, o0"],
        ["rules", "mission, o0", said[0], "o1"],
        ["rules", "mission, o0", said[0], "o1", said[1], "o2"],
        ["rules", "mission, o1", said[1], "o2", said[2], "o3"],
        ["rules", "mission, o2", said[2], "o3", said[3], "o4"],
    ]


def test_older_actions_are_what_was_carried_out():
    context = window(3, thoughts=1)
    for number in range(3):
        act(context, number)
    assert read(context) == ["rules", "mission, o0", "a0", "o1", "a1", "o2", "THINK 2 ACTION: a2", "o3"]


def test_with_a_window_of_nothing_only_the_newest_observation_is_read():
    context = window(0)
    for number in range(3):
        act(context, number)
    assert read(context) == ["rules", "mission, o3"]


@pytest.mark.parametrize("size", [0, 1, 3])
def test_every_turn_of_a_real_episode_is_a_sample_of_what_was_read_and_written(size):
    tree = {"name": "t", "model": {"path": "none"}, "tasks": {"environment": "babyai"}}
    tree |= {"agent": {"memory": "window", "window": size, "max_turns": 9, "max_context_tokens": 6000}}
    config = parse_config(tree | {"evaluation": {"split": "test"}}, "test")
    environment = make_part(ENVIRONMENT, config)
    task = environment.training_tasks()[0]
    policy = Script("THINK: hm\nACTION: turn left", "nonsense", "THINK: aha\nACTION: turn right")
    agent = Agent.training(policy, CHAT, config.agent)
    rollout = asyncio.run(run_episode(make_job(task), environment, agent))
    assert len(rollout.turns) == 9 and [turn.executed for turn in rollout.turns][:2] == ["turn left", "go forward"]
    samples = rollout.samples({"advantage": 1.0})
    assert len(samples) == 9
    for sample, request, turn in zip(samples, policy.requests, rollout.turns, strict=True):
        assert sample.token_ids == request["prompt_ids"] + turn.action_ids
        assert sum(sample.action_mask) == len(turn.action_ids) == sample.num_action_tokens
        assert sample.rollout_tokens == rollout.num_action_tokens and sample.rollout_turns == 9
    # No prompt grows once the window is full.
    lengths = [len(request["prompt_ids"]) for request in policy.requests]
    assert max(lengths[size + 1 :]) < lengths[0] + (size + 1) * 300


def test_a_text_without_an_action_costs_the_penalty():
    tree = {"name": "t", "model": {"path": "none"}, "tasks": {"environment": "babyai"}, "evaluation": {"split": "test"}}
    config = parse_config(tree | {"agent": {"max_turns": 3, "format_penalty": 0.1}}, "test")
    environment = make_part(ENVIRONMENT, config)
    agent = Agent.training(Script("ACTION: turn left", "nonsense"), CHAT, config.agent)
    rollout = asyncio.run(run_episode(make_job(environment.training_tasks()[0]), environment, agent))
    assert [turn.reward for turn in rollout.turns] == [0.0, -0.1, 0.0]
    assert rollout.reward == pytest.approx(-0.1)
