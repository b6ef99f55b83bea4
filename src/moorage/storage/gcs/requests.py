"""Requests to Google Cloud Storage for single objects, with the driver's errors.

    compose.py  resumable_upload.py  reader.py  store.py
          └──────────────┼──────────────┴──────────┘
                    requests.py  ──►  connection.py

A version is the object's generation, and every condition is exact: Google compares at the moment of the write.

CNCF Distribution keeps the state of an unfinished upload in an object of type
`application/x-docker-upload-session`. Such objects are hidden: they count as missing, except with `sessions`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Content,
    Key,
    KeyMissing,
    ObjectTooLarge,
    Stat,
    StorageError,
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.gcs.connection import GcsConnection
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.helpers import delete_each, refused_put, remove_each

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from aiohttp import ClientResponse

    from moorage.storage.driver import When
    from moorage.storage.gcs.connection import Response
    from moorage.storage.gcs.options import GcsOptions

__all__ = ["SESSION_TYPE", "GcsRequests", "ObjectProperties"]

SESSION_TYPE: Final = "application/x-docker-upload-session"
_PAGE: Final = 1000
_TEXT: Final = {"Content-Type": "application/octet-stream"}
_AS_IS: Final = {"Accept-Encoding": "identity"}
_NEEDED: Final = ("size", "timeCreated", "generation")
_FIELDS: Final = "size,timeCreated,generation,contentType,metadata"
_LISTED: Final = "nextPageToken,items(name,size,timeCreated,contentType)"


@dataclass(frozen=True, slots=True)
class ObjectProperties:
    """Properties of an object; `kind` is its content type."""

    stat: Stat
    version: Version
    kind: str
    metadata: Mapping[str, str]


class GcsRequests:
    """Requests of one store in one process."""

    def __init__(self, options: GcsOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.options = options
        self.connection = GcsConnection(options, sleep=sleep)
        self.location = self.connection.location
        self.path = self.location.path

    def _missing(self, error: RequestFailed, operation: str, key: Key) -> StorageError:
        return KeyMissing(key) if error.failure.missing else self.location.error(error.failure, operation, key)

    async def properties(self, key: Key, *, sessions: bool = False) -> ObjectProperties:
        """Return an object's properties.  Raises KeyMissing."""
        path = self.connection.path(self.path(key))
        try:
            resource = (await self.connection.request("GET", path, params={"fields": _FIELDS})).json(*_NEEDED)
        except RequestFailed as error:
            raise self._missing(error, "look at", key) from error
        kind = str(resource.get("contentType", ""))
        if kind == SESSION_TYPE and not sessions:
            raise KeyMissing(key)
        stat = Stat(key, int(resource["size"]), _time(resource["timeCreated"]))
        return ObjectProperties(stat, Version(str(resource["generation"])), kind, resource.get("metadata") or {})

    async def head(self, key: Key) -> Stat:
        """Return size and time.  Raises KeyMissing."""
        return (await self.properties(key)).stat

    async def get(self, key: Key, *, limit: int, sessions: bool = False) -> Content:
        """Return a small object.  Raises KeyMissing, ObjectTooLarge."""
        answer = await self._media(key, {}, limit)
        version = answer.headers.get("X-Goog-Generation", "")
        if not version:  # an emulator: request the generation, and read exactly that one
            version = (await self.properties(key, sessions=sessions)).version
            answer = await self._media(key, {"generation": version}, limit)
        if answer.headers.get("Content-Type") == SESSION_TYPE and not sessions:
            raise KeyMissing(key)
        return Content(answer.body, Version(version))

    async def _media(self, key: Key, params: dict[str, str], limit: int) -> Response:
        path = self.connection.path(self.path(key))
        try:
            return await self.connection.request(
                "GET", path, params={"alt": "media", **params}, headers=_AS_IS, limit=limit
            )
        except ObjectTooLarge as error:
            raise ObjectTooLarge(f"{key}: {error}") from error
        except RequestFailed as error:
            raise self._missing(error, "read", key) from error

    async def open(self, key: Key, start: int, stop: int | None, *, version: str = "") -> ClientResponse | None:
        """Return an open response with the bytes [start, stop) of a version, "" for the newest, which the caller
        closes; None if `start` is at or past the end.  Raises KeyMissing.
        """
        headers = dict(_AS_IS)
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        params = {"alt": "media", **({"generation": version} if version else {})}
        try:
            return await self.connection.open(self.connection.path(self.path(key)), params=params, headers=headers)
        except RequestFailed as error:
            if error.failure.range_outside:
                return None
            raise self._missing(error, "read", key) from error

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        """Write an object.  Raises Conflict."""
        params = {"uploadType": "media", "name": self.path(key), "fields": "size,generation"}
        if when is ABSENT:
            params["ifGenerationMatch"] = "0"
        elif isinstance(when, Unchanged):
            if not when.version.isdecimal() or when.version == "0":
                raise Conflict(f"{key}: no generation of this store is called {when.version!r}")
            params["ifGenerationMatch"] = when.version
        path = self.connection.upload_path
        try:
            resource = (await self.connection.request("POST", path, params=params, headers=_TEXT, data=data)).json(
                "size", "generation"
            )
        except RequestFailed as error:
            if when is ALWAYS or not (error.failure.refused or error.failure.missing):
                raise self.location.error(error.failure, "write", key) from error
            return await refused_put(self, key, data, error)
        if int(resource["size"]) != sum(map(len, data)):
            stored, sent = resource["size"], sum(map(len, data))
            raise StorageUnavailable(
                f"{self.location.describe(key)}: the store has taken {stored} bytes of {sent}"
            )
        return Version(str(resource["generation"]))

    async def delete(self, keys: Sequence[Key]) -> None:
        """Remove objects; missing ones are fine."""
        await delete_each(keys, self._delete)

    async def _delete(self, key: Key) -> None:
        try:
            await self.connection.request("DELETE", self.connection.path(self.path(key)))
        except RequestFailed as error:
            if not error.failure.missing:
                raise self.location.error(error.failure, "delete", key) from error

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        """See `Driver.remove_unchanged`: by generation."""
        return await remove_each(objects, self._remove_unchanged)

    async def _remove_unchanged(self, known: Stat) -> bool:
        try:
            found = await self.properties(known.key)
        except KeyMissing:
            return True
        if found.stat != known:
            return False
        params = {"ifGenerationMatch": found.version}
        try:
            await self.connection.request("DELETE", self.connection.path(self.path(known.key)), params=params)
        except RequestFailed as error:
            if error.failure.refused:
                return False
            if not error.failure.missing:
                raise self.location.error(error.failure, "delete", known.key) from error
        return True

    async def list_page(self, prefix: str, params: dict[str, str]) -> dict[str, Any]:
        """Return one page of objects whose names begin with `prefix`, a name in the bucket."""
        try:
            answer = await self.connection.request(
                "GET", self.connection.path(), params={"prefix": prefix, **params}
            )
        except RequestFailed as error:
            raise self.location.error(error.failure, "list", self.location.key(prefix)) from error
        return answer.json()

    async def walk(self, prefix: str, more: dict[str, str]) -> AsyncIterator[Sequence[tuple[Stat, str]]]:
        """Yield all objects whose keys begin with `prefix`, with their content types, in pages."""
        whole = self.path(prefix)
        params = {"maxResults": str(_PAGE), "fields": _LISTED, **more}
        while True:
            resource = await self.list_page(whole, params)
            yield [
                (
                    Stat(self.location.key(entry["name"]), int(entry["size"]), _time(entry["timeCreated"])),
                    str(entry.get("contentType", "")),
                )
                for entry in resource.get("items", ())
            ]
            if not (token := resource.get("nextPageToken", "")):
                return
            params["pageToken"] = token


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
