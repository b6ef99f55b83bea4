"""Guarantees of the filesystem driver alone: layout on disk, leftovers of crashes, other programs on the
directory.
"""

from __future__ import annotations

import os
import re
import stat
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import (
    ABSENT,
    Key,
    KeyMissing,
    Note,
    StorageUnavailable,
    UploadMissing,
    UploadState,
)
from moorage.storage.filesystem.data_directory import create
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.listing_contract import flat, keys_below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOME = Key("r/a/_uploads/1")
TO = Key("blobs/x/data")
TEMPORARY = "link.01234567-89ab-cdef-0123-456789abcdef.tmp"


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path)
    yield driver
    await driver.close()


def make(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def extended(driver: FilesystemDriver, state: UploadState, data: bytes, *notes: Note) -> UploadState:
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([data])
        return await appender.checkpoint(notes)


async def test_an_object_is_a_file_below_the_root(driver: FilesystemDriver, tmp_path: Path) -> None:
    """The old registry finds everything where it would have put it, and nothing else."""
    await driver.write(Key("docker/registry/v2/a/link"), b"text")
    async with driver.create(TO) as writer:
        await writer.write([b"blob"])
        await writer.commit()
    assert tree(tmp_path) == {"docker/registry/v2/a/link": b"text", "blobs/x/data": b"blob"}


async def test_an_upload_has_the_references_files(driver: FilesystemDriver, tmp_path: Path) -> None:
    """The old registry can finish what we began: startedat, data and hash states under its names."""
    begun = await driver.uploads.begin(HOME)
    files = tree(tmp_path / HOME)
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", files["startedat"])
    assert datetime.fromisoformat(files["startedat"].decode()) == begun.started
    assert files["data"] == b""
    await extended(driver, begun, b"12345", Note("hashstates/sha256/5", b"state"))
    files = tree(tmp_path / HOME)
    assert files == {"startedat": files["startedat"], "data": b"12345", "hashstates/sha256/5": b"state"}


@pytest.mark.parametrize(
    ("names", "size", "offset"),
    [
        (["hashstates/sha256/0", "hashstates/sha256/5"], 5, 5),
        (["hashstates/sha256/0", "hashstates/sha256/5"], 9, 5),
        (["hashstates/sha256/3", "hashstates/sha256/5"], 4, 3),
        (["hashstates/sha256/7"], 4, 0),
        (["hashstates/sha256/5", "offset.7"], 8, 7),
        ([], 6, 6),
    ],
)
async def test_an_upload_of_the_reference_goes_on(
    driver: FilesystemDriver, tmp_path: Path, names: list[str], size: int, offset: int
) -> None:
    """Its offset is that of the last hash state that the data reaches, and bytes after it are dropped."""
    home = tmp_path / HOME
    make(home / "startedat", b"2026-11-23T14:59:09Z")
    make(home / "data", b"123456789"[:size])
    for name in names:
        make(home / name, b"x" * 108)
    state = await driver.uploads.state(HOME)
    assert (state.offset, state.started) == (offset, datetime(2026, 11, 23, 14, 59, 9, tzinfo=UTC))
    assert [note.name for note in state.notes] == [name for name in names if name == f"hashstates/sha256/{offset}"]
    state = await extended(driver, state, b"abc")
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"123456789"[:offset] + b"abc"


async def test_publishing_drops_what_a_crash_left(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Bytes of a killed request never become part of a blob."""
    state = await extended(driver, await driver.uploads.begin(HOME), b"12345", Note("hashstates/sha256/5", b"x"))
    with (tmp_path / HOME / "data").open("ab") as file:
        file.write(b"torn")
    assert (await driver.uploads.state(HOME)).offset == 5
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"12345"


async def test_a_torn_blob_is_replaced(driver: FilesystemDriver, tmp_path: Path) -> None:
    """2.8 wrote manifests in place: pushing again repairs what its crash left."""
    state = await extended(driver, await driver.uploads.begin(HOME), b"12345")
    make(tmp_path / TO, b"12")
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"12345"


async def test_a_published_blob_is_a_new_file_with_a_new_time(driver: FilesystemDriver, tmp_path: Path) -> None:
    """A collector goes by the time, which is not that of the last byte; a hard link of a backup keeps its file."""
    make(tmp_path / TO, b"1x345")
    (tmp_path / "backup").hardlink_to(tmp_path / TO)
    state = await extended(driver, await driver.uploads.begin(HOME), b"12345")
    for path in (tmp_path / TO, tmp_path / HOME / "data"):
        os.utime(path, (1, 1))
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"12345"
    assert (tmp_path / TO).stat().st_mtime > 1
    assert (tmp_path / "backup").read_bytes() == b"1x345"


async def test_left_over_temporary_files_are_no_objects(driver: FilesystemDriver, tmp_path: Path) -> None:
    """A crashed write is neither listed nor scanned; a tag that looks like one is."""
    make(tmp_path / "r/a/link", b"text")
    for number in range(30):
        make(tmp_path / f"r/a/{TEMPORARY}".replace("01234567", f"012345{number:02d}"), b"to")
    make(tmp_path / "r/a/z.tmp", b"text")
    make(tmp_path / f"r/a/x{TEMPORARY}/link", b"text")
    expected = ["link", f"x{TEMPORARY}", "z.tmp"]
    assert await flat(driver.children(Key("r/a"))) == expected
    assert await flat(driver.children(Key("r/a"), limit=2)) == expected[:2]
    assert await flat(driver.children(Key("r/a"), after="link", limit=1)) == expected[1:2]
    assert sorted(await keys_below(driver, "r")) == ["r/a/link", f"r/a/x{TEMPORARY}/link", "r/a/z.tmp"]


async def test_names_that_no_key_can_have_are_not_listed(driver: FilesystemDriver, tmp_path: Path) -> None:
    """A volume's `lost+found`, or an administrator's stray file, breaks no listing, scan or purge."""
    for name in ("lost+found/x", "a b", "ok/x"):
        make(tmp_path / "r" / name)
    make(tmp_path / "r/_uploads/stray file")
    make(tmp_path / "r/_uploads/stray")
    assert await flat(driver.children(Key("r"))) == ["_uploads", "ok"]
    assert await flat(driver.children(Key("r"), limit=2)) == ["_uploads", "ok"]
    assert sorted(await keys_below(driver, "r")) == ["r/_uploads/stray", "r/ok/x"]
    assert [home async for home in driver.uploads.abandoned(Key("r"), datetime.now(UTC))] == []


async def test_a_large_listing_is_never_stale(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Pages of 3,000 tags come from memory, and a tag pushed or deleted by any process shows at once."""
    names = [f"{number:04d}" for number in range(3000)]
    for name in names:
        (tmp_path / "tags" / name).mkdir(parents=True)
    for settled in (False, True, True):
        if settled:
            long_ago = time.time() - 100
            os.utime(tmp_path / "tags", (long_ago, long_ago))
        for _ in range(2):
            assert await flat(driver.children(Key("tags"), after="1499", limit=3)) == names[1500:1503]
            assert await flat(driver.children(Key("tags"))) == names
        (tmp_path / "tags" / names.pop(1500)).rmdir()
        assert await flat(driver.children(Key("tags"), after="1499", limit=3)) == names[1500:1503]


async def test_links_to_other_disks_are_followed(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Operators move a large repository to another disk and link to it; a collector must see its links."""
    make(tmp_path / "elsewhere/repository/_layers/link", b"text")
    (tmp_path / "r").mkdir()
    (tmp_path / "r/moved").symlink_to(tmp_path / "elsewhere/repository")
    assert list(await keys_below(driver, "r")) == ["r/moved/_layers/link"]


async def test_a_file_in_place_of_a_directory(driver: FilesystemDriver) -> None:
    """Reading below an object finds nothing; writing there fails with the cause."""
    await driver.write(Key("a/b"), b"text")
    with pytest.raises(KeyMissing):
        await driver.read(Key("a/b/c"))
    with pytest.raises(StorageUnavailable, match=r"a/b/c/d.*ENOTDIR"):
        await driver.write(Key("a/b/c/d"), b"text")
    with pytest.raises(StorageUnavailable, match="ENOTDIR"):
        await driver.uploads.begin(Key("a/b/_uploads/1"))
    await driver.delete([Key("a/b/c")])


async def test_a_name_too_long_for_the_disk(driver: FilesystemDriver) -> None:
    """It is missing for reads, and storing it fails with the cause."""
    long = Key("a/" + "b" * 300)
    with pytest.raises(KeyMissing):
        await driver.read(long)
    with pytest.raises(StorageUnavailable, match="ENAMETOOLONG"):
        await driver.write(long, b"text")


async def test_delete_removes_the_emptied_directory_only(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Deleted layers leave no empty directories behind, and the repository's own ones stay listed."""
    await driver.write(Key("r/_layers/one/link"), b"text")
    await driver.write(Key("r/_layers/two/link"), b"text")
    await driver.delete([Key("r/_layers/one/link"), Key("r/_layers/two/link")])
    assert await flat(driver.children(Key("r"))) == ["_layers"]
    assert await flat(driver.children(Key("r/_layers"))) == []
    await driver.write(Key("top"), b"")
    await driver.clear(Key("r"))
    await driver.delete([Key("top")])
    await driver.write(Key("again"), b"")


@pytest.mark.parametrize(
    "text", [None, b"", b"never", b"2020-01-01T00:00:00", b"\xff\xfe", b"9999-99-99T00:00:00Z"]
)
async def test_an_upload_that_does_not_say_when_goes_by_its_last_write(
    driver: FilesystemDriver, tmp_path: Path, text: bytes | None
) -> None:
    """The reference keeps such uploads for ever; a volume it has used for years is full of them."""
    data = make(tmp_path / HOME / "data", b"12345")
    if text is not None:
        make(tmp_path / HOME / "startedat", text)
    now = datetime.now(UTC)

    async def found(before: datetime) -> list[Key]:
        return [home async for home in driver.uploads.abandoned(Key("r"), before)]

    assert await found(now + timedelta(seconds=2)) == [HOME]
    assert await found(now - timedelta(hours=1)) == []
    two_hours_ago = time.time() - 7200
    for path in (data, *data.parent.glob("startedat"), data.parent):
        os.utime(path, (two_hours_ago, two_hours_ago))
    assert await found(now - timedelta(hours=1)) == [HOME]


async def test_uploads_are_looked_for_in_repositories_only(driver: FilesystemDriver, tmp_path: Path) -> None:
    """A purge does not walk the links of every layer and manifest."""
    make(tmp_path / HOME / "startedat", b"2020-01-01T00:00:00Z")
    for place in ("_layers", "_manifests", "_referrers", "_other"):
        make(tmp_path / f"r/a/{place}/_uploads/9/startedat", b"2020-01-01T00:00:00Z")
    assert [home async for home in driver.uploads.abandoned(Key("r"), datetime.now(UTC))] == [HOME]


async def test_an_upload_removed_by_hand_is_missing(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Another program removes the files: the client learns that its upload is gone."""
    state = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        (tmp_path / HOME / "data").unlink()
        make(tmp_path / HOME / "data")
        await appender.write([b"12345"])
    (tmp_path / HOME / "data").unlink()
    with pytest.raises(UploadMissing):
        await driver.uploads.publish(HOME, state, TO)


async def test_a_root_that_is_no_directory_is_unavailable(tmp_path: Path) -> None:
    """A wrong rootdirectory is an error that names itself, at the first use of the store."""
    driver = FilesystemDriver(make(tmp_path / "file"))
    with pytest.raises(StorageUnavailable, match="ENOTDIR"):
        await driver.write(Key("a/b"), b"text")
    with pytest.raises(StorageUnavailable, match="ENOTDIR"):
        await driver.probe()
    await driver.close()


async def test_what_crashed_writers_left_is_swept_by_age(tmp_path: Path) -> None:
    """Files of any writer; not those of an upload, which go with it, and no directory that is only called so."""
    driver = FilesystemDriver(tmp_path)
    suffix = "0b5dbb2f-9b2a-4d1c-8b1e-0123456789ab.tmp"
    names = [f"docker/a/b/data.{suffix}", f"docker/link.{suffix}"]
    for name in [*names, f"docker/a/_uploads/u/data.{suffix}", f"docker/tag.{suffix}/link", "docker/a/b/data.tmp"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    now = datetime.now(UTC)
    earlier, later = now - timedelta(hours=1), now + timedelta(hours=1)
    assert list(await driver.uploads.sweep(Key("docker"), earlier)) == []
    assert sorted(await driver.uploads.sweep(Key("docker"), later, dry_run=True)) == sorted(names)
    assert (tmp_path / names[0]).exists()
    assert sorted(await driver.uploads.sweep(Key("docker"), later)) == sorted(names)
    assert list(await driver.uploads.sweep(Key("docker"), later)) == []
    assert list(await driver.uploads.sweep(Key("absent"), later)) == []
    assert not any((tmp_path / name).exists() for name in names)
    for name in (f"docker/a/_uploads/u/data.{suffix}", "docker/a/b/data.tmp", f"docker/tag.{suffix}/link"):
        assert (tmp_path / name).exists()
    await driver.close()


def modes(folder: Path) -> set[tuple[bool, int]]:
    """Of every entry below: whether it is a directory, and its mode."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in folder.rglob("*")}


@pytest.mark.parametrize(("umask", "files", "directories"), [(0, 0o644, 0o755), (0o077, 0o600, 0o700)])
async def test_no_other_user_of_the_host_may_write_to_the_store(
    tmp_path: Path, umask: int, files: int, directories: int
) -> None:
    """A service manager may start the registry with umask 0; a stricter umask holds."""
    before = os.umask(umask)
    driver = FilesystemDriver(tmp_path / "made/for/it")
    try:
        await driver.write(Key("r/a/link"), b"text")
        await driver.write(Key("r/a/b/link"), b"text", ABSENT)
        async with driver.create(Key("blobs/y/data")) as writer:
            await writer.write([b"blob"])
            await writer.commit()
        for home in (HOME, Key("r/b/_uploads/2")):
            state = await driver.uploads.begin(home)
            async with driver.uploads.append(home, state) as appender:
                await appender.write([b"12345"])
                state = await appender.checkpoint([Note("hashstates/sha256/5", b"state")])
        await driver.uploads.publish(HOME, state, TO)
    finally:
        os.umask(before)
        await driver.close()
    assert modes(tmp_path) == {(False, files), (True, directories)}


def test_a_root_that_the_monitor_creates_is_no_other_users_to_write(tmp_path: Path) -> None:
    """The storage monitor comes before the first push, and makes the directories above the root as well."""
    before = os.umask(0)
    try:
        create(str(tmp_path / "srv/registry/data"))
    finally:
        os.umask(before)
    assert modes(tmp_path) == {(True, 0o755)}


@pytest.mark.parametrize("processors", [1, 4])
async def test_a_long_upload_is_written_to_disk_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """Left to the last fsync, a push of a gigabyte ends with seconds in which only the disk works."""
    ranges: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "moorage.storage.filesystem.durable._sync_file_range",
        lambda fd, start, size, flags: ranges.append((start, size)),
    )
    driver, home, hashed = FilesystemDriver(tmp_path, processors=processors), HOME, bytearray()
    state = await driver.uploads.begin(home)
    async with driver.uploads.append(home, state) as appender:
        for number in range(20):
            await appender.write([bytes([number]) * (1 << 19)] * 2, lambda chunks: hashed.extend(b"".join(chunks)))
        state = await appender.checkpoint()
    assert ranges == [(0, 8 << 20), (8 << 20, 8 << 20)]
    assert (state.offset, len(hashed)) == (20 << 20, 20 << 20)
    assert (tmp_path / home / "data").read_bytes() == bytes(hashed)
    await driver.close()


async def test_a_system_without_early_writeback_stores_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other C libraries and other systems lack the call; a push must not fail for it."""
    monkeypatch.setattr("moorage.storage.filesystem.durable._sync_file_range", None)
    driver, home = FilesystemDriver(tmp_path), HOME
    state = await driver.uploads.begin(home)
    async with driver.uploads.append(home, state) as appender:
        await appender.write([bytes(9 << 20)])
        assert (await appender.checkpoint()).offset == 9 << 20
    await driver.close()
