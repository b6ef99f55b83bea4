"""Quotas: settings become limits, and the usage that a process keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from moorage.quota.facts import WANTED
from moorage.quota.limits import Limit
from moorage.quota.usage import Usage
from moorage.registry import layout
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.storage.driver import Driver

__all__ = ["limits_of", "make_usage", "want_count"]

_log: Final = structlog.get_logger("moorage.quota")


def limits_of(settings: Settings) -> list[Limit]:
    """Return the limits of `quota.rules`."""
    return [Limit(rule.repositories, rule.bytes, rule.tags) for rule in settings.quota.rules]


def make_usage(driver: Driver, settings: Settings) -> Usage | None:
    """Return the usage of the configured quotas; None without any."""
    limits = limits_of(settings)
    return Usage(driver, limits) if limits else None


async def want_count(driver: Driver, settings: Settings) -> None:
    """Ask the serving nodes for a count, after a change that was not made by one of them.

    Without quotas nothing is written.  A failure is logged: the change itself is made, and counted within
    `quota.interval` in any case.
    """
    if not settings.quota.rules:
        return
    try:
        await driver.write(layout.usage(WANTED), b"")
    except StorageError as error:
        _log.warning("the usage of quotas is not up to date until the next count", cause=str(error))
