"""Upstream registries: which one answers for a repository, through which endpoint, and when it is not asked.

    docker.io/library/alpine ──► Upstream of prefix `docker.io` ──► Place: `library/alpine` at that registry

An upstream has one account and one or several endpoints with the same content.  The first that works answers; one
that cannot be reached is skipped for a while.  After a 429 none is asked before the time that the registry has
named, and while all of them are down, requests fail at once for some seconds, instead of one after the other
waiting for a connection.  These memories are of one process.

Above: `manifests.py`, `blobs.py`, `fills.py`, `lists.py`.  Below: `upstream/client.py`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from moorage.caches import LRUCache
from moorage.errors import UpstreamDenies
from moorage.types import RepoName
from moorage.upstream.errors import UpstreamError, UpstreamRateLimited, UpstreamUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from moorage.patterns import Glob
    from moorage.registry.interface import Manifest
    from moorage.types import Digest, Reference, Referrer, Tag
    from moorage.upstream.client import RegistryClient, RemoteBlob, RemoteManifest

__all__ = ["Place", "Upstream", "UpstreamOptions", "Upstreams"]

_T = TypeVar("_T")

_DOWN_S: Final = 10.0
"""Seconds for which an endpoint that could not be reached is not asked again."""
_DOWN_STATUSES: Final = frozenset({None, 502, 503, 504})
"""Another error may be that of one repository, and must not keep the others from being asked."""
_LIMITED_S: Final = 30.0
_LONGEST_LIMIT_S: Final = 3600.0
_PLACES: Final = 1000
_log: Final = structlog.get_logger("moorage.proxy")


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Options of an upstream registry.

    `prefix`: beginning of local repository names, without the slash ("": every name).  `check_interval_s`: age
    below which a cached tag is served without asking; 0: it always asks.  `check_timeout_s`: longest wait of a
    request for a tag that is cached.  `stale_s`: how long after its last check a tag is served while the registry
    fails; None: without limit.  `library`: a name of one component is completed by `library/`, as Docker does.
    `allow`, `deny`: patterns of repository names at the upstream registry; no `allow`: all.
    """

    prefix: str = ""
    check_interval_s: float = 0.0
    check_timeout_s: float = 5.0
    stale_s: float | None = None
    library: bool = False
    allow: tuple[Glob, ...] = ()
    deny: tuple[Glob, ...] = ()


@dataclass(slots=True)
class _Endpoint:
    client: RegistryClient
    down_until: float = 0.0
    error: UpstreamUnreachable | None = None


