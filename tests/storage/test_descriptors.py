"""The filesystem driver closes what it opens and leaves no temporary file, after any outcome of an operation."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest
from tests.faults.calls import Calls

from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    Note,
    ObjectTooLarge,
    RangeOutside,
    StorageDenied,
    StorageUnavailable,
    Unchanged,
    UploadChanged,
    UploadState,
)
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.filesystem.durable import write_at
from moorage.testing.listing_contract import flat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

KEY = Key("r/a/link")
OTHER = Key("r/b/link")
HOME = Key("r/_uploads/1")
TO = Key("blobs/x/data")
LARGE = bytes(200_000)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    return Calls(monkeypatch, tmp_path)


@pytest.fixture
async def driver(tmp_path: Path, calls: Calls) -> AsyncIterator[FilesystemDriver]:
    del calls  # watches from the first call on
    driver = FilesystemDriver(tmp_path)
    await driver.write(KEY, b"text")
    await driver.uploads.begin(HOME)
    yield driver
    await driver.close()


async def upload(driver: FilesystemDriver) -> UploadState:
    state = await driver.uploads.state(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"first", b"second"])
        return await appender.checkpoint([Note("hashstates/sha256/11", b"x")])


def names(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder.rglob(pattern))


async def read_whole(driver: FilesystemDriver) -> None:
    async with driver.open(KEY) as reader:
        assert b"".join([piece async for piece in reader]) == b"text"


async def open_past_the_end(driver: FilesystemDriver) -> None:
    with pytest.raises(RangeOutside):
        async with driver.open(KEY, start=5):
            pass


async def open_a_directory(driver: FilesystemDriver) -> None:
    with pytest.raises(KeyMissing):
        async with driver.open(Key("r/a")):
            pass


async def read_beyond_the_limit(driver: FilesystemDriver) -> None:
    with pytest.raises(ObjectTooLarge):
        await driver.read(KEY, limit=3)


async def create(driver: FilesystemDriver) -> None:
    async with driver.create(TO) as writer:
        await writer.write([LARGE])
        await writer.commit()


async def create_in_vain(driver: FilesystemDriver) -> None:
    async with driver.create(TO) as writer:
        await writer.write([b"text"])


async def write_over_another(driver: FilesystemDriver) -> None:
    with pytest.raises(Conflict):
        await driver.write(KEY, b"new", ABSENT)


async def replace(driver: FilesystemDriver) -> None:
    await driver.write(KEY, b"new", Unchanged((await driver.read(KEY)).version))


async def push(driver: FilesystemDriver) -> None:
    state = await upload(driver)
    async with driver.uploads.read(HOME, state) as reader:
        assert b"".join([piece async for piece in reader]) == b"firstsecond"
    await driver.uploads.publish(HOME, state, TO)
    await driver.uploads.discard(HOME)


async def read_more_than_there_is(driver: FilesystemDriver) -> None:
    state = await driver.uploads.state(HOME)
    with pytest.raises(UploadChanged):
        async with driver.uploads.read(HOME, UploadState(5, state.started)):
            pass


OPERATIONS: dict[str, Callable[[FilesystemDriver], Awaitable[object]]] = {
    "read": lambda driver: driver.read(KEY),
    "read beyond the limit": read_beyond_the_limit,
    "read by pieces": read_whole,
    "open past the end": open_past_the_end,
    "open a directory": open_a_directory,
    "write": lambda driver: driver.write(OTHER, b"text"),
    "write if absent": lambda driver: driver.write(OTHER, b"text", ABSENT),
    "write over another": write_over_another,
    "replace": replace,
    "create": create,
    "create in vain": create_in_vain,
    "delete": lambda driver: driver.delete([KEY]),
    "clear": lambda driver: driver.clear(Key("r")),
    "list": lambda driver: flat(driver.children(Key("r"))),
    "begin an upload": lambda driver: driver.uploads.begin(Key("r/c/_uploads/2")),
    "state of an upload": lambda driver: driver.uploads.state(HOME),
    "read more than there is": read_more_than_there_is,
    "push": push,
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_nothing_stays_open_and_nothing_temporary_stays(
    name: str, driver: FilesystemDriver, calls: Calls, tmp_path: Path
) -> None:
    """A descriptor for each request ends a server in an hour; a file for each push fills the disk with nothing."""
    await OPERATIONS[name](driver)
    assert not calls.open
    assert not names(tmp_path, "*.tmp")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_nothing_stays_open_when_a_call_fails(
    name: str, driver: FilesystemDriver, calls: Calls, tmp_path: Path
) -> None:
    """A disk that fails for an hour leaves the server its descriptors; every error is one of the driver's."""
    for which in count(1):
        calls.arm(which, errno.EIO)
        try:
            await OPERATIONS[name](driver)
        except StorageUnavailable as error:
            assert str(tmp_path) in str(error)  # noqa: PT017  a failure at some calls does not matter
        calls.disarm()
        assert not calls.open, f"call {which}, {calls.failed}"
        # One that the disk does not let go is the sweep's, a day later.
        assert calls.failed == "unlink" or not names(tmp_path, "*.tmp"), f"call {which}, {calls.failed}"
        if not calls.failed:
            break
        for path in names(tmp_path, "*.tmp"):
            path.unlink()
        await driver.write(KEY, b"text")
        await driver.delete([OTHER, TO])
        await driver.uploads.discard(HOME)
        await driver.uploads.begin(HOME)


