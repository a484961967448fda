"""Actions of agents, taken apart and coloured."""

from __future__ import annotations

import re

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from loop_rl.inspection.inert import inert

_LEXER = PythonLexer(stripnl=False, ensurenl=False)
_FORMATTER = HtmlFormatter(nowrap=True)


def highlighted(code: str) -> Markup:
    """Python code as HTML that holds nothing but text and `span` elements with classes."""
    return Markup(highlight(inert(code), _LEXER, _FORMATTER))


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