class Upstream:
    """One upstream registry, whose `clients` are those of its endpoints.  Methods raise UpstreamError."""

    def __init__(
        self,
        options: UpstreamOptions,
        clients: Sequence[RegistryClient],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options: Final = options
        self._endpoints = [_Endpoint(client) for client in clients]
        self._clock = clock
        self._limited_until = 0.0
        self._limit: UpstreamRateLimited | None = None

    @property
    def host(self) -> str:
        """Return the host of the first endpoint, for messages."""
        return self._endpoints[0].client.host

    def available(self, *, again: bool = False) -> Sequence[_Endpoint]:
        """Return the endpoints to ask, in order.  Raises the last error while none is to be asked.

        `again`: also those that could not be reached a moment ago, to continue what has begun.
        """
        now = self._clock()
        if self._limit is not None and now < self._limited_until:
            self._limit.retry_after_s = self._limited_until - now
            raise self._limit.with_traceback(None)  # else it grows with each request that gets it
        up = [endpoint for endpoint in self._endpoints if again or now >= endpoint.down_until]
        if not up:
            error = self._endpoints[0].error
            assert error is not None
            raise error.with_traceback(None)
        return up

    async def call(self, work: Callable[[RegistryClient], Awaitable[_T]]) -> _T:
        """Return the result of `work` with the first endpoint that can be reached."""
        failure: UpstreamError | None = None
        for endpoint in self.available():
            try:
                return await work(endpoint.client)
            except UpstreamUnreachable as error:
                self.note(endpoint, error)
                failure = error
            except UpstreamRateLimited as error:
                self.note(endpoint, error)
                raise
        assert failure is not None
        raise failure

    def note(self, endpoint: _Endpoint, error: UpstreamError) -> None:
        """Remember that an endpoint could not be reached, or that the registry limits the rate of requests."""
        now = self._clock()
        if isinstance(error, UpstreamRateLimited):
            seconds = _LIMITED_S if error.retry_after_s is None else min(error.retry_after_s, _LONGEST_LIMIT_S)
            self._limited_until, self._limit = now + seconds, error
            _log.warning(
                "an upstream registry limits the rate of requests; cached content is served meanwhile",
                upstream=endpoint.client.host, seconds=round(seconds), cause=str(error),
            )  # fmt: skip
        elif isinstance(error, UpstreamUnreachable) and error.status in _DOWN_STATUSES:
            endpoint.down_until, endpoint.error = now + _DOWN_S, error

    @asynccontextmanager
    async def open_blob(self, name: RepoName, digest: Digest, *, start: int) -> AsyncIterator[RemoteBlob]:
        """Stream a blob from `start` on; an endpoint that fails before its answer is replaced by the next one."""
        failure: UpstreamError | None = None
        for endpoint in self.available(again=start > 0):
            opening = endpoint.client.open_blob(name, digest, start=start)
            try:
                remote = await opening.__aenter__()
            except (UpstreamUnreachable, UpstreamRateLimited) as error:
                self.note(endpoint, error)
                failure = error
                continue
            try:
                yield remote
            except BaseException as error:
                if not await opening.__aexit__(type(error), error, error.__traceback__):
                    raise
            else:
                await opening.__aexit__(None, None, None)
            return
        assert failure is not None
        raise failure

    async def close(self) -> None:
        for endpoint in self._endpoints:
            await endpoint.client.close()


@dataclass(frozen=True, slots=True)
class Place:
    """A repository at its upstream registry; `local` is its name here.  Methods raise UpstreamError."""

    upstream: Upstream
    name: RepoName
    local: RepoName

    @property
    def host(self) -> str:
        return self.upstream.host

    async def stat_manifest(self, reference: Reference) -> RemoteManifest:
        return await self.upstream.call(lambda client: client.stat_manifest(self.name, reference))

    async def get_manifest(self, reference: Reference) -> Manifest:
        return await self.upstream.call(lambda client: client.get_manifest(self.name, reference))

    async def stat_blob(self, digest: Digest) -> int:
        return await self.upstream.call(lambda client: client.stat_blob(self.name, digest))

    @asynccontextmanager
    async def open_blob(self, digest: Digest, *, start: int = 0) -> AsyncIterator[RemoteBlob]:
        async with self.upstream.open_blob(self.name, digest, start=start) as remote:
            yield remote

    async def list_tags(self) -> Sequence[Tag]:
        async def collect(client: RegistryClient) -> list[Tag]:
            return [tag async for page in client.list_tags(self.name) for tag in page]

        return await self.upstream.call(collect)

    async def list_referrers(self, subject: Digest) -> Sequence[Referrer]:
        return await self.upstream.call(lambda client: client.list_referrers(self.name, subject))


class Upstreams:
    """All upstream registries; the longest prefix decides.  `local`: repositories that none answers for."""

    def __init__(self, upstreams: Sequence[Upstream], *, local: Sequence[Glob] = ()) -> None:
        self.all = tuple(sorted(upstreams, key=lambda upstream: -len(upstream.options.prefix)))
        self._local = tuple(local)
        self._places: LRUCache[RepoName, Place] = LRUCache(_PLACES)

    def place_of(self, name: RepoName) -> Place | None:
        """Return the place of a mirrored repository; None for a local one.

        Raises UpstreamDenies for a repository that the settings exclude.
        """
        known = self._places.get(name)
        if known is not None:
            return known
        upstream = self._upstream_of(name)
        if upstream is None:
            return None
        options = upstream.options
        local = name
        remote = name[len(options.prefix) + 1 :] if options.prefix else name
        if options.library and "/" not in remote:
            remote = f"library/{remote}"
            local = RepoName(f"{options.prefix}/{remote}" if options.prefix else remote)
        allowed = not options.allow or any(pattern.matches(remote) for pattern in options.allow)
        if not allowed or any(pattern.matches(remote) for pattern in options.deny):
            raise UpstreamDenies(f"the settings of the mirror of {upstream.host} do not allow {remote}")
        place = Place(upstream, RepoName(remote), local)
        self._places.put(name, place)
        return place

    def _upstream_of(self, name: RepoName) -> Upstream | None:
        for upstream in self.all:
            prefix = upstream.options.prefix
            if not prefix:
                return None if any(pattern.matches(name) for pattern in self._local) else upstream
            if name.startswith(f"{prefix}/"):
                return upstream
        return None

    async def close(self) -> None:
        for upstream in self.all:
            await upstream.close()
