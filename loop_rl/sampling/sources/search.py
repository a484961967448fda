"""DPO-MCTS's data: a tree of each task's episodes, grown where it promises most, and pairs of actions that turned out unlike.

arXiv 2502.01600, appendix C.4, with the bound and the pairs of Agent Q, arXiv 2408.07199: a node is a turn; the search goes down by the
upper confidence bound to the first node that has not two actions below it yet, samples one there, and goes on to the episode's
end, whose reward is the value of every node above. A node's world is made anew, by doing the actions before it again. There is no
critic that the model itself plays.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from loop_rl.agents.chat import Chat
from loop_rl.agents.episode import Agent, run_episode, training_job
from loop_rl.config.settings import Config
from loop_rl.data.rollout import Rollout, Turn, training_id
from loop_rl.environments.protocol import Environment, ScoringError, Task
from loop_rl.sampling.collect import all_together
from loop_rl.sampling.sources.dataset import Gathering, NothingToLearn, Remembered, generation_of
from loop_rl.serving.client import PolicyClient
from loop_rl.store.run_dir import RunDir

_WIDTH = 2
"""Actions that are tried at a node."""


async def gather(
    run: RunDir, config: Config, tasks: Sequence[Task], environment: Environment, chat: Chat, policy: PolicyClient
) -> None:
    """Grow the tree of every task by `sampler.searches` episodes of version 0, then assign its pairs. Raises NothingToLearn,
    PolicyError."""
    tasks = sorted(tasks, key=lambda task: task.task_id)
    gathering = Gathering(run, config, environment, total=len(tasks) * config.sampler.searches)
    if not gathering.store.num_assigned:
        await policy.load_version(0, None)
        agent = replace(Agent.training(policy, chat, config.agent), version=0)
        room = asyncio.Semaphore(config.tasks.num_workers)

        async def grow_in_turn(group_id: int) -> None:
            async with room:
                await _grow(gathering, config, tasks[group_id], group_id, agent)

        async with gathering.reported():
            await all_together([grow_in_turn(group_id) for group_id in range(len(tasks))])
    pairs: dict[int, list[Rollout]] = {}
    for group_id in range(len(tasks)):
        tree = Tree(config.sampler.exploration)
        for rollout in gathering.searched(group_id):
            tree.add(rollout)
        for pair in tree.pairs():
            number = len(tasks) + len(pairs)  # behind the searches' own groups
            pairs[number] = [one_turn(node, number, k) for k, node in enumerate(pair)]
    if not pairs:
        raise NothingToLearn(
            f"of {len(gathering.rollouts)} searches no two actions led to different rewards, so there is nothing to prefer; "
            "choose other tasks (tasks.task_ids), or raise sampler.searches"
        )
    print(f"{len(pairs)} pairs of {len(gathering.rollouts)} searches of {len(tasks)} tasks", flush=True)
    gathering.assign(pairs)


async def _grow(gathering: Gathering, config: Config, task: Task, group_id: int, agent: Agent) -> None:
    """The searches of one task, one after another; those that an earlier process has done are there."""
    tree, done = Tree(config.sampler.exploration), gathering.rollouts
    for number in range(config.sampler.searches):
        job = training_job(config, task, group_id, k=number)
        if rollout := done.get(job.rollout_id):
            tree.add(rollout)
            continue
        path = tree.select()
        if path and path[-1].is_end:
            tree.visit_again(path)
            continue
        begun = Remembered(job, [generation_of(node.turn) for node in path], then=agent.policy)
        try:
            rollout = await run_episode(job, gathering.environment, replace(agent, policy=begun))
        except ScoringError as error:
            print(f"{job.rollout_id}: left out, it cannot be scored: {error}", flush=True)
            continue
        gathering.store.add(rollout)
        tree.add(rollout)


@dataclass
class Node:
    """An action after those above it; the root is the beginning, before any."""

    turn: Turn | None = None
    rollout: Rollout | None = None
    """The one that came here first."""
    depth: int = 0
    children: dict[tuple[int, ...], Node] = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0

    @property
    def value(self) -> float:
        """Q: mean reward of the episodes that came through."""
        return self.total / self.visits

    @property
    def is_end(self) -> bool:
        """The episode ended with it."""
        return self.rollout is not None and self.depth == len(self.rollout.turns)


class Tree:
    """exploration: c of the upper confidence bound, Q + c sqrt(log N(parent) / (1 + N))."""

    def __init__(self, exploration: float) -> None:
        self._exploration = exploration
        self.root = Node()

    def select(self) -> list[Node]:
        """From the root, which is left out, to where the next episode leaves what is known."""
        node, path = self.root, []
        while len(node.children) >= _WIDTH:
            parent = node
            node = max(parent.children.values(), key=lambda child: self._bound(parent, child))
            path.append(node)
        return path

    def _bound(self, parent: Node, child: Node) -> float:
        return child.value + self._exploration * math.sqrt(math.log(parent.visits) / (1 + child.visits))

    def add(self, rollout: Rollout) -> None:
        """An episode, which adds one node: its first action that is not known here."""
        path, node = [self.root], self.root
        for depth, turn in enumerate(rollout.turns, start=1):
            known = node.children.get(tuple(turn.action_ids))
            node = node.children.setdefault(tuple(turn.action_ids), known or Node(turn, rollout, depth))
            path.append(node)
            if known is None:
                break
        for visited in path:
            visited.visits += 1
            visited.total += rollout.reward

    def visit_again(self, path: Sequence[Node]) -> None:
        """Of an action that ends the episode: there is nothing to sample below it."""
        reward = path[-1].value
        for node in (self.root, *path):
            node.visits += 1
            node.total += reward

    def pairs(self) -> list[tuple[Node, Node]]:
        """Two actions after the same beginning that turned out unlike, the better one first."""
        found, waiting = [], [self.root]
        while waiting:
            node = waiting.pop()
            children = sorted(node.children.values(), key=lambda child: -child.value)
            if len(children) >= _WIDTH and children[0].value > children[-1].value:
                found.append((children[0], children[-1]))
            waiting += reversed(children)
        return found


def one_turn(node: Node, group_id: int, k: int) -> Rollout:
    """A node as what is trained on: all that was read and written before is context, its action is the only one; its reward is
    its value."""
    so_far = replace(node.rollout, turns=node.rollout.turns[: node.depth])
    sample, turn = so_far.samples()[-1], so_far.turns[-1]
    context_ids = sample.token_ids[: -len(turn.action_ids)]
    action = replace(turn, context_ids=context_ids, extends=False, reward=0.0)
    return replace(
        node.rollout, rollout_id=training_id(group_id, k), group_id=group_id, turns=[action], score=node.value
    )
