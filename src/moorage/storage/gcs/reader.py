"""An object of Google's being read.  A connection that breaks is taken up again where it broke, in the same
generation: what a client gets is never put together of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from moorage.storage.gcs.connection import CallFailed
from moorage.storage.gcs.errors import Failure, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.storage.driver import Stat
    from moorage.storage.gcs.objects import GcsObjects

__all__ = ["GcsReader"]

_PIECE_BYTES: Final = 1 << 20


class GcsReader:
    """See `driver.Reader`.  Without a response there is nothing to read."""

    def __init__(
        self,
        objects: GcsObjects,
        stat: Stat,
        response: Any = None,
        start: int = 0,
        stop: int = 0,
        version: str = "",
    ) -> None:
        self.stat, self._objects, self._response = stat, objects, response
        self._at, self._stop, self._version = start, stop, version

    async def __aiter__(self) -> AsyncIterator[bytes]:
        failures = 0
        while self._response is not None and self._at < self._stop:
            cause: Exception | None = None
            try:
                async for piece in self._response.content.iter_any():
                    for start in range(0, len(piece), _PIECE_BYTES):
                        part = piece[start : start + _PIECE_BYTES]
                        self._at += len(part)
                        failures = 0
                        yield part
            except Exception as error:  # noqa: BLE001  judged below
                cause = error
            if self._at < self._stop:
                failures += 1
                failure = (
                    Failure(0, "", "the body ended early", passing=True) if cause is None else failure_of(cause)
                )
                if not failure.passing or not self._version or failures >= self._objects.options.attempts:
                    raise self._objects.told(failure, "read", self.stat.key) from cause
                await self._objects.connection.pause(failures)
                await self._again()
        self.close()

    async def _again(self) -> None:
        """The rest of the same generation."""
        self.close()
        objects = self._objects
        path = objects.connection.path(objects.path(self.stat.key))
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={self._at}-{self._stop - 1}"}
        params = {"alt": "media", "generation": self._version}
        try:
            self._response = await objects.connection.open(path, params=params, headers=headers)
        except CallFailed as error:
            raise objects.told(error.failure, "read the rest of", self.stat.key) from error

    def close(self) -> None:
        """A body that was read to its end gives its connection back; another is cut off."""
        if self._response is not None:
            self._response.close()
            self._response = None
