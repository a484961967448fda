"""What agents and their programs wrote, made safe to print: a terminal obeys escape sequences wherever they come from."""

from __future__ import annotations


def inert(text: str) -> str:
    """The text with every character that is not printable written out, as in \\x1b; line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
