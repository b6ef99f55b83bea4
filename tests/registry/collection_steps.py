"""The steps of a garbage collection, taken one by one as a collector takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.registry.collection_state import (
    CONDEMNED,
    DOOMED,
    ENDED,
    RUNNING,
    ListEntry,
    StateName,
    encode_entries,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from moorage.storage.driver import Driver
    from moorage.types import Digest

__all__ = ["Clock", "Run", "Sleep"]


class Clock:
    """Seconds that pass when a test moves them."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Sleep:
    """Sleeps by moving the clock; the collector takes its next step meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.steps: list[Callable[[], Awaitable[object]]] = []
        self.slept = 0

    async def __call__(self, seconds: float) -> None:
        self.slept += 1
        self._clock.now += seconds
        if self.steps:
            await self.steps.pop(0)()


def _list(entries: Iterable[Digest | ListEntry]) -> bytes:
    return encode_entries(entry if isinstance(entry, ListEntry) else ListEntry(entry) for entry in entries)


class Run:
    """One run, over `driver`."""

    def __init__(self, driver: Driver, token: str = "0000000000001-aa") -> None:
        self._driver = driver
        self._token = token
        self._numbers = 0

    async def _write(self, name: StateName, data: bytes = b"{}") -> StateName:
        await self._driver.write(layout.collection(str(name)), data)
        return name

    async def _delete(self, *names: StateName) -> None:
        await self._driver.delete([layout.collection(str(name)) for name in names])

    async def start(self) -> None:
        await self._write(StateName(RUNNING, self._token))

    async def condemn(self, *digests: Digest | ListEntry) -> StateName:
        self._numbers += 1
        return await self._write(StateName(CONDEMNED, self._token, self._numbers), _list(digests))

    async def doom(self, *digests: Digest | ListEntry) -> StateName:
        self._numbers += 1
        return await self._write(StateName(DOOMED, self._token, self._numbers), _list(digests))

    async def withdraw(self, doomed: StateName, *left: Digest | ListEntry) -> None:
        """Replace a list by one of the digests that are `left`."""
        await self.doom(*left)
        await self._delete(doomed)

    async def remove(self, *digests: Digest) -> None:
        await self._driver.delete([layout.blob_data(digest) for digest in digests])

    async def end(self, *lists: StateName) -> None:
        await self._delete(*lists)
        await self._write(StateName(ENDED, self._token))
        await self._delete(StateName(RUNNING, self._token))

    async def whole(self, *digests: Digest) -> None:
        """Remove the digests in one go."""
        await self.start()
        condemned = await self.condemn(*digests)
        doomed = await self.doom(*digests)
        await self.remove(*digests)
        await self.end(condemned, doomed)

    async def rescued(self, digest: Digest) -> bool:
        return await self._driver.find(layout.rescued(digest)) is not None
