"""Checks of `quota`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.sections.quota import Quota

__all__ = ["check_quota"]


def check_quota(quota: Quota) -> Iterator[Problem]:
    """Yield the problems of `quota`."""
    seen: dict[str, int] = {}
    for index, rule in enumerate(quota.rules):
        key = f"quota.rules[{index}]"
        if rule.bytes is None and rule.tags is None:
            yield Problem("limits nothing; expected bytes, tags or both", key)
        if not rule.repositories:
            continue  # reported as missing
        if rule.repositories in seen:
            first = f"quota.rules[{seen[rule.repositories]}]"
            yield Problem(f"{rule.repositories} has limits in {first} already", f"{key}.repositories")
        seen.setdefault(rule.repositories, index)
