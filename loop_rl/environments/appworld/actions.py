"""What of an action is run."""

from __future__ import annotations

import re

# First fence that is closed, both fences at the start of a line.
_CODE_BLOCK = re.compile(r"^```python[ \t]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def extract_code(action_text: str) -> str:
    """The code of an action: its first closed ```python block; empty when there is none.

    What stands around the block is thought and is not run, nor are further blocks. A block that the token limit cut
    open is no code: half a program must not run.
    """
    match = _CODE_BLOCK.search(action_text)
    return match.group(1).strip("\n") if match else ""
