"""What every rank of a trainer test runs, started by launch(); each mode leaves files for the test to look at.

torchrun --nproc_per_node 2 tests/support/trainer_ranks.py update FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from loop_rl.running.ranks import accelerate_command
from loop_rl.store.run_dir import RunDir

REPO = Path(__file__).resolve().parents[2]

SEQUENCE_PARALLEL = {"num_processes": 2, "sequence_parallel_size": 2}
FULL = {"lora": False}
RECOMPUTED = {"ratio_to": "recomputed"}
BRAKE = 2.0
TIED = FULL | {"model": "tied"}
CRITIC = {"advantage": "critic", "filter": "everything", "critic_warmup_iterations": 0, "critic_learning_rate": 3e-3}
ADAPTER_CRITIC = CRITIC | {"critic": "adapter"}
# Settings of each case of `update`; "model" is the folder of the model.
UPDATE_CASES: dict[str, dict] = {
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "one-rollout-a-microbatch": {"zero_stage": 3, "max_tokens_per_microbatch": 64},
    "all-in-one-microbatch": {"zero_stage": 2, "max_tokens_per_microbatch": 4096},
    "no-activation-checkpointing": {"zero_stage": 2, "activation_checkpointing": False},
    "minibatch-of-one": {"zero_stage": 3, "minibatch_rollouts": 1, "temperature": 0.7},
    "minibatch-larger-than-all": {"zero_stage": 2, "minibatch_rollouts": 1000},
    "recomputed": {"zero_stage": 3, "algorithm": {"ratio_to": "recomputed"}},
    "truncated": {"zero_stage": 2, "algorithm": {"ratio_to": "recomputed", "max_importance_weight": 1.5}},
    "turn-ratio": {"zero_stage": 2, "algorithm": {"ratio": "turn", "ratio_to": "recomputed", "average": "turn"}},
    "trajectory-ratio": {"zero_stage": 3, "algorithm": {"ratio": "trajectory", "ratio_to": "recomputed"}},
    "mean-over-tokens": {"zero_stage": 2, "algorithm": {"average": "token"}},
    "clip-higher-dual": {"zero_stage": 2, "algorithm": {"clip_high": 0.28, "dual_clip": 1.5}},
    "masked": {
        "zero_stage": 2,
        "algorithm": {"importance": "mask", "min_importance_weight": 0.5, "max_importance_weight": 3.0} | RECOMPUTED,
    },
    "geometric-mask": {"zero_stage": 3, "algorithm": {"max_mean_log_weight": 0.3} | RECOMPUTED},
    "gspo": {"zero_stage": 2, "algorithm": {"ratio": "gspo", "advantage": "group_mean"} | RECOMPUTED},
    "cispo": {"zero_stage": 2, "algorithm": {"objective": "cispo", "divide_by_std": True}},
    "rloo": {
        "zero_stage": 2,
        "minibatch_rollouts": None,
        "algorithm": {"objective": "likelihood", "epochs": 1, "average": "sum", "average_tokens": 7},
    },
    "grpo": {
        "zero_stage": 3,
        "minibatch_rollouts": None,
        "algorithm": {"advantage": "group_mean", "epochs": 1, "penalties": ["kl"]} | RECOMPUTED,
    },
    "kl-k2-entropy": {
        "zero_stage": 2,
        "algorithm": {"penalties": ["kl", "entropy"], "kl_estimator": "k2", "kl_coefficient": 0.5}
        | {"entropy_coefficient": 0.3},
    },
    "kl-in-reward": {
        "zero_stage": 1,
        "algorithm": {"penalties": ["kl"], "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.5},
    },
    "expert-iteration": {
        "zero_stage": 3,
        "algorithm": {"advantage": "imitate", "filter": "successful", "objective": "likelihood"},
    },
    "dmpo": {
        "zero_stage": 2,
        "minibatch_rollouts": 4,
        "algorithm": {"advantage": "pair", "objective": "preference", "beta": 0.5},
    },
    "dpo-window": {
        "zero_stage": 3,
        "window": True,
        "minibatch_rollouts": 2,
        "max_tokens_per_microbatch": 64,
        "algorithm": {"advantage": "pair", "objective": "preference", "turn_discount": None}
        | {"preferred_to": "reference"},
    },
    "critic": {"zero_stage": 2, "algorithm": CRITIC},
    "critic-dual-window": {
        "zero_stage": 3,
        "window": True,
        "pieces": True,
        "algorithm": CRITIC
        | {"advantage": "dual_gae", "gamma_turn": 0.9, "lambda_turn": 0.8, "bootstrap_limits": False},
    },
    "critic-alone": {"zero_stage": 3, "algorithm": CRITIC | {"critic_warmup_iterations": 3}},
    "critic-sequence-parallel": {"zero_stage": 2, "algorithm": CRITIC} | SEQUENCE_PARALLEL,
    "critic-adapter": {"zero_stage": 2, "algorithm": ADAPTER_CRITIC},
    "critic-adapter-verlog": {
        "zero_stage": 3,
        "window": True,
        "pieces": True,
        "max_tokens_per_microbatch": 64,
        "algorithm": ADAPTER_CRITIC
        | {"advantage": "dual_gae", "whiten": True, "value_clip": 0.01, "first_token_weight": 3.0}
        | {"penalties": ["kl"], "kl_in": "reward", "kl_estimator": "k1", "kl_coefficient": 0.05},
    },
    "critic-adapter-plain": {"zero_stage": 1, "activation_checkpointing": False, "algorithm": ADAPTER_CRITIC},
    "critic-adapter-sequence-parallel": {"zero_stage": 3, "algorithm": ADAPTER_CRITIC} | SEQUENCE_PARALLEL,
    "short-minibatch-full": {"zero_stage": 2, "algorithm": {"minibatch_mean": "full", "average": "token"}},
    "warmup": {"zero_stage": 2, "warmup_iterations": 1, "learning_rate_schedule": "linear"},
    "brake-zero2": {"zero_stage": 2, "algorithm": {"max_iteration_kl": BRAKE} | RECOMPUTED},
    "brake-zero3": {"zero_stage": 3, "algorithm": {"max_iteration_kl": BRAKE} | RECOMPUTED},
    "window": {"zero_stage": 2, "window": True},
    "window-turn-ratio": {
        "zero_stage": 3,
        "window": True,
        "algorithm": {"ratio": "turn", "ratio_to": "recomputed", "average": "turn"},
    },
    "bfloat16": {"zero_stage": 3, "dtype": "bfloat16"},
    "sequence-parallel-zero1": {"zero_stage": 1} | SEQUENCE_PARALLEL,
    "sequence-parallel-zero3": {"zero_stage": 3, "offload_optimizer": True} | SEQUENCE_PARALLEL,
    "sequence-parallel-truncated": {
        "zero_stage": 3,
        "algorithm": {"ratio_to": "recomputed", "max_importance_weight": 1.5},
    }
    | SEQUENCE_PARALLEL,
    "full-zero1": {"zero_stage": 1, "weight_decay": 0.1} | FULL,
    "full-zero2": {"zero_stage": 2, "offload_optimizer": True} | FULL,
    "full-zero3": {"zero_stage": 3} | FULL,
    "full-bfloat16": {"zero_stage": 2, "dtype": "bfloat16"} | FULL,
    "full-sequence-parallel-zero3": {"zero_stage": 3} | FULL | SEQUENCE_PARALLEL,
    "tied-zero1": {"zero_stage": 1, "activation_checkpointing": False, "offload_optimizer": True} | TIED,
    "tied-zero2": {"zero_stage": 2} | TIED,
    "tied-zero3": {"zero_stage": 3, "offload_optimizer": True} | TIED,
    "tied-sequence-parallel-zero2": {"zero_stage": 2} | TIED | SEQUENCE_PARALLEL,
}
ONE_RANK_CASES = [
    "zero2",
    "zero3",
    "full-zero2",
    "tied-zero3",
    "turn-ratio",
    "window",
    "dmpo",
    "critic",
    "critic-adapter",
]
# Settings of each case of `interrupted` and `resumed`, and of some of `stress`.
RESUME_CASES = {
    "zero2": {"zero_stage": 2},
    "zero3-offload-bfloat16": {"zero_stage": 3, "offload_optimizer": True, "dtype": "bfloat16"},
    "zero2-sequence-parallel": {"zero_stage": 2} | SEQUENCE_PARALLEL,
    "full-zero1-bfloat16": {"zero_stage": 1, "dtype": "bfloat16"} | FULL,
    "full-zero2-offload": {"zero_stage": 2, "offload_optimizer": True, "keep_checkpoints": 3} | FULL,
    "full-zero3-sequence-parallel": {"zero_stage": 3} | FULL | SEQUENCE_PARALLEL,
    "tied-zero3-bfloat16": {"zero_stage": 3, "dtype": "bfloat16"} | TIED,
    "critic": {"zero_stage": 2, "algorithm": CRITIC},
    "critic-adapter": {"zero_stage": 3, "dtype": "bfloat16", "algorithm": ADAPTER_CRITIC},
    "zero3": {"zero_stage": 3},  # the last one is saved again and again
}
STRESS_CASES = [
    "zero2",
    "zero3-offload-bfloat16",
    "full-zero2-offload",
    "full-zero3-sequence-parallel",
    "tied-zero3-bfloat16",
    "critic-adapter",
]
SAMPLER_TEMPERATURE = 0.7


def launch(mode: str, folder: Path, num_ranks: int) -> subprocess.Popen:
    """Start the ranks with the launcher users have; output goes to <mode>-<num_ranks>.log in the folder."""
    with open(folder / f"{mode}-{num_ranks}.log", "w") as log:
        return subprocess.Popen(
            [*accelerate_command(num_ranks), __file__, mode, str(folder)],
            cwd=REPO,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(mode: str, folder: Path, num_ranks: int) -> None:
    """Launch and wait; fails with the end of the log, or after ten minutes."""
    launcher = launch(mode, folder, num_ranks)
    try:
        status = launcher.wait(timeout=600)
    finally:
        launcher.terminate()  # which ends the ranks too; no effect when they are done
    assert status == 0, (folder / f"{mode}-{num_ranks}.log").read_text()[-4000:]


def forget_last_trainer() -> None:
    """In a process that may have had a trainer; Accelerate and DeepSpeed keep state for the whole process."""
    from accelerate.state import AcceleratorState
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.utils import groups
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    AcceleratorState._reset_state()
    if groups.mpu is not None:  # the last trainer was a sequence-parallel one
        parallel_state_sp._release_sequence_parallel_groups()
        groups.mpu = None
        del ALL_ATTENTION_FUNCTIONS["sdpa"]  # uncovers the unwrapped one


def new_trainer(folder: Path, model: str = "model", **settings):
    """A trainer of a model in the folder."""
    import tiny

    from loop_rl.training.trainer import Trainer

    forget_last_trainer()
    return Trainer(tiny.make_config(folder / model, **settings))


def objective_of(trainer):
    from loop_rl.algorithms.learning import make_objective

    return make_objective(trainer.config)


def update(folder: Path) -> None:
    """One iteration of each case; leaves the metrics, what is trained before and after, and log-probabilities after."""
    import tiny

    from loop_rl.store.rollout_files import read_rollouts
    from loop_rl.training.publish import save_policy

    alone = os.environ["WORLD_SIZE"] == "1"
    for case in ONE_RANK_CASES if alone else UPDATE_CASES:
        settings = dict(UPDATE_CASES[case])
        groups = tiny.make_groups(4, window=settings.pop("window", False), pieces=settings.pop("pieces", False))
        trainer = new_trainer(folder, **settings)
        samples = tiny.samples_of(tiny.kept(groups, trainer.config, known_of(trainer, groups)))
        out = folder / f"{case}-{trainer.num_ranks}"
        out.mkdir(exist_ok=True)
        save_critic(trainer, out / "critic-before.pt")
        save_policy(trainer, out / "before")
        steps = []
        objective = objective_of(trainer)
        update = trainer.fit(samples, objective, 0, on_step=lambda *step, seen=steps: seen.append(step))
        save_policy(trainer, out / "after")
        logprobs = trainer.logprobs(samples)
        charges = {rollout_id: columns["charge"] for rollout_id, columns in known_of(trainer, groups).items()}
        save_critic(trainer, out / "critic-after.pt")
        if trainer.is_main:
            (out / "charges.json").write_text(json.dumps(charges))
            (out / "logprobs.json").write_text(json.dumps(logprobs))
            (out / "metrics.json").write_text(json.dumps(update.figures | {"steps": steps}))
            tokens = {rollout_id: asdict(values) for rollout_id, values in update.tokens.items()}
            (out / "tokens.json").write_text(json.dumps(tokens))
    try:
        trainer.fit([], objective, 1)
    except ValueError as error:
        (folder / f"refusal-{trainer.num_ranks}-{trainer.rank}.txt").write_text(str(error))
    if not alone:
        trainer = new_trainer(folder, temperature=SAMPLER_TEMPERATURE, minibatch_rollouts=1000)
        rollouts = read_rollouts(folder / "on-policy.parquet")
        samples = tiny.samples_of([(rollout, {"advantage": 1.0}) for rollout in rollouts])
        update = trainer.fit(samples, objective_of(trainer), 0)
        if trainer.is_main:
            (folder / "on-policy.json").write_text(json.dumps(update.figures))
    trainer.close()


def save_critic(trainer, file: Path) -> None:
    import torch

    if trainer.critic and trainer.is_main:
        torch.save(trainer.critic.weights, file)


def samples_for(trainer):
    import tiny

    groups = tiny.make_groups(4)
    return tiny.samples_of(tiny.kept(groups, trainer.config, known_of(trainer, groups)))


def known_of(trainer, groups):
    from loop_rl.config.parts import ADVANTAGE, PENALTIES, make_part, make_parts
    from loop_rl.training.known import known_columns

    estimator, penalties = make_part(ADVANTAGE, trainer.config), make_parts(PENALTIES, trainer.config)
    return known_columns(trainer, groups, estimator.reads, penalties, lambda turn: not turn.valid)


def interrupted(folder: Path) -> None:
    """Two iterations of each case with a checkpoint between them; then checkpoints without end, until killed."""

    from loop_rl.training.checkpoint import save_checkpoint
    from loop_rl.training.publish import publish_policy

    for case, settings in RESUME_CASES.items():
        trainer = new_trainer(folder, **settings)
        samples = samples_for(trainer)
        trainer.fit(samples, objective_of(trainer), 0)
        save_checkpoint(trainer, RunDir(folder / case), version=1, keep=2)
        draws = draw_random_numbers()
        trainer.fit(samples, objective_of(trainer), 1)
        publish_policy(trainer, RunDir(folder / case), version=2)
        save_critic(trainer, folder / case / "critic.pt")
        (folder / case / f"draws-{trainer.rank}.json").write_text(json.dumps(draws))
    (folder / f"pid-{trainer.rank}").write_text(str(os.getpid()))
    for version in range(1, 2000):
        save_checkpoint(trainer, RunDir(folder / "killed"), version, keep=2)


def resumed(folder: Path) -> None:
    """The second iteration of each case again, from its checkpoint; then from what the kill left."""

    from loop_rl.config.base import ConfigError
    from loop_rl.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
    from loop_rl.training.publish import publish_policy, save_policy
    from loop_rl.training.stress import stress_step

    refusals = []
    for case, settings in RESUME_CASES.items():
        trainer = new_trainer(folder, **settings)
        stress_step(trainer, objective_of(trainer))  # as train.py does
        samples = samples_for(trainer)  # before: they hold what a new critic expects, as the first iteration's did
        version = load_checkpoint(trainer, latest_checkpoint(RunDir(folder / case)))
        draws = draw_random_numbers()
        trainer.fit(samples, objective_of(trainer), version)
        save_policy(trainer, folder / case / "resumed")
        save_critic(trainer, folder / case / "critic-resumed.pt")
        (folder / case / f"draws-resumed-{trainer.rank}.json").write_text(json.dumps(draws))
        if case in ("zero2", "full-zero2-offload"):
            evaluations = folder / case / "rollouts" / "eval"
            for name in ("v000002-dev.json", ".v000003-dev/task.parquet"):
                (evaluations / name).parent.mkdir(parents=True, exist_ok=True)
                (evaluations / name).touch()
            for later in range(3, 8):
                publish_policy(trainer, RunDir(folder / case), later)
        try:
            load_checkpoint(trainer, folder / "other-ranks")
        except ConfigError as error:
            refusals.append(str(error))
    version = load_checkpoint(trainer, latest_checkpoint(RunDir(folder / "killed")))
    publish_policy(trainer, RunDir(folder / "killed"), version)
    # The policy of a version that is there already stays, even when the trainer's is another one by now.
    trainer.fit(samples, objective_of(trainer), version)
    publish_policy(trainer, RunDir(folder / "killed"), version)
    save_checkpoint(trainer, RunDir(folder / "killed"), version + 1, keep=2)
    if trainer.is_main:
        (folder / "refusals.json").write_text(json.dumps(refusals))
    trainer.close()


def stress(folder: Path) -> None:
    """One iteration of each case, with a stress step before it and without."""
    from loop_rl.training.publish import save_policy
    from loop_rl.training.stress import stress_step

    for case in STRESS_CASES:
        settings = RESUME_CASES[case]
        for name in ("without", "with"):
            trainer = new_trainer(folder, **settings)
            if name == "with":
                stress_step(trainer, objective_of(trainer))
            draws = draw_random_numbers()
            save_policy(trainer, folder / case / name / "before")
            samples = samples_for(trainer)
            figures = trainer.fit(samples, objective_of(trainer), 0).figures
            save_policy(trainer, folder / case / name / "after")
            kept = {key: value for key, value in figures.items() if key not in ("tokens_per_s", "peak_memory_gib")}
            (folder / case / name / f"figures-{trainer.rank}.json").write_text(json.dumps([draws, kept]))
    trainer.close()


def no_room(folder: Path) -> None:
    """A stress step that needs more than this process may have."""
    import resource

    from loop_rl.config.base import ConfigError
    from loop_rl.training.stress import stress_step

    trainer = new_trainer(folder, max_context_tokens=16_384, zero_stage=3)
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (num_pages * resource.getpagesize() + 50_000_000,) * 2)
    try:
        stress_step(trainer, objective_of(trainer))
    except ConfigError as error:
        (folder / "no-room.txt").write_text(str(error))
    trainer.close()


def draw_random_numbers() -> list[float]:
    import random

    import numpy as np
    import torch

    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def main(mode: str, folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    modes = {"update": update, "interrupted": interrupted, "resumed": resumed, "stress": stress, "no_room": no_room}
    modes[mode](folder)

    from loop_rl.training.engine import end_process

    end_process(0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
