"""The distributed trainer does what the plain reference does, whatever the ranks, sharding and micro-batches."""

import json

import pytest
import reference
import tiny
import torch
import trainer_ranks
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from loop_rl.store.rollout_files import write_rollouts
from loop_rl.training.critic import make_head

pytestmark = pytest.mark.slow(110)

CASES = [(case, 2) for case in trainer_ranks.UPDATE_CASES] + [(case, 1) for case in trainer_ranks.ONE_RANK_CASES]
EXACT = [case for case in CASES if "bfloat16" not in case[0]]
ADAPTERS = [case for case in EXACT if "lora" not in trainer_ranks.UPDATE_CASES[case[0]]]
WHOLE = [case for case in EXACT if case not in ADAPTERS]


def on_policy_rollouts(folder):
    """Sampled from the untouched base, but for the first turn of the first rollout: that one is a version older."""
    rollouts = [rollout for group in tiny.make_groups(3) for rollout in group.rollouts]
    tiny.fill_in_logprobs(rollouts, folder / "model", trainer_ranks.SAMPLER_TEMPERATURE)
    stale = rollouts[0].turns[0]
    stale.policy_version, stale.logprobs = -1, [logprob - 1 for logprob in stale.logprobs]
    return rollouts


@pytest.fixture(scope="module")
def updates(tmp_path_factory):
    """Folder with what every case left: <case>-<ranks>/{before,after,metrics.json}."""
    torch.set_num_threads(1)  # of this process, which runs the reference; tiny tensors gain nothing from more
    folder = tmp_path_factory.mktemp("updates")
    tiny.save_model(folder / "model")
    tiny.save_model(folder / "tied", tied=True)
    rollouts = on_policy_rollouts(folder)
    write_rollouts(folder / "on-policy.parquet", rollouts)
    for num_ranks in (1, 2):
        trainer_ranks.run("update", folder, num_ranks)
    return folder


@pytest.fixture(scope="module")
def reference_update(updates):
    """reference_update(settings) -> metrics, last epoch's token values and trained weights of the plain implementation, from the same start."""
    done = {}

    def update(model="model", window=False, pieces=False, **settings):
        config = tiny.make_config(updates / model, **settings)
        args = reference.Args(
            learning_rate=config.trainer.learning_rate / (1 + config.trainer.warmup_iterations),  # in iteration 0
            weight_decay=config.trainer.weight_decay,
            max_grad_norm=config.trainer.max_grad_norm,
            minibatch_rollouts=config.trainer.minibatch_rollouts,
            temperature=config.agent.temperature,
            seed=config.seed,
            # By their names, which the reference's own code gives a meaning.
            **{k: v for k, v in config.algorithm.model_dump().items() if k in reference.Args.__annotations__},
        )
        key = model, window, pieces, config.model.lora, str(args)
        if key not in done:
            llm = AutoModelForCausalLM.from_pretrained(updates / model, dtype=torch.float32)
            if config.model.lora:
                llm = PeftModel.from_pretrained(llm, updates / "zero2-1" / "before", is_trainable=True)
            critic = plain_critic(updates, config) if hasattr(config.algorithm, "critic") else None
            groups = tiny.make_groups(4, window=window, pieces=pieces)
            metrics, tokens = reference.loop_update(llm, groups, iteration=0, args=args, critic=critic)
            weights = {name: p.detach() for name, p in llm.named_parameters() if p.requires_grad}
            if critic:
                trained = {name: p.detach() for name, p in critic.named_parameters() if p.requires_grad}
                weights |= {f"critic.{name.removeprefix('llm.')}": p for name, p in trained.items()}
            weights = {name.replace(".default", ""): weight for name, weight in weights.items()}
            charges = reference.charges_of(*reference.logprobs_of(llm, tiny.make_groups(4, window=window), args), args)
            done[key] = metrics, tokens, weights, charges
        return done[key]

    return update


def weights_of(policy):
    """What is trained of a policy that was saved to this folder."""
    (file,) = policy.glob("*.safetensors")
    weights = load_file(file)
    if (critic := policy.with_name(f"critic-{policy.name}.pt")).exists():
        weights |= {f"critic.{name}": weight for name, weight in torch.load(critic).items()}
    return {name.replace(".critic.", "."): weight for name, weight in weights.items()}


