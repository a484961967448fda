"""What export writes is read back with the tools it is meant for; and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from served import make_whole_models
from small_run import make_run
from transformers import AutoModelForCausalLM

from loop_rl.agents.chat import Chat
from loop_rl.inspection.export import export
from loop_rl.machine.files import write_atomically
from loop_rl.store.rollout_files import read_group
from loop_rl.store.run_dir import RunDir

pytestmark = pytest.mark.slow(10)

FIGURES = '{"TGC": {"all": {"value": 0.5, "low": 0.25, "high": 0.75, "num": 6}}, "SGC": {}}'


@pytest.fixture(scope="module")
def run(tmp_path_factory, served_model, appworld_root) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("runs"), served_model, appworld_root)
    write_atomically(run.evaluation_file(1, "dev"), FIGURES)
    return run


@pytest.fixture
def export_run(monkeypatch, run, tmp_path, capsys):
    """Run the command in this process; returns its exit status, output, errors and the folder that it was to make."""

    def call(*arguments: str, of: RunDir = run, to: Path = tmp_path / "out") -> tuple[int, str, str, Path]:
        monkeypatch.setattr(sys, "argv", ["loop_rl export", str(of.path), "--to", str(to), *arguments])
        status = export.main()
        return status, *capsys.readouterr(), to

    return call


def logprobs(model, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model.eval()(token_ids).logits, dim=-1)


def test_a_merged_model_gives_the_log_probabilities_of_base_and_adapter(export_run, run, served_model):
    status, output, _, folder = export_run("merged", "--version", "1")
    assert status == 0 and "policy version 1" in output
    token_ids = torch.randint(0, 300, (2, 80), generator=torch.Generator().manual_seed(0))
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.dtype == torch.float32  # the run's
    base = AutoModelForCausalLM.from_pretrained(served_model / "base", dtype=torch.float32)
    of_base = logprobs(base, token_ids)
    of_policy = logprobs(PeftModel.from_pretrained(base, run.policy_folder(1)), token_ids)
    assert (logprobs(merged, token_ids) - of_policy).abs().max() < 1e-3
    assert (of_base - of_policy).abs().max() > 0.1

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (served_model / "base" / name).read_bytes()
    Chat.from_pretrained(str(folder), run.config.agent)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers" and card.data.base_model is None
    assert "| dev | TGC | all | 6 | 50.0 [25.0, 75.0] |" in card.text
    assert "3 rollouts of 1 tasks (split `train`" in card.text and "learning_rate: " in card.text


def test_a_whole_model_is_exported_as_it_is_with_its_tokenizer(export_run, tmp_path, appworld_root):
    models = make_whole_models(tmp_path / "models", tie_word_embeddings=True)
    run = make_run(tmp_path / "runs", models, appworld_root, lora=False)
    status, output, errors, folder = export_run("merged", of=run)
    assert status == 0 and "policy version 2" in output, errors
    for path in (models / "v2").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    Chat.from_pretrained(str(folder), run.config.agent)
    assert "All weights of `" in (folder / "README.md").read_text()

    status, _, errors, _ = export_run("adapter", of=run, to=tmp_path / "adapter")
    assert status == 1
    assert errors == f"error: {run.path}: trains all weights (model.lora: null) and has no adapter; export it merged\n"


def test_version_0_merged_is_the_base(export_run, served_model):
    status, _, _, folder = export_run("merged", "--version", "0")
    assert status == 0
    exported, base = (load_file(path / "model.safetensors") for path in (folder, served_model / "base"))
    assert exported.keys() == base.keys() and all(torch.equal(exported[name], base[name]) for name in base)
    assert "version 0 is the untouched base model" in (folder / "README.md").read_text()


def test_an_adapter_is_that_of_the_newest_version_and_loads_in_peft(export_run, run, served_model):
    status, output, _, folder = export_run("adapter")
    assert status == 0 and "policy version 2" in output
    for path in run.policy_folder(2).glob("adapter_*"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(served_model / "base"), folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and "lora" in card.data.tags
    assert "This version has not been evaluated." in card.text and "--max-lora-rank 8" in card.text


def load(folder: Path) -> datasets.Dataset:
    return datasets.load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=folder / "cache")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "g000000-k0 g000000-k1 g000000-k2 g000001-k0 g000001-k1 g000001-k2"),
        ("--success", "g000000-k2 g000001-k0 g000001-k2"),
        ("--min-reward 0.9 --iterations 1", "g000001-k0 g000001-k1 g000001-k2"),
        ("--end-reason max_turns --iterations 0..1", "g000000-k0 g000000-k1 g000001-k1"),
        ("--difficulty 1,2,3 --iterations 0..0", "g000000-k0 g000000-k1 g000000-k2"),
    ],
)
def test_sft_data_holds_the_rollouts_that_pass_the_filter(export_run, options, expected):
    status, output, errors, folder = export_run("sft", *options.split())
    assert status == 0, errors
    assert load(folder)["rollout_id"] == expected.split()
    assert f"{len(expected.split())} of 6 training rollouts" in output
    assert output.splitlines()[-1] == export.LICENCE_WARNING
    assert export.LICENCE_WARNING in (folder / "README.md").read_text()


def test_sft_messages_give_the_tokens_that_were_trained_on(export_run, run):
    *_, folder = export_run("sft")
    rollouts = [rollout for iteration in (0, 1) for rollout in read_group(run.group_file(iteration)).rollouts]
    chat = Chat.from_pretrained(run.config.model.path, run.config.agent)
    for row, rollout in zip(load(folder), rollouts, strict=True):
        assert (row["task_id"], row["reward"]) == (rollout.task_id, rollout.reward)
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
        rendered = chat.tokenizer.apply_chat_template(row["messages"], tokenize=False)
        # The template ends the last turn with a line end, which the policy does not write.
        assert rendered.removesuffix("\n") == chat.decode(rollout.samples()[0].token_ids)


def test_preferences_are_pairs_of_one_task_whose_rewards_differ_enough(export_run):
    status, output, errors, folder = export_run("preferences", "--min-gap", "0.5")
    assert status == 0, errors
    rows = load(folder)
    pairs = list(zip(rows["chosen_rollout_id"], rows["rejected_rollout_id"], strict=True))
    assert pairs == [("g000000-k1", "g000000-k0"), ("g000000-k2", "g000000-k0"), ("g000000-k2", "g000000-k1")]
    for row in rows:
        assert row["chosen_reward"] - row["rejected_reward"] >= 0.5
        assert [message["role"] for message in row["prompt"]] == ["system", "user"]
        assert [message["role"] for message in row["chosen"]] == ["assistant", "user", "assistant"]
        assert row["chosen"] != row["rejected"]
    assert "3 pairs among 6 training rollouts" in output and export.LICENCE_WARNING in output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("adapter --version 0", r"version 0 is the untouched base \S+ and has no adapter; take a version from 1 on"),
        ("merged --version 9", "v000009: no such policy version; the newest are 0, 1, 2"),
        ("adapter --success", r"--success has no effect on adapter; leave it out \(adapter uses --version\)"),
        ("sft --min-gap 0.2", "--min-gap has no effect on sft"),
        ("preferences --min-reward 1", "--min-reward has no effect on preferences"),
        ("preferences --min-gap 0", "--min-gap 0.0: expected a difference in reward above 0"),
        ("sft --iterations 9..3", "--iterations 9..3: expected FIRST..LAST or one number, for example 3..9"),
        ("sft --difficulty 1,hard", "--difficulty 1,hard: expected some of 1, 2, 3"),
        ("sft --iterations 7", "none of 6 rollouts passes the filter"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_leaves_nothing(export_run, options, problem):
    status, _, errors, folder = export_run(*options.split())
    assert status == 1 and errors.startswith("error: ") and errors.count("\n") == 1
    assert re.search(problem, errors)
    assert not list(folder.parent.iterdir())


def test_a_folder_that_exists_is_never_overwritten(export_run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for kind in export.OPTIONS:
        for name in ("folder", "file", "link"):
            status, _, errors, _ = export_run(kind, to=tmp_path / name)
            assert status == 1 and f"{name}: exists already, and nothing is overwritten; choose another --to" in errors
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3
    assert not list((tmp_path / "folder").iterdir())


def test_a_damaged_rollout_file_is_named(export_run, tmp_path, served_model, appworld_root):
    run = make_run(tmp_path / "runs", served_model, appworld_root)
    path = run.group_file(1)
    path.write_bytes(path.read_bytes()[:-50])
    for kind in ("sft", "adapter"):
        status, _, errors, folder = export_run(kind, of=run)
        assert status == 1 and f"{path}: not a readable rollout file" in errors and not folder.exists()


def test_damaged_figures_are_named(export_run, tmp_path, served_model, appworld_root):
    run = make_run(tmp_path / "runs", served_model, appworld_root)
    run.evaluation_file(2, "dev").write_text(FIGURES[:20])
    status, _, errors, folder = export_run("adapter", of=run)
    assert status == 1 and f"{run.evaluation_file(2, 'dev')}: not readable figures" in errors and not folder.exists()


def test_a_task_that_was_generated_anew_is_noticed(export_run, tmp_path, served_model, appworld_root):
    root = tmp_path / "root"
    shutil.copytree(appworld_root / "data", root / "data")
    run = make_run(tmp_path / "runs", served_model, root)
    specs = root / "data" / "tasks" / read_group(run.group_file(0)).rollouts[0].task_id / "specs.json"
    specs.write_text(specs.read_text().replace('"instruction": "', '"instruction": "Please: '))
    status, _, errors, _ = export_run("sft", of=run)
    assert status == 1 and "is not the one that g000000-k0 is of; generate the tasks as they were" in errors


def test_the_command_says_how_it_is_used():
    command = [sys.executable, "-m", "loop_rl", "export", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"})
    assert result.returncode == 0 and "loop_rl export runs/tiny --to out/adapter adapter" in result.stdout
