"""Policy versions to sample from, each published by one atomic rename."""

from __future__ import annotations

import copy
import os
import shutil
from functools import partial
from pathlib import Path

import torch.distributed as dist
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from loop_rl.config.settings import Config
from loop_rl.machine.files import remove_leftovers, unfinished_twin
from loop_rl.store.run_dir import RunDir
from loop_rl.training.engine import gathered
from loop_rl.training.model import POLICY_ADAPTER, adapter_weights
from loop_rl.training.model_folder import save_model
from loop_rl.training.trainer import Trainer


def publish_policy(trainer: Trainer, run: RunDir, version: int) -> Path:
    """Publish what is trained as policy/v<version>, whole or not at all. Every rank must call it.

    A version that is already there stays untouched: servers may have loaded it and rollouts name it. It can be there
    only because a crash made this process repeat the iteration on the same rollouts.

    Returns:
        The published folder.
    """
    final = run.policy_folder(version)
    unfinished = unfinished_twin(final)
    if trainer.is_main:
        remove_leftovers(final.parent)
    save_policy(trainer, unfinished)
    # Rank 0 alone looks: on a shared file system another node may see an older state of the folder.
    if trainer.is_main:
        if final.exists():
            shutil.rmtree(unfinished)
        else:
            os.replace(unfinished, final)
        if trainer.config.model.lora is None:
            _remove_old_models(run, trainer.config, version)
    dist.barrier()
    return final


def save_policy(trainer: Trainer, folder: Path) -> None:
    """Write what is trained, in the compute dtype: the adapter as PEFT does (adapter_model.safetensors,
    adapter_config.json), or the whole model as transformers does, without a tokenizer.

    Every rank must call it; rank 0 writes. The same weights give the same bytes.
    """
    is_split = trainer.config.trainer.zero_stage == 3  # each rank holds a piece of every parameter
    if not isinstance(trainer.llm, PeftModel):
        save_model(trainer.llm, folder, trainer.is_main, partial(gathered, is_split=is_split))
        return
    # By its name: whatever else is trained, such as a critic, is none of the sampler's business.
    adapter = adapter_weights(trainer.llm, POLICY_ADAPTER)
    with gathered(list(adapter.values()), is_split):
        weights = {name: p.detach().cpu().clone() for name, p in adapter.items()} if trainer.is_main else {}
    if not trainer.is_main:
        return
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(trainer.llm, weights, adapter_name=POLICY_ADAPTER, save_embedding_layers=False)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    peft_config = copy.deepcopy(trainer.llm.peft_config[POLICY_ADAPTER])
    peft_config.inference_mode = True
    peft_config.target_modules = sorted(peft_config.target_modules)  # a set, in another order in each process
    peft_config.save_pretrained(str(folder))


def _remove_old_models(run: RunDir, config: Config, newest: int) -> None:
    """Delete whole models before the `trainer.keep_checkpoints` newest, but for those with figures of an evaluation, with one
    begun, or with one to come.

    Two at least are kept: a server may be reading the one before the newest.
    """
    oldest_kept = newest - max(config.trainer.keep_checkpoints, 2) + 1
    for version in run.versions():
        if version < oldest_kept and version not in config.candidate_versions and not run.evaluations_of(version):
            folder = run.policy_folder(version)
            # First out of sight, so that no one finds half of it; then it is a leftover.
            shutil.rmtree(folder.rename(unfinished_twin(folder)))
