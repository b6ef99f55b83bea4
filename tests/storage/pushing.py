"""A client whose nodes die: acknowledged offsets must hold on every other node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.testing.upload_contract import HOME, TO, note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import UploadState
    from moorage.storage.object_store.driver import ObjectDriver

__all__ = ["Client"]


class Client:
    """Pushes `data` in requests that end at `ends`, and finishes; records acknowledged offsets.

    `acknowledged` is the offset that was last acknowledged, -1 before an upload was begun.
    """

    def __init__(self, data: bytes, ends: Sequence[int]) -> None:
        self._data, self._ends = data, ends
        self.acknowledged = -1
        self.finished = False

    async def push(self, driver: ObjectDriver) -> None:
        """Continue from the upload's offset.  Raises StorageUnavailable where the node dies."""
        state = await self._where(driver)
        assert self._data.startswith(await self._stored(driver, state))
        assert state.offset >= self.acknowledged, "what was acknowledged is kept"
        for end in self._ends:
            if state.offset >= end:
                continue
            async with driver.uploads.append(HOME, state) as appender:
                await appender.write([self._data[state.offset : end]])
                state = await appender.checkpoint([note(end)])
            self.acknowledged = state.offset
        await driver.uploads.publish(HOME, state, TO)
        self.finished = True
        await driver.uploads.discard(HOME)

    async def _where(self, driver: ObjectDriver) -> UploadState:
        if self.acknowledged < 0:
            state = await driver.uploads.begin(HOME)
            self.acknowledged = 0
            return state
        return await driver.uploads.state(HOME)

    async def _stored(self, driver: ObjectDriver, state: UploadState) -> bytes:
        async with driver.uploads.read(HOME, state) as reader:
            found = b"".join([piece async for piece in reader])
        assert len(found) == state.offset
        return found
