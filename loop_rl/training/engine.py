"""Accelerate and DeepSpeed, set up the one way that works on GPUs and on CPUs."""

from __future__ import annotations

import logging
import os
import resource
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported

import deepspeed
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs

from loop_rl.config.settings import Config
from loop_rl.training.buckets import REDUCE_BUCKET_ELEMENTS
from loop_rl.training.sequence_parallel import parallelism

# An op that speeds up CPU collectives; it would be compiled for half a minute at the first start.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
# DeepSpeed 0.19.8 calls torch 2.13's collectives by their old names, once per collective.
warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)


def gathered(parameters: Sequence[torch.Tensor], is_split: bool) -> AbstractContextManager:
    """While it is entered, parameters that ZeRO 3 has split over the ranks (`is_split`) are whole on each of them."""
    return deepspeed.zero.GatheredParameters(list(parameters), enabled=is_split)


def end_process(status: int) -> NoReturn:
    """The end of a rank, instead of sys.exit.

    DeepSpeed keeps process groups alive after they were destroyed, and with them gloo's threads. One that still frees
    the tensors of an earlier collective while Python finalises ends the process with SIGABRT, now and then on a busy
    machine. So Python does not get to finalise; atexit functions do not run.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def peak_memory() -> int:
    """The most bytes this process has used so far: of its GPU's memory, or without one of RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_accelerator(config: Config) -> Accelerator:
    if "RANK" not in os.environ:
        # `accelerate launch` without --use_deepspeed starts a single process on a CPU, whatever --num_processes says.
        raise RuntimeError("no RANK in the environment: start with `accelerate launch --use_deepspeed` or torchrun")
    trainer = config.trainer
    bf16 = config.model.dtype == "bfloat16"
    plugin = DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # required, and without effect: micro-batches are made here
            "gradient_accumulation_steps": 1,  # likewise; see set_gradient_accumulation_boundary
            "gradient_clipping": trainer.max_grad_norm,
            "bf16": {"enabled": bf16},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_optimization": {"stage": trainer.zero_stage, "reduce_bucket_size": REDUCE_BUCKET_ELEMENTS}
            | ({"offload_optimizer": {"device": "cpu"}} if trainer.offload_optimizer else {}),
            "zero_allow_untested_optimizer": True,  # torch's AdamW: unlike DeepSpeed's it resumes bit by bit
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1_000_000_000,
        }
    )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    return Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        deepspeed_plugin=plugin,
        parallelism_config=parallelism(trainer.sequence_parallel_size, int(os.environ["WORLD_SIZE"])),
        # With the backend left to Accelerate, every CPU rank would believe to be alone.
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend)],
    )


def limit_collectives(limit: timedelta) -> None:
    """End the process when a peer stops answering. DeepSpeed's own group takes no timeout from anyone."""
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(limit, group)
