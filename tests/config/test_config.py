"""Configuration: what is refused, and in which words."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loop_rl.algorithms.learning import make_objective
from loop_rl.config.base import ConfigError
from loop_rl.config.load import dump_config, load_config, methods, parse_config
from loop_rl.config.reference import settings_reference

REPO = Path(__file__).parents[2]
TINY = REPO / "configs" / "tiny.yaml"


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            *(REPO / "configs").glob("*.yaml"),
            *(REPO / "configs/paper").glob("*.yaml"),
            *(REPO / "configs/verlog").glob("*.yaml"),
        ]
    ),
    ids=lambda path: path.stem,
)
def test_shipped_configs_load_and_survive_a_round_trip(path):
    config = load_config(path)
    assert parse_config(yaml.safe_load(dump_config(config)), "dump") == config


def test_the_32b_config_has_the_papers_values():
    config = load_config(REPO / "configs" / "qwen2.5-32b.yaml")
    assert (config.trainer.learning_rate, config.trainer.max_grad_norm) == (5e-5, 1.0)
    assert (config.sampler.rollouts_per_task, config.sampler.tasks_per_iteration) == (6, 40)
    assert (config.algorithm.min_abs_advantage, config.algorithm.clip_epsilon, config.algorithm.epochs) == (
        0.01,
        0.1,
        2,
    )
    assert (config.model.lora.rank, config.model.lora.alpha, config.trainer.minibatch_rollouts) == (16, 32, 32)
    assert (config.agent.max_turns, config.agent.max_eval_turns, config.agent.max_new_tokens) == (40, 50, 1500)
    assert config.tasks.difficulties == [1, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.lerning_rate=1", "unknown setting trainer.lerning_rate; did you mean trainer.learning_rate?"),
        (
            "sampler.rollouts_per_task=1",
            "sampler.rollouts_per_task: Input should be greater than or equal to 2 (got 1)",
        ),
        ("agent.max_new_tokens=2000", "leave no room in agent.max_context_tokens (1024)"),
        ("trainer.logprob_chunk_tokens=100000", "so it would have no effect"),
        (
            "trainer.sequence_parallel_size=2",
            "trainer.sequence_parallel_size (2) does not divide trainer.num_processes (1)",
        ),
        (
            "algorithm.max_importance_weight=2",
            "algorithm.max_importance_weight (2.0) has no effect with algorithm.ratio_to: behaviour; set algorithm.ratio_to",
        ),
        ("algorithm.penalties=[kl,klk]", "algorithm.penalties=klk: there are entropy, kl, or module:Class"),
        ("algorithm.kl_coefficient=0.1", "unknown setting algorithm.kl_coefficient"),
        ("algorithm.dual_clip=0.5", "algorithm.dual_clip (0.5): more than 1"),
        ("algorithm.importance=mask", "algorithm.importance: mask needs algorithm.max_importance_weight"),
        ("algorithm.ratio=gspo", "set algorithm.ratio_to: recomputed"),
        ("algorithm.average=sum", "algorithm.average: sum with algorithm.average_tokens: None: `sum` needs a number"),
        ("algorithm.average_tokens=3", "algorithm.average: rollout with algorithm.average_tokens: 3"),
        ("agent.temperature=0.005", "agent.temperature: Input should be greater than or equal to 0.01 (got 0.005)"),
        ("agent.temperature=2.5", "agent.temperature: Input should be less than or equal to 2 (got 2.5)"),
        (
            "evaluation.temperature=0.001",
            "evaluation.temperature (0.001): below 0.01 vLLM samples at 0.01 without a word",
        ),
        ("seed=4294967296", "seed: Input should be less than 4294967296"),
        ("trainer.zero_stage=7", "trainer.zero_stage: Input should be 1, 2 or 3 (got 7)"),
        (
            "tasks.train_split=test_normal",
            "tasks.train_split: test_normal is none of train, dev (environment appworld)",
        ),
        ("tasks.difficulties=[4]", "tasks.difficulties must be a non-empty choice of 1, 2, 3"),
        ("name=../elsewhere", "name: String should match pattern"),
        ("model.path.x=1", "'path' is not a section"),
        ("seed", "expected key=value"),
        ("tracking.project=mine", "tracking.project (mine) has no effect without tracking.trackers"),
        ("tracking.trackers=[mlflow]", "tracking.trackers.0: Input should be 'wandb' or 'trackio' (got 'mlflow')"),
    ],
)
def test_bad_settings_are_refused_in_one_line_that_names_the_key(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(TINY, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


DATA = ["sampler.source=rejection", "algorithm.advantage=imitate", "algorithm.objective=likelihood"]
PAIRS = ["algorithm.advantage=pair", "algorithm.objective=preference"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.penalties=[kl]", "model.lora=null"], "with model.lora: null no copy of it is left"),
        (["algorithm.penalties=[kl]", "algorithm.kl_estimator=k1"], "set kl_in: reward, or take k3"),
        (["algorithm.minibatch_mean=full", "trainer.minibatch_rollouts=null"], "and that is null"),
        (["sampler.cut_off_min=4"], "has no effect with sampler.cut_off_at: 1"),
        (["sampler.cut_off_min=7", "sampler.cut_off_at=0.9"], "exceeds sampler.rollouts_per_task (6)"),
        (
            [*PAIRS, "algorithm.average=token"],
            "algorithm.average: token has no meaning with algorithm.objective: preference",
        ),
        ([*PAIRS, "algorithm.filter=successful"], "takes the worse one of each pair away"),
        ([*PAIRS, "trainer.minibatch_rollouts=7"], "trainer.minibatch_rollouts (7) is odd"),
        ([*PAIRS, "algorithm.preferred_to=reference", "model.lora=null"], "no copy of it is left"),
        (
            PAIRS[1:],
            "algorithm.objective: preference reads preference, which algorithm.advantage: leave_one_out does not",
        ),
        (["evaluation.select_repeats=2"], "evaluation.select_repeats (2) has no effect with evaluation.every: 0"),
        (["evaluation.every=5", "evaluation.split=dev"], "evaluation.select_split: dev is evaluated at the end, too"),
        (["evaluation.every=17"], "exceeds trainer.num_iterations (16)"),
        (["evaluation.more_splits=[test_normal]"], "test_normal repeats a split"),
        (["evaluation.more_splits=[train]"], "evaluation.more_splits: train is none of"),
        (["evaluation.every=5", "evaluation.select_split=moon"], "evaluation.select_split: moon is none of"),
        (["agent.window=2"], "agent.window (2) has no effect with agent.memory: whole"),
        (["agent.memory=window"], "episodes of appworld cannot be told from their middle on"),
        (["agent.memory=window", "agent.window_thoughts=3"], "agent.window_thoughts (3) exceeds agent.window (1)"),
        (["evaluation.temperature=0", "evaluation.top_k=5"], "have no effect with evaluation.temperature: 0"),
        ([*DATA, "sampler.source=search"], "sampler.source: search finds pairs of actions"),
        ([*PAIRS, "sampler.searches=3"], "sampler.searches (3) has no effect with sampler.source: groups"),
        (["sampler.source=turns", "sampler.tasks_per_iteration=40"], "sampler.source: turns cuts episodes into pieces"),
        (
            ["sampler.turns_per_iteration=9"],
            "sampler.turns_per_iteration (9) has no effect with sampler.source: groups",
        ),
        (
            ["sampler.source=turns", "agent.memory=window", "sampler.rollouts_per_task=4"],
            "sampler.rollouts_per_task (4) has no effect with sampler.source: turns",
        ),
        (
            ["sampler.source=turns", "agent.memory=window", "sampler.tasks_per_iteration=4"],
            "sampler.tasks_per_iteration (4) has no effect with sampler.source: turns",
        ),
        (["sampler.attempts=2"], "sampler.attempts (2) has no effect with sampler.source: groups"),
        ([*DATA, "sampler.max_staleness=0"], "sampler.max_staleness (0) has no effect with sampler.source: rejection"),
        ([*DATA, "sampler.temperatures=[1,3]"], "sampler.temperatures: 3.0 is not between 0.01 and 2"),
        ([*DATA, "sampler.temperatures=[1,1]"], "sampler.temperatures names one twice"),
        (
            [*DATA, "algorithm.max_iteration_kl=2"],
            "compares with the sampling policy, which sampler.source: rejection has not",
        ),
        (["sampler.source=demonstrations"], "algorithm.objective: clipped compares with the policy that sampled"),
        (
            ["algorithm.advantage=critic", "algorithm.filter=everything", "trainer.num_iterations=10"],
            "algorithm.critic_warmup_iterations (10) leaves nothing of",
        ),
        (["algorithm.advantage=critic"], "set algorithm.filter: everything"),
        (
            [
                "algorithm.advantage=dual_gae",
                "algorithm.filter=everything",
                "algorithm.critic=adapter",
                "model.lora=null",
            ],
            "algorithm.critic: adapter is one on the frozen model",
        ),
        (["algorithm.advantage=critic", "algorithm.min_value=1"], "is not below algorithm.max_value"),
        (["trainer.warmup_iterations=16"], "leaves nothing of trainer.num_iterations (16)"),
        (
            [
                "algorithm.ratio_to=recomputed",
                "algorithm.importance=mask",
                "algorithm.max_importance_weight=2",
                "algorithm.min_importance_weight=3",
            ],
            "leaves nothing below",
        ),
        (
            [
                "algorithm.ratio=turn",
                "algorithm.ratio_to=recomputed",
                "trainer.num_processes=2",
                "trainer.sequence_parallel_size=2",
            ],
            "needs whole sequences",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(TINY, overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("bench", ["babyai", "tiny"])
@pytest.mark.parametrize("method", methods())
def test_every_method_goes_with_every_bench(bench, method):
    config = load_config(REPO / "configs" / f"{bench}.yaml", [f"method={method}"])
    assert config.name == f"{bench}-{method}"
    make_objective(config)


def test_a_method_lies_over_the_config_and_below_overrides(tmp_path):
    config = load_config(TINY, ["algorithm.epochs=3", "name=mine", "method=grpo"])
    assert (config.algorithm.epochs, config.name, config.algorithm.advantage) == (3, "mine", "group_mean")
    assert config.trainer.learning_rate == load_config(TINY).trainer.learning_rate
    (tmp_path / "own.yaml").write_text("algorithm: {average: token}")
    assert load_config(TINY, [f"method={tmp_path}/own.yaml"]).algorithm.average == "token"
    with pytest.raises(ConfigError, match="method=grop: there are cispo, .*, or a YAML file of your own"):
        load_config(TINY, ["method=grop"])


def test_a_config_lies_over_its_base(tmp_path):
    released = load_config(REPO / "configs" / "paper" / "loop-released.yaml")
    assert (released.sampler.cut_off_min, released.trainer.max_grad_norm, released.name) == (
        4,
        0.1,
        "paper-loop-released",
    )
    assert released.model == load_config(REPO / "configs" / "qwen2.5-32b.yaml").model
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("base: none.yaml")
    with pytest.raises(ConfigError, match=r"none.yaml: cannot read config"):
        load_config(tmp_path / "c.yaml")


def test_missing_config_names_the_known_ones(monkeypatch):
    monkeypatch.chdir(REPO)
    with pytest.raises(ConfigError, match="configs/none.yaml: cannot read config.*configs/tiny.yaml"):
        load_config("configs/none.yaml")


def test_broken_yaml_is_one_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [unclosed\nmodel: {")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "not valid YAML" in str(error.value) and "\n" not in str(error.value)


@given(learning_rate=st.floats(1e-8, 1.0), seed=st.integers(0, 2**31))
def test_overrides_win_and_keep_their_type(learning_rate, seed):
    config = load_config(TINY, [f"trainer.learning_rate={learning_rate}", f"seed={seed}"])
    assert config.trainer.learning_rate == learning_rate
    assert config.seed == seed


def test_config_loads_without_torch():
    code = "import sys, loop_rl.config.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


def test_dry_run_prints_the_resolved_config_and_touches_nothing(tmp_path):
    command = [
        sys.executable,
        "-m",
        "loop_rl.launch",
        "--config",
        str(TINY),
        "--dry-run",
        f"runs_dir={tmp_path}",
        "seed=7",
    ]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert yaml.safe_load(result.stdout)["seed"] == 7
    assert not any(tmp_path.iterdir())


def test_the_reference_of_settings_is_up_to_date():
    assert (REPO / "docs" / "settings.md").read_text() == settings_reference(), "run `make docs`"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\nname: b\n", "not valid YAML: name is given twice, in lines 1 and 2"),
        ("name: a\ntrainer:\n  zero_stage: 2\ntrainer:\n  epochs: 1\n", "trainer is given twice, in lines 2 and 4"),
        (b"name: caf\xe9\n", "not UTF-8 text (invalid continuation byte at byte 9)"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_a_file_that_says_two_things_or_nothing_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value).startswith(f"{file}: ") and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.learning_rate=true", "trainer.learning_rate: expected a number, got true"),
        ("sampler.rollouts_per_task=true", "sampler.rollouts_per_task: expected a number, got true"),
        ("trainer.learning_rate=.inf", "trainer.learning_rate: Input should be a finite number"),
        ("algorithm.clip_epsilon=.nan", "algorithm.clip_epsilon: Input should be a finite number"),
        ("a={", "override 'a={': not valid YAML"),
    ],
)
def test_what_is_no_finite_number_is_not_taken_as_one(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("configs/tiny.yaml", [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_ratio_of_whole_rollouts_is_refused_with_a_memory_window():
    window = ["agent.memory=window", "algorithm.ratio_to=recomputed"]
    with pytest.raises(ConfigError, match="are about whole rollouts"):
        load_config("configs/babyai.yaml", [*window, "algorithm.ratio=gspo"])
    load_config("configs/babyai.yaml", [*window, "algorithm.ratio=turn"])


def test_a_batch_of_turns_needs_a_critic():
    verlog = "configs/verlog/babyai-open.yaml"
    with pytest.raises(ConfigError, match="algorithm.advantage: leave_one_out compares whole episodes of a task"):
        load_config(
            "configs/babyai.yaml", ["agent.memory=window", "sampler.source=turns", "sampler.tasks_per_iteration=40"]
        )
    with pytest.raises(ConfigError, match="sampler.max_staleness: 0, where nothing|over_stale"):
        load_config(verlog, ["sampler.over_stale=drop"])
