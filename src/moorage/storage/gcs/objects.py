"""Google Cloud Storage as a store of objects: `storage/object_store/interface.py` says what each call promises.

A version is the object's generation, and every condition is exact: Google compares in the moment of the write.
Joins are in `compose.py`, sessions in `resumable_upload.py`, signatures in `gcs/signing.py`.

The reference's unfinished uploads (objects of type `application/x-docker-upload-session`) are no objects here,
except to `foreign`, `adopt`, `abort` and `unfinished`.

Source: Google's JSON API v1; docs/reference/object-storage.md, sections 1.2, 3 and 6.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Content,
    Key,
    KeyMissing,
    ObjectTooLarge,
    SignedUrl,
    Stat,
    StorageError,
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.gcs.compose import Joining
from moorage.storage.gcs.connection import CallFailed, GcsConnection
from moorage.storage.gcs.reader import GcsReader
from moorage.storage.gcs.resumable_upload import SESSION_TYPE, Sessions
from moorage.storage.gcs.signing import Signer
from moorage.storage.keys import is_key
from moorage.storage.object_store.helpers import look_for_nothing, require_start, version_if_holding
from moorage.storage.object_store.interface import NamePage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.storage.driver import Reader, Stored, When
    from moorage.storage.gcs.connection import Answer
    from moorage.storage.gcs.errors import Failure
    from moorage.storage.gcs.options import GcsOptions
    from moorage.storage.object_store.interface import Foreign, LargeWriter, Source

__all__ = ["Found", "GcsObjects"]

_PAGE: Final = 1000
_AT_ONCE: Final = 16
_TEXT: Final = {"Content-Type": "application/octet-stream"}
_AS_IS: Final = {"Accept-Encoding": "identity"}
_NEEDED: Final = ("size", "timeCreated", "generation")
_FOUND: Final = "size,timeCreated,generation,contentType,metadata"
_LISTED: Final = "nextPageToken,items(name,size,timeCreated,contentType)"
_NAMED: Final = "nextPageToken,prefixes,items(name,contentType)"
_PATTERN: Final = frozenset("*?[]{}\\")


@dataclass(frozen=True, slots=True)
class Found:
    """What the store says of an object; `kind` is its content type."""

    stat: Stat
    version: Version
    kind: str
    metadata: Mapping[str, str]


class GcsObjects:
    """See `objects.Objects`."""

    name = "gcs"
    any_length = True

    def __init__(self, options: GcsOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.options, self.chunk = options, options.chunk
        self.connection = GcsConnection(options, sleep=sleep)
        self._prefix = options.prefix
        self._signer = Signer(self.connection)
        self._joining = Joining(self)
        self._sessions = Sessions(self)

    def path(self, key: str) -> str:
        """The bucket's name for a key."""
        return f"{self._prefix}{key}"

    def _key(self, path: str) -> Key:
        return Key(path[len(self._prefix) :])

    def describe(self, key: str) -> str:
        return f"{self.path(key)} at {self.connection.place}"

    def told(self, failure: Failure, operation: str, key: str) -> StorageError:
        """What a driver raises for a failure that is not an object's absence."""
        return self.connection.place.error(failure, operation, self.path(key))

    def _missing(self, error: CallFailed, operation: str, key: Key) -> StorageError:
        return KeyMissing(key) if error.failure.missing else self.told(error.failure, operation, key)

    async def found(self, key: Key, *, sessions: bool = False) -> Found:
        """Raises KeyMissing, also for the reference's sessions unless they are asked for."""
        path = self.connection.path(self.path(key))
        try:
            said = (await self.connection.ask("GET", path, params={"fields": _FOUND})).json(*_NEEDED)
        except CallFailed as error:
            raise self._missing(error, "look at", key) from error
        kind = str(said.get("contentType", ""))
        if kind == SESSION_TYPE and not sessions:
            raise KeyMissing(key)
        stat = Stat(key, int(said["size"]), _time(said["timeCreated"]))
        return Found(stat, Version(str(said["generation"])), kind, said.get("metadata") or {})

    async def head(self, key: Key) -> Stat:
        return (await self.found(key)).stat

    async def get(self, key: Key, *, limit: int) -> Content:
        return await self.content(key, limit=limit)

    async def content(self, key: Key, *, limit: int, sessions: bool = False) -> Content:
        """As `get`, and with `sessions` also of what the reference left."""
        answer = await self._media(key, {}, limit)
        version = answer.headers.get("X-Goog-Generation", "")
        if not version:  # an emulator that does not say: ask, and read exactly what was told of
            version = (await self.found(key, sessions=sessions)).version
            answer = await self._media(key, {"generation": version}, limit)
        if answer.headers.get("Content-Type") == SESSION_TYPE and not sessions:
            raise KeyMissing(key)
        return Content(answer.body, Version(version))

    async def _media(self, key: Key, params: dict[str, str], limit: int) -> Answer:
        path = self.connection.path(self.path(key))
        try:
            return await self.connection.ask(
                "GET", path, params={"alt": "media", **params}, headers=_AS_IS, limit=limit
            )
        except ObjectTooLarge as error:
            raise ObjectTooLarge(f"{key}: {error}") from error
        except CallFailed as error:
            raise self._missing(error, "read", key) from error

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        reader = await self._reader(key, start, stop)
        try:
            yield reader
        finally:
            reader.close()

    async def _reader(self, key: Key, start: int, stop: int | None) -> GcsReader:
        if stop is not None and stop <= start:
            return GcsReader(self, await self._within(key, start))
        headers = dict(_AS_IS)
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        path = self.connection.path(self.path(key))
        try:
            response = await self.connection.open(path, params={"alt": "media"}, headers=headers)
        except CallFailed as error:
            if error.failure.outside:
                return GcsReader(self, await self._within(key, start))
            raise self._missing(error, "read", key) from error
        if response.headers.get("Content-Type") == SESSION_TYPE:
            response.close()
            raise KeyMissing(key)
        try:
            return await self._opened(key, response, start, stop)
        except BaseException:
            response.close()
            raise

    async def _opened(self, key: Key, response: Any, start: int, stop: int | None) -> GcsReader:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdecimal() else int(response.headers.get("Content-Length", -1))
        version = response.headers.get("X-Goog-Generation", "")
        written = response.headers.get("Last-Modified", "")
        if size < 0 or not written:
            found = await self.found(key)
            stat = found.stat
        else:
            stat = Stat(key, size, parsedate_to_datetime(written).astimezone(UTC))
        require_start(key, start, stat.size)
        end = stat.size if stop is None else min(stop, stat.size)
        return GcsReader(self, stat, response, start, end, version)

    async def _within(self, key: Key, start: int) -> Stat:
        """Of an object in which nothing is to be read.  Raises RangeOutside."""
        stat = await self.head(key)
        require_start(key, start, stat.size)
        return stat

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        params = {"uploadType": "media", "name": self.path(key), "fields": "size,generation"}
        if when is ABSENT:
            params["ifGenerationMatch"] = "0"
        elif isinstance(when, Unchanged):
            if not when.version.isdecimal() or when.version == "0":
                raise Conflict(f"{key}: no generation of this store is called {when.version!r}")
            params["ifGenerationMatch"] = when.version
        path = self.connection.upload_path
        try:
            said = (await self.connection.ask("POST", path, params=params, headers=_TEXT, data=data)).json(
                "size", "generation"
            )
        except CallFailed as error:
            failure = error.failure
            if when is ALWAYS or not (failure.refused or failure.missing):
                raise self.told(failure, "write", key) from error
            if error.doubtful and (version := await version_if_holding(self, key, data)) is not None:
                return version  # an attempt whose answer was lost has done it
            raise Conflict(f"{key}: {failure.text}") from error
        if int(said["size"]) != sum(map(len, data)):
            raise StorageUnavailable(
                f"{self.describe(key)}: the store has taken {said['size']} bytes of {sum(map(len, data))}"
            )
        return Version(str(said["generation"]))

    async def delete(self, keys: Sequence[Key]) -> None:
        """The first alone, then so many at a time: Google's batches save no work, only connections."""
        if not keys:
            return
        await self._delete(keys[0])
        for start in range(1, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            done = await asyncio.gather(*(self._delete(key) for key in part), return_exceptions=True)
            for result in done:
                if isinstance(result, BaseException):
                    raise result

    async def _delete(self, key: Key) -> None:
        try:
            await self.connection.ask("DELETE", self.connection.path(self.path(key)))
        except CallFailed as error:
            if not error.failure.missing:
                raise self.told(error.failure, "delete", key) from error

    async def _list(self, prefix: str, params: dict[str, str]) -> dict[str, Any]:
        try:
            answer = await self.connection.ask("GET", self.connection.path(), params={"prefix": prefix, **params})
        except CallFailed as error:
            raise self.told(error.failure, "list", self._key(prefix)) from error
        return answer.json()

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        """Google may answer with an empty page that is not the last; such are not handed on.

        Its token goes with the parameters of the first request, so ours says where the listing began.
        """
        if token:
            after, _, token = token.partition("/")
        whole = self.path(f"{prefix}/")
        params = {"delimiter": "/", "maxResults": str(limit), "fields": _NAMED}
        if after:
            params["startOffset"] = f"{whole}{after}"
        while True:
            said = await self._list(whole, params | ({"pageToken": token} if token else {}))
            entries = [
                entry["name"] for entry in said.get("items", ()) if entry.get("contentType") != SESSION_TYPE
            ]
            found = sorted([*(name for name in entries if name != f"{whole}{after}"), *said.get("prefixes", ())])
            token = said.get("nextPageToken", "")
            names = [name for path in found if (name := path[len(whole) :].removesuffix("/"))]
            if names or not token:
                return NamePage(names, f"{after}/{token}" if token else "")

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        async for page in self._walk(f"{prefix}/", {}):
            found = [stat for stat, kind in page if kind != SESSION_TYPE and is_key(stat.key)]
            if found:
                yield found

    async def _walk(self, prefix: str, more: dict[str, str]) -> AsyncIterator[list[tuple[Stat, str]]]:
        """Every object below, with its content type."""
        whole = self.path(prefix)
        params = {"maxResults": str(_PAGE), "fields": _LISTED, **more}
        while True:
            said = await self._list(whole, params)
            yield [
                (
                    Stat(self._key(entry["name"]), int(entry["size"]), _time(entry["timeCreated"])),
                    str(entry.get("contentType", "")),
                )
                for entry in said.get("items", ())
            ]
            if not (token := said.get("nextPageToken", "")):
                return
            params["pageToken"] = token

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        return await self._joining.join(to, sources, tail, scratch)

    def large(self, key: Key) -> AbstractAsyncContextManager[LargeWriter]:
        return self._sessions.large(key)

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        url = await self._signer.url(self.path(key), method, expires_s)
        return None if url is None else SignedUrl(url)

    async def foreign(self, data: Key) -> Foreign | None:
        return await self._sessions.foreign(data)

    async def adopt(self, data: Key) -> Source | None:
        return await self._sessions.adopt(data)

    async def abort(self, data: Key) -> None:
        await self._sessions.abort(data)

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        """The reference's sessions; ours are in no listing, and gone after a week by themselves."""
        whole = self.path(f"{under}/")
        more = {} if _PATTERN & set(whole) else {"matchGlob": f"{whole}**/_uploads/*/data"}
        old: list[Key] = []
        async for page in self._walk(f"{under}/", more):
            old += [stat.key for stat, kind in page if kind == SESSION_TYPE and stat.modified < before]
        for key in old if abort else ():
            await self._sessions.abort(key)
        return old

    async def probe(self) -> None:
        await look_for_nothing(self)

    async def close(self) -> None:
        await self.connection.close()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
