"""Uploads to another registry: cross-repository mounts, and blobs by one streamed PUT.

The pieces of a blob pass through without copies.  A source that sends another number of bytes than was announced
is noticed here: the registry would wait for the rest until its time limit.

Above: `client.py`.  Below: `session.py`.
Source: distribution-spec 1.1 "Pushing a blob monolithically", "Mounting a blob from another repository".
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from yarl import URL

from moorage.upstream.authorization import repository_scope
from moorage.upstream.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.types import Digest, RepoName
    from moorage.upstream.session import RegistrySession

__all__ = ["mount_blob", "upload_blob"]

_CREATED: Final = 201
_ACCEPTED: Final = 202
_NO_CONTENT: Final = 204
_BODY_LIMIT_BYTES: Final = 1 << 16


async def mount_blob(session: RegistrySession, name: RepoName, digest: Digest, source: RepoName) -> bool:
    """Ask for a mount; return False if an upload was opened instead, which is cancelled, or if it is refused.

    A refusal is no error: the source may not be readable for these credentials, or registries do not offer mounts;
    the upload that follows has errors of its own.
    """
    scopes = (repository_scope(name, push=True), repository_scope(source))
    url = session.url(f"/v2/{name}/blobs/uploads/", f"mount={digest}&from={source}")
    try:
        async with session.send("POST", url, expected={_CREATED, _ACCEPTED}, scopes=scopes) as response:
            await response.read(_BODY_LIMIT_BYTES)
            if response.status == _CREATED:
                return True
            location = session.location(response, f"mount of {digest}")
    except (UpstreamDenied, UpstreamMissing, UpstreamRefused):
        return False
    await _cancel(session, name, location)
    return False


async def _cancel(session: RegistrySession, name: RepoName, location: URL) -> None:
    """Cancel an upload.  Registries purge abandoned ones, so a failure has no consequence."""
    scopes = (repository_scope(name, push=True),)
    with contextlib.suppress(UpstreamError):
        async with session.send("DELETE", location, expected={_NO_CONTENT}, scopes=scopes):
            pass


async def upload_blob(
    session: RegistrySession,
    name: RepoName,
    digest: Digest,
    size: int,
    chunks: AsyncIterator[bytes],
    *,
    stall_limit_s: float,
) -> None:
    """Start an upload and send the blob; an upload that fails is cancelled."""
    scopes = (repository_scope(name, push=True),)
    start = session.url(f"/v2/{name}/blobs/uploads/")
    async with session.send("POST", start, expected={_ACCEPTED}, scopes=scopes) as response:
        await response.read(_BODY_LIMIT_BYTES)
        location = session.location(response, f"upload of {digest}")
    try:
        await _put(session, location, scopes, _Body(session.host, digest, size, chunks, stall_limit_s))
    except UpstreamUnreachable:
        raise
    except Exception:
        await _cancel(session, name, location)
        raise


async def _put(session: RegistrySession, location: URL, scopes: tuple[str, ...], body: _Body) -> None:
    separator = "&" if location.raw_query_string else "?"
    url = URL(f"{location}{separator}digest={body.digest}", encoded=True)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(body.size)}
    try:
        async with (
            asyncio.timeout(None) as body.limit,
            session.send("PUT", url, expected={_CREATED}, scopes=scopes, headers=headers, data=body) as response,
        ):
            await response.read(_BODY_LIMIT_BYTES)
    except TimeoutError:
        raise UpstreamUnreachable(
            f"upload of {body.digest}: no progress for {body.stall_limit_s:g} s", registry=session.host
        ) from None
    except UpstreamError:
        # The connection breaks as well if the source of the bytes fails, which is then the cause.
        if body.error is not None:
            raise body.error from None
        raise
    finally:
        # The task that reads the source may have been cancelled a moment ago; the caller closes the source next.
        await body.idle.wait()


class _Body:
    """The bytes of a blob as the body of a request; it can be sent once.

    `limit` ends the request if the peer reads nothing for `stall_limit_s` seconds; a slow source does not count.
    `idle` is set while nothing waits for the source.
    """

    def __init__(
        self, registry: str, digest: Digest, size: int, chunks: AsyncIterator[bytes], stall_limit_s: float
    ) -> None:
        self.digest: Final = digest
        self.size: Final = size
        self.stall_limit_s: Final = stall_limit_s
        self.limit: asyncio.Timeout | None = None
        self.error: Exception | None = None
        self.idle: Final = asyncio.Event()
        self.idle.set()
        self._registry = registry
        self._chunks = chunks
        self._begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._begun:
            raise UpstreamUnreachable(
                f"upload of {self.digest}: the connection was closed", registry=self._registry
            )
        self._begun = True
        pieces = aiter(self._checked())
        while (chunk := await self._next(pieces)) is not None:
            self._await_peer(waiting=True)
            yield chunk
            self._await_peer(waiting=False)
        self._await_peer(waiting=True)

    async def _next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """Return the next piece of the source; None at its end."""
        self.idle.clear()
        try:
            return await anext(pieces, None)
        except Exception as error:
            self.error = error
            raise
        finally:
            self.idle.set()

    async def _checked(self) -> AsyncIterator[bytes]:
        """Yield the pieces; raise `UpstreamInvalid` if they are not `size` bytes, before one too many is sent."""
        left = self.size
        async for chunk in self._chunks:
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
        if left:
            raise UpstreamInvalid(
                f"upload of {self.digest}: its source has {'more' if left < 0 else 'less'} than the announced"
                f" {self.size} bytes",
                registry=self._registry,
            )

    def _await_peer(self, *, waiting: bool) -> None:
        assert self.limit is not None
        now = asyncio.get_running_loop().time()
        self.limit.reschedule(now + self.stall_limit_s if waiting else None)
