"""What agents and their programs wrote, made safe to look at, on a page or in a terminal.

What a REPL prints is anyone's text. Templates escape its markup; here every character that would act instead of being
seen (control characters, escape sequences, bidirectional overrides, invisible ones) is written out.
"""

from __future__ import annotations


def inert(text: str) -> str:
    """The text with every character that cannot be seen written as in Python, `\\x1b` or `\\u202e`; line ends and tabs
    stay."""
    # Not the pictures of U+2400: few fonts have them.
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
