"""A run on three hosts, of which every kind of process is killed and one has its cable pulled, learns all the same.

The hosts are network namespaces: one serves and samples, two train together over gloo. What is killed comes back by itself
(a vLLM server, AppWorld's), or ends the run within a minute, which `--restarts` then takes up at its newest checkpoint.
"""

from __future__ import annotations

import re
import time
from statistics import fmean

import pytest
from head import Head, gone_within
from hosts import MISSING, network
from test_end_to_end import PATIENCE_S

from loop_rl.store.metrics import read_metrics

pytestmark = [pytest.mark.slow(600), pytest.mark.cluster, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
NUM_ITERATIONS = 8
STOP_S = 60
CUT_S = 20


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with network(tmp_path_factory.mktemp("network"), num_hosts=3) as net:
        yield net


@pytest.fixture(scope="module")
def head(net, tmp_path_factory, appworld_root):
    settings = [
        "nodes.inference=1", "nodes.training=2", f"trainer.num_iterations={NUM_ITERATIONS}",
        "sampler.tasks_per_iteration=8", "trainer.learning_rate=2e-3", "trainer.minibatch_rollouts=16",
    ]  # fmt: skip
    head = Head(net, tmp_path_factory.mktemp("three"), appworld_root, settings)
    head.start()
    yield head
    head.process.kill()  # what it has started ends with it
    head.process.wait()
    assert gone_within(STOP_S, head.run)


def test_servers_that_are_killed_come_back_and_a_cable_that_is_pulled_for_a_while_does_no_harm(head, net):
    head.wait_for_training(1)
    head.kill("start_vllm")
    log = head.run.logs / "vllm-0.log"
    head.wait_until(lambda: log.read_text().count("Application startup complete") == 2)
    head.wait_for_training(2)
    head.kill("fork_server.py", '"role": "worker"')
    net.cut(1)
    time.sleep(CUT_S)
    net.heal(1)
    head.wait_for_training(head.run.latest_version() + 1)
    assert head.num_restarts == 0


@pytest.mark.parametrize(
    ("name", "words", "without"),
    [
        ("a training rank", ["loop_rl.train "], "commands.launch"),
        ("the sampler", ["loop_rl.sampling.sampler "], "commands.launch"),
        ("a node", ["loop_rl.running.node ", "--index 2"], "netns"),
        ("accelerate", ["accelerate.commands.launch", "loop_rl.train"], "netns"),
    ],
)
def test_what_cannot_go_on_ends_the_run_within_a_minute_and_is_taken_up_again(head, name, words, without):
    head.wait_for_training(head.run.latest_version())
    restarts, said = head.num_restarts, len(head.output)
    head.kill(*words, without=without)
    head.wait_until(lambda: head.num_restarts == restarts + 1, STOP_S)
    assert re.search(r"(sampler|node \d \(h\d+[bc]\)).*(ended with|killed by|no sign)", head.output[said:]), head.output


def test_a_killed_head_leaves_nothing_behind_and_the_run_goes_on_and_has_learned(head):
    head.wait_for_training(head.run.latest_version())
    head.process.kill()
    assert gone_within(STOP_S, head.run)
    head.start()
    assert head.process.wait(PATIENCE_S) == 0, head.output
    returns = [line["rollout/return"] for line in read_metrics(head.run)]
    assert len(returns) == NUM_ITERATIONS
    assert fmean(returns[-2:]) > fmean(returns[:2]) + 0.05, returns
