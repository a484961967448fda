"""How the trainer's memory grows with the length of a rollout: python benchmarks/trainer_memory.py [1024 2048 4096]

One forward and backward pass of a small Qwen2 with a LoRA adapter (4 layers, hidden size 64, vocabulary 8,192, float32,
on one CPU thread) over one rollout, every token an action: with and without activation checkpointing, with the output
head in chunks of 128 tokens and over all tokens at once. A figure is the peak of the process's resident memory during
the pass over what it had before, in MiB. Each variant has a process of its own. The last column is the slope of a
straight line through the figures (least squares), and how far the worst of them lies from it, in percent of the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

VARIANTS = {
    "checkpointing, chunks": (True, True),
    "checkpointing, no chunks": (True, False),
    "no checkpointing, chunks": (False, True),
    "no checkpointing, no chunks": (False, False),
}
CHUNK_TOKENS = 128
VOCAB_SIZE = 8192
LENGTHS = [1024, 2048, 4096, 8192, 16_384]
# Freed tensors go back to the system at once, so that the next peak is measured from the ground.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}


def measure(lengths: list[int], checkpointing: bool, chunks: bool) -> dict[int, float]:
    """MiB that a pass needs at its peak, by length; in this process, which nothing else may use meanwhile."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from loop_rl.config.load import parse_config
    from loop_rl.training.model import PolicyModel, trainable

    torch.set_num_threads(1)
    base = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=64,
            intermediate_size=512,
            num_attention_heads=1,
            num_key_value_heads=1,
            num_hidden_layers=4,
            max_position_embeddings=max(lengths),
        )
    )
    model = trainable(base, parse_config({"name": "benchmark", "model": {"path": "none"}}, "benchmark"))
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    figures = {}
    for num_tokens in [min(lengths), *sorted(lengths)]:  # the first pass allocates what stays; it is done again
        policy = PolicyModel(model, temperature=1.0, chunk_tokens=CHUNK_TOKENS if chunks else num_tokens).train()
        tokens_T = torch.arange(num_tokens) % VOCAB_SIZE
        positions_N = torch.arange(num_tokens - 1)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is what is used now
        before = _status_mib("VmRSS")
        logprobs_N, _ = policy(tokens_T[None], torch.zeros_like(positions_N), positions_N, tokens_T[1:])
        logprobs_N.mean().backward()
        figures[num_tokens] = _status_mib("VmHWM") - before
    return figures


def _status_mib(name: str) -> float:
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def straight_line(figures: dict[int, float]) -> tuple[float, float]:
    """MiB for 1,024 more tokens, and the largest distance of a figure from the line, as a share of the figure."""
    slope, intercept = statistics.linear_regression(figures.keys(), figures.values())
    return 1024 * slope, max(abs(intercept + slope * tokens - mib) / mib for tokens, mib in figures.items())


def in_process_of_its_own(variant: str, lengths: list[int]) -> dict[int, float]:
    command = [sys.executable, __file__, *map(str, lengths), "--variant", variant]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | ENVIRONMENT)
    return {int(tokens): mib for tokens, mib in json.loads(result.stdout).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", nargs="*", type=int, default=LENGTHS, metavar="TOKENS", help="lengths, at least two")
    parser.add_argument(
        "--variant", choices=VARIANTS, help="measure this one only, in this process; prints JSON, MiB by tokens"
    )
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.lengths, *VARIANTS[args.variant])))
        return 0
    print(
        f"{'MiB at the peak, by tokens':<30}" + "".join(f"{n:>9,}" for n in sorted(args.lengths)) + "   per 1k tokens"
    )
    for variant in VARIANTS:
        figures = in_process_of_its_own(variant, args.lengths)
        slope, distance = straight_line(figures)
        cells = "".join(f"{mib:>9.0f}" for mib in figures.values())
        print(f"{variant:<30}{cells}   {slope:.1f} (at most {distance:.0%} off)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
