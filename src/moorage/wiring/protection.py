"""Immutable tags and legal holds of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.registry.holds import Hold, LegalHolds
from moorage.registry.protection import ImmutableRule, Protection

if TYPE_CHECKING:
    from moorage.config.model import Settings

__all__ = ["make_holds", "make_protection"]


def make_holds(settings: Settings) -> LegalHolds:
    """Return the legal holds of `retention.holds`."""
    return LegalHolds(
        [
            Hold.parse(hold.repositories, hold.reason, tags=hold.tags, digests=hold.digests)
            for hold in settings.retention.holds
        ]
    )


def make_protection(settings: Settings) -> Protection:
    """Return the rules of `immutability` together with the holds."""
    rules = [
        ImmutableRule.parse(
            f"immutability.rules[{index}]",
            rule.repositories,
            tags=rule.tags,
            exceptions=rule.except_,
            deletable=rule.deletable,
        )
        for index, rule in enumerate(settings.immutability.rules)
    ]
    return Protection(rules, make_holds(settings))
