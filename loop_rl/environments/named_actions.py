"""Finding the action that a text names; no environment of its own."""

from __future__ import annotations

from collections.abc import Collection


def parse_action(text: str, actions: Collection[str]) -> str:
    """The action that a text names: all of it, or what follows its last "ACTION:" on that line; empty where it names none.

    actions: names in lower case.
    """
    words = text.rpartition("ACTION:")[2].strip().partition("\n")[0]
    name = " ".join(words.casefold().split()).rstrip(".!")
    return name if name in actions else ""
