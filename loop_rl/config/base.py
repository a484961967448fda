"""What every section of the config is made of."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

_IS_PATH = AfterValidator(os.path.expanduser)
LocalPath = Annotated[str, _IS_PATH]
"""A setting that is, or can be, a place in the file system; `~` is a home folder. A relative one is meant from where the run was
started, see `located`."""


class ConfigError(ValueError):
    """A setting is unknown, malformed or contradicts another; the message is one line and names the key."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, fields are documented by the string below them."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take `true` as 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError(f"{info.field_name}: expected a number, got {str(value).lower()}")
        return value


AnySection = TypeVar("AnySection", bound=Section)


def located(section: AnySection, folder: Path) -> AnySection:
    """The same settings with absolute paths, for use from any folder.

    folder: what relative ones are relative to. One that leads nowhere stays as it is: it can be a model's name on the hub.
    """
    changed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            changed[name] = located(value, folder)
        elif _IS_PATH in field.metadata and (folder / value).exists():
            changed[name] = os.path.abspath(folder / value)
    return section.model_copy(update=changed)


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, optional or not; None where it holds a plain value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
