"""Quotas that are exceeded by content which commands of an operator store: reported to the operator, not refused.

    known_usage   before the content is stored: no other process has counted it then
    exceeded      after it

Above: `cli/restore.py`.  Below: `usage.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moorage.quota.facts import UsedAmount
from moorage.quota.limits import Limit, format_size
from moorage.quota.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["ExceededLimit", "exceeded", "known_usage"]


class ExceededLimit(NamedTuple):
    """A limit, and the usage that exceeds it."""

    limit: Limit
    used: UsedAmount

    def __str__(self) -> str:
        limit, used = self.limit, self.used
        found = []
        if limit.bytes is not None and used.bytes > limit.bytes:
            found.append(f"{format_size(used.bytes, up=True)} of {format_size(limit.bytes)}")
        if limit.tags is not None and used.tags > limit.tags:
            found.append(f"{used.tags} of {limit.tags} tags")
        return f"{limit.pattern} uses {' and '.join(found)}"


async def known_usage(driver: Driver, limits: Sequence[Limit], name: RepoName) -> dict[Limit, UsedAmount]:
    """Return the last known usage of the limits that cover a repository, without those that were never counted.

    It lacks what other processes have stored in the last few seconds.  Raises StorageError.
    """
    usage = Usage(driver, limits)
    try:
        covering = usage.limits_of(name)
        if covering:
            await usage.exchange()
        return {limit: UsedAmount(*used) for limit in covering if (used := usage.used(limit)) is not None}
    finally:
        await usage.close()


def exceeded(before: Mapping[Limit, UsedAmount], added: UsedAmount) -> list[ExceededLimit]:
    """Return the limits that `added` has exceeded, or exceeds further."""
    found = []
    for limit, amount in before.items():
        used = UsedAmount(amount.bytes + added.bytes, amount.tags + added.tags)
        if (added.bytes and limit.bytes is not None and used.bytes > limit.bytes) or (
            added.tags and limit.tags is not None and used.tags > limit.tags
        ):
            found.append(ExceededLimit(limit, used))
    return found
