"""Quotas: settings become limits, and the usage that a process keeps of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.quota.limits import Limit
from moorage.quota.usage import Usage

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.storage.driver import Driver

__all__ = ["limits_of", "make_usage"]


def limits_of(settings: Settings) -> list[Limit]:
    """Return the limits of `quota.rules`."""
    return [Limit(rule.repositories, rule.bytes, rule.tags) for rule in settings.quota.rules]


def make_usage(driver: Driver, settings: Settings) -> Usage | None:
    """Return the usage of the configured quotas; None without any."""
    limits = limits_of(settings)
    return Usage(driver, limits) if limits else None
