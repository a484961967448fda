"""Checkpoints to resume from and policy versions to sample from, each published by one atomic rename.

    checkpoints/step-000012/   state after 12 iterations, the one that policy version 12 shows the world
        engine/                DeepSpeed: trained weights, float32 master weights, optimiser; a frozen base is left out
        rng-rank-000.pt        random generators of each rank
        critic.pt              its weights and optimiser, where there is one
        state.json             version, number of ranks, ZeRO stage
    policy/v000012/            the adapter of that version, or where all weights are trained the whole model

The checkpoint comes first, then the policy: a version that others have seen can always be resumed from, and a policy
that a crash kept back is published on resuming. Adapters are all kept; of whole models, which are big, the newest, and
those that were evaluated. The rename protects against processes that die, not against power cuts.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from loop_rl.config.base import ConfigError
from loop_rl.machine.files import remove_leftovers, unfinished_twin
from loop_rl.store.run_dir import RunDir
from loop_rl.training.trainer import Trainer


def save_checkpoint(trainer: Trainer, run: RunDir, version: int, keep: int) -> Path:
    """Write checkpoints/step-<version>, then delete all but the `keep` newest. Every rank must call it.

    Returns:
        The published folder; it appears whole or not at all.
    """
    final = run.checkpoint_folder(version)
    unfinished = unfinished_twin(final)
    if trainer.is_main:
        remove_leftovers(final.parent)
        unfinished.mkdir(parents=True)
    dist.barrier()
    trainer.engine.save_checkpoint(str(unfinished), tag="engine", save_latest=False, exclude_frozen_parameters=True)
    torch.save(_rng_state(), unfinished / f"rng-rank-{trainer.rank:03d}.pt")
    if trainer.is_main and trainer.critic:
        torch.save(trainer.critic.state_dict(), unfinished / "critic.pt")
    if trainer.is_main:
        state = {"version": version, "num_ranks": trainer.num_ranks, "zero_stage": trainer.config.trainer.zero_stage}
        (unfinished / "state.json").write_text(json.dumps(state))
    dist.barrier()  # DeepSpeed returns on one rank while others still write
    if trainer.is_main:
        os.replace(unfinished, final)
        for outdated in run.checkpoint_folders()[:-keep]:
            shutil.rmtree(outdated)
    dist.barrier()
    return final


def latest_checkpoint(run: RunDir) -> Path | None:
    """The newest complete checkpoint, None when there is none."""
    return (run.checkpoint_folders() or [None])[-1]


def load_checkpoint(trainer: Trainer, folder: Path) -> int:
    """Put weights, optimiser and random generators back; training goes on bit by bit as if never interrupted.

    Returns:
        The policy version, which is the number of iterations done and the index of the next one.

    Raises:
        ConfigError: saved with another number of ranks or another ZeRO stage.
    """
    state = json.loads((folder / "state.json").read_text())
    ours = {"num_ranks": trainer.num_ranks, "zero_stage": trainer.config.trainer.zero_stage}
    for name, value in ours.items():
        if state[name] != value:
            raise ConfigError(f"{folder}: saved with {name}={state[name]}, cannot be resumed with {name}={value}")
    trainer.engine.load_checkpoint(str(folder), tag="engine", load_module_strict=False)
    if trainer.critic:
        trainer.critic.load_state_dict(torch.load(folder / "critic.pt", map_location=trainer.accelerator.device))
    # weights_only=False: a file of our own, with Python's and numpy's generator states.
    _set_rng_state(torch.load(folder / f"rng-rank-{trainer.rank:03d}.pt", weights_only=False))
    return state["version"]


def _rng_state() -> dict:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _set_rng_state(state: dict) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
