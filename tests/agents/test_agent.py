"""One episode, on the real AppWorld; stand-ins only where something has to go wrong."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from test_chat import TOKENIZERS

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, Job, run_episode
from loop_rl.agents.policy import Generation, PolicyError
from loop_rl.config.load import parse_config
from loop_rl.config.parts import ENVIRONMENT, make_part
from loop_rl.config.settings import AgentConfig
from loop_rl.data.rollout import EndReason, Rollout
from loop_rl.environments import protocol
from loop_rl.environments.appworld.ends import COMPLETED, NO_CODE, TAMPERED
from loop_rl.environments.appworld.prompts import build_prompt
from loop_rl.environments.protocol import EpisodeLost, Score, ScoringError, Step
from loop_rl.sampling.collect import collect, in_order

pytestmark = pytest.mark.slow(25)

CHAT = Chat(TOKENIZERS["chatml"], max_observation_tokens=160)
AGENT = AgentConfig(
    max_turns=3, max_new_tokens=500, max_context_tokens=2000, max_observation_tokens=160, time_limit_s=60
)


class Script:
    """A policy that says what it is told to, whatever it reads; remembers the requests."""

    def __init__(self, *actions: str) -> None:
        self.actions = actions
        self.requests: list[dict] = []

    async def sample(self, prompt_ids, max_tokens, temperature, seed, version) -> Generation:
        action = self.actions[len(self.requests) % len(self.actions)]
        self.requests.append(
            {"prompt_ids": list(prompt_ids), "max_tokens": max_tokens, "seed": seed, "version": version}
        )
        ids = [*CHAT.encode(action), CHAT.end_of_turn_id][:max_tokens]
        return Generation(ids, [-0.5] * len(ids), policy_version=len(self.requests))


def block(code: str) -> str:
    return f"```python\n{code}\n```"


def make_job(task, name: str = "agent-test") -> Job:
    return Job(task, rollout_id="g000003-k1", outputs_name=name, seed=11, group_id=3, iteration=1)


def appworld(root, python, **settings) -> protocol.Environment:
    tasks = {"root": str(root), "python": str(python), "prompt": "compact"} | settings
    return make_part(ENVIRONMENT, parse_config({"name": "t", "model": {"path": "none"}, "tasks": tasks}, "test"))


@pytest.fixture(scope="module")
def play(appworld_root, appworld_python):
    """Run one episode of the first training task on the real environment."""
    environment = appworld(appworld_root, appworld_python, num_workers=1, execute_timeout_s=2)
    task = environment.tasks("train")[0]
    ours = environment.settings
    with asyncio.Runner() as runner:

        def run(policy, tasks=None, **settings) -> Rollout:
            environment.settings = ours.model_copy(update=tasks or {})
            agent = Agent.training(policy, CHAT, AGENT.model_copy(update=settings))
            return runner.run(run_episode(make_job(task), environment, agent))

        runner.run(environment.__aenter__())
        yield run
        runner.run(environment.__aexit__(None, None, None))


def test_an_episode_acts_in_the_world_until_it_is_completed_and_scores_it(play):
    policy = Script(
        "I count.\n" + block("x = 20 + 1\nprint(x)"),
        block("print(x * 2, '<|im_end|>')"),
        block("apis.supervisor.complete_task(answer='surely wrong')"),
    )
    rollout = play(policy)
    assert rollout.end_reason == COMPLETED
    assert [turn.executed for turn in rollout.turns][:2] == ["x = 20 + 1\nprint(x)", "print(x * 2, '<|im_end|>')"]
    assert [turn.observation.strip() for turn in rollout.turns] == ["21", "42 <|im_end|>", ""]
    assert rollout.turns[0].action_text.startswith("I count.")
    assert 0 < rollout.reward < 1 and not rollout.success
    assert rollout.passes and rollout.failures
    assert (rollout.rollout_id, rollout.group_id, rollout.iteration) == ("g000003-k1", 3, 1)
    assert rollout.policy_versions == [1, 2, 3]
    assert 0 < rollout.generation_s + rollout.environment_s <= rollout.duration_s

    # What the policy was asked to continue is what the trainer will see before each action, token for token.
    (sequence,) = rollout.samples()
    for request, turn_end in zip(policy.requests, _action_ends(rollout), strict=True):
        assert sequence.token_ids[: len(request["prompt_ids"])] == request["prompt_ids"]
        assert all(sequence.action_mask[len(request["prompt_ids"]) : turn_end])
    assert CHAT.decode(sequence.token_ids).count("<|im_start|>") == 2 + 1 + 2 * 2
    assert sequence.token_ids.count(CHAT.end_of_turn_id) == 2 + 2 + 3  # the printed one is no end of turn
    assert len({request["seed"] for request in policy.requests}) == 3


def test_a_sparse_reward_asks_for_everything(play):
    policy = Script(block("apis.supervisor.complete_task(answer='surely wrong')"))
    by_fraction, sparse = play(policy), play(policy, tasks={"reward": "success"})
    assert 0 < by_fraction.reward < 1 and sparse.reward == 0
    assert sparse.passes == by_fraction.passes  # for the reader


def test_an_episode_that_forges_its_log_of_api_calls_ends_as_tampered(play):
    policy = Script(
        block("requester.request_tracker.requests.clear()\nprint(1)"), block("apis.supervisor.complete_task()")
    )
    honest = play(Script(block("apis.supervisor.complete_task()")))
    assert honest.end_reason == COMPLETED and honest.reward > 0
    forged = Script(block("apis.supervisor.complete_task(answer='1')\nrequester.request_tracker.requests.clear()"))
    rollout = play(forged)
    assert rollout.end_reason == TAMPERED
    assert (rollout.reward, rollout.success, rollout.passes) == (0.0, False, [])
    assert rollout.failures == ["tampered: the state of supervisor is not what the API calls give"]
    assert play(policy).end_reason == COMPLETED  # reading nothing and forgetting it is no harm


def _action_ends(rollout: Rollout) -> list[int]:
    ends, position = [], 0
    for turn in rollout.turns:
        position += len(turn.context_ids) + len(turn.action_ids)
        ends.append(position)
    return ends


def test_an_episode_as_the_released_code_plays_it(play, first_task):
    policy = Script(
        block("x = 1") + "\nand\n" + block("print(x + 1)") + "\n```py\nprint(x + 2)",
        "I think.",
        block("apis.supervisor.complete_task()"),
    )
    rollout = play(policy, {"blocks": "all", "on_no_code": "continue", "remind": True})
    reminder = f"\n\nTask: {first_task.instruction}"
    assert rollout.turns[0].executed == "x = 1\nprint(x + 1)\nprint(x + 2)"
    assert rollout.turns[0].observation == f"2\n3\n{reminder}"
    assert rollout.turns[1].observation == f"No complete ```python block was found, so nothing was run.{reminder}"
    assert [turn.valid for turn in rollout.turns] == [True, False, True] and rollout.end_reason == COMPLETED
    (sequence,) = rollout.samples()
    assert CHAT.decode(sequence.token_ids).count(reminder) == 2


def test_an_episode_ends_after_its_last_turn_and_is_scored(play):
    rollout = play(Script(block("print(1)")))
    assert rollout.end_reason == EndReason.MAX_TURNS
    assert len(rollout.turns) == 3 and rollout.passes + rollout.failures


def test_an_error_in_the_code_is_an_observation(play):
    rollout = play(Script(block("1 / 0")), max_turns=2)
    assert "ZeroDivisionError" in rollout.turns[0].observation and rollout.end_reason == EndReason.MAX_TURNS


@pytest.mark.parametrize("action", ["Done, I think.", "```python\nprint(1)", "```python\n```"])
def test_a_turn_without_a_closed_code_block_ends_the_episode(play, action):
    rollout = play(Script(action))
    assert rollout.end_reason == NO_CODE
    assert len(rollout.turns) == 1 and rollout.turns[0].executed == "" and rollout.failures


def test_the_context_is_never_filled_beyond_its_limit(play, first_task):
    prompt = len(CHAT.first_turn(build_prompt("compact", first_task)))
    turn = (
        len(CHAT.encode(block("print('y ' * 400)")))
        + 1
        + 160
        + len(CHAT.next_turn(CHAT.observation(""), CHAT.end_of_turn_id))
    )
    limit = prompt + 2 * turn  # room for two turns and not one token more
    policy = Script(block("print('y ' * 400)"))
    rollout = play(policy, max_turns=50, max_context_tokens=limit, max_new_tokens=60)
    assert rollout.end_reason == EndReason.CONTEXT_FULL
    assert len(rollout.turns) == 2 and rollout.failures
    assert [r["max_tokens"] for r in policy.requests] == [60, min(60, limit - prompt - turn)]
    assert rollout.num_tokens <= limit

    assert play(Script("x"), max_context_tokens=prompt).end_reason == EndReason.CONTEXT_FULL
    assert not play(Script("x"), max_context_tokens=prompt).turns


@pytest.mark.parametrize("code", ['__import__("ctypes").string_at(0)', "import itertools\nsum(itertools.repeat(0))"])
def test_a_lost_worker_ends_only_its_episode_with_no_reward(play, code):
    rollout = play(Script(block("print(1)"), block(code)))
    assert rollout.end_reason == EndReason.WORKER_LOST
    assert rollout.reward == 0 and not rollout.success and "worker lost" in rollout.failures[0]
    assert [turn.executed for turn in rollout.turns] == ["print(1)", code]


def test_an_episode_that_takes_too_long_ends_between_turns_and_is_scored(play):
    class Slow(Script):
        async def sample(self, *args, **kwargs):
            await asyncio.sleep(0.3)
            return await super().sample(*args, **kwargs)

    rollout = play(Slow(block("print(1)")), time_limit_s=0.1)
    assert rollout.end_reason == EndReason.TIME_LIMIT
    assert len(rollout.turns) == 1 and rollout.passes + rollout.failures


def test_a_policy_that_fails_is_an_error_and_no_reward(play):
    class Broken:
        async def sample(self, *args, **kwargs):
            raise PolicyError("vLLM server http://a does not answer")

    with pytest.raises(PolicyError, match="does not answer"):
        play(Broken())


class FaultyEnvironment(protocol.Environment):
    """Stands in for AppWorld to make its rarer faults happen: `faults` are raised, one an episode, by `where`."""

    held_out_splits = ("test_normal", "dev")

    def __init__(self, where: str, *faults: Exception) -> None:
        self.where = where
        self.faults = list(faults)
        self.num_open = self.most_open = 0

    def tasks(self, split):
        return []

    def prompt(self, task):
        return [{"role": "user", "content": task.instruction}]

    def figures(self, tasks, rollouts, usages):
        return {}

    def _fail(self, where: str) -> None:
        if where == self.where and self.faults:
            raise self.faults.pop(0)

    @asynccontextmanager
    async def episode(self, task, name, keep_outputs):
        self._fail("open")
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            yield self
        finally:
            self.num_open -= 1

    async def step(self, action):
        await asyncio.sleep(0.001)
        return Step("", end="completed")

    async def score(self):
        self._fail("score")
        return Score(reward=1.0, success=True, passes=("all",), failures=())


class InstantEnvironment(FaultyEnvironment):
    """One that a config can name; its episodes are over at once."""

    def __init__(self, settings) -> None:
        super().__init__("")

    def training_tasks(self):
        return [SimpleNamespace(task_id=f"t{i}", family="t", labels={}, instruction=f"task {i}") for i in range(8)]


def run_on(environment, task, policy=None) -> Rollout:
    agent = Agent.training(policy or Script(block("print(1)")), CHAT, AGENT)
    return asyncio.run(run_episode(make_job(task), environment, agent))


def test_a_world_that_does_not_open_costs_one_episode(first_task):
    rollout = run_on(FaultyEnvironment("open", EpisodeLost("crashed: no room")), first_task)
    assert rollout.end_reason == EndReason.WORKER_LOST and rollout.reward == 0 and not rollout.turns
    assert rollout.failures == ["worker lost: " + str(EpisodeLost("crashed: no room"))]


def test_an_episode_that_cannot_be_scored_is_run_again_with_other_seeds_and_never_scored_zero(first_task):
    policy = Script(block("print(1)"))
    rollout = run_on(FaultyEnvironment("score", ScoringError("a"), ScoringError("b")), first_task, policy)
    assert rollout.reward == 1 and len({request["seed"] for request in policy.requests}) == 3
    with pytest.raises(ScoringError, match="c"):
        run_on(FaultyEnvironment("score", ScoringError("a"), ScoringError("b"), ScoringError("c")), first_task)


def test_jobs_start_in_order_and_only_so_many_at_a_time(first_task):
    class FourAtOnce(FaultyEnvironment):
        async def step(self, action):
            async with asyncio.timeout(60):
                while self.most_open < 4:
                    await asyncio.sleep(0)
            return await super().step(action)

    environment, started, finished = FourAtOnce(""), [], []
    jobs = [Job(first_task, f"r{i}", f"e{i}", i, i, 0) for i in range(9)]

    async def as_they_start():
        for job in jobs:
            started.append(job.rollout_id)
            await asyncio.sleep(0)
            yield job

    agent = Agent.training(Script(block("print(1)")), CHAT, AGENT)
    asyncio.run(collect(as_they_start(), environment, lambda _: agent, 4, finished.append))
    assert started == [job.rollout_id for job in jobs]
    assert sorted(rollout.rollout_id for rollout in finished) == started
    assert environment.most_open == 4


def test_the_first_error_cancels_all_other_episodes_and_is_raised_as_it_is(first_task):
    environment = FaultyEnvironment("")
    jobs = [Job(first_task, f"r{i}", f"e{i}", i, i, 0) for i in range(9)]

    def disk_full(rollout):
        raise OSError(28, "No space left on device")

    agent = Agent.training(Script(block("print(1)")), CHAT, AGENT)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(collect(in_order(jobs), environment, lambda _: agent, 4, disk_full))
    assert environment.num_open == 0


def test_an_episode_that_is_cut_off_ends_before_its_next_turn_and_is_scored(first_task):
    job = Job(first_task, "r", "e", 0, 0, 0)
    job.cut.set()
    agent = Agent.training(Script(block("print(1)")), CHAT, AGENT)
    rollout = asyncio.run(run_episode(job, FaultyEnvironment(""), agent))
    assert (rollout.end_reason, rollout.turns, rollout.reward) == (EndReason.CUT_OFF, [], 1)


@pytest.fixture
def first_task(appworld_root, appworld_python):
    return appworld(appworld_root, appworld_python).tasks("train")[0]


@pytest.mark.parametrize(
    ("step", "reason", "ending"),
    [
        (Step("", end="won"), "won", "terminated"),
        (Step("", end="clock", truncated=True), "clock", "truncated"),
        (Step("more"), "max_turns", "truncated"),
        (EpisodeLost("crashed", executed="what it did"), "worker_lost", "broken"),
    ],
)
def test_ends_of_the_world_cuts_and_lost_worlds_are_told_apart(first_task, step, reason, ending):
    class OneStep(FaultyEnvironment):
        async def step(self, action):
            if isinstance(step, Exception):
                raise step
            return step

    rollout = run_on(OneStep(""), first_task)
    assert (rollout.end_reason, rollout.ending) == (reason, ending)
    assert rollout.turns[-1].executed == ("what it did" if reason == "worker_lost" else "")
