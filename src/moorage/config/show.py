"""Renders the settings in force as YAML, with secrets masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from moorage.config.problems import NOWHERE
from moorage.config.scalars import format_duration, resolve
from moorage.config.schema import Key, ListOf, MapOf, ScalarOf, SectionOf, Shape, keys_of
from moorage.config.tree import Scalar
from moorage.redaction import in_text

if TYPE_CHECKING:
    from moorage.config.sections.base import Section

__all__ = ["MASK", "render"]

MASK: Final = "********"


class _Dumper(yaml.SafeDumper):
    """Quotes text that the dialect would parse as another type (`1e3`, which PyYAML writes without quotes)."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    quoted = not isinstance(resolve(Scalar(text, NOWHERE)), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if quoted else None)


_Dumper.add_representer(str, _represent_text)


def render(settings: Section) -> str:
    """Return YAML that loads as `settings`, except for the secrets."""
    return yaml.dump(_section(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _section(section: Section) -> dict[str, Any]:
    return {
        name: _value(key.shape, value, key)
        for name, key in keys_of(type(section)).items()
        if key.instead is None and (value := getattr(section, key.field)) is not None
    }


def _value(shape: Shape, value: Any, key: Key) -> Any:
    if key.secret and value:
        return MASK
    match shape:
        case SectionOf():
            return _section(value)
        case ListOf(item):
            return [_value(item, entry, key) for entry in value]
        case MapOf(inner):
            return {name: _value(inner, entry, key) for name, entry in value.items()}
        case ScalarOf(reader) if reader.kind == "duration":
            return format_duration(value)
        case _:
            return in_text(value) if isinstance(value, str) else value
