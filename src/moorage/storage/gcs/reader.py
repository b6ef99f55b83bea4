"""Reader of an object in Google Cloud Storage.  After a broken connection it resumes where it broke, in the same
generation: a client never receives bytes of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from moorage.storage.driver import KeyMissing, StorageUnavailable
from moorage.storage.gcs.errors import failure_of
from moorage.storage.object_store.errors import Failure, FailureKind
from moorage.storage.object_store.helpers import slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.storage.driver import Stat
    from moorage.storage.gcs.requests import GcsRequests

__all__ = ["GcsReader"]

_ENDED: Final = Failure(0, "", "the body ended early", FailureKind.TRANSIENT)


class GcsReader:
    """See `driver.Reader`.  Without a response it is empty."""

    def __init__(
        self,
        requests: GcsRequests,
        stat: Stat,
        response: Any = None,
        start: int = 0,
        stop: int = 0,
        version: str = "",
    ) -> None:
        self.stat = stat
        self._requests = requests
        self._response = response
        self._at = start
        self._stop = stop
        self._version = version

    async def __aiter__(self) -> AsyncIterator[bytes]:
        failures = 0
        while self._response is not None and self._at < self._stop:
            cause: Exception | None = None
            try:
                async for piece in self._response.content.iter_any():
                    for part in slices(piece):
                        self._at += len(part)
                        failures = 0
                        yield part
            except Exception as error:  # noqa: BLE001  classified below
                cause = error
            if self._at < self._stop:
                failures += 1
                failure = _ENDED if cause is None else failure_of(cause)
                retry = self._requests.connection.retry
                if not failure.transient or not self._version or failures >= retry.attempts:
                    raise self._requests.location.error(failure, "read", self.stat.key) from cause
                await retry.pause(failures)
                await self._resume()
        self.close()

    async def _resume(self) -> None:
        """Request the rest of the same generation."""
        self.close()
        key = self.stat.key
        try:
            self._response = await self._requests.open(key, self._at, self._stop, version=self._version)
        except KeyMissing:
            self._response = None
        if self._response is None:
            raise StorageUnavailable(f"{self._requests.location.describe(key)}: it was removed while it was read")

    def close(self) -> None:
        """Release the connection; an unfinished response closes it."""
        if self._response is not None:
            self._response.close()
            self._response = None
