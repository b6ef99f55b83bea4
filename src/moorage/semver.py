"""Semantic versions of tags, and ranges of them: `^1.2`, `~1.4`, `>=1.0 <2.0`, `1.x`, `1.2.3 || >=2`.

The grammar of ranges is that of npm and Cargo.  Comparators separated by spaces must all hold; `||` separates
alternatives.  A part that is missing or `x` or `*` may be any number.  A prerelease (`1.3.0-rc.1`) matches only
if a comparator names a prerelease of the same three numbers: `>=1.3.0-rc.1` matches it, `^1.2` does not.

A tag is a version if it has three numbers, with or without a leading `v`.  Tags cannot contain the `+` of build
metadata; as in Helm, `_` stands for it.  Tags such as `1.2`, which move from version to version, are no versions.

Source: Semantic Versioning 2.0.0, sections 9 to 11; npm's `semver` for the ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Version", "VersionRange", "parse_version"]

_NUMBER: Final = r"(?:0|[1-9][0-9]{0,17})"
_IDENTIFIER: Final = r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_PRERELEASE: Final = rf"{_IDENTIFIER}(?:\.{_IDENTIFIER})*"
_VERSION: Final = re.compile(
    rf"v?({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRERELEASE}))?(?:[_+][0-9a-zA-Z.-]+)?", re.ASCII
)
_PARTIAL: Final = rf"v?({_NUMBER}|[xX*])(?:\.({_NUMBER}|[xX*]))?(?:\.({_NUMBER}|[xX*]))?(?:-({_PRERELEASE}))?"
_COMPARATOR: Final = re.compile(rf"(\^|~>?|>=|<=|>|<|=|){_PARTIAL}", re.ASCII)
_SPACED: Final = re.compile(r"(\^|~>?|>=|<=|>|<|=)\s+")
_EXAMPLES: Final = 'such as "^1.2", "~1.4", "1.x" or ">=1.0 <2.0"'

_Identifiers = tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One version; build metadata is left out, since it has no precedence."""

    major: int
    minor: int
    patch: int
    prerelease: str = ""

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    @property
    def order(self) -> tuple[int, int, int, int, _Identifiers]:
        """Return the sort key: precedence of section 11."""
        return *self.numbers, 0 if self.prerelease else 1, _identifiers(self.prerelease)


def _identifiers(prerelease: str) -> _Identifiers:
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in prerelease.split(".") if part
    )


def parse_version(text: str) -> Version | None:
    """Return the version that a tag names; None if it names none."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    return Version(int(match[1]), int(match[2]), int(match[3]), match[4] or "")


@dataclass(frozen=True, slots=True)
class _Bound:
    """One inequality; `operator` is `>=`, `>`, `<` or `<=`."""

    operator: str
    version: Version

    def allows(self, version: Version) -> bool:
        ours, other = version.order, self.version.order
        match self.operator:
            case ">=":
                return ours >= other
            case ">":
                return ours > other
            case "<":
                return ours < other
            case _:
                return ours <= other


@dataclass(frozen=True)
class VersionRange:
    """A parsed range: alternatives, each a set of inequalities that must all hold."""

    text: str
    alternatives: tuple[tuple[_Bound, ...], ...]

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Parse a range.  Raises ValueError, with a description of the problem."""
        if not text.strip():
            raise ValueError(f"expected a range of versions {_EXAMPLES}, found nothing")
        alternatives = []
        for part in text.split("||"):
            bounds: list[_Bound] = []
            if not part.strip():
                raise ValueError("expected a range on both sides of ||")
            for word in re.split(r"[\s,]+", _SPACED.sub(r"\1", part.strip())):
                bounds += _bounds(word)
            alternatives.append(tuple(bounds))
        return cls(text, tuple(alternatives))

    def matches(self, version: Version) -> bool:
        """Return whether the range contains a version."""
        return any(_all_allow(bounds, version) for bounds in self.alternatives)

    @cached_property
    def is_empty(self) -> bool:
        """Return whether no version satisfies the range, in any of its alternatives."""
        return not any(_satisfiable(bounds) for bounds in self.alternatives)


def _all_allow(bounds: tuple[_Bound, ...], version: Version) -> bool:
    if not all(bound.allows(version) for bound in bounds):
        return False
    return not version.prerelease or any(
        bound.version.prerelease and bound.version.numbers == version.numbers for bound in bounds
    )


def _satisfiable(bounds: tuple[_Bound, ...]) -> bool:
    """Return whether some version satisfies all bounds: if any does, one directly at a bound does."""
    return any(_all_allow(bounds, version) for version in _candidates(bounds))


def _candidates(bounds: tuple[_Bound, ...]) -> Iterator[Version]:
    yield Version(0, 0, 0)
    for bound in bounds:
        version = bound.version
        yield version
        yield Version(*version.numbers)
        yield Version(version.major, version.minor, version.patch + 1)
        if version.prerelease:
            yield Version(*version.numbers, f"{version.prerelease}.0")
            yield Version(*version.numbers, "0")


def _bounds(word: str) -> Iterator[_Bound]:
    """Yield the inequalities of one comparator.  Raises ValueError."""
    match = _COMPARATOR.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is no comparator of versions; expected one {_EXAMPLES}")
    operator, *texts, prerelease = match.groups()
    numbers: list[int] = []
    for text in texts:
        if text is None or text in "xX*":
            break
        numbers.append(int(text))
    if any(text is not None and text not in "xX*" for text in texts[len(numbers) :]):
        raise ValueError(f"{word!r} has a number after x or *; expected one such as 1.x")
    if prerelease and len(numbers) < 3:  # noqa: PLR2004  a version has three numbers
        raise ValueError(f"{word!r} has a prerelease without three numbers; expected one such as 1.2.0-rc.1")
    yield from _inequalities(operator, numbers, prerelease or "")


def _inequalities(operator: str, numbers: list[int], prerelease: str) -> Iterator[_Bound]:
    low = _version(numbers, prerelease)
    beyond = _next(numbers)
    match operator:
        case "<":
            yield _Bound("<", low)
        case ">=":
            yield _Bound(">=", low)
        case ">" if len(numbers) == 3:  # noqa: PLR2004
            yield _Bound(">", low)
        case ">":  # >1.2 is >=1.3; there is nothing above *
            yield _Bound(">=", beyond) if beyond is not None else _Bound("<", Version(0, 0, 0))
        case "<=" if len(numbers) == 3:  # noqa: PLR2004
            yield _Bound("<=", low)
        case "<=":
            yield _Bound("<", beyond) if beyond is not None else _Bound(">=", low)
        case _:
            yield _Bound(">=", low)
            yield from _upper(operator, numbers, low)


def _upper(operator: str, numbers: list[int], low: Version) -> Iterator[_Bound]:
    """Yield the upper end of `^`, `~`, and of `=` and no operator."""
    if not numbers:
        return
    if operator == "^":
        # The first number that is not 0 may not change; in ^0.0 and ^0 the last one that is given.
        significant = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
        end = _next(numbers[: significant + 1])
    elif operator.startswith("~"):
        end = _next(numbers[:2])
    elif len(numbers) == 3:  # noqa: PLR2004
        yield _Bound("<=", low)
        return
    else:
        end = _next(numbers)
    assert end is not None
    yield _Bound("<", end)


def _version(numbers: list[int], prerelease: str = "") -> Version:
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return Version(major, minor, patch, prerelease)


def _next(numbers: list[int]) -> Version | None:
    """Return the first version above all that begin with `numbers`; None for no numbers."""
    return _version([*numbers[:-1], numbers[-1] + 1]) if numbers else None
