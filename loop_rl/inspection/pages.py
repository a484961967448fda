"""Pages that show what agents and their programs wrote."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loop_rl.inspection.inert import inert


def templates(package: str) -> Environment:
    """The templates of a package. Every string that one prints passes through `inert` before it is escaped."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
