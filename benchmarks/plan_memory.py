"""How fast the resident memory of a real forward and backward grows with the tokens, against the planner's formula.

    python benchmarks/plan_memory.py
    python benchmarks/plan_memory.py 512 1024 8192
    python benchmarks/plan_memory.py --full

A policy of 20 million parameters in float32, with and without activation checkpointing, each in a process of its own,
on the CPU. The growth is taken between the last two lengths: what the first ones reach for the first time stays.

With --full: what the trainer itself needs to train all weights of 56 million parameters, on one and two ranks and at each
ZeRO stage, the stress step's peak over what the process had before; the formula is all of its terms but the reserve.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

VOCAB, CHUNK_TOKENS = 4096, 256
FULL_SIZES = {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}


def peaks(lengths: list[int], checkpointing: bool) -> tuple[list[int], float]:
    """Peak resident bytes after a forward and backward at each length, and the formula's bytes per token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from loop_rl.config.load import parse_config
    from loop_rl.planning.memory import training_memory
    from loop_rl.planning.shapes import ModelShape
    from loop_rl.training.model import PolicyModel, trainable

    torch.set_num_threads(1)
    trainer = {"activation_checkpointing": checkpointing, "logprob_chunk_tokens": CHUNK_TOKENS}
    config = parse_config({"name": "b", "model": {"path": "b", "dtype": "float32"}, "trainer": trainer}, "benchmark")
    sizes = {"vocab_size": VOCAB, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    base = Qwen2ForCausalLM(Qwen2Config(num_attention_heads=6, num_key_value_heads=2, **sizes))
    model = trainable(base, config)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = PolicyModel(model, temperature=1.0, chunk_tokens=CHUNK_TOKENS).train()
    found = []
    for length in lengths:
        input_ids, positions = torch.randint(0, VOCAB, (1, length)), torch.arange(length - 1)
        logprobs, _ = policy(input_ids, torch.zeros_like(positions), positions, input_ids[0, 1:])
        logprobs.sum().backward()
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    shape = ModelShape(8, 384, 6, 2, 64, 1536, VOCAB, tied=False, qkv_bias=True)
    terms = training_memory(shape, config, num_ranks=1)
    return found, (terms["activations kept"] + terms["working set"]) / config.trainer.max_tokens_per_microbatch


def full(dtype: str) -> None:
    """Print the trainer's own peak beside the formula's, of one data type."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from loop_rl.running.ranks import accelerate_command

    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(
            Qwen2Config(num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False, **FULL_SIZES)
        ).save_pretrained(folder)
        for num_ranks in (1, 2):
            for stage in (1, 2, 3):
                command = [*accelerate_command(num_ranks), __file__, "--rank-of", folder, "--zero-stage", str(stage)]
                command += ["--dtype", dtype]
                env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
                print("\n".join(line for line in done.stdout.splitlines() if "ratio" in line), flush=True)


def full_rank(folder: str, dtype: str, zero_stage: int) -> None:
    """One rank of a trainer, the stress step and what it needed; rank 0 prints."""
    import torch

    from loop_rl.algorithms.learning import make_objective
    from loop_rl.config.load import parse_config
    from loop_rl.planning.memory import training_memory
    from loop_rl.planning.shapes import model_shape
    from loop_rl.training.engine import end_process
    from loop_rl.training.stress import longest_sample
    from loop_rl.training.trainer import Trainer

    torch.set_num_threads(1)
    trainer = {"zero_stage": zero_stage, "logprob_chunk_tokens": 64, "max_tokens_per_microbatch": 256}
    agent = {"max_context_tokens": 256, "max_new_tokens": 64, "max_observation_tokens": 64}
    model = {"path": folder, "dtype": dtype, "lora": None}
    config = parse_config({"name": "b", "model": model, "agent": agent, "trainer": trainer}, "benchmark")
    before = _status_bytes("VmRSS")
    made = Trainer(config)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now: loading is not counted
    objective = make_objective(config)
    made.rehearse([longest_sample(config, made.reads(objective))], objective)
    terms = training_memory(model_shape(folder)[0], config, made.num_ranks)
    formula, measured = sum(terms.values()) - terms["reserve"], _status_bytes("VmHWM") - before
    if made.is_main:
        print(
            f"{dtype}, ZeRO {zero_stage}, {made.num_ranks} ranks: {measured / 1e6:.0f} MB, the "
            f"formula says {formula / 1e6:.0f}: ratio {measured / formula:.2f}",
            flush=True,
        )
    made.close()
    end_process(0)


def _status_bytes(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", nargs="*", type=int, default=[512, 1024, 3072], help="tokens, at least two, growing")
    parser.add_argument("--full", action="store_true", help="all weights, in the trainer itself")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of --full")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    parser.add_argument("--zero-stage", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    lengths = args.lengths
    # Blocks of 64 KiB and more go back to the system when freed; by default glibc keeps most, and RSS says twice as much.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    if args.rank_of:
        full_rank(args.rank_of, args.dtype, args.zero_stage)
    if args.full:
        full(args.dtype)
        return 0
    for checkpointing in (True, False):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found, formula = pool.apply(peaks, (lengths, checkpointing))
        measured = (found[-1] - found[-2]) / (lengths[-1] - lengths[-2])
        rows = ", ".join(f"{length} tokens {peak / 1e6:.0f} MB" for length, peak in zip(lengths, found, strict=True))
        print(
            f"{'with' if checkpointing else 'without'} checkpointing: {rows}; {measured / 1e3:.1f} MB per 1,000 tokens, the "
            f"formula says {formula / 1e3:.1f}: ratio {measured / formula:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
