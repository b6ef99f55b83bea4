"""Reasons for which a run does not begin, or stops before its end.

CollectionRefused           nothing was removed; the text has cause and remedy
CollectionStopped           the run stopped between two steps; the next run continues it
├── CollectionReplaced      another collector has taken over
└── CollectionHalted        `moorage garbage-collect --pause`
"""

from __future__ import annotations

__all__ = ["CollectionHalted", "CollectionRefused", "CollectionReplaced", "CollectionStopped"]


class CollectionRefused(Exception):
    """The store, or a setting, does not permit a collection now.  Nothing was removed."""


class CollectionStopped(Exception):
    """The run stopped before its end, leaving a state that the next one continues."""


class CollectionReplaced(CollectionStopped):
    """The markers of this run were removed by another one."""


class CollectionHalted(CollectionStopped):
    """Collections are paused."""
