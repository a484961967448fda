"""The plans of the configs that come with loop_rl, docs/plans.md, as `make plan` prints them.

python -m loop_rl.planning.document > docs/plans.md
"""

from __future__ import annotations

import io

from rich.console import Console

from loop_rl.config.load import load_config
from loop_rl.planning.plan import WIDTH, Machines, print_plan
from loop_rl.planning.timing import Assumptions

_HEAD = """# Plans

What `make plan` prints for each config, on H100s. Made by `make docs`; a test fails when it is stale. What the figures
mean and rest on is in [planning.md](planning.md): none of these runs has been done, and nothing here was measured on a GPU.
"""
_PLANS = (
    ("qwen2.5-32b", (2,), 8),
    ("qwen2.5-7b", (1,), 8),
    ("qwen3-14b", (1,), 8),
    ("qwen2.5-1.5b", (1,), 1),
    ("verlog/crafter-7b", (1,), 8),
    ("verlog/babyai-open-3b", (1,), 4),
)
_SCALING = (("qwen2.5-32b", (4, 8, 16), 8),)


def plans(scaling: bool = True) -> str:
    """docs/plans.md as it has to be; without `scaling` its beginning, which takes a fraction of the time."""
    parts = [_HEAD]
    for name, nodes, gpus in _PLANS + (_SCALING if scaling else ()):
        command = f"make plan CONFIG=configs/{name}.yaml NODES={','.join(map(str, nodes))}"
        if gpus != 8:
            command += f' ARGS="--gpus-per-node {gpus}"'
        console = Console(file=io.StringIO(), width=WIDTH)
        print_plan(
            console, load_config(f"configs/{name}.yaml"), [Machines(n, gpus, "h100") for n in nodes], Assumptions()
        )
        printed = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
        parts.append(f"## {name}, {'one node' if nodes == (1,) else ', '.join(map(str, nodes)) + ' nodes'}\n")
        parts.append(f"`{command}`\n\n```\n{printed}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(plans(), end="")