def plain_critic(updates, config):
    """As the trainer has it at first, as modules of their own: a head, and maybe another model with its adapter."""
    kind = config.algorithm.critic
    before = torch.load(updates / {"head": "critic-1", "adapter": "critic-adapter-1"}[kind] / "critic-before.pt")
    llm = AutoModelForCausalLM.from_pretrained(updates / "model", dtype=torch.float32)
    if kind == "head":
        critic = torch.nn.ModuleDict({"head": make_head(llm.config.hidden_size)})
        critic.load_state_dict(before)
        return critic
    llm = PeftModel.from_pretrained(llm, updates / "zero2-1" / "before", is_trainable=True)
    critic = torch.nn.ModuleDict({"llm": llm, "head": torch.nn.Linear(llm.config.hidden_size, 1)})
    ours = {
        name if name.startswith("head.") else f"llm.{name.replace('.critic.', '.default.')}": weight
        for name, weight in before.items()
    }
    missing, unexpected = critic.load_state_dict(ours, strict=False)
    assert not unexpected and not any("lora_" in name or name.startswith("head") for name in missing)
    return critic


def result(updates, case, num_ranks):
    folder = updates / f"{case}-{num_ranks}"
    return json.loads((folder / "metrics.json").read_text()), weights_of(folder / "after")


@pytest.mark.parametrize("case,num_ranks", EXACT)
def test_weights_metrics_and_token_values_equal_the_reference(updates, reference_update, case, num_ranks):
    metrics, weights = result(updates, case, num_ranks)
    expected = reference_update(**trainer_ranks.UPDATE_CASES[case])
    expected_metrics, expected_tokens, expected_weights, expected_charges = expected
    charges = json.loads((updates / f"{case}-{num_ranks}" / "charges.json").read_text())
    for rollout_id, expected in expected_charges.items():
        assert charges[rollout_id] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    charged = trainer_ranks.UPDATE_CASES[case].get("algorithm", {}).get("kl_in") == "reward"
    assert any(abs(sum(of_rollout)) > 0.01 for of_rollout in charges.values()) == charged
    for name, expected in expected_metrics.items():
        if isinstance(expected, list):
            assert expected[0] <= metrics[name] <= expected[1], name
        else:
            # The gradients of later steps take up what AdamW makes of rounding, see below.
            assert metrics[name] == pytest.approx(expected, rel=5e-4 if "grad_norm" in name else 1e-4), name
    tokens = json.loads((updates / f"{case}-{num_ranks}" / "tokens.json").read_text())
    assert tokens.keys() == expected_tokens.keys()
    for rollout_id, expected in expected_tokens.items():
        for name in ("logprobs", "entropies"):
            assert tokens[rollout_id][name] == pytest.approx(expected[name], rel=2e-5, abs=1e-3)
    before = weights_of(updates / f"{case}-{num_ranks}" / "before")
    assert weights.keys() == expected_weights.keys() == before.keys()
    for name, weight in weights.items():
        # Against the length of the update. AdamW divides by the gradient's size, so an element whose gradient is next to zero
        # moves as far as any other, and rounding, which differs from processor to processor, decides where. Such gradients have
        # keys' biases, as softmax does not see what is added to every key alike before rotation; lora_A, which learns only
        # through lora_B's first small steps; a critic's, where a ReLU is about to open; and whatever terms nearly cancel in, as
        # a bonus does with what it is added to.
        is_delicate = name.endswith(("k_proj.bias", "lora_A.weight")) or name.startswith("critic.")
        is_delicate |= case in ("clip-higher-dual", "kl-k2-entropy")
        allowed = 3e-2 if is_delicate else 1e-3
        error, update = (weight - expected_weights[name]).norm(), (expected_weights[name] - before[name]).norm()
        assert error <= allowed * update, name  # both 0 after one step: the first gradient of lora_A is 0, as lora_B is


def test_untouched_adapter_is_the_base_and_the_same_everywhere(updates):
    before = [weights_of(updates / f"{case}-{ranks}" / "before") for case, ranks in ADAPTERS]
    for weights in before:
        assert all((weight == 0).all() for name, weight in weights.items() if "lora_B" in name)
        ours = {name: weight for name, weight in weights.items() if not name.startswith("critic.")}
        assert all(torch.equal(weight, before[0][name]) for name, weight in ours.items())


