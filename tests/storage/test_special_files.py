"""Special files in the place of objects: each is as missing, and blocks nothing."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import ABSENT, Conflict, Key, KeyMissing, ObjectTooLarge, Unchanged, UploadMissing
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.listing_contract import keys_below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

KEY = Key("r/special")
HOME = Key("r/_uploads/1")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS = pytest.mark.parametrize("put", [fifo, loop, unix_socket])


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path)
    await driver.write(Key("r/file"), b"text")
    yield driver
    await driver.close()


@KINDS
async def test_a_special_file_is_as_missing(
    driver: FilesystemDriver, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    """A FIFO without a writer would stop the event loop of every worker, one request each."""
    put(tmp_path / KEY)
    with pytest.raises(KeyMissing):
        await driver.read(KEY)
    with pytest.raises(KeyMissing):
        await driver.stat(KEY)
    with pytest.raises(KeyMissing):
        async with driver.open(KEY):
            raise AssertionError
    assert list(await keys_below(driver, "r")) == ["r/file"]
    later = datetime.now(UTC) + timedelta(hours=1)
    assert list(await driver.uploads.sweep(Key("r"), later)) == []
    await driver.write(KEY, b"healed")
    assert (await driver.read(KEY)).data == b"healed"


@pytest.mark.parametrize("sent", [b"", b"sha256:" + b"0" * 64], ids=["silent", "with a digest"])
@pytest.mark.parametrize("limit", [1024, 4 << 20])
async def test_a_fifo_with_a_writer_is_as_missing(
    driver: FilesystemDriver, tmp_path: Path, limit: int, sent: bytes
) -> None:
    """No process that can create one in the data directory may answer for a link."""
    fifo(tmp_path / KEY)
    writer = os.open(tmp_path / KEY, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(writer, sent)
        with pytest.raises(KeyMissing):
            await driver.read(KEY, limit=limit)
    finally:
        os.close(writer)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024])
@pytest.mark.parametrize("limit", [1024, 64 << 10, 4 << 20])
async def test_a_file_up_to_the_limit_is_read_whole(driver: FilesystemDriver, size: int, limit: int) -> None:
    """Small limits are read without asking for the size first."""
    await driver.write(KEY, b"x" * size)
    assert (await driver.read(KEY, limit=limit)).data == b"x" * size
    await driver.write(KEY, b"x" * (limit + 1))
    with pytest.raises(ObjectTooLarge):
        await driver.read(KEY, limit=limit)


async def test_below_a_link_that_leads_back_to_itself_nothing_is_found(
    driver: FilesystemDriver, tmp_path: Path
) -> None:
    """As below a plain file: one such tag must not make the others unavailable."""
    loop(tmp_path / KEY)
    with pytest.raises(KeyMissing):
        await driver.read(Key(f"{KEY}/current/link"))


async def test_a_fifo_is_no_version_to_compare_with(driver: FilesystemDriver, tmp_path: Path) -> None:
    version = (await driver.read(Key("r/file"))).version
    fifo(tmp_path / KEY)
    with pytest.raises(Conflict):
        await driver.write(KEY, b"text", Unchanged(version))
    with pytest.raises(Conflict):
        await driver.write(KEY, b"text", ABSENT)


@KINDS
async def test_a_special_file_in_an_upload_blocks_nothing(
    driver: FilesystemDriver, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    state = await driver.uploads.begin(HOME)
    (tmp_path / HOME / "startedat").unlink()
    put(tmp_path / HOME / "startedat")
    assert (await driver.uploads.state(HOME)).offset == 0
    (tmp_path / HOME / "data").unlink()
    put(tmp_path / HOME / "data")
    with pytest.raises(UploadMissing):
        async with driver.uploads.append(HOME, state):
            raise AssertionError
    with pytest.raises(UploadMissing):
        async with driver.uploads.read(HOME, state):
            raise AssertionError
