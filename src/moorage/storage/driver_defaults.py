"""Methods of `driver.Driver` built on its other methods, for drivers that gain nothing by doing more at once.

Used by `memory.py` and `object_store/driver.py`; `Driver.find` is such a method too.
"""

from __future__ import annotations

import asyncio
from io import FileIO
from typing import TYPE_CHECKING, Final

from moorage.shielding import run_to_completion
from moorage.storage.driver import Conflict, KeyMissing, Published, StorageError, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key, Stored, UploadState, Version, Write

__all__ = ["adopt_by_copying", "publish_in_steps", "write_one_by_one"]

_PIECE_BYTES: Final = 1 << 20


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


async def adopt_by_copying(driver: Driver, key: Key, path: str) -> Stored:
    """Implement `Driver.adopt` by `Driver.create`; two pieces of 1 MiB are in memory."""
    with _opened(key, path) as file:
        async with driver.create(key) as writer:
            while True:
                try:
                    # A cancelled caller closes the file, so it waits for the thread that reads.
                    piece = await run_to_completion(asyncio.to_thread(file.read, _PIECE_BYTES))
                except OSError as error:
                    raise StorageUnavailable(f"read {path}: {error.strerror}") from error
                if not piece:
                    return await writer.commit()
                await writer.write([piece])


def _opened(key: Key, path: str) -> FileIO:
    """Open a local file, without a thread: a cancelled caller would not get the file that it has to close."""
    try:
        return FileIO(path)
    except FileNotFoundError as error:
        raise KeyMissing(f"{key}: {path} is gone") from error
    except OSError as error:
        raise StorageUnavailable(f"open {path}: {error.strerror}") from error
