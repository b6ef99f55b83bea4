"""Conditional writes, on stores that support both conditions, one of them, or none.

AWS, MinIO, R2 and moto compare at the moment of the write.  Ceph's radosgw answers 412 to `If-Match` for every
version; Swift answers 501 to both conditions; an old store ignores the headers, and would overwrite the object. So
before the first conditional write a process tries both conditions on an object of its own, by five requests, and
logs the result.  Where a condition is not supported, the object is read before it is written: no safety argument
above needs more (`storage/object_store/interface.py`).
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import structlog

from moorage.storage.driver import ABSENT, Conflict, Key, KeyMissing, Unchanged, Version
from moorage.storage.s3.errors import RequestUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obstore import PutMode

    from moorage.storage.driver import When
    from moorage.storage.s3.requests import S3Requests

__all__ = ["Conditions"]

_TRIED: Final = "docker/registry/v2/conditions"
_CONTENT: Final = (b"which conditions does this store keep?",)
_log: Final = structlog.get_logger("moorage.storage.s3")


@dataclass(frozen=True, slots=True)
class _Supported:
    """Conditions that the store supports."""

    absent: bool
    unchanged: bool


class Conditions:
    """Conditional writes of one store, in one process."""

    def __init__(self, requests: S3Requests) -> None:
        self._requests = requests
        self._supported: _Supported | None = None
        self._lock = asyncio.Lock()
        self._writing: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def put(self, key: Key, data: Sequence[bytes], when: When) -> Version:
        """Raises Conflict."""
        supported = await self._tried()
        if when is ABSENT and supported.absent:
            return await self._requests.put(key, data, "create")
        if isinstance(when, Unchanged) and supported.unchanged:
            return await self._requests.put(key, data, {"e_tag": when.version})
        # Of the requests of this process, at least, only one reads and writes at a time.
        async with self._writing.setdefault(key, asyncio.Lock()):
            current = await self._version(key)
            if when is ABSENT and current is not None:
                raise Conflict(f"{key}: it exists")
            if isinstance(when, Unchanged) and current != when.version:
                raise Conflict(f"{key}: it has changed")
            return await self._requests.put(key, data)

    async def _version(self, key: Key) -> Version | None:
        try:
            return (await self._requests.versioned(key))[1]
        except KeyMissing:
            return None

    async def _tried(self) -> _Supported:
        if self._supported is None:
            async with self._lock:
                if self._supported is None:
                    self._supported = await self._try()
        return self._supported

    async def _try(self) -> _Supported:
        key = Key(f"{_TRIED}/{secrets.token_hex(16)}")
        wrong: PutMode = {"e_tag": '"00000000000000000000000000000000"'}
        try:
            created = await self._written(key, "create")
            absent = created is not None and await self._written(key, "create") is None
            right: PutMode = {"e_tag": created or await self._requests.put(key, _CONTENT)}
            unchanged = await self._written(key, wrong) is None and await self._written(key, right) is not None
        finally:
            await self._requests.delete([key])
        if not (absent and unchanged):
            _log.warning(
                "conditional writes are not supported by this store; "
                "concurrent pushes to one tag may overwrite each other",
                absent=absent,
                unchanged=unchanged,
            )
        return _Supported(absent, unchanged)

    async def _written(self, key: Key, mode: PutMode) -> Version | None:
        """Write the object; None if the condition was refused or is unknown to the store."""
        try:
            return await self._requests.put(key, _CONTENT, mode)
        except (Conflict, RequestUnsupported):
            return None
