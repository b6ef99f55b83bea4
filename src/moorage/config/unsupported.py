"""What the reference offers and this version of Moorage does not: refused at start, never taken in silence.

A row of `LATER` goes when its feature comes.  What is disabled in the file, or has no effect there, is no error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.config.model import Settings
    from moorage.config.problems import Origin

__all__ = ["GONE", "LATER", "Later", "refusals"]


@dataclass(frozen=True, slots=True)
class Later:
    """A feature that is missing.  `keys`: what the documentation marks; `used`: the keys that switch it on."""

    keys: tuple[str, ...]
    what: str
    instead: str
    used: Callable[[Settings], Iterator[str]]


def _storage(*drivers: str) -> Callable[[Settings], Iterator[str]]:
    return lambda settings: (f"storage.{name}" for name in drivers if getattr(settings.storage, name) is not None)


def _endpoints(settings: Settings) -> Iterator[str]:
    for index, endpoint in enumerate(settings.notifications.endpoints):
        if not endpoint.disabled:
            yield f"notifications.endpoints[{index}]"


def _filled(path: str) -> Callable[[Settings], Iterator[str]]:
    """The key itself, when it is not empty."""

    def used(settings: Settings) -> Iterator[str]:
        value: object = settings
        for step in path.split("."):
            value = getattr(value, step)
        if value:
            yield path

    return used


LATER: Final = (
    Later(("notifications.endpoints",), "notification", "remove it or add disabled: true", _endpoints),
    Later(
        ("proxy",),
        "pull-through caching",
        "remove it; as a mirror without content this registry would answer 404",
        _filled("proxy.remoteurl"),
    ),
)

GONE: Final = (
    Later(
        ("storage.swift",),
        "the swift driver",
        "reach the same container by its S3 protocol (OpenStack's s3api): storage.s3 with regionendpoint, bucket: "
        "CONTAINER and rootdirectory: PREFIX/files",
        _storage("swift"),
    ),
    Later(
        ("storage.oss",),
        "the oss driver",
        "reach the same bucket by its S3-compatible address: storage.s3 with regionendpoint, same rootdirectory",
        _storage("oss"),
    ),
)
"""What will not come: docs/decisions/0010-gone-with-2.8.md."""


def refusals(settings: Settings, origin: Callable[[str], Origin]) -> list[Problem]:
    """One error for each key that asks for what is not there."""
    found = [
        (f"{later.what} is not available in this version of Moorage; {later.instead}", key)
        for later in LATER
        for key in later.used(settings)
    ]
    found += [
        (f"{gone.what} of 2.8 is not offered, as in CNCF Distribution 3; {gone.instead}", key)
        for gone in GONE
        for key in gone.used(settings)
    ]
    return [Problem(message, key, origin(key)) for message, key in found]
