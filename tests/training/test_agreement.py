"""Trainer, model and sampler must compute one policy, whatever the model does beside what all do."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from loop_rl.training.agreement import check_sampler
from loop_rl.training.heads import LogitRule
from loop_rl.training.model import PolicyModel, load_llm
from loop_rl.training.totals import Update

VOCABULARY = 500
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3, "pad_token_id": 0}
SMALL |= {"bos_token_id": 1, "eos_token_id": 2}
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
MODELS = {
    "caps": ("gemma2", SMALL | {"head_dim": 16, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.0}),
    "a divisor": ("granite", SMALL | {"logits_scaling": 8.0, "attention_dropout": 0.2}),
    "a factor": ("cohere", SMALL | {"logit_scale": 0.125, "attention_dropout": 0.2}),
    "dropout modules": ("gpt2", GPT | {"attn_pdrop": 0.2, "embd_pdrop": 0.2, "resid_pdrop": 0.2}),
    "dropout by attribute": ("opt", SMALL | {"word_embed_proj_dim": 32, "ffn_dim": 64, "dropout": 0.2}),
}


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_in_training_are_the_models_own_in_evaluation(name, tmp_path):
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    own = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings), attn_implementation="eager").eval()
    own.save_pretrained(tmp_path)
    config = tiny.make_config(tmp_path)
    policy = PolicyModel(load_llm(config, None, torch.device("cpu")), 0.7, chunk_tokens=7).train()
    ids = torch.randint(VOCABULARY, (1, 30))
    rows, positions, targets = torch.zeros(29, dtype=torch.long), torch.arange(29), ids[0, 1:]
    with torch.no_grad():
        expected = torch.log_softmax(own(ids).logits[0, :-1] / 0.7, dim=-1).gather(1, targets[:, None])[:, 0]
        logprobs, entropies = policy(ids, rows, positions, targets)
        logprobs_own, entropies_own = policy(ids, rows, positions, targets, own_forward=True)
    torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs_own, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, entropies_own, atol=2e-5, rtol=1e-5)
    rule, policy.head.rule = policy.head.rule, LogitRule()
    with torch.no_grad():
        without, _ = policy(ids, rows, positions, targets)
    assert torch.allclose(without, expected, atol=1e-2) == (rule == LogitRule())  # so a forgotten rule shows here


def test_a_sampler_of_another_policy_ends_the_run_with_the_figures(tmp_path):
    config = tiny.make_config(tmp_path)
    check_sampler(Update({"logprob_diff_mean": 1e-5, "logprob_diff_tokens": 9}, {}), config, 3)
    check_sampler(Update.skipped(), config, 3)
    for wrong in (0.02, float("nan")):
        with pytest.raises(
            RuntimeError, match=rf"iteration 3: .* differ by {wrong:.2g} nats .* at most 0.01; mean over 9"
        ):
            check_sampler(Update({"logprob_diff_mean": wrong, "logprob_diff_tokens": 9}, {}), config, 3)
