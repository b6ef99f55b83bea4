"""Blobs of mirrored repositories: served from the store, or while they are downloaded (`fills.py`).

    GET   linked in the store ──► as a stored blob
          else                ──► follow the download, from its first byte on
          spool unusable      ──► passed on from the upstream registry, verified, not stored
    HEAD  size from the store, a download, or a HEAD to the upstream registry: nothing is downloaded

A repository gets a link to a blob only after its upstream registry has confirmed that it has the blob there, so
that content of a private repository is not readable through another one.

Above: `registry.py`.  Below: `fills.py`, `upstreams.py`; `registry/interface.py`.
"""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack, asynccontextmanager
from io import FileIO
from typing import TYPE_CHECKING, Final

from moorage.errors import BlobUnknown, MirrorReadOnly, UpstreamFailed
from moorage.proxy.counts import BLOB
from moorage.proxy.download import HELD_BACK_BYTES
from moorage.proxy.spool import SpoolUnusable
from moorage.proxy.upstream_errors import as_refusal
from moorage.registry.interface import UNKNOWN_CALLER, Blob, FoundBlob, GrowingFile
from moorage.upstream.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from moorage.proxy.counts import MirrorCounts
    from moorage.proxy.fill import Fill
    from moorage.proxy.fills import Fills
    from moorage.proxy.upstreams import Place, Upstreams
    from moorage.registry.interface import BlobRedirect, Blobs, Caller, Deleted, Mounted
    from moorage.types import Digest, RepoName
    from moorage.upstream.client import RemoteBlob

__all__ = ["MirroredBlobs", "refuse_write"]

_WHOLE_BYTES: Final = HELD_BACK_BYTES
"""Blobs up to this size are verified before their first byte is sent."""


def refuse_write(place: Place) -> MirrorReadOnly:
    """Return the refusal of a push or deletion in a mirrored repository."""
    return MirrorReadOnly(
        f"{place.local} is a mirror of {place.name} at {place.host}; push to that registry instead"
    )


class MirroredBlobs:
    """See `interface.Blobs`.  Local repositories are those of `inner`."""

    def __init__(self, inner: Blobs, upstreams: Upstreams, fills: Fills, counts: MirrorCounts) -> None:
        self._inner = inner
        self._upstreams = upstreams
        self._fills = fills
        self._counts = counts

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        place = self._upstreams.place_of(name)
        if place is None:
            return await self._inner.stat(name, digest)
        try:
            return await self._inner.stat(place.local, digest)
        except BlobUnknown as unknown:
            try:
                return Blob(digest, await place.stat_blob(digest))
            except UpstreamError as error:
                raise as_refusal(error, unknown) from error

    async def fetch(
        self,
        name: RepoName,
        digest: Digest,
        *,
        select: Callable[[int], range | None] | None = None,
        redirect: bool = True,
        files: bool = False,
        caller: Caller = UNKNOWN_CALLER,
    ) -> BlobRedirect | FoundBlob:
        place = self._upstreams.place_of(name)
        local = name if place is None else place.local

        async def stored() -> BlobRedirect | FoundBlob:
            return await self._inner.fetch(
                local, digest, select=select, redirect=redirect, files=files, caller=caller
            )

        if place is None:
            return await stored()
        hit = True
        try:
            found = await stored()
        except BlobUnknown:
            hit = False
            found = await self._fetch(place, digest, select, stored, files=files)
        sent = 0 if not isinstance(found, FoundBlob) else found.size if found.span is None else len(found.span)
        self._counts.answered(BLOB, sent, hit=hit)
        return found

    async def _fetch(
        self,
        place: Place,
        digest: Digest,
        select: Callable[[int], range | None] | None,
        stored: Callable[[], Awaitable[BlobRedirect | FoundBlob]],
        *,
        files: bool,
    ) -> BlobRedirect | FoundBlob:
        """Return a blob that is not in the store, while it is downloaded."""
        try:
            fill = await self._fills.open(place, digest)
        except SpoolUnusable:
            return await self._pass_on(place, digest, select)
        size = fill.size
        if fill.file is None or size is None:  # it is in the store by now
            return await stored()
        span = None if select is None else select(size)
        if span is None and size <= _WHOLE_BYTES:
            reader = fill.open()
            try:
                return FoundBlob(size, None, await reader.whole())
            finally:
                reader.close()
        if files:
            return FoundBlob(size, span, fill.open())
        return FoundBlob(size, span, self._streamed(place, fill, span or range(size)))

    @asynccontextmanager
    async def _streamed(self, place: Place, fill: Fill, span: range) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a part of a blob that is on its way; from the store if it is there when the stream is entered."""
        if fill.file is not None:
            async with fill.open().stream(span) as pieces:
                yield pieces
            return
        found = await self._inner.fetch(place.local, fill.digest, select=lambda _: span, redirect=False)
        assert isinstance(found, FoundBlob), "no redirect was requested"
        assert not isinstance(found.content, bytes | FileIO | GrowingFile), "a part is a stream"
        async with found.content as pieces:
            yield pieces

    async def _pass_on(
        self, place: Place, digest: Digest, select: Callable[[int], range | None] | None
    ) -> FoundBlob:
        """Return a stream from the upstream registry.  A part of a blob cannot be verified here, but the client
        does so for the whole.
        """
        async with AsyncExitStack() as stack:
            try:
                remote = await stack.enter_async_context(place.open_blob(digest))
                size = remote.size
                if size is None:
                    raise UpstreamFailed(f"{place.host} sends {digest} without its length")
                span = None if select is None else select(size)
                if span is not None:
                    await stack.aclose()
                    remote = await stack.enter_async_context(place.open_blob(digest, start=span.start))
            except UpstreamError as error:
                raise as_refusal(error, BlobUnknown(str(digest))) from error
            return FoundBlob(size, span, _passed_on(stack.pop_all(), remote, place, digest, span or range(size)))

    async def mount(
        self,
        name: RepoName,
        digest: Digest,
        source: RepoName | None,
        *,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Mounted:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)
        return await self._inner.mount(name, digest, source, caller=caller)

    async def delete(self, name: RepoName, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)
        return await self._inner.delete(name, digest, caller=caller)


@asynccontextmanager
async def _passed_on(
    stack: AsyncExitStack, remote: RemoteBlob, place: Place, digest: Digest, span: range
) -> AsyncIterator[AsyncIterator[bytes]]:
    async with stack:
        yield _verified(remote, place, digest, span)


async def _verified(remote: RemoteBlob, place: Place, digest: Digest, span: range) -> AsyncIterator[bytes]:
    """Yield a span of the bytes; of a whole blob, the last ones when its digest is verified."""
    whole = span.start == 0 and span.stop == remote.size
    hashed = hashlib.new(digest.algorithm)
    offset, left = remote.start, len(span)
    held: list[bytes] = []
    try:
        async for received in remote:
            chunk = received[max(0, span.start - offset) :]
            offset += len(received)
            chunk = chunk[:left]
            left -= len(chunk)
            hashed.update(chunk)
            if whole and left < HELD_BACK_BYTES:
                held.append(chunk)
            elif chunk:
                yield chunk
            if not left:
                break
    except UpstreamError as error:
        raise as_refusal(error, BlobUnknown(str(digest))) from error
    if whole and hashed.hexdigest() != digest.hex:
        raise UpstreamFailed(f"{place.host} sent other bytes than those of {digest}")
    for chunk in held:
        yield chunk
