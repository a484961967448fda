"""Text of agents and worlds, made safe to look at, and code, coloured.

What a REPL prints is anyone's text. The templates escape its markup; here every character that would act on the page
instead of standing on it (control characters, bidirectional overrides, invisible ones) is replaced by one that shows.
"""

from __future__ import annotations

import re

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

_PRINTED_AS_IT_IS = "\n\t"
_LEXER = PythonLexer(stripnl=False, ensurenl=False)
_FORMATTER = HtmlFormatter(nowrap=True)


def visible(text: str) -> str:
    """The text with every character that cannot be seen written out as in Python: `\\x1b`, `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _PRINTED_AS_IT_IS else _escape(c) for c in text)


def highlighted(code: str) -> Markup:
    """Python code as HTML that holds nothing but text and `span` elements with classes."""
    return Markup(highlight(visible(code), _LEXER, _FORMATTER))


def highlighting_css() -> str:
    """The colours of `highlighted`, for light and for dark pages."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".code") for style in ("xcode", "github-dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def split_action(action_text: str, code: str) -> tuple[str, str, str]:
    """An action as (thought, code that ran, what was written after it); without code all is thought."""
    fence = action_text.find("```python")
    start = action_text.find(code, fence) if code and fence >= 0 else -1
    if start < 0:
        return action_text, "", ""
    before, after = action_text[:start], action_text[start + len(code) :]
    return before[:fence].strip(), code, re.sub(r"^\s*```", "", after).strip()


def _escape(character: str) -> str:
    # Not the pictures of U+2400: few fonts have them.
    point = ord(character)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
