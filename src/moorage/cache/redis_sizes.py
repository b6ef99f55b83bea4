"""Sizes of blobs in Redis, shared by all workers and nodes, under the keys of CNCF Distribution.

    key                                     kind   fields
    blobs::DIGEST                           hash   digest, size, mediatype; ours also: gone
    repository::NAME::blobs                 set    digests; theirs, which we only remove from
    repository::NAME::blobs::DIGEST         hash   mediatype; theirs, which we only remove

The rule that nobody may miss: **only `blobs::DIGEST` is read or written here, never the repository's keys**, by
which CNCF Distribution decides who may read what.  2.8 and 3.0 leave them when a blob is deleted; a failover
of Redis may bring them back; a deletion while Redis is away cannot remove them.  Each of these would serve
deleted content.  The link in storage is read instead; what Redis saves is the look at the bytes.  The other
registry may rely on what is written here, since it reads the link in storage before it writes those keys
itself; and a deletion here removes them, so that it does not go on serving what was deleted here.  Where Redis
is away just then, the removal is owed, and done when it is back.

Collection.  `collecting` marks the hash `gone` *before* the bytes go, and whoever looked at the bytes before that
finds the mark when it comes to write the size (a script, so that nothing comes between).  The mark lasts an hour,
which is longer than any request, and makes the entry unknown to both registries.  A collector that cannot set it
must not remove anything.

Entries of ours last a day, so that what a lost write or a restored dump left there does not stay.  What is not
spelt as it should be (another digest, a size that is none) is as if it were not there.

Source: docs/reference/storage-layout.md, section 6; docs/decisions/0007-shared-cache.md.
"""

from __future__ import annotations

import re
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

__all__ = ["PATIENCE_S", "RedisSizes"]

PATIENCE_S: Final = 0.2
"""For one lookup: more than a store that is far away takes to tell the size itself is more than it can save."""

_LASTS_S: Final = 24 * 3600
_GONE_S: Final = 3600
_OWED_LIMIT: Final = 10_000
_TOGETHER: Final = 500
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
        patience_s: float = PATIENCE_S,
        pause_s: float = 5.0,
        client: RedisClient | None = None,
    ) -> None:
        from redis.exceptions import ResponseError

        self._client = connect(options) if client is None else client
        self._longer_s = options.connect_s + options.answer_s
        self._guard = CircuitBreaker(
            lambda: self._client.call("PING"),
            what=options.where,
            refusals=ResponseError,
            at_once=options.connections,
            patience_s=min(patience_s, options.answer_s, options.wait_s),
            pause_s=pause_s,
            ping_s=self._longer_s,
            returned=self._pay,
        )
        self._owed: dict[tuple[RepoName, tuple[Digest, ...]], None] = {}
        self.requests = self.hits = 0

    @property
    def away(self) -> bool:
        """Whether Redis is left alone for now."""
        return self._guard.away

    @property
    def owes(self) -> bool:
        """Whether there are deletions that Redis has not confirmed yet."""
        return bool(self._owed)

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
            await self._call("EVAL", _PUT, 1, _blob(digest), str(digest), size, _MEDIA_TYPE, _LASTS_S)
        except CircuitOpen as error:
            _log.debug("a size was not written to Redis", digest=str(digest), why=str(error))

    async def forget(self, digest: Digest) -> None:
        try:
            await self._call("DEL", _blob(digest))
        except CircuitOpen as error:
            # Whoever misses the bytes next comes here again.
            _log.debug("a size was not removed from Redis", digest=str(digest), why=str(error))

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        try:
            await self._unlink(name, digests)
        except CircuitOpen as error:
            _log.debug("a deletion is to be told to Redis later", repository=name, why=str(error))
            self._owe(name, tuple(digests))

    async def _unlink(self, name: RepoName, digests: Sequence[Digest]) -> None:
        known = f"repository::{name}::blobs"
        calls: list[tuple[Any, ...]] = [("SREM", known, *map(str, digests))]
        calls += [("DEL", f"{known}::{digest}") for digest in digests]
        await self._guard.ask(lambda: self._client.together(calls))

    def _owe(self, name: RepoName, digests: tuple[Digest, ...]) -> None:
        self._owed[name, digests] = None
        if len(self._owed) > _OWED_LIMIT:
            dropped = next(iter(self._owed))
            del self._owed[dropped]
            _tell_unpaid(dropped[0], [str(digest) for digest in dropped[1]])

    async def _pay(self) -> None:
        """Redis is back: tell it of what was deleted meanwhile."""
        for name, digests in list(self._owed):
            try:
                await self._unlink(name, digests)
            except CircuitOpen:
                return  # it has gone again, and this is called again when it is back
            self._owed.pop((name, digests), None)

    async def collecting(self, digests: Sequence[Digest]) -> None:
        for start in range(0, len(digests), _TOGETHER):
            calls: list[tuple[Any, ...]] = []
            for digest in digests[start : start + _TOGETHER]:
                key = _blob(digest)
                # The mark first: from then on nothing in the hash counts.
                calls += [("HSET", key, "gone", "1"), ("HDEL", key, "digest", "size", "mediatype")]
                calls.append(("EXPIRE", key, _GONE_S))
            try:
                await self._guard.ask(lambda calls=calls: self._client.together(calls), patience_s=self._longer_s)  # type: ignore[misc]  # mypy does not infer a lambda's default
            except CircuitOpen as error:
                raise NotForgotten(str(error)) from error

    async def _call(self, *arguments: Any) -> Any:
        run: Callable[[], Awaitable[Any]] = lambda: self._client.call(*arguments)  # noqa: E731
        return await self._guard.ask(run)

    async def close(self) -> None:
        await self._guard.close()
        for name, digests in self._owed:
            _tell_unpaid(name, [str(digest) for digest in digests])
        await self._client.close()


def _tell_unpaid(name: str, digests: Sequence[str]) -> None:
    _log.warning(
        "Redis was never told of a deletion; a CNCF Distribution registry that shares it may go on serving this",
        repository=name,
        digests=list(digests),
    )


def _blob(digest: Digest) -> str:
    return f"blobs::{digest}"


def _size(digest: Digest, found: object) -> int | None:
    """What the hash says, if it is about `digest` and can be a size."""
    match found:
        case [None, _, _] | [_, None, _] | [_, _, bytes()]:
            return None
        case [bytes() as named, bytes() as size, None] if named == str(digest).encode() and _SIZE.fullmatch(size):
            return int(size)
    _log.debug("an entry in Redis is not what it should be and does not count", digest=str(digest))
    return None
