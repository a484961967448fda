"""What every rank of the golden trainings runs: one run after another, in one process, by the training loop itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from trainer_ranks import forget_last_trainer

import loop_rl.train
from loop_rl.store.run_dir import RunDir
from loop_rl.training.engine import end_process
from loop_rl.training.trainer import Trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    # The recorded rollouts are of one run's policies; a variant soon has others, and would be refused.
    loop_rl.train.check_sampler = lambda *arguments: None
    Trainer.close = lambda self: None  # it leaves the process group, for good
    for path in sys.argv[1:]:
        forget_last_trainer()
        run = RunDir.open(Path(path))
        loop_rl.train.train(run, run.config)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    end_process(0)
