"""Checks of patterns of repositories and of conditions of tags, which several sections have."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Final, Protocol

from moorage.config.problems import Problem
from moorage.patterns import Glob
from moorage.semver import VersionRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "TagConditions",
    "check_exceptions",
    "check_repositories",
    "check_tag_selection",
    "check_tags",
    "repository_problem",
]

_REPOSITORY: Final = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*", re.ASCII)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG: Final = re.compile(r"[a-zA-Z0-9_*][a-zA-Z0-9._*-]*", re.ASCII)
_TAG_LIMIT_CHARS: Final = 128


class TagConditions(Protocol):
    """The conditions of a section that selects tags."""

    @property
    def match(self) -> tuple[str, ...]: ...
    @property
    def regex(self) -> str: ...
    @property
    def semver(self) -> str: ...
    @property
    def except_(self) -> tuple[str, ...]: ...


def check_tag_selection(tags: TagConditions, key: str) -> Iterator[Problem]:
    """Yield the problems of the conditions of tags in the section `key`."""
    yield from check_tags(tags.match, f"{key}.match")
    yield from check_tags(tags.except_, f"{key}.except")
    yield from check_exceptions(tags.match or ("*",), tags.except_, key)
    if tags.regex:
        try:
            with warnings.catch_warnings():
                # [[:alpha:]] is a class in Go but not in Python, which only warns.
                warnings.simplefilter("error")
                re.compile(tags.regex)
        except (re.error, Warning, OverflowError, RecursionError) as error:
            yield Problem(f"is not a supported regular expression: {error}", f"{key}.regex")
    if tags.semver:
        try:
            versions = VersionRange.parse(tags.semver)
        except ValueError as error:
            yield Problem(str(error), f"{key}.semver")
            return
        if versions.is_empty:
            yield Problem(f"no version is in the range {tags.semver!r}; correct its bounds", f"{key}.semver")


def check_repositories(patterns: Iterable[str], key: str) -> Iterator[Problem]:
    """Yield the problems of `repositories` in the section `key`."""
    for index, text in enumerate(patterns):
        if problem := repository_problem(text):
            yield Problem(f"{problem}, found {text!r}", f"{key}.repositories[{index}]")


def repository_problem(text: str) -> str:
    """Return the reason why no pattern of repositories can have this text; "" if one can."""
    try:
        Glob.parse(text)
    except ValueError as error:
        return str(error).partition(", found")[0]
    if _REPOSITORY.fullmatch(text) is None:
        return "expected a pattern of a-z 0-9 . _ - and *, with / between components, such as team/**"
    for component in text.split("/"):
        if "**" in component and component != "**":
            return "expected ** as a whole component, such as team/**"
        if "*" not in component and _COMPONENT.fullmatch(component) is None:
            return "no repository can have such a name"
    return ""


def check_tags(patterns: Iterable[str], key: str) -> Iterator[Problem]:
    """Yield the problems of a list of patterns of tags."""
    for index, text in enumerate(patterns):
        if _TAG.fullmatch(text) is None or len(text.replace("*", "")) > _TAG_LIMIT_CHARS:
            message = (
                "no tag can have such a name; expected a pattern of letters, digits, _ . - and *, of at most 128 "
                f"characters, such as release-*, found {text!r}"
            )
            yield Problem(message, f"{key}[{index}]")
        elif "**" in text:
            yield Problem(f"expected * once: tags have no slashes, found {text!r}", f"{key}[{index}]")


def check_exceptions(selected: Sequence[str], excluded: Sequence[str], key: str) -> Iterator[Problem]:
    """Report exceptions that leave nothing."""
    if selected and all("*" in excluded or pattern in excluded for pattern in selected):
        yield Problem("excludes every tag that is selected; remove a pattern", f"{key}.except")
