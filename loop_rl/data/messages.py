"""A message of a conversation."""

from __future__ import annotations

Message = dict[str, str]
"""role (system, user or assistant) and content, as chat templates take them."""


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
