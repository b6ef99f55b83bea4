"""Checks of `retention` and `immutability`: patterns that cannot match, rules that contradict each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.config.checks.patterns import check_exceptions, check_repositories, check_tag_selection, check_tags
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.config.model import Settings
    from moorage.config.sections.retention import RetentionRule

__all__ = ["check_retention"]

_DIGEST: Final = re.compile(r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}", re.ASCII)
_LEAST_UNTAGGED_S: Final = 3600.0


def check_retention(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of both sections."""
    retention = settings.retention
    for index, rule in enumerate(retention.rules):
        yield from _rule(rule, f"retention.rules[{index}]")
    yield from _samecheck_tag_selection(retention.rules)
    yield from check_repositories(retention.untagged.repositories, "retention.untagged")
    after = retention.untagged.after
    if after is not None and after < _LEAST_UNTAGGED_S:
        message = "expected at least 1h: the manifests of a push in progress have no tag yet"
        yield Problem(message, "retention.untagged.after")
    for index, hold in enumerate(retention.holds):
        key = f"retention.holds[{index}]"
        yield from check_repositories(hold.repositories, key)
        yield from check_tags(hold.tags, f"{key}.tags")
        for number, digest in enumerate(hold.digests):
            if _DIGEST.fullmatch(digest) is None:
                message = f"expected sha256: and 64, or sha512: and 128 lower-case hex digits, found {digest!r}"
                yield Problem(message, f"{key}.digests[{number}]")
    for index, immutable in enumerate(settings.immutability.rules):
        key = f"immutability.rules[{index}]"
        yield from check_repositories(immutable.repositories, key)
        yield from check_tags(immutable.tags, f"{key}.tags")
        yield from check_tags(immutable.except_, f"{key}.except")
        yield from check_exceptions(immutable.tags, immutable.except_, key)
    yield from _without_effect(settings)


def _rule(rule: RetentionRule, key: str) -> Iterator[Problem]:
    yield from check_repositories(rule.repositories, key)
    yield from check_tag_selection(rule.tags, f"{key}.tags")
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


def _samecheck_tag_selection(rules: Sequence[RetentionRule]) -> Iterator[Problem]:
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
