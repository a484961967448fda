"""What a user can get wrong before a run starts: one clear line each, and nothing started."""

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_splits import write_root
from transformers import FalconH1Config

from appworld_tasks.splits import load_split
from loop_rl.config.base import ConfigError
from loop_rl.config.load import load_config
from loop_rl.evaluation.preflight import check_evaluation_inputs
from loop_rl.running.preflight import check_inputs

pytestmark = pytest.mark.slow(20)

REPO = Path(__file__).resolve().parents[2]


def config(root, *overrides):
    python = f"tasks.python={REPO}/.venv-appworld/bin/python"
    model = f"model.path={REPO}/models/tiny"
    return load_config(REPO / "configs" / "tiny.yaml", [f"tasks.root={root}", python, model, *overrides])


def refusal(config) -> str:
    with pytest.raises(ConfigError) as error:
        check_inputs(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_input_passes(appworld_root):
    check_inputs(config(appworld_root))


def test_no_appworld_installation(appworld_root):
    assert "run `make setup`" in refusal(config(appworld_root, "tasks.python=/nowhere/bin/python"))


def test_no_data_root(tmp_path):
    message = refusal(config(tmp_path / "nothing"))
    assert "no AppWorld data here" in message and "generate" in message


def test_a_root_that_appworld_would_misread(tmp_path):
    assert "'memory'" in refusal(config(tmp_path / "memory-lane"))


def test_a_run_name_that_appworld_would_misread(appworld_root):
    assert "name=memory-test" in refusal(config(appworld_root, "name=memory-test"))


def test_no_tasks_of_the_difficulty(tmp_path):
    root = write_root(tmp_path, {"train": ["a1_1", "b2_1"], "test_normal": ["c3_1"]})
    assert "no tasks of difficulty [3]" in refusal(config(root, "tasks.difficulties=[3]"))
    check_evaluation_inputs(config(root, "tasks.difficulties=[3]"), "test_normal")  # which has nothing to do with it


def test_a_split_that_chooses_or_comes_last_is_missing(tmp_path):
    root = write_root(tmp_path, {"train": ["a1_1"], "test_normal": ["c3_1"]})
    assert "dev" in refusal(config(root, "evaluation.every=2"))
    assert "test_challenge" in refusal(config(root, "evaluation.more_splits=[test_challenge]"))


def test_no_solutions_to_learn_from(tmp_path):
    root = write_root(tmp_path, {"train": ["a1_1", "b2_1"], "test_normal": ["c3_1"]})
    message = refusal(config(root, "method=sft-gt"))
    assert "none of the 2 tasks of tasks.train_split=train comes with a solution" in message


def test_a_task_that_is_not_in_the_split(appworld_root):
    task_id = load_split(appworld_root, "train")[0].task_id
    wrong = task_id.replace("train", "trian")
    message = refusal(config(appworld_root, f"tasks.task_ids=[{wrong}]"))
    assert f"no task '{wrong}'" in message and "did you mean 'train-" in message


def test_an_endpoint_is_evaluated_and_not_trained(appworld_root):
    endpoint = config(appworld_root, "evaluation.endpoint=http://127.0.0.1:9/v1", "model.path=its-name")
    assert "an endpoint can be evaluated, not trained" in refusal(endpoint)
    check_evaluation_inputs(endpoint, "dev")
    with pytest.raises(ConfigError, match="no split 'dve' .* did you mean 'dev'"):
        check_evaluation_inputs(endpoint, "dve")


def test_a_model_path_that_is_nothing(appworld_root, tmp_path):
    message = refusal(config(appworld_root, f"model.path={tmp_path}/nothing"))
    assert f"{tmp_path}/nothing" in message and "model.path" in message


def test_a_model_without_tokenizer(appworld_root, tmp_path):
    shutil.copy(REPO / "models" / "tiny" / "config.json", tmp_path)
    message = refusal(config(appworld_root, f"model.path={tmp_path}"))
    assert str(tmp_path) in message and "no tokenizer" in message


def test_a_tokenizer_without_chat_template(appworld_root, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(REPO / "models" / "tiny" / name, tmp_path)
    settings = json.loads((REPO / "models" / "tiny" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    message = refusal(config(appworld_root, f"model.path={tmp_path}"))
    assert str(tmp_path) in message and "no chat template" in message


def with_template(folder: Path, template: str) -> str:
    shutil.copytree(REPO / "models" / "tiny", folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    return f"model.path={folder}"


def test_a_template_that_refuses_a_role_or_moves_one(appworld_root, tmp_path):
    turns = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    generation = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    message = refusal(config(appworld_root, with_template(tmp_path / "refuses", refuses + turns + generation)))
    assert "the chat template refuses a conversation of system, user" in message and "not supported" in message
    after = "{{ m['content'] }}{{ messages[0]['content'] if loop.last and messages[0]['role'] == 'system' else '' }}"
    moves = turns.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    moves = moves.replace("{{ m['content'] }}", after) + generation
    message = refusal(config(appworld_root, with_template(tmp_path / "moves", moves)))
    assert "the chat template drops or reorders" in message


def test_a_prompt_that_fills_the_context(appworld_root):
    message = refusal(config(appworld_root, "agent.prompt=full"))
    assert message.startswith("agent.max_context_tokens=1024: the prompt of task") and "tokens; raise it" in message


def test_more_context_than_the_model_has_positions(appworld_root):
    message = refusal(config(appworld_root, "agent.max_context_tokens=100000"))
    assert "agent.max_context_tokens=100000" in message and "max_position_embeddings" in message


def test_a_hybrid_that_peft_refuses(appworld_root, tmp_path):
    model = shutil.copytree(
        REPO / "models" / "tiny", tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")
    )
    sizes = {"vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    FalconH1Config(**sizes, num_attention_heads=2, num_key_value_heads=1).save_pretrained(model)
    assert "PEFT gives a falcon_h1 no adapter" in (said := refusal(config(appworld_root, f"model.path={model}")))
    assert "out_proj" in said and "set model.lora: null" in said
    check_inputs(config(appworld_root, f"model.path={model}", "model.lora=null"))


def test_a_port_in_use(appworld_root):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"server.port={port}: port {port} cannot be used" in refusal(
            config(appworld_root, f"server.port={port}")
        )


def test_the_command_says_it_in_one_line_and_makes_no_run(tmp_path):
    command = [sys.executable, "-m", "loop_rl.launch", "--config", "configs/tiny.yaml", f"runs_dir={tmp_path}/runs"]
    command += [f"tasks.root={tmp_path}/nothing"]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(importlib.util.find_spec("trackio") is not None, reason="trackio is installed here")
def test_a_tracker_that_is_not_installed(appworld_root):
    message = refusal(config(appworld_root, "tracking.trackers=[trackio]"))
    assert message.startswith("tracking.trackers: trackio is not installed; run `") and "pip install trackio" in message


def test_attention_heads_that_ranks_cannot_share(appworld_root):
    sizes = ["trainer.num_processes=3", "trainer.sequence_parallel_size=3"]
    assert "trainer.sequence_parallel_size=3" in refusal(config(appworld_root, *sizes))
