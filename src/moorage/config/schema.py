"""Schema of the settings, derived from the models: keys of each section, shape and attributes of each value.

Names of variables, parsing, masking of secrets and the documentation use it, so that a setting is declared in one
place, its model.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic_core import PydanticUndefined

from moorage.config.scalars import ScalarReader
from moorage.config.sections.base import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Key", "ListOf", "MapOf", "Raw", "ScalarOf", "SectionOf", "Shape", "keys_of", "walk"]


@dataclass(frozen=True, slots=True)
class ScalarOf:
    """A single value."""

    reader: ScalarReader


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list."""

    item: Shape


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping with free keys."""

    value: Shape


@dataclass(frozen=True, slots=True)
class SectionOf:
    """A mapping with known keys."""

    model: type[Section]


@dataclass(frozen=True, slots=True)
class Raw:
    """Any value, resolved as yaml.v2 does."""


Shape = ScalarOf | ListOf | MapOf | SectionOf | Raw


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: `name` in the file, `field` in the model; the others are parameters of `sections.base.setting`.

    `optional`: the default is None, so that an empty section differs from a missing one.
    """

    name: str
    field: str
    shape: Shape
    default: Any
    meaning: str
    unit: str
    secret: bool
    required: bool
    variable: str | None
    instead: str | None
    own: bool
    shown: str | None
    optional: bool


@cache
def keys_of(model: type[Section]) -> dict[str, Key]:
    """Return the keys of a section by their name in the file (`from_` is `from` there)."""
    hints = typing.get_type_hints(model, include_extras=True)
    keys: dict[str, Key] = {}
    for field, info in model.model_fields.items():
        notes: Any = info.json_schema_extra  # always the dict that setting() made
        default = info.default if info.default is not PydanticUndefined else None
        name = field.rstrip("_")
        keys[name] = Key(
            name=name, field=field, shape=_shape(hints[field]), default=default, meaning=info.description or "",
            optional=info.default is None, **notes,
        )  # fmt: skip
    return keys


def _shape(hint: Any) -> Shape:
    metadata: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        metadata = tuple(extras)
    readers = [extra for extra in metadata if isinstance(extra, ScalarReader)]
    if readers:
        return ScalarOf(readers[-1])
    if get_origin(hint) in {types.UnionType, typing.Union}:
        (hint,) = [option for option in get_args(hint) if option is not type(None)]
        return _shape(hint)
    if get_origin(hint) is tuple:
        return ListOf(_shape(get_args(hint)[0]))
    if isinstance(hint, type) and issubclass(hint, Section):
        return SectionOf(hint)
    if hint is Any:
        return Raw()
    return MapOf(_shape(get_args(hint)[1]))


def walk(model: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Key]]:
    """Yield every key below `model` in the order of the file, each section before its keys; lists add `[]`."""
    for key in keys_of(model).values():
        here = (*path, key.name)
        yield here, key
        inner = key.shape
        if isinstance(inner, ListOf):
            inner, here = inner.item, (*path, f"{key.name}[]")
        if isinstance(inner, SectionOf):
            yield from walk(inner.model, here)
