"""The planner: what it prints, what it refuses and in which words, and that the docs say the same."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from loop_rl.config.load import load_config
from loop_rl.planning.gpus import GPUS
from loop_rl.planning.layout import DoesNotFit, check, layouts
from loop_rl.planning.plan import Machines, best, print_plan, splits
from loop_rl.planning.shapes import KNOWN, model_shape
from loop_rl.planning.timing import Assumptions, forward_flops, rollout_flops, training_time
from loop_rl.planning.workload import assumed_workload, groups_of_an_iteration

pytestmark = pytest.mark.slow(75)

REPO = Path(__file__).parents[2]
NO_HUB = os.environ | {"HF_HUB_CACHE": "/nowhere"}


def plan(*arguments: str) -> subprocess.CompletedProcess:
    """Run the command as a user would, where nothing is in the hub's cache."""
    command = [sys.executable, "-m", "loop_rl.plan", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPO, env=os.environ | {"HF_HUB_CACHE": "/nowhere"}
    )


def config(name: str, *overrides: str):
    return load_config(REPO / "configs" / f"{name}.yaml", list(overrides))


def refusal(name: str, nodes: int, *overrides: str, gpus_per_node: int = 8, gpu: str = "h100") -> str:
    """The line with which a plan is refused."""
    asked = config(name, *overrides)
    machines = Machines(nodes, gpus_per_node, gpu)
    with pytest.raises(DoesNotFit) as error:
        splits(asked, machines, model_shape(asked.model.path)[0], Assumptions(), assumed_workload(asked))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_papers_run_fits_on_two_nodes_and_prints_what_it_needs():
    done = plan("--config", "configs/qwen2.5-32b.yaml", "--nodes", "2")
    assert done.returncode == 0, done.stderr
    for word in (
        "weights",
        "adapter",
        "optimiser",
        "activations kept",
        "KV cache",
        "one behind (config)",
        "1 : 1 nodes  best",
    ):
        assert word in done.stdout
    assert "32.76 billion parameters" in done.stdout and "the planner's table" in done.stdout
    assert "mfu 0.35" in done.stdout  # assumptions are printed


def test_without_torch():
    code = "import sys, loop_rl.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


