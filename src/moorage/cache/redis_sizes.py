"""Sizes of blobs in Redis, shared by all workers and nodes, under the keys of CNCF Distribution.

    key                                     type   fields
    blobs::DIGEST                           hash   digest, size, mediatype; gone (only Moorage)
    repository::NAME::blobs                 set    digests; of CNCF Distribution, entries are only removed here
    repository::NAME::blobs::DIGEST         hash   mediatype; of CNCF Distribution, only removed here

Invariant: **only `blobs::DIGEST` is read or written here, never the repository's keys**, by which CNCF
Distribution decides access.  2.8 and 3.0 leave them when a blob is deleted; a failover of Redis may restore
them; a deletion while Redis is down cannot remove them.  Each of these would serve deleted content.  So the link
in storage is always read; Redis only saves the stat of the blob.  The other registry may rely on what is written
here, since it reads the link in storage before it writes those keys itself.  A deletion here removes the keys,
so that the other registry stops serving what was deleted.  If Redis is down at that moment, the removal is
pending and is done when Redis answers again.

Collection.  `collecting` marks the hash `gone` *before* the bytes are removed; a request that read the size before
finds the mark when it writes the size (a script, so that it is atomic).  The mark lasts an hour, which is longer
than any request, and makes the entry unknown to both registries.  A collector that cannot set it must not remove
anything.

Entries written here expire after a day, which also removes those of a lost write or a restored dump.  A malformed
entry (another digest, an invalid size) counts as missing.

Source: docs/reference/storage-layout.md, section 6; docs/decisions/0007-shared-cache.md.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.cache.circuit_breaker import CircuitBreaker, CircuitOpen
from moorage.cache.redis_client import connect
from moorage.registry.sizes import NotForgotten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.cache.redis_client import RedisClient
    from moorage.cache.redis_options import RedisOptions
    from moorage.types import Digest, RepoName

__all__ = ["TIMEOUT_S", "RedisSizes"]

TIMEOUT_S: Final = 0.2
"""For one lookup, in seconds: a remote store returns the size itself in less."""

_LIFETIME_S: Final = 24 * 3600
_GONE_S: Final = 3600
_PENDING_LIMIT: Final = 10_000
_BATCH: Final = 500
_SIZE: Final = re.compile(rb"[0-9]{1,18}")
_MEDIA_TYPE: Final = "application/octet-stream"
_log: Final = structlog.get_logger("moorage.cache")

_PUT: Final = """
if redis.call('HEXISTS', KEYS[1], 'gone') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'size', ARGV[2])
redis.call('HSETNX', KEYS[1], 'mediatype', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""


class RedisSizes:
    """See `registry.sizes.Sizes`."""

    def __init__(
        self,
        options: RedisOptions,
        *,
        timeout_s: float = TIMEOUT_S,
        pause_s: float = 5.0,
        client: RedisClient | None = None,
    ) -> None:
        from redis.exceptions import ResponseError

        self._client = connect(options) if client is None else client
        self._slow_timeout_s = options.dialtimeout + options.readtimeout
        self._breaker = CircuitBreaker(
            lambda: self._client.call("PING"),
            server=options.where,
            refusals=ResponseError,
            concurrency=options.poolsize,
            timeout_s=min(timeout_s, options.readtimeout, options.pooltimeout),
            pause_s=pause_s,
            ping_s=self._slow_timeout_s,
            on_close=self._remove_pending,
        )
        self._pending: dict[tuple[RepoName, tuple[Digest, ...]], None] = {}
        self.requests = self.hits = 0

    @property
    def is_down(self) -> bool:
        """Return whether calls fail at once, because Redis is down or slow."""
        return self._breaker.is_open

    @property
    def has_pending(self) -> bool:
        """Return whether there are deletions that Redis has not confirmed yet."""
        return bool(self._pending)

    async def get(self, digest: Digest) -> int | None:
        self.requests += 1
        try:
            found = await self._call("HMGET", _blob(digest), "digest", "size", "gone")
        except CircuitOpen:
            return None
        size = _size(digest, found)
        self.hits += size is not None
        return size

    async def put(self, digest: Digest, size: int) -> None:
        try:
            await self._call("EVAL", _PUT, 1, _blob(digest), str(digest), size, _MEDIA_TYPE, _LIFETIME_S)
        except CircuitOpen as error:
            _log.debug("a size was not written to Redis", digest=str(digest), why=str(error))

    async def forget(self, digest: Digest) -> None:
        try:
            await self._call("DEL", _blob(digest))
        except CircuitOpen as error:
            # The next request that finds the bytes missing calls this again.
            _log.debug("a size was not removed from Redis", digest=str(digest), why=str(error))

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        try:
            await self._unlink(name, digests)
        except CircuitOpen as error:
            _log.debug("a deletion will be sent to Redis later", repository=name, why=str(error))
            self._add_pending(name, tuple(digests))

    async def _unlink(self, name: RepoName, digests: Sequence[Digest]) -> None:
        known = f"repository::{name}::blobs"
        calls: list[tuple[Any, ...]] = [("SREM", known, *map(str, digests))]
        calls += [("DEL", f"{known}::{digest}") for digest in digests]
        await self._breaker.call(lambda: self._client.pipeline(calls))

    def _add_pending(self, name: RepoName, digests: tuple[Digest, ...]) -> None:
        self._pending[name, digests] = None
        if len(self._pending) > _PENDING_LIMIT:
            dropped = next(iter(self._pending))
            del self._pending[dropped]
            _log_lost(dropped[0], [str(digest) for digest in dropped[1]])

    async def _remove_pending(self) -> None:
        """Send the deletions that were made while Redis was down."""
        for name, digests in list(self._pending):
            try:
                await self._unlink(name, digests)
            except CircuitOpen:
                return  # down again; called again when it answers
            self._pending.pop((name, digests), None)

    async def collecting(self, digests: Sequence[Digest]) -> None:
        for start in range(0, len(digests), _BATCH):
            calls: list[tuple[Any, ...]] = []
            for digest in digests[start : start + _BATCH]:
                key = _blob(digest)
                # The mark first: from then on nothing in the hash counts.
                calls += [("HSET", key, "gone", "1"), ("HDEL", key, "digest", "size", "mediatype")]
                calls.append(("EXPIRE", key, _GONE_S))
            try:
                await self._breaker.call(partial(self._client.pipeline, calls), timeout_s=self._slow_timeout_s)
            except CircuitOpen as error:
                raise NotForgotten(str(error)) from error

    def clear(self) -> None:
        """Do nothing: this process alone remembers nothing."""

    async def _call(self, *arguments: Any) -> Any:
        run: Callable[[], Awaitable[Any]] = lambda: self._client.call(*arguments)  # noqa: E731
        return await self._breaker.call(run)

    async def close(self) -> None:
        await self._breaker.close()
        for name, digests in self._pending:
            _log_lost(name, [str(digest) for digest in digests])
        await self._client.close()


def _log_lost(name: str, digests: Sequence[str]) -> None:
    _log.warning(
        "a deletion was never sent to Redis; a CNCF Distribution registry that shares it may still serve this",
        repository=name,
        digests=list(digests),
    )


def _blob(digest: Digest) -> str:
    return f"blobs::{digest}"


def _size(digest: Digest, found: object) -> int | None:
    """Return the size in the hash, None if it is missing, marked as gone, or malformed."""
    match found:
        case [None, _, _] | [_, None, _] | [_, _, bytes()]:
            return None
        case [bytes() as named, bytes() as size, None] if named == str(digest).encode() and _SIZE.fullmatch(size):
            return int(size)
    _log.debug("an entry in Redis is malformed and is ignored", digest=str(digest))
    return None
