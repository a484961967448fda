"""A whole model as it is published and exported."""

import json

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from loop_rl.training.model_folder import save_model


def test_what_a_base_model_ships_is_not_judged(tmp_path):
    """Many published models ask for greedy decoding and a temperature; some have such settings in config.json."""
    tiny.save_model(tmp_path / "base")
    contradictory = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(contradictory))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    model.config.temperature = 0.6
    with pytest.raises(ValueError):
        model.save_pretrained(tmp_path / "theirs")  # what would happen
    save_model(model, tmp_path / "ours")
    shipped = json.loads((tmp_path / "ours" / "generation_config.json").read_text())
    assert {key: shipped[key] for key in contradictory} == contradictory
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    for (name, ours), (_, theirs) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
