"""What must not change, computed by the code as it is: tests/golden/values.json holds what it was when it was recorded.

    python tests/support/golden.py ROOT > tests/golden/values.json      # ROOT: a task pack, as conftest's appworld_root

Bits depend on the processor, so kernels are asked for the ways that every x86 processor has (PORTABLE).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
RECORDED = REPO / "tests" / "golden" / "run"
"""A run of three iterations that an older loop_rl made, with rollout schema 2."""
VALUES = REPO / "tests" / "golden" / "values.json"
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
VARIANTS = {
    f"{weights}-{ratio}": {
        "model": {"lora": {"rank": 4, "alpha": 8} if weights == "lora" else None},
        "algorithm": algorithm,
    }
    for weights, (ratio, algorithm) in product(
        ("lora", "all"),
        {
            "behaviour": {"ratio_to": "behaviour"},
            "recomputed": {"ratio_to": "recomputed", "max_importance_weight": 1.01},
        }.items(),
    )
}
"""Trained on the recorded rollouts, on one rank and on two."""
_SAMPLED_TASKS = 3
_OF_TIME = re.compile(r"time/|tokens_per_s|rollouts_per_s|peak_memory|written_at")


TESTED = {1: ("lora-recomputed",), 2: ("all-behaviour",)}
"""By number of ranks: what a test has time for; `python tests/support/golden.py ROOT` does them all."""


def trained(folder: Path, num_ranks: int, variants: Collection[str] = tuple(VARIANTS)) -> dict[str, Any]:
    """Hash of the third policy version and the figures of each iteration, by variant."""
    import yaml

    from loop_rl.config.load import parse_config
    from loop_rl.running.ranks import accelerate_command
    from loop_rl.store.metrics import read_metrics
    from loop_rl.store.run_dir import RunDir

    runs = {}
    for variant in variants:
        settings = VARIANTS[variant]
        tree = yaml.safe_load((RECORDED / "config.yaml").read_text())
        tree |= {"name": variant, "runs_dir": str(folder / f"on-{num_ranks}")}
        for section, values in settings.items():
            tree[section] |= values
        tree["trainer"] |= {"num_processes": num_ranks}
        runs[variant] = run = RunDir.create(parse_config(tree, "golden"))
        shutil.copytree(RECORDED / "rollouts" / "train", run.train_rollouts, dirs_exist_ok=True)
        shutil.copytree(RECORDED / "iterations", run.path / "iterations")
    command = [*accelerate_command(num_ranks), str(REPO / "tests" / "support" / "golden_ranks.py")]
    done = subprocess.run(
        [*command, *(str(run.path) for run in runs.values())],
        cwd=REPO,
        env=os.environ | PORTABLE | {"PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = {}
    for variant, run in runs.items():
        (weights,) = run.policy_folder(3).glob("*.safetensors")
        figures = [{k: v for k, v in line.items() if not _OF_TIME.search(k)} for line in read_metrics(run)]
        found[variant] = {"weights": hashlib.sha256(weights.read_bytes()).hexdigest(), "figures": figures}
    return found


def sampled(root: Path) -> list[dict[str, Any]]:
    """Episodes of models/tiny, computed in this process with a generator for each request, on real AppWorld."""
    from loop_rl.agents.chat import Chat
    from loop_rl.agents.episode import Agent, Job, run_episode
    from loop_rl.config.load import load_config
    from loop_rl.config.parts import ENVIRONMENT, make_part

    settings = [f"tasks.root={root}", "tasks.num_workers=1"]
    config = load_config(REPO / "configs" / "tiny.yaml", settings)
    chat = Chat.from_pretrained(config.model.path, config.agent)
    policy = _FixedPolicy(config.model.path, chat.end_of_turn_id)

    async def run() -> list:
        rollouts = []
        async with make_part(ENVIRONMENT, config) as environment:
            agent = Agent.training(policy, chat, config.agent)
            for number, task in enumerate(environment.tasks("train")[:_SAMPLED_TASKS]):
                job = Job(task, f"golden-{number}", f"golden-{os.getpid()}-{number}", 7 + number, number, -1)
                rollouts.append(await run_episode(job, environment, agent))
        return rollouts

    return [
        {
            "task": rollout.task_id,
            "end_reason": str(rollout.end_reason),
            "reward": rollout.reward,
            "passes": sorted(rollout.passes),
            "turns": [
                {
                    "context": _hash(turn.context_ids),
                    "action": list(turn.action_ids),
                    "logprobs": _hash([value.hex() for value in turn.logprobs]),
                    "did": _hash([turn.executed, turn.log]),
                    "observation": _hash(turn.observation),
                }
                for turn in rollout.turns
            ],
        }
        for rollout in asyncio.run(run())
    ]


class _FixedPolicy:
    """models/tiny in float32, sampled from one token at a time."""

    def __init__(self, path: str, end_of_turn_id: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._end_of_turn_id = end_of_turn_id

    async def sample(self, prompt_ids, max_tokens, temperature, seed, version=None):
        import torch

        from loop_rl.agents.policy import Generation

        generator = torch.Generator().manual_seed(seed % 2**63)
        ids, logprobs, past, unread = [], [], None, list(prompt_ids)
        with torch.no_grad():
            while len(ids) < max_tokens and (not ids or ids[-1] != self._end_of_turn_id):
                output = self._model(torch.tensor([unread]), past_key_values=past, use_cache=True)
                past = output.past_key_values
                distribution = torch.log_softmax(output.logits[0, -1] / temperature, dim=-1)
                choice = torch.multinomial(distribution.exp(), 1, generator=generator).item()
                ids.append(choice)
                logprobs.append(distribution[choice].item())
                unread = [choice]
        return Generation(ids, logprobs, 0)


def prompts(root: Path) -> dict[str, list[str]]:
    """Hashes of the token ids of the first prompts, by style."""
    from appworld_tasks.splits import load_split
    from loop_rl.agents.chat import Chat, load_tokenizer
    from loop_rl.environments.appworld.prompts import build_prompt

    chat = Chat(load_tokenizer(str(REPO / "models" / "tiny")), 100)
    tasks = load_split(root, "train")[:3]
    return {
        style: [_hash(chat.first_turn(build_prompt(style, task))) for task in tasks] for style in ("full", "compact")
    }


def completion() -> dict[str, Any]:
    """TGC, SGC and what else an evaluation says of the recorded episodes."""
    from loop_rl.environments.appworld.figures import describe
    from loop_rl.store.rollout_files import read_rollouts

    rollouts = read_rollouts(RECORDED / "rollouts" / "eval" / "v000003-dev.parquet")
    return describe(rollouts, rollouts)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def processor() -> str:
    """What bits may depend on."""
    (model, *_) = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return model


def main(root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "processor": processor(),
            "trained": {str(num_ranks): trained(Path(folder), num_ranks) for num_ranks in (1, 2)},
            "sampled": sampled(root),
            "prompts": prompts(root),
            "completion": completion(),
        }
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    os.environ |= PORTABLE
    main(Path(sys.argv[1]))
