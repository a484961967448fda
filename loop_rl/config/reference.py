"""The reference of every setting, docs/settings.md, made from the config's own docstrings.

python -m loop_rl.config.reference > docs/settings.md
"""

from __future__ import annotations

from typing import Any, get_args

from loop_rl.config.base import Section, section_of
from loop_rl.config.load import config_class

_HEAD = """# Settings

Every key of a config file. On the command line: `section.key=value`, for example `trainer.learning_rate=1e-4`.
Made by `make docs` from the docstrings of [`loop_rl/config/settings.py`](../loop_rl/config/settings.py); a test fails when it is stale.
"""
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "matches"}


def settings_reference() -> str:
    """docs/settings.md as it has to be."""
    return "\n".join([_HEAD, *_section(config_class({}), "")]).rstrip() + "\n"


def _section(section: type[Section], prefix: str) -> list[str]:
    """A table of the section's own keys, then the sections in it."""
    lines = [f"## {prefix or 'top level'}", "", section.__doc__ or "", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner = []
    properties = section.model_json_schema()["properties"]
    for name, field in section.model_fields.items():
        if holds := section_of(field):
            inner += _section(holds, f"{prefix}.{name}".lstrip("."))
            if type(None) in get_args(field.annotation):
                lines.append(f"| `{name}` | section or null | see below | {' '.join(field.description.split())} |")
        else:
            schema = properties[name]
            default = f"`{schema['default']}`" if "default" in schema else "required"
            cells = [f"`{name}`", _type(schema), default, " ".join(schema["description"].split())]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, "", *inner]


def _type(schema: dict[str, Any]) -> str:
    """The type and its bounds in words, such as `integer` ≥ 1."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(kind) for kind in schema["anyOf"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    bounds = [f"{sign} `{schema[key]}`" for key, sign in _BOUNDS.items() if key in schema]
    return f"{schema['type']} {' and '.join(bounds)}".strip()


if __name__ == "__main__":
    print(settings_reference(), end="")
