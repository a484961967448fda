"""A policy version as a folder that PEFT, transformers, vLLM and the hub take as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports deepspeed on saving, which else warns

from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers.utils.logging import disable_progress_bar

from loop_rl.config.base import ConfigError
from loop_rl.inspection.export.model_card import model_card
from loop_rl.store.run_dir import RunDir
from loop_rl.training.model import load_llm
from loop_rl.training.model_folder import save_model

# Copied as they are: transformers, loading and saving a Qwen2 tokenizer, may replace it by one of another class.
TOKENIZER_FILES = [
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
]


def export_adapter(run: RunDir, folder: Path, version: int) -> None:
    """Write the PEFT adapter of a version, and a model card.

    Raises:
        ConfigError: a run, or a version, that has no adapter.
    """
    if run.config.model.lora is None:
        raise ConfigError(f"{run.path}: trains all weights (model.lora: null) and has no adapter; export it merged")
    if version == 0:
        raise ConfigError(
            f"{run.path}: version 0 is the untouched base {run.config.model.path} and has no adapter; "
            "take a version from 1 on, or export it merged"
        )
    for path in run.policy_folder(version).iterdir():
        shutil.copyfile(path, folder / path.name)
    model_card(run, version, "adapter").save(folder / "README.md")


def export_merged(run: RunDir, folder: Path, version: int) -> None:
    """Write a version as one model in the run's dtype, an adapter merged into its base; its tokenizer, and a model card.

    Raises:
        OSError: config.model.path holds no model.
    """
    config = run.config
    if version and config.model.lora is None:
        shutil.copytree(run.policy_folder(version), folder, dirs_exist_ok=True)
    else:
        disable_progress_bar()
        llm = load_llm(config, run.policy_folder(version) if version else None, torch.device("cpu"))
        model = llm.merge_and_unload(safe_merge=True) if isinstance(llm, PeftModel) else llm
        save_model(model, folder)
    _copy_tokenizer(config.model.path, folder)
    model_card(run, version, "merged").save(folder / "README.md")


def _copy_tokenizer(model_path: str, folder: Path) -> None:
    local = Path(model_path)
    source = local if local.is_dir() else Path(snapshot_download(model_path, allow_patterns=TOKENIZER_FILES))
    for path in (path for pattern in TOKENIZER_FILES for path in source.glob(pattern)):
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