@pytest.mark.parametrize(("case", "in_float32"), [("bfloat16", "zero3"), ("full-bfloat16", "full-zero2")])
def test_bfloat16_stays_near_float32(updates, case, in_float32):
    (metrics, weights), (expected_metrics, _) = result(updates, case, 2), result(updates, in_float32, 2)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    # Not the mean ratio or KL: means of exponentials of log-ratios of several nats say which few tokens are largest, and
    # bfloat16 rounds differently from processor to processor.
    assert metrics["entropy"] == pytest.approx(expected_metrics["entropy"], rel=0.05)
    ours, theirs = (
        [
            logprob
            for values in json.loads((updates / f"{name}-2" / "tokens.json").read_text()).values()
            for logprob in values["logprobs"]
        ]
        for name in (case, in_float32)
    )
    differences = sorted(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert differences[len(differences) // 2] < 0.1  # nats; the median


def test_progress_is_reported_after_every_step(updates):
    metrics, _ = result(updates, "zero2", 2)
    assert metrics["steps"] == [[done + 1, metrics["num_steps"]] for done in range(metrics["num_steps"])]


def test_an_iteration_without_rollouts_is_refused(updates):
    for rank in ("1-0", "2-0", "2-1"):
        refusal = (updates / f"refusal-{rank}.txt").read_text()
        assert refusal == "iteration 1: no rollout to train on; skip the iteration"


def test_sampler_and_trainer_logprobs_are_compared_on_tokens_of_the_current_version_only(updates):
    metrics = json.loads((updates / "on-policy.json").read_text())
    rollouts = on_policy_rollouts(updates)
    num_stale = len(rollouts[0].turns[0].action_ids)
    assert metrics["logprob_diff_tokens"] == sum(rollout.num_action_tokens for rollout in rollouts) - num_stale
    assert metrics["logprob_diff_mean"] <= metrics["logprob_diff_max"] < 1e-5


def test_adapter_is_what_peft_writes(updates, tmp_path):
    adapter = updates / "zero3-2" / "after"
    base = AutoModelForCausalLM.from_pretrained(updates / "model", dtype=torch.float32)
    PeftModel.from_pretrained(base, adapter).save_pretrained(tmp_path)
    our_config, peft_config = (
        json.loads((folder / "adapter_config.json").read_text()) for folder in (adapter, tmp_path)
    )
    peft_config["target_modules"].sort()  # PEFT writes a set
    assert our_config == peft_config
    assert our_config["base_model_name_or_path"] == str(updates / "model")
    our_weights, peft_weights = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path))
    assert our_weights.keys() == peft_weights.keys()
    assert all(torch.equal(our_weights[name], weight) for name, weight in peft_weights.items())


@pytest.mark.parametrize("case,num_ranks", WHOLE)
def test_a_whole_model_is_what_transformers_writes_and_gives_the_trainers_logprobs(updates, tmp_path, case, num_ranks):
    folder = updates / f"{case}-{num_ranks}"
    model = AutoModelForCausalLM.from_pretrained(folder / "after")
    assert model.dtype == torch.float32
    samples = tiny.samples_of(tiny.kept(tiny.make_groups(4)))
    for sample, ours in zip(samples, json.loads((folder / "logprobs.json").read_text()), strict=True):
        with torch.no_grad():
            distributions = torch.log_softmax(model(torch.tensor([sample.token_ids])).logits[0], dim=-1)
        positions = [t for t, is_action in enumerate(sample.action_mask) if is_action]
        expected = [distributions[t - 1, sample.token_ids[t]].item() for t in positions]
        assert ours == pytest.approx(expected, abs=1e-5)

    model.save_pretrained(tmp_path)
    for path in tmp_path.iterdir():
        assert (folder / "after" / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(list((folder / "after").iterdir())) == len(list(tmp_path.iterdir()))


def test_an_untouched_whole_model_is_the_base(updates):
    for case, num_ranks in WHOLE:
        base = load_file(updates / trainer_ranks.UPDATE_CASES[case].get("model", "model") / "model.safetensors")
        before = weights_of(updates / f"{case}-{num_ranks}" / "before")
        assert before.keys() == base.keys() and all(torch.equal(before[name], base[name]) for name in base)
