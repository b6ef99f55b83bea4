"""Links: small objects that hold the text of a digest.  Owner of the layer links and revision links.

An empty or torn link (Distribution 2.8 wrote them in place, so a crash could leave one) counts as missing, with
one warning; a newline at the end, which administrators' scripts leave, is tolerated.  The functions read and write
a link of any kind; `Links` has those that make a blob (LAYER) or a manifest (REVISION) part of a repository.

Leases.  In a bucket reading a link is a request of 5 to 20 ms, and a pull reads one with every blob.  So where
`lasts_s` is not 0 a process keeps the links of blobs and manifests that it read, for that long, and a deletion is
acknowledged only when no process can have kept the link:

    reader     notes the time ──► reads the link ──► may use it until `lasts_s` after the noted time
    deletion   removes the link ──► waits `lasts_s` and a little ──► is acknowledged to the client

Why no request that begins after the acknowledgement is answered from such a memory.  A link that was read existed
when it was read, so before it was removed; the noted time is earlier still; so by the end of the deletion's wait
every such lease has expired.  This needs no message between processes, no Redis, and no common time of day: only
clocks that run at nearly the same speed (the little more is a twentieth) and keep running while a machine sleeps.
A process that stops between reading its memory and sending its answer serves a request that began before.

Never kept: that a link does not exist, since another process may write it the next moment; and tags, which a push
moves and must not wait for (`tags.py`).  On a local disk there is nothing to gain: nothing is kept, coalesced or
waited for.

A tool that removes links (`moorage storage check --repair`), and CNCF Distribution on the same bucket, do not
wait: a link that they remove may be served for `lasts_s` more.

Above: `blobs.py`, `manifests.py`, `validation.py`, `uploads.py`, `tags.py`.  Below: `coalescing.py`, `layout.py`.
Why: docs/decisions/0008-links.md.  Source: docs/reference/storage-layout.md, sections 1 and 10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import LRUCache
from moorage.coalescing import Coalescer
from moorage.errors import DigestInvalid
from moorage.registry import layout
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.sizes import MemorySizes
from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Key,
    KeyMissing,
    ObjectTooLarge,
    RequestCost,
    Unchanged,
    Write,
)
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Content, Driver, Stat, When

__all__ = ["LAYER", "REVISION", "LinkKind", "Links", "has_link", "read_link", "resolve", "write_link"]

LinkKind = Callable[[RepoName, Digest], Key]
LAYER: Final[LinkKind] = layout.layer_link
"""The repository has the blob."""
REVISION: Final[LinkKind] = layout.revision_link
"""The repository has the manifest."""

_LIMIT_BYTES: Final = 1024
_REMEMBERED: Final = 20_000
_WAIT: Final = 1.05
_WAIT_MORE_S: Final = 0.02
_log: Final = structlog.get_logger("moorage.registry")

_warned: Final[LRUCache[Key, bool]] = LRUCache(1000)
"""Per process, as its log is: a broken link that is requested all day is worth one line."""


def _decode(key: Key, data: bytes, expected: Digest | None) -> Digest | None:
    """Return the digest of a link's content; None, after a warning, if it has none."""
    try:
        text = data.decode("ascii")
        return expected if expected is not None and text == str(expected) else Digest.parse(text.strip())
    except (DigestInvalid, UnicodeDecodeError):
        _warn(key)
        return None


def _warn(key: Key) -> None:
    if _warned.get(key) is None:
        _warned.put(key, value=True)
        _log.warning("a link holds no digest and counts as missing", key=key)


async def resolve(driver: Driver, key: Key, expected: Digest | None = None) -> tuple[Digest | None, When]:
    """Return the digest of a link, None if it has none; and the condition that the link is still in this state.

    `expected` is the most likely digest.
    """
    try:
        content = await driver.read(key, limit=_LIMIT_BYTES)
    except KeyMissing:
        return None, ABSENT
    except ObjectTooLarge:
        _warn(key)
        return None, ALWAYS
    return _decode(key, content.data, expected), Unchanged(content.version)


async def read_link(driver: Driver, key: Key, expected: Digest | None = None) -> Digest | None:
    """Return the digest of a link, or None."""
    try:
        return _decode(key, (await driver.read(key, limit=_LIMIT_BYTES)).data, expected)
    except KeyMissing:
        return None
    except ObjectTooLarge:
        _warn(key)
        return None


async def has_link(driver: Driver, key: Key) -> bool:
    """Return whether there is a link that is not empty, by one `stat`: its key has the digest."""
    try:
        return (await driver.stat(key)).size > 0
    except KeyMissing:
        return False


async def write_link(driver: Driver, key: Key, digest: Digest) -> None:
    """Write a link durably, also if it exists: its writer may not have synced it yet."""
    await driver.write(key, str(digest).encode())


