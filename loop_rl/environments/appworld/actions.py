"""What of an action is run."""

from __future__ import annotations

import re

# First fence that is closed, both fences at the start of a line.
_CODE_BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


_ANY_BLOCK = re.compile(r"^```(?:python|py)[ \t]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)


def extract_code(action_text: str) -> str:
    """The code of an action: its first closed ```python block; empty when there is none.

    What stands around the block is thought and is not run, nor are further blocks. A block that the token limit cut
    open is no code: half a program must not run.
    """
    match = _CODE_BLOCK.search(action_text)
    return match.group(1).strip("\n") if match else ""


def extract_all_code(action_text: str) -> str:
    """The code of an action as the released code of LOOP takes it: all its ```python and ```py blocks, one behind the other, the
    last one also where it was not closed; empty when there is none."""
    return "\n".join(block.strip("\n") for block in _ANY_BLOCK.findall(action_text)).strip("\n")