@pytest.mark.parametrize(
    ("name", "nodes", "overrides", "message"),
    [
        (
            "qwen2.5-32b",
            1,
            [],
            "server.replicas * tensor_parallel_size (8) + trainer.num_processes (8) is more than the node's 8 GPUs",
        ),
        (
            "qwen2.5-7b",
            1,
            ["trainer.num_processes=16"],
            "trainer.num_processes is 16, a node has 8 GPUs; lower it to 8",
        ),
        (
            "qwen2.5-32b",
            2,
            ["server.tensor_parallel_size=1", "server.replicas=8"],
            "one episode has up to 32,768 (agent.max_context_tokens); set server.tensor_parallel_size=2 and server.replicas=4",
        ),
        ("qwen2.5-32b", 2, ["trainer.zero_stage=2"], "79.6 GiB are there; set trainer.zero_stage=3"),
        (
            "qwen2.5-7b",
            1,
            ["trainer.activation_checkpointing=false"],
            "set trainer.activation_checkpointing=true",
        ),
        (
            "qwen2.5-7b",
            1,
            ["trainer.max_tokens_per_microbatch=400000"],
            "set trainer.max_tokens_per_microbatch=32768",
        ),
        (
            "qwen2.5-7b",
            1,
            ["agent.max_context_tokens=200000"],
            "set trainer.sequence_parallel_size=2",
        ),
        ("qwen2.5-32b", 2, ["model.lora=null"], "set trainer.offload_optimizer=true"),
        (
            "qwen2.5-32b",
            2,
            ["model.lora=null", "trainer.num_processes=1"],
            "train an adapter (model.lora), or give more",
        ),
        ("qwen2.5-32b", 2, ["agent.max_context_tokens=2000000"], "take GPUs with more memory"),
        (
            "qwen2.5-7b",
            1,
            ["server.tensor_parallel_size=3", "server.replicas=1"],
            "does not divide the model's 28 attention",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_setting_to_change(name, nodes, overrides, message):
    assert message in refusal(name, nodes, *overrides)


def test_one_gpu_is_shared_and_has_to_leave_the_trainer_room():
    assert "change --gpu-memory-utilization in server.args" in refusal(
        "qwen2.5-1.5b", 1, 'server.args=[--gpu-memory-utilization,"0.9"]', gpus_per_node=1
    )


def test_the_change_that_a_refusal_names_does_make_it_fit():
    said = refusal("qwen2.5-32b", 2, "trainer.zero_stage=2")
    changed = config("qwen2.5-32b", "trainer.zero_stage=2", said.split("set ")[1])
    (layout,) = layouts(changed, 2, 8)
    check(KNOWN[changed.model.path], changed, layout, GPUS["h100"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "configs/nowhere.yaml"], "error: configs/nowhere.yaml: cannot read config"),
        (["--config", "configs/qwen2.5-7b.yaml", "--nodes", "0"], "error: --nodes must be at least 1, not 0"),
        (["--config", "configs/qwen2.5-7b.yaml", "--nodes", "two"], "argument --nodes: invalid"),
        (
            ["--config", "configs/qwen2.5-7b.yaml", "--mfu", "35"],
            "error: --mfu is a share of the peak, in (0, 1], not 35",
        ),
        (["--config", "configs/qwen2.5-7b.yaml", "--gpu", "b200"], "argument --gpu: invalid choice: 'b200'"),
        (["--config", "configs/qwen2.5-7b.yaml", "model.path=a/b"], "error: model.path: no config.json in a/b"),
        (["--config", "configs/qwen2.5-7b.yaml", "--run", "nowhere"], "error: nowhere"),
        (
            ["--config", "configs/tiny.yaml"],
            "(1024) has no room for the assumed prompt of 3000 tokens; give a measured run",
        ),
        (["--config", "configs/qwen2.5-32b.yaml"], "error: configs/qwen2.5-32b.yaml: server.replicas"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, message):
    done = plan(*arguments)
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or done.stderr.startswith("usage:")


def test_every_split_of_several_nodes_is_looked_at():
    asked = config("qwen2.5-32b")
    for nodes in (2, 4, 8, 16):
        found = layouts(asked, nodes, 8)
        assert [(layout.num_replicas, layout.num_ranks) for layout in found] == [
            (2 * inference, 8 * (nodes - inference)) for inference in range(1, nodes)
        ]


def test_more_nodes_are_never_slower():
    asked = config("qwen2.5-32b")
    workload, shape = assumed_workload(asked), KNOWN[asked.model.path]
    times = []
    for nodes in (2, 3, 4):
        found = splits(asked, Machines(nodes, 8, "h100"), shape, Assumptions(), workload)
        times.append(best(found, asked).outcomes[1].iteration_s)
    assert times == sorted(times, reverse=True)


def test_more_ranks_than_rollouts_in_a_minibatch_are_of_no_use():
    asked = config("qwen2.5-7b", "trainer.minibatch_rollouts=4")
    shape, lengths = KNOWN[asked.model.path], [(4000,)] * 8

    def seconds(ranks):
        return training_time(shape, asked, GPUS["h100"], Assumptions(), ranks, 1)(lengths)

    # By hand: 2 epochs of 2 steps, each of 4 rollouts on 1, 2, 4 ranks.
    one_rollout = rollout_flops(shape, asked, 4000) / (989e12 * 0.35)
    assert [seconds(ranks) for ranks in (1, 2, 4, 8)] == pytest.approx([n * 4 * one_rollout for n in (4, 2, 1, 1)])
    # 6 operations a parameter and token, and attention beside them
    assert rollout_flops(shape, asked, 4000) == pytest.approx(6 * 7.07e9 * 4000, rel=0.1)


def test_turns_that_are_samples_and_a_critic_by_hand():
    asked = config("verlog/crafter-7b", "trainer.minibatch_rollouts=null", "trainer.num_processes=1")
    shape = KNOWN[asked.model.path]

    def seconds(rollouts, asked=asked):
        return training_time(shape, asked, GPUS["h100"], Assumptions(), 1, 1)(rollouts)

    # An epoch of the policy and one of its critic; before it passes for values, and for both sides of the KL.
    per_s = 989e12 * 0.35
    expected = sum(2 * rollout_flops(shape, asked, n) + 3 * forward_flops(shape, n) for n in (500, 700, 600)) / per_s
    assert seconds([(500, 700), (600,)]) == pytest.approx(expected)
    plain = config(
        "verlog/crafter-7b", "trainer.minibatch_rollouts=null", "trainer.num_processes=1", "algorithm.critic=head"
    )
    assert seconds([(500, 700)], plain) < seconds([(500, 700)])
    # What is read whole costs attention over all of it.
    assert seconds([(500, 500)]) < seconds([(1000,)])


def test_a_batch_of_turns_is_pieces_of_the_episodes_under_way():
    asked = config("verlog/crafter-7b")
    workload = assumed_workload(asked)
    assert groups_of_an_iteration(asked) == (128, 1) and workload.turns == 16
    assert sum(map(len, (episode.samples for episode in workload.episodes[:128]))) == 2048
    episode = workload.episodes[0]
    assert sum(episode.samples) == episode.num_tokens and max(episode.samples) <= asked.agent.max_context_tokens
    # While it writes, an episode holds the prompt of one turn, not of all before it.
    assert workload.held_tokens < asked.agent.max_context_tokens


def test_the_assumed_episodes_have_the_assumed_means():
    workload = assumed_workload(config("qwen2.5-32b"))
    assert workload.turns == pytest.approx(15, rel=0.1)
    assert workload.action_tokens / workload.turns == pytest.approx(150, rel=0.1)
    assert max(episode.num_tokens for episode in workload.episodes) <= 32_768


def test_docs_are_made_of_what_the_planner_prints():
    code = "from loop_rl.planning.document import plans; print(plans(scaling=False), end='')"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=NO_HUB, check=True
    )
    written = (REPO / "docs" / "plans.md").read_text()
    assert written.startswith(printed.stdout), "docs/plans.md is stale: run `make docs`"


def test_all_weights_and_the_configs_own_staleness_are_planned_for():
    done = plan(
        "--config",
        "configs/qwen2.5-7b.yaml",
        "model.lora=null",
        "sampler.max_staleness=4",
        "sampler.over_stale=drop",
    )
    assert done.returncode == 0, done.stderr
    assert "7.62 billion parameters, all of them trained" in done.stdout and "optimiser step" in done.stdout
    assert "asynchronous (config)" in done.stdout and "at most 4 versions behind" in done.stdout


def test_training_all_weights_takes_a_third_more_computation():
    shape, asked = KNOWN["Qwen/Qwen2.5-7B-Instruct"], config("qwen2.5-7b", "model.lora=null")
    ratio = rollout_flops(shape, asked, 1000) / rollout_flops(shape, config("qwen2.5-7b"), 1000)
    assert ratio == pytest.approx(8 / 6, rel=0.01)


def test_a_plan_can_be_printed_to_any_console():
    console = Console(file=io.StringIO(), width=60)
    print_plan(console, config("qwen2.5-1.5b"), [Machines(1, 1, "a100")], Assumptions())
    assert "one GPU for both" in console.file.getvalue()
