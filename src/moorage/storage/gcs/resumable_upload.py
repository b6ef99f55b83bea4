"""Resumable uploads: large objects in one go, and the unfinished uploads of CNCF Distribution.

A session is a URL that takes bytes in order; the object is visible when the last byte has been stored.  Google
reports the stored bytes in `Range`, which may be fewer than were sent: the rest is sent again.  A session that is
not finished expires after a week, costs nothing and is in no listing.

CNCF Distribution keeps an upload's session in an object of its own type at `_uploads/UUID/data`: metadata
`Session-URI` and `Offset`, and as its content the bytes after `Offset`.  `requests.py` hides such objects; here
they are measured, finished, or removed.

The URL of a session is a secret, since it needs no credentials.  It is in no message.

Source: Google's "Resumable uploads"; registry/storage/driver/gcs of CNCF Distribution 2.8 and 3.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog

from moorage.shielding import run_to_completion
from moorage.storage.driver import Key, KeyMissing, StorageUnavailable, Stored, Unchanged, UploadMissing
from moorage.storage.gcs.options import GOOGLE
from moorage.storage.gcs.requests import SESSION_TYPE
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.interface import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.gcs.connection import Response
    from moorage.storage.gcs.requests import GcsRequests, ObjectProperties
    from moorage.storage.object_store.interface import LargeWriter

__all__ = ["ResumableUploads"]

_KEPT: Final = re.compile(r"bytes=0-([0-9]+)")
_RESUME_INCOMPLETE: Final = 308
_MIB: Final = 1 << 20
_log: Final = structlog.get_logger("moorage.storage.gcs")


@dataclass(frozen=True, slots=True)
class _Session:
    """Content of a session object of CNCF Distribution."""

    address: str
    offset: int
    found: ObjectProperties


class ResumableUploads:
    """Large writes of one store, and the unfinished uploads of CNCF Distribution in it."""

    def __init__(self, requests: GcsRequests) -> None:
        self._requests = requests
        self._connection = requests.connection
        self._location = requests.location

    @asynccontextmanager
    async def large(self, key: Key) -> AsyncIterator[LargeWriter]:
        """See `interface.ObjectStore`."""
        writer = _SessionWriter(self, key, await run_to_completion(self._begin(key)))
        try:
            yield writer
        finally:
            if not writer.committed:
                await run_to_completion(self._cancel(writer.address))

    async def _begin(self, key: Key) -> str:
        """Return the URL of a new session."""
        params = {"uploadType": "resumable", "name": self._location.path(key)}
        headers = {"X-Upload-Content-Type": "application/octet-stream"}
        try:
            answer = await self._connection.request(
                "POST", self._connection.upload_path, params=params, headers=headers
            )
        except RequestFailed as error:
            raise self._location.error(error.failure, "begin a session for", key) from error
        return answer.headers["Location"]

    async def _cancel(self, address: str) -> None:
        """Remove a session, for which Google's response is 499."""
        with suppress(RequestFailed):
            await self._connection.request("DELETE", address)

    async def deliver(self, key: Key, address: str, data: bytes, start: int, total: int | None) -> None:
        """Send `data` as the bytes from `start` on; `total`, the end of `data`, completes the object.

        Raises RequestFailed.
        """
        end, at, failures, asking = start + len(data), start, 0, False
        while True:
            rest = b"" if asking else data[at - start :]
            try:
                answer = await self._put(address, rest, None if asking else at, total)
            except RequestFailed as error:
                failures, asking = failures + 1, True
                if not error.failure.transient or failures >= self._connection.retry.attempts:
                    raise
                await self._connection.retry.pause(failures)
                continue
            if answer.status != _RESUME_INCOMPLETE:
                return
            kept = _kept(answer)
            if kept >= end and total is None:
                return
            if not start <= kept <= end:
                raise StorageUnavailable(
                    f"{self._location.describe(key)}: the store has {kept} of the bytes, not {start} to {end}"
                )
            if kept == at and not asking:
                failures += 1
                if failures >= self._connection.retry.attempts:
                    raise StorageUnavailable(f"{self._location.describe(key)}: the store takes no bytes")
                await self._connection.retry.pause(failures)
            at, asking = kept, False

    async def send(self, key: Key, address: str, data: bytes, start: int, total: int | None) -> None:
        """As `deliver`, but raises the driver's errors."""
        try:
            await self.deliver(key, address, data, start, total)
        except RequestFailed as error:
            raise self._location.error(error.failure, "send", key) from error

    @property
    def chunk(self) -> int:
        return self._requests.options.chunksize

    async def _put(self, address: str, data: bytes, start: int | None, total: int | None) -> Response:
        """Send bytes from `start`; None only requests how many are stored."""
        whole = "*" if total is None else str(total)
        sent = f"{start}-{start + len(data) - 1}" if data and start is not None else "*"
        return await self._connection.request(
            "PUT",
            address,
            headers={"Content-Range": f"bytes {sent}/{whole}"},
            data=[data] if data else (),
            attempts=1,
        )

    async def left(self, data: Key) -> _Session | None:
        """Return the session object; None for an object of another type.  Raises KeyMissing."""
        found = await self._requests.properties(data, sessions=True)
        if found.kind != SESSION_TYPE:
            return None
        metadata = {name.lower(): text for name, text in found.metadata.items()}
        offset = metadata.get("offset", "")
        return _Session(metadata.get("session-uri", ""), int(offset) if offset.isdecimal() else 0, found)

    async def legacy_size(self, data: Key) -> int | None:
        """See `interface.JoiningStore`."""
        try:
            left = await self.left(data)
            if left is None:
                return (await self._requests.head(data)).size
        except KeyMissing:
            return None
        return left.offset + left.found.stat.size

    async def adopt(self, data: Key) -> Source | None:
        """See `interface.JoiningStore`: the session is finished with the bytes that wait beside it."""
        with suppress(KeyMissing):
            if (left := await self.left(data)) is not None:
                await self._finish(data, left)
            found = await self._requests.properties(data)
            return Source(data, found.stat.size, found.version) if found.stat.size else None
        return None

    async def _finish(self, data: Key, left: _Session) -> None:
        tail = (await self._requests.get(data, limit=64 * _MIB, sessions=True)).data
        if not left.offset:
            if tail:
                await self._requests.put(data, [tail], Unchanged(left.found.version))
            else:
                await self._requests.delete([data])
            await self._drop(left)
            return
        if not self._is_of_store(left.address):
            raise UploadMissing(f"{data}: the session that it names is not of this store")
        try:
            await self.deliver(data, left.address, tail, left.offset, left.offset + len(tail))
        except RequestFailed as error:
            if error.failure.transient:
                raise self._location.error(error.failure, "finish the session of", data) from error
            # Expired, or beyond the object's `Offset`: the client must begin anew.
            _log.warning(
                "an upload of CNCF Distribution cannot be finished", key=data, status=error.failure.status
            )
            raise UploadMissing(f"{data}: the session of the upload cannot be finished") from error

    async def abort(self, data: Key) -> None:
        """See `interface.JoiningStore`."""
        with suppress(KeyMissing):
            if (left := await self.left(data)) is not None:
                await self._requests.delete([data])
                await self._drop(left)

    async def _drop(self, left: _Session) -> None:
        if left.address and self._is_of_store(left.address):
            await self._cancel(left.address)

    def _is_of_store(self, address: str) -> bool:
        """Return whether a URL is one of the store's: any client with write access to the bucket can store
        another.
        """
        try:
            found = urlsplit(address)
            known = {urlsplit(place)[:2] for place in (self._connection.endpoint, GOOGLE)}
        except ValueError:
            return False
        google = found.scheme == "https" and (found.hostname or "").endswith(".googleapis.com")
        return found[:2] in known or google


class _SessionWriter:
    """See `interface.LargeWriter`.  A short piece is the last one, and is sent by `commit`."""

    def __init__(self, sessions: ResumableUploads, key: Key, address: str) -> None:
        self._sessions = sessions
        self._key = key
        self.address = address
        self._sent = 0
        self._last = b""
        self.committed = False

    async def add(self, data: Sequence[bytes]) -> None:
        piece = b"".join(data)
        if len(piece) < self._sessions.chunk:
            self._last = piece
            return
        await self._sessions.send(self._key, self.address, piece, self._sent, None)
        self._sent += len(piece)

    async def commit(self) -> Stored:
        total = self._sent + len(self._last)
        await self._sessions.send(self._key, self.address, self._last, self._sent, total)
        self.committed = True
        return Stored.WRITTEN


def _kept(answer: Response) -> int:
    """Return the number of bytes that the store has."""
    found = _KEPT.fullmatch(answer.headers.get("Range", "").strip())
    return int(found[1]) + 1 if found is not None else 0
