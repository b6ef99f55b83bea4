"""Checks of `retention` and `immutability`: patterns that cannot match, rules that contradict each other."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Final

from moorage.config.problems import Problem
from moorage.patterns import Glob
from moorage.semver import VersionRange

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moorage.config.model import Settings
    from moorage.config.sections.retention import RetentionRule, TagSelection

__all__ = ["check_retention"]

_REPOSITORY: Final = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*", re.ASCII)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG: Final = re.compile(r"[a-zA-Z0-9_*][a-zA-Z0-9._*-]*", re.ASCII)
_TAG_LIMIT_CHARS: Final = 128
_DIGEST: Final = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}", re.ASCII)
_LEAST_UNTAGGED_S: Final = 3600.0


def check_retention(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of both sections."""
    retention = settings.retention
    for index, rule in enumerate(retention.rules):
        yield from _rule(rule, f"retention.rules[{index}]")
    yield from _same_selection(retention.rules)
    yield from _repositories(retention.untagged.repositories, "retention.untagged")
    after = retention.untagged.after
    if after is not None and after < _LEAST_UNTAGGED_S:
        message = "expected at least 1h: the manifests of a push in progress have no tag yet"
        yield Problem(message, "retention.untagged.after")
    for index, hold in enumerate(retention.holds):
        key = f"retention.holds[{index}]"
        yield from _repositories(hold.repositories, key)
        yield from _tags(hold.tags, f"{key}.tags")
        for number, digest in enumerate(hold.digests):
            if _DIGEST.fullmatch(digest) is None:
                message = f"expected sha256: and 64, or sha512: and 128 lower-case hex digits, found {digest!r}"
                yield Problem(message, f"{key}.digests[{number}]")
    for index, immutable in enumerate(settings.immutability.rules):
        key = f"immutability.rules[{index}]"
        yield from _repositories(immutable.repositories, key)
        yield from _tags(immutable.tags, f"{key}.tags")
        yield from _tags(immutable.except_, f"{key}.except")
        yield from _excluded(immutable.tags, immutable.except_, key)
    yield from _without_effect(settings)


def _rule(rule: RetentionRule, key: str) -> Iterator[Problem]:
    yield from _repositories(rule.repositories, key)
    yield from _selection(rule.tags, f"{key}.tags")
    conditions = [name for name in ("keeplast", "pushedwithin", "pulledwithin") if getattr(rule, name) is not None]
    if rule.keepall and conditions:
        yield Problem(
            f"contradicts {conditions[0]}: every selected tag stays; remove one of them", f"{key}.keepall"
        )
    if not rule.keepall and not conditions:
        message = (
            "has no condition; set keeplast, pushedwithin or pulledwithin, or keepall: true to keep every "
            "selected tag, or keeplast: 0 to delete every selected tag"
        )
        yield Problem(message, key)


def _selection(tags: TagSelection, key: str) -> Iterator[Problem]:
    yield from _tags(tags.match, f"{key}.match")
    yield from _tags(tags.except_, f"{key}.except")
    yield from _excluded(tags.match or ("*",), tags.except_, key)
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


def _same_selection(rules: Sequence[RetentionRule]) -> Iterator[Problem]:
    """Report rules that select the same: one condition of either keeps a tag, which is easily meant otherwise."""
    seen: dict[tuple[object, ...], int] = {}
    names: dict[str, int] = {}
    for index, rule in enumerate(rules):
        tags = rule.tags
        selection = (
            frozenset(rule.repositories), frozenset(tags.match), tags.regex, tags.semver, frozenset(tags.except_),
        )  # fmt: skip
        first = seen.setdefault(selection, index)
        if first != index:
            message = (
                f"selects the same tags as retention.rules[{first}], and either of them keeps a tag; join both "
                "into one rule"
            )
            yield Problem(message, f"retention.rules[{index}]")
        if rule.name and names.setdefault(rule.name, index) != index:
            message = f"is the name of retention.rules[{names[rule.name]}] as well; reports need different names"
            yield Problem(message, f"retention.rules[{index}].name")


def _repositories(patterns: Iterable[str], key: str) -> Iterator[Problem]:
    for index, text in enumerate(patterns):
        if problem := _repository_problem(text):
            yield Problem(f"{problem}, found {text!r}", f"{key}.repositories[{index}]")


def _repository_problem(text: str) -> str:
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


def _tags(patterns: Iterable[str], key: str) -> Iterator[Problem]:
    for index, text in enumerate(patterns):
        if _TAG.fullmatch(text) is None or len(text.replace("*", "")) > _TAG_LIMIT_CHARS:
            message = (
                "no tag can have such a name; expected a pattern of letters, digits, _ . - and *, of at most 128 "
                f"characters, such as release-*, found {text!r}"
            )
            yield Problem(message, f"{key}[{index}]")
        elif "**" in text:
            yield Problem(f"expected * once: tags have no slashes, found {text!r}", f"{key}[{index}]")


def _excluded(selected: Sequence[str], excluded: Sequence[str], key: str) -> Iterator[Problem]:
    """Report exceptions that leave nothing."""
    if selected and all("*" in excluded or pattern in excluded for pattern in selected):
        yield Problem("excludes every tag that is selected; remove a pattern", f"{key}.except")


def _without_effect(settings: Settings) -> Iterator[Problem]:
    retention = settings.retention
    if not retention.enabled:
        return
    if not retention.rules and retention.untagged.after is None:
        message = "has no effect: there is neither a rule in retention.rules nor retention.untagged.after"
        yield Problem(message, "retention.enabled", kind="warning")
    if settings.storage.driver == "inmemory":
        yield Problem("has no effect with storage.inmemory", "retention.enabled", kind="warning")
    if settings.storage.maintenance.readonly.enabled:
        message = "has no effect while storage.maintenance.readonly is enabled"
        yield Problem(message, "retention.enabled", kind="warning")
