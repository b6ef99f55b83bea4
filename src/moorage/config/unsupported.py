"""Settings of features that Moorage does not support: refused at start if they are enabled, never ignored.

A row of `LATER` is removed with the release of its feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.config.model import Settings
    from moorage.config.problems import Origin

__all__ = ["LATER", "REMOVED", "UnsupportedFeature", "refusals"]


@dataclass(frozen=True, slots=True)
class UnsupportedFeature:
    """A feature without support.  `keys`: marked in the documentation; `used`: yields the keys that enable it."""

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
    """Return a function that yields the key if it is not empty."""

    def used(settings: Settings) -> Iterator[str]:
        value: object = settings
        for step in path.split("."):
            value = getattr(value, step)
        if value:
            yield path

    return used


LATER: Final = (
    UnsupportedFeature(
        ("notifications.endpoints",), "notification", "remove it or add disabled: true", _endpoints
    ),
)

REMOVED: Final = (
    UnsupportedFeature(
        ("storage.swift",),
        "the swift driver",
        "reach the same container by its S3 protocol (OpenStack's s3api): storage.s3 with regionendpoint, bucket: "
        "CONTAINER and rootdirectory: PREFIX/files",
        _storage("swift"),
    ),
    UnsupportedFeature(
        ("storage.oss",),
        "the oss driver",
        "reach the same bucket by its S3-compatible address: storage.s3 with regionendpoint, same rootdirectory",
        _storage("oss"),
    ),
)
"""Features of 2.8 that will not be supported: docs/decisions/0010-gone-with-2.8.md."""


def refusals(settings: Settings, origin: Callable[[str], Origin]) -> list[Problem]:
    """Return an error for each key that enables an unsupported feature."""
    found = [
        (f"{later.what} is not available in this version of Moorage; {later.instead}", key)
        for later in LATER
        for key in later.used(settings)
    ]
    found += [
        (f"{removed.what} of 2.8 is not supported, as in CNCF Distribution 3; {removed.instead}", key)
        for removed in REMOVED
        for key in removed.used(settings)
    ]
    return [Problem(message, key, origin(key)) for message, key in found]
