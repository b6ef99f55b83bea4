"""Joins of objects in Google Cloud Storage: `compose` takes at most 32 sources, so a tree; `rewrite` copies one.

    chunks ──► groups of 32 ──► groups of 32 of those ──► one object

No byte passes through the registry, and any size is possible.  Every source is named with the generation that its
writer received, so the join fails for one that was replaced.  The last step is conditional on there being no
object yet: an existing blob is kept, and of two racing publishers one makes it.

Intermediate objects have names that no other publication uses, and are removed also after a failure.

Source: Google's "Composite objects", "Objects: rewrite"; docs/reference/object-storage.md, section 3.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.shielding import run_to_completion
from moorage.storage.driver import Key, StorageError, Stored, UploadChanged, UploadMissing, Version
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.helpers import find
from moorage.storage.object_store.interface import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.gcs.connection import Response
    from moorage.storage.gcs.requests import GcsRequests

__all__ = ["Compose"]

_AT_ONCE: Final = 8
_JSON: Final = {"Content-Type": "application/json; charset=UTF-8"}
_REWRITTEN: Final = "done,rewriteToken,resource(generation)"
_KIND: Final = {"contentType": "application/octet-stream"}
_log: Final = structlog.get_logger("moorage.storage.gcs")


class Compose:
    """Joins of one store."""

    def __init__(self, requests: GcsRequests) -> None:
        self._requests = requests
        self._connection = requests.connection

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        size = sum(source.size for source in sources) + len(tail)
        if len(sources) == 1 and not tail:
            return await run_to_completion(self._last(to, sources, size))
        most = self._connection.options.sources
        if len(sources) >= most and await self._size(to) == size:
            return Stored.KEPT
        made: list[Key] = []
        try:
            few = await self._few(list(sources), tail, f"{scratch}/{secrets.token_hex(8)}", made)
            return await run_to_completion(self._last(to, few, size))
        finally:
            await run_to_completion(self._remove(made))

    async def _few(self, sources: list[Source], tail: bytes, scratch: str, made: list[Key]) -> list[Source]:
        """Return at most as many sources as one compose takes; intermediate objects are added to `made`
        beforehand.
        """
        if tail:
            key = Key(f"{scratch}.tail")
            made.append(key)
            sources.append(Source(key, len(tail), await run_to_completion(self._requests.put(key, [tail]))))
        most, level = self._connection.options.sources, 0
        while len(sources) > most:
            level += 1
            groups = [sources[start : start + most] for start in range(0, len(sources), most)]
            targets = [Key(f"{scratch}.{level}.{number:08d}") for number in range(len(groups))]
            sources = []
            for start in range(0, len(groups), _AT_ONCE):
                batch = list(zip(targets, groups, strict=True))[start : start + _AT_ONCE]
                made += [target for target, group in batch if len(group) > 1]
                sources += await run_to_completion(self._batch(batch))
        return sources

    async def _batch(self, batch: Sequence[tuple[Key, list[Source]]]) -> list[Source]:
        """Compose all groups concurrently; raises a failure when all have ended."""
        done = await asyncio.gather(*(self._group(*entry) for entry in batch), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException):
                raise result
        return [result for result in done if isinstance(result, Source)]

    async def _group(self, target: Key, group: list[Source]) -> Source:
        if len(group) == 1:
            return group[0]
        try:
            version = await self._compose(target, group, {})
        except RequestFailed as error:
            raise self._error(error, target) from error
        return Source(target, sum(source.size for source in group), version)

    async def _last(self, to: Key, sources: Sequence[Source], size: int) -> Stored:
        """Make the blob if there is none, or over an object of another size (torn, by another program)."""
        make = self._rewrite if len(sources) == 1 else self._compose
        try:
            await make(to, sources, {"ifGenerationMatch": "0"})
        except RequestFailed as error:
            if not error.failure.refused:
                raise self._error(error, to) from error
            found = await self._size(to)
            if found == size:
                return Stored.KEPT
            if found is None:
                raise self._error(error, to) from error
            try:
                await make(to, sources, {})
            except RequestFailed as again:
                raise self._error(again, to) from again
        return Stored.WRITTEN

    async def _compose(self, to: Key, sources: Sequence[Source], params: dict[str, str]) -> Version:
        body = {
            "sourceObjects": [
                {
                    "name": self._requests.path(source.key),
                    "objectPreconditions": {"ifGenerationMatch": source.version},
                }
                for source in sources
            ],
            "destination": _KIND,
        }
        path = self._connection.path(self._requests.path(to), "/compose")
        response = (await self._post(path, params, body)).json("generation")
        return Version(str(response["generation"]))

    async def _rewrite(self, to: Key, sources: Sequence[Source], params: dict[str, str]) -> Version:
        """Copy one object, by as many calls as the store requires, each with the token of the one before."""
        (source,) = sources
        target = self._connection.path(self._requests.path(to))
        path = self._connection.path(self._requests.path(source.key), f"/rewriteTo{target[len('/storage/v1') :]}")
        params = {**params, "ifSourceGenerationMatch": source.version, "fields": _REWRITTEN}
        while True:
            response = (await self._post(path, params, _KIND)).json("done")
            if response["done"]:
                return Version(str(response["resource"]["generation"]))
            params["rewriteToken"] = str(response["rewriteToken"])

    async def _post(self, path: str, params: dict[str, str], body: dict[str, Any]) -> Response:
        data = [json.dumps(body).encode()]
        return await self._connection.request("POST", path, params=params, headers=_JSON, data=data, long=True)

    def _error(self, error: RequestFailed, key: Key) -> StorageError:
        if error.failure.missing:
            return UploadMissing(f"{key}: what it is made of is gone")
        if error.failure.refused:
            return UploadChanged(f"{key}: what it is made of is no longer what was written there")
        return self._requests.location.error(error.failure, "compose", key)

    async def _size(self, key: Key) -> int | None:
        stat = await find(self._requests, key)
        return None if stat is None else stat.size

    async def _remove(self, made: list[Key]) -> None:
        """Remove intermediate objects.  After a failure they are found by age, as all objects of an upload."""
        if not made:
            return
        try:
            await self._requests.delete(made)
        except StorageError as error:
            _log.warning("intermediate objects were left behind", first=made[0], cause=str(error))
