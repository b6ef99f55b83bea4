"""REGISTRY_* variables that CNCF Distribution ignores, or cannot apply, and that take effect here.

A variable that never did anything may change a deployment on the day of the switch, so each one is named.

Source: configuration/parser.go of CNCF Distribution 2.8.3 and 3.1.1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.migration.advice import Advice, Group

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["newly_effective"]

_REASONS: Final = (
    (
        re.compile(r"REGISTRY_HEALTH_(?:FILE|HTTP|TCP)_.+"),
        "2.8 and 3 name the section differently (FILECHECKERS, HTTPCHECKERS, TCPCHECKERS) and ignore it",
    ),
    (
        re.compile(r"REGISTRY_STORAGE_MAINTENANCE_[A-Z]+_.+"),
        "2.8 and 3 ignore it where the file has the section, and do not start where it has not",
    ),
    (
        re.compile(r"REGISTRY_STORAGE_AZURE_(?:MAX_RETRIES|RETRY_DELAY)"),
        "2.8 and 3 cannot reach a key with an underscore by a variable",
    ),
    (
        re.compile(r"REGISTRY_NOTIFICATIONS_EVENTS_.+"),
        "2.8 and 3 name it REGISTRY_NOTIFICATIONS_EVENTCONFIG_...",
    ),
    (
        re.compile(r"(?!REGISTRY_HEALTH_FILECHECKERS_[0-9]+_FILE$)REGISTRY_.+_FILE"),
        "it names a file with the value; 2.8 and 3 have no such variables",
    ),
    (re.compile(r"REGISTRY_.+_[0-9]+(?:_.+)?"), "2.8 ignores variables for an element of a list"),
)


def newly_effective(environ: Iterable[str], unknown: Iterable[str]) -> Iterator[Advice]:
    """Yield the variables of `environ` that begin to take effect; `unknown` are those that nothing reads here."""
    unread = set(unknown)
    for name in sorted(environ):
        if name in unread:
            continue
        for form, reason in _REASONS:
            if form.fullmatch(name):
                yield Advice(
                    Group.CHANGED,
                    "variable",
                    name,
                    f"takes effect here; {reason}",
                    "remove it where today's behaviour is meant",
                )
                break
