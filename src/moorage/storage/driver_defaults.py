"""Methods of `driver.Driver` built on its other methods, for drivers that gain nothing by doing more at once.

Used by `memory.py` and `object_store/driver.py`; `Driver.find` is such a method too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from moorage.storage.driver import Conflict, Published, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key, UploadState, Version, Write

__all__ = ["publish_in_steps", "write_one_by_one"]


async def write_one_by_one(driver: Driver, groups: Sequence[Sequence[Write]]) -> list[Version]:
    """Implement `Driver.write_ordered` by single writes, concurrent within a group, after a check of `unless`."""

    async def one(write: Write) -> Version:
        if write.unless is not None and await driver.find(write.unless) is not None:
            raise Conflict(f"{write.key}: {write.unless} exists")
        return await driver.write(write.key, write.data, write.when)

    versions: list[Version] = []
    for group in groups:
        found = await asyncio.gather(*map(one, group), return_exceptions=True)
        for result in found:
            if isinstance(result, BaseException):
                raise result
            versions.append(result)
    return versions


async def publish_in_steps(driver: Driver, home: Key, state: UploadState, to: Key, link: Write) -> Published:
    """Implement `Driver.publish` with its three steps."""
    stored = await driver.uploads.publish(home, state, to)
    await driver.write_ordered([[link]])
    try:
        await driver.uploads.discard(home)
    except StorageError as error:
        return Published(stored, error)
    return Published(stored)
