"""Links: small objects that hold the text of a digest.

An empty or torn link (2.8 wrote them in place, so a crash could leave one) counts as missing, with one warning;
a newline at the end, which administrators' scripts leave, is tolerated.

Source: reference/storage-layout.md sections 1 and 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import BoundedCache
from moorage.errors import DigestInvalid
from moorage.storage.driver import ABSENT, ALWAYS, KeyMissing, ObjectTooLarge, Unchanged
from moorage.types import Digest

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Key, When

__all__ = ["has_link", "read_link", "resolve", "write_link"]

_LIMIT_BYTES: Final = 1024
_log: Final = structlog.get_logger("moorage.registry")

_warned: Final[BoundedCache[Key, bool]] = BoundedCache(1000)
"""Of the process, as its log is: a broken link that is asked for all day is worth one line."""


async def resolve(driver: Driver, key: Key, expected: Digest | None = None) -> tuple[Digest | None, When]:
    """The digest a link holds, None if it holds none; and the condition that the link still is in this state.

    `expected` is what it most likely holds.
    """
    when: When = ABSENT
    try:
        content = await driver.read(key, limit=_LIMIT_BYTES)
        when = Unchanged(content.version)
        if expected is not None and content.data == str(expected).encode():
            return expected, when
        return Digest.parse(content.data.decode("ascii").strip()), when
    except KeyMissing:
        return None, when
    except ObjectTooLarge:
        when = ALWAYS
    except (DigestInvalid, UnicodeDecodeError):
        pass
    _warn(key)
    return None, when


def _warn(key: Key) -> None:
    if _warned.get(key) is None:
        _warned.put(key, value=True)
        _log.warning("a link holds no digest and counts as missing", key=key)


async def read_link(driver: Driver, key: Key, expected: Digest | None = None) -> Digest | None:
    """The digest a link holds, or None."""
    try:
        text = (await driver.read(key, limit=_LIMIT_BYTES)).data.decode("ascii")
        return expected if expected is not None and text == str(expected) else Digest.parse(text.strip())
    except KeyMissing:
        return None
    except (ObjectTooLarge, DigestInvalid, UnicodeDecodeError):
        _warn(key)
        return None


async def has_link(driver: Driver, key: Key) -> bool:
    """Is there a link that is not empty?  One stat: what it says is known from where it lies."""
    try:
        return (await driver.stat(key)).size > 0
    except KeyMissing:
        return False


async def write_link(driver: Driver, key: Key, digest: Digest) -> None:
    """Write a link durably, also if it exists: its writer may not have synced it yet."""
    await driver.write(key, str(digest).encode())