async def test_a_failed_beginning_leaves_no_directory(
    driver: FilesystemDriver, calls: Calls, tmp_path: Path
) -> None:
    """On a full disk each refused POST would take two inodes for good, and one for each part of a new name."""
    before = names(tmp_path)
    for which in count(1):
        calls.arm(which, errno.ENOSPC)
        try:
            await driver.uploads.begin(Key("new/name/_uploads/2"))
        except StorageUnavailable:
            assert names(tmp_path) == before, f"call {which}, {calls.failed}"
        else:
            break
    assert which > 8


async def test_an_abandoned_object_leaves_no_directory(driver: FilesystemDriver, tmp_path: Path) -> None:
    """`storage copy` against a full disk tries each blob."""
    before = names(tmp_path)
    await create_in_vain(driver)
    assert names(tmp_path) == before


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 64])
def test_a_write_that_is_cut_short_is_resumed_at_its_byte(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pwritev(2) may take less than it was given, across the chunks' edges: one byte off is a corrupt blob."""
    real = os.pwritev

    def short(fd: int, views: list[memoryview], offset: int) -> int:
        return real(fd, [b"".join(views)[:most]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    chunks = [b"a", b"bcd", b"", b"efghij", b"k" * 20, b"lm"]
    path = tmp_path / "data"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert write_at(fd, chunks, 3) == 3 + sum(map(len, chunks))
    finally:
        os.close(fd)
    assert path.read_bytes() == bytes(3) + b"".join(chunks)


async def test_a_clearing_is_durable(driver: FilesystemDriver, tmp_path: Path, calls: Calls) -> None:
    """Deleted objects do not come back with the power: the directory above is fsynced."""
    synced = len(calls.synced)
    await driver.clear(Key("r/a"))
    assert calls.synced[synced:] == [str(tmp_path / "r")]


async def test_a_root_that_cannot_be_reached_fails_the_probe(tmp_path: Path) -> None:
    """A health check that looks at nothing keeps a registry in service whose volume is away."""
    (tmp_path / "file").write_bytes(b"")
    driver = FilesystemDriver(tmp_path / "file" / "below")
    with pytest.raises(StorageUnavailable, match=rf"{tmp_path}/file/below.*ENOTDIR"):
        await driver.probe()
    await driver.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
async def test_a_volume_that_fails_fails_the_probe(
    number: int, driver: FilesystemDriver, calls: Calls, tmp_path: Path
) -> None:
    calls.arm(1, number)
    with pytest.raises(StorageUnavailable, match=f"probe {tmp_path}.*{errno.errorcode[number]}") as caught:
        await driver.probe()
    assert isinstance(caught.value, StorageDenied) == (number == errno.EACCES)
    await driver.probe()


async def test_a_store_that_was_never_written_to_passes_the_probe(tmp_path: Path) -> None:
    """Its directory is made with the first push."""
    driver = FilesystemDriver(tmp_path / "not/yet")
    await driver.probe()
    await driver.close()


async def test_a_page_behind_temporary_files_has_no_more_names_than_asked_for(
    driver: FilesystemDriver, tmp_path: Path
) -> None:
    """The next page begins after the last name of this one: what is beyond the limit would be shown twice."""
    folder = tmp_path / "tags"
    folder.mkdir()
    for name in ("0.01234567-89ab-cdef-0123-456789abcdef.tmp", "a", "b", "c"):
        (folder / name).write_bytes(b"")
    assert await flat(driver.children(Key("tags"), limit=2)) == ["a", "b"]
    assert await flat(driver.children(Key("tags"), limit=3)) == ["a", "b", "c"]


async def test_an_upload_whose_age_cannot_be_read_is_not_old(
    driver: FilesystemDriver, calls: Calls, tmp_path: Path
) -> None:
    """Without a descriptor left, the purger would remove uploads that clients are sending at this moment."""
    (tmp_path / HOME / "startedat").unlink()
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    for which in count(1):
        calls.arm(which, errno.EMFILE)
        try:
            found = [home async for home in driver.uploads.abandoned(Key("r"), an_hour_ago)]
        except StorageUnavailable:
            found = []
        assert found == [], f"call {which}, {calls.failed}"
        if not calls.failed:
            break
    assert which > 4
