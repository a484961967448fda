"""What one update needs in memory, by how many turns its episodes have: read whole, or through a window, each turn a sample.

    python benchmarks/turns_memory.py
    python benchmarks/turns_memory.py 400 1000 --only window

A policy of 20 million parameters in float32 with an adapter, on the CPU, one rank, each case in a process of its own: two episodes of
turns of 60 tokens read and 20 written, of which a window of 2 shows three. The peak of the resident memory over what the process had once the
trainer was made. With a window, without a critic and with both kinds of them.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

VOCAB = 4096
READ, WRITTEN, WINDOW, EPISODES = 60, 20, 2, 2
CASES = {
    "whole": (False, None),
    "window": (True, None),
    "window, head": (True, "head"),
    "window, adapter": (True, "adapter"),
}
"""Whether turns are samples, and the critic."""


def measure(folder: str, case: str, num_turns: int) -> None:
    """Print the peak of one update."""
    import torch

    from loop_rl.algorithms.learning import make_objective
    from loop_rl.config.load import parse_config
    from loop_rl.training.engine import end_process
    from loop_rl.training.trainer import Trainer

    torch.set_num_threads(1)
    windowed, critic = CASES[case]
    algorithm = {"epochs": 1}
    if critic:
        algorithm |= {"advantage": "dual_gae", "filter": "everything", "critic": critic, "critic_warmup_iterations": 0}
    tree = {
        "name": "b",
        "model": {"path": folder, "dtype": "float32"},
        "agent": {"max_context_tokens": 65_536},
        "algorithm": algorithm,
        "trainer": {"zero_stage": 2, "max_tokens_per_microbatch": 512, "logprob_chunk_tokens": 128},
    }
    config = parse_config(tree, "benchmark")
    trainer = Trainer(config)
    columns = {"advantage": 1.0, "return": 1.0, "value": 0.0, "value_weight": 1.0}
    samples = [sample for number in range(EPISODES) for sample in episode(number, num_turns, windowed).samples(columns)]
    before = _status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    trainer.fit(samples, make_objective(config), 0)
    longest = max(sample.num_tokens for sample in samples)
    print(f"peak {(_status_bytes('VmHWM') - before) / 1e6:.0f} longest {longest}", flush=True)
    trainer.close()
    end_process(0)


def episode(number: int, num_turns: int, windowed: bool):
    """A rollout of made-up tokens."""
    from loop_rl.data.rollout import Rollout, Turn

    rng = random.Random(number)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(VOCAB) for _ in range(n)]

    read = READ + WINDOW * (READ + WRITTEN) if windowed else READ
    turns = [
        Turn(tokens(read), tokens(WRITTEN), [-8.0] * WRITTEN, 0, "", "", "", extends=not windowed)
        for _ in range(num_turns)
    ]
    return Rollout(
        f"r{number}",
        number,
        0,
        "t",
        "t",
        {},
        "",
        "completed",
        "terminated",
        1.0,
        True,
        [],
        [],
        turns,
        0.0,
        0.0,
        0.0,
        0.0,
    )


def _status_bytes(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("turns", nargs="*", type=int, default=[25, 100, 400], help="of an episode")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="of the cases")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        measure(args.folder, args.case, args.turns[0])
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from loop_rl.running.ranks import accelerate_command

    sizes = {"vocab_size": VOCAB, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    # Blocks of 64 KiB and more go back to the system when freed; by default glibc keeps most, and RSS says twice as much.
    env["MALLOC_MMAP_THRESHOLD_"] = "65536"
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(Qwen2Config(num_attention_heads=6, num_key_value_heads=2, **sizes)).save_pretrained(folder)
        for case in args.only:
            for num_turns in args.turns:
                command = [*accelerate_command(1), __file__, str(num_turns), "--case", case, "--folder", folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
                (line,) = [line for line in done.stdout.splitlines() if line.startswith("peak")] or ["failed"]
                words = line.split()
                said = f"{words[1]} MB, longest sample {words[3]} tokens" if len(words) == 4 else line
                print(f"{case}, {num_turns} turns: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