class Links:
    """The layer links and revision links of one driver.  Everything raises StorageUnavailable, nothing KeyMissing.

    `lasts_s`: seconds for which a link that was read is used again; of no effect unless the driver is remote.
    `sizes` is the cache that other registries may share: removals are reported to it.
    `requests` and `hits` count look-ups that may be answered from the memory, and those that were.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        lasts_s: float = 0,
        sizes: Sizes | None = None,
        writes: DeduplicatedWrites | None = None,
        clock: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._remote = driver.request_cost is RequestCost.NETWORK
        self._lasts_s = lasts_s if self._remote else 0
        self._sizes: Sizes = MemorySizes(0) if sizes is None else sizes
        self._writes = DeduplicatedWrites(driver) if writes is None else writes
        self._clock = clock
        self._sleep = sleep
        self._memory: LRUCache[Key, tuple[Digest, float]] = LRUCache(_REMEMBERED)
        self._forgot_at = 0.0
        self.requests = 0
        self.hits = 0
        self._reads: Coalescer[Key, Content] = Coalescer()
        self._stats: Coalescer[Key, Stat] = Coalescer()

    def key(self, kind: LinkKind, name: RepoName, digest: Digest) -> Key:
        """Return the key of a link, for jobs that compare the time of its object."""
        return kind(name, digest)

    async def current(self, kind: LinkKind, name: RepoName, digest: Digest) -> Digest | None:
        """Return the digest under which the bytes are stored, as the link has it now; None without a link."""
        return await read_link(self._driver, kind(name, digest), digest)

    async def recent(self, kind: LinkKind, name: RepoName, digest: Digest) -> Digest | None:
        """Return the digest under which the bytes are stored, as the link has it or had it within the lease; None
        if there is no link now.
        """
        key = kind(name, digest)
        began = 0.0
        try:
            if not self._remote:
                content = await self._driver.read(key, limit=_LIMIT_BYTES)
            else:
                began = self._clock()
                if (known := self._remembered(key, began)) is not None:
                    return known
                content = await self._reads.read(key, partial(self._driver.read, key, limit=_LIMIT_BYTES))
        except KeyMissing:
            return None
        except ObjectTooLarge:
            _warn(key)
            return None
        found = _decode(key, content.data, digest)
        if found is not None:
            self._note(key, found, began)
        return found

    async def exists(self, kind: LinkKind, name: RepoName, digest: Digest) -> bool:
        """Return whether there is a link now, by one `stat`."""
        return await has_link(self._driver, kind(name, digest))

    async def exists_recent(self, kind: LinkKind, name: RepoName, digest: Digest) -> bool:
        """Return whether there is a link, or was one within the lease, by at most one `stat`."""
        key = kind(name, digest)
        began = 0.0
        try:
            if not self._remote:
                return (await self._driver.stat(key)).size > 0
            began = self._clock()
            if self._remembered(key, began) is not None:
                return True
            found = (await self._stats.read(key, partial(self._driver.stat, key))).size > 0
        except KeyMissing:
            return False
        if found:
            self._note(key, digest, began)
        return found

    async def set(self, kind: LinkKind, name: RepoName, digest: Digest, stored: Digest | None = None) -> None:
        """Write a link durably.  `stored` is the digest under which the bytes are stored, if it is another one."""
        key = kind(name, digest)
        target = digest if stored is None else stored
        began = self._clock()
        await self._writes.write(key, str(target).encode())
        self._note(key, target, began)

    async def renew(self, kind: LinkKind, name: RepoName, digest: Digest) -> bool:
        """Make a link that exists durable, as its writer may not have synced it yet; False if there is none.

        A concurrent removal is not undone.
        """
        key = kind(name, digest)
        while True:
            found, when = await resolve(self._driver, key, digest)
            if found is None:
                return False
            if self._writes.wrote(key, when):
                return True
            with suppress(Conflict):
                await self._writes.write(key, str(digest).encode(), when)
                return True

    def as_write(
        self, kind: LinkKind, name: RepoName, digest: Digest, when: When = ALWAYS, *, unless: Key | None = None
    ) -> Write:
        """Return the write of a link, for a driver that stores it together with other objects."""
        return Write(kind(name, digest), str(digest).encode(), when, unless)

    async def remove(
        self,
        kind: LinkKind,
        name: RepoName,
        digest: Digest,
        stored: Digest | None = None,
        *,
        confirm: Callable[[], Awaitable[bool]] | None = None,
    ) -> bool:
        """Remove a link; return True when no process uses it any more, on any node.

        `stored` is the digest that the link had.  `confirm` is called when the link is gone from the store; if it
        returns False, the link is written again, and False is returned at once.
        """
        key = kind(name, digest)
        target = digest if stored is None else stored
        await self._driver.delete([key])
        self._memory.drop(key)
        removed = True
        try:
            if confirm is not None:
                removed = await confirm()
        finally:
            # After a failure, too: the client will not find the link that it would have to delete again.
            if removed:
                await self._sizes.unlinked(name, tuple(dict.fromkeys((digest, target))))
        if not removed:
            await write_link(self._driver, key, target)
            return False
        await self.wait_for_leases()
        return True

    async def remove_all(self, kind: LinkKind, name: RepoName, links: Mapping[Digest, Digest]) -> None:
        """Remove many links as `remove` does; the wait for the leases of other nodes is left to `wait_for_leases`.

        `links` maps the digest of each link to that under which its bytes are stored.
        """
        keys = [kind(name, digest) for digest in links]
        await self._driver.delete(keys)
        for key in keys:
            self._memory.drop(key)
        await self._sizes.unlinked(name, tuple(dict.fromkeys((*links, *links.values()))))

    async def wait_for_leases(self) -> None:
        """Wait until no node serves a link that was removed before this call."""
        if self._lasts_s:
            await self._sleep(self._lasts_s * _WAIT + _WAIT_MORE_S)

    def _remembered(self, key: Key, now: float) -> Digest | None:
        if not self._lasts_s:
            return None
        self.requests += 1
        digest, since = self._memory.get(key) or (None, now)
        if now >= since + self._lasts_s:
            return None
        self.hits += digest is not None
        return digest

    def forget_all(self) -> None:
        """Forget all links that were read until now: garbage collection may have removed any of them."""
        self._forgot_at = self._clock()
        self._memory.clear()

    def _note(self, key: Key, digest: Digest, began: float) -> None:
        if self._lasts_s and began >= self._forgot_at:
            self._memory.put(key, (digest, began))
