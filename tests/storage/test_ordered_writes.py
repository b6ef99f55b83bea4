"""Several small files in one step: their order on the disk, and what is left when something comes between."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.test_durability import HOME, LAYER, LINK, Disk

from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    Published,
    StorageUnavailable,
    Stored,
    UploadMissing,
    Write,
)
from moorage.storage.filesystem import durable, ordered_writes
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GROUPS = [
    [Write(Key("blobs/ab/data"), b"bytes")],
    [Write(Key("revisions/ab/link"), b"digest", ABSENT), Write(Key("tags/v1/index/ab/link"), b"digest")],
    [Write(Key("tags/v1/current/link"), b"digest")],
]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def driver(tmp_path: Path, disk: Disk) -> AsyncIterator[FilesystemDriver]:
    del disk  # it watches from the first call on
    driver = FilesystemDriver(tmp_path / "root")
    yield driver
    await driver.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def before_naming(monkeypatch: pytest.MonkeyPatch, check: Callable[[str], None]) -> None:
    """Call `check` with each final path before the file gets its name."""
    for name in ("rename", "link"):
        real = getattr(os, name)

        def call(source: str, target: str, real: Callable[[str, str], None] = real) -> None:
            check(target)
            real(source, target)

        monkeypatch.setattr(os, name, call)


async def test_a_group_survives_before_the_next_is_visible(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag that survives a power cut without its manifest has lost what it named before as well."""
    named: list[str] = []

    def check(target: str) -> None:
        key = str(Path(target).relative_to(tmp_path / "root"))
        number = next(number for number, group in enumerate(GROUPS) if key in [write.key for write in group])
        for group in GROUPS[:number]:
            for write in group:
                disk.keeps(tmp_path / "root" / write.key)
        named.append(key)

    before_naming(monkeypatch, check)
    await driver.write_ordered(GROUPS)
    assert named == [write.key for group in GROUPS for write in group]
    for key in named:
        disk.keeps(tmp_path / "root" / key)
    assert files(tmp_path / "root") == sorted(named)


async def test_a_layer_survives_before_its_link_is_visible(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client that sees the link does not upload the layer, and its manifest is acknowledged."""
    blob, link = (Key(form.format("ab0")) for form in (LAYER, LINK))
    state = await driver.uploads.begin(Key(HOME.format("1")))
    async with driver.uploads.append(Key(HOME.format("1")), state) as appender:
        state = await appender.checkpoint((), [b"layer"])

    def check(target: str) -> None:
        if target.endswith(link):
            disk.keeps(tmp_path / "root" / blob)

    before_naming(monkeypatch, check)
    assert await driver.publish(Key(HOME.format("1")), state, blob, Write(link, b"sha256:ab0")) == Published(
        Stored.WRITTEN
    )
    for key in (blob, link):
        disk.keeps(tmp_path / "root" / key)
    assert files(tmp_path / "root") == [blob, link]


async def test_a_directory_that_several_files_need_is_synced_once(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path
) -> None:
    """Each fsync is a wait for the disk, and a directory of tags is the parent of two new ones."""
    await driver.write_ordered(GROUPS)
    disk.count()
    await driver.write_ordered(
        [[Write(Key(write.key.replace("/v1/", "/v2/").replace("/ab/", "/cd/")), b"x") for write in group]
         for group in GROUPS]
    )  # fmt: skip
    names = [path.removeprefix(str(tmp_path / "root") + "/") for path in disk.syncs]
    temporary, directories = names[:4], names[4:]
    assert [name.rsplit("/", 1)[0] for name in temporary] == [
        "blobs/cd", "revisions/cd", "tags/v2/index/cd", "tags/v2/current",
    ]  # fmt: skip
    assert directories[0] == "blobs/cd"
    assert sorted(directories[1:6]) == ["blobs", "revisions", "tags", "tags/v2", "tags/v2/index"]
    assert sorted(directories[6:8]) == ["revisions/cd", "tags/v2/index/cd"]
    assert directories[8:] == ["tags/v2/current"]


@pytest.mark.parametrize("tree", ["blobs", "revisions", "tags"])
@pytest.mark.parametrize("moment", ["before the names", "before the last name"])
async def test_a_deletion_beside_it_fails_no_push(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: str, moment: str
) -> None:
    """Deleting a tag removes its directory with our temporary file in it: the push makes it again."""
    real, named = ordered_writes.give_name, 0

    def give_name(*arguments: Any) -> None:
        nonlocal named
        named += 1
        if named == (1 if moment == "before the names" else 4):
            shutil.rmtree(tmp_path / "root" / tree)
        real(*arguments)

    monkeypatch.setattr(ordered_writes, "give_name", give_name)
    await driver.write_ordered(GROUPS)
    last = tmp_path / "root" / GROUPS[-1][0].key
    assert last.read_bytes() == b"digest"
    disk.keeps(last)
    assert not [name for name in files(tmp_path / "root") if name.endswith(".tmp")]
    for group in GROUPS if moment == "before the names" else GROUPS[-1:]:
        for write in group:
            disk.keeps(tmp_path / "root" / write.key)
            assert (tmp_path / "root" / write.key).exists()


@pytest.mark.parametrize("call", ["fsync", "pwritev", "rename", "link"])
@pytest.mark.parametrize("number", range(9))
async def test_a_failing_disk_leaves_no_temporary_file(
    driver: FilesystemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A full disk that fills up further with every push that it refuses cannot be recovered from."""
    real, calls = getattr(os, call), 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        try:
            await driver.write_ordered(GROUPS)
        except StorageUnavailable:
            pass
        else:
            assert calls <= number
    names = files(tmp_path / "root") if (tmp_path / "root").exists() else []
    assert not [name for name in names if name.endswith(".tmp")]
    for group, later in itertools.pairwise(GROUPS):
        if any(write.key in names for write in later):
            assert all(write.key in names for write in group)
    await driver.write_ordered([[Write(write.key, write.data) for write in group] for group in GROUPS])
    assert files(tmp_path / "root") == sorted(write.key for group in GROUPS for write in group)


async def test_a_refused_push_leaves_no_directories(driver: FilesystemDriver, tmp_path: Path) -> None:
    """An empty directory below `tags` is a name that every list has to look at."""
    await driver.write(Key("revisions/ab/link"), b"other")
    with pytest.raises(Conflict):
        await driver.write_ordered(GROUPS)
    assert files(tmp_path / "root") == ["blobs/ab/data", "revisions/ab/link"]
    assert not (tmp_path / "root/tags/v1").exists()


async def test_a_mark_that_appears_at_the_last_moment_is_seen(
    driver: FilesystemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository's deletion mark: a manifest that comes back without a look at it brings dead tags to life."""
    real, mark = durable.sync, tmp_path / "root/deleted"

    def sync(fd: int, path: str) -> None:
        real(fd, path)
        mark.write_bytes(b"")

    monkeypatch.setattr(ordered_writes, "sync", sync)
    with pytest.raises(Conflict, match="deleted exists"):
        await driver.write_ordered([[Write(Key("a/link"), b"x", unless=Key("deleted"))]])
    assert files(tmp_path / "root") == ["deleted"]


async def test_an_upload_that_is_gone_leaves_no_link(driver: FilesystemDriver, tmp_path: Path) -> None:
    """The link is written before the bytes are moved, under a temporary name that has to go again."""
    home, blob, link = (Key(form.format("1")) for form in (HOME, LAYER, LINK))
    state = await driver.uploads.begin(home)
    await driver.uploads.discard(home)
    with pytest.raises(UploadMissing):
        await driver.publish(home, state, blob, Write(link, b"x"))
    assert files(tmp_path / "root") == []
    assert not (tmp_path / "root" / link).parent.exists()


async def test_a_failure_to_discard_is_returned(
    driver: FilesystemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blob is there and acknowledged; the purger removes the rest."""
    home, blob, link = (Key(form.format("1")) for form in (HOME, LAYER, LINK))
    state = await driver.uploads.begin(home)

    def fail(path: str, *rest: object) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr("moorage.storage.filesystem.uploads._remove", fail)
    published = await driver.publish(home, state, blob, Write(link, b"x"))
    assert isinstance(published.discard_error, StorageUnavailable)
    assert (tmp_path / "root" / link).exists()
    with pytest.raises(StorageUnavailable):
        await driver.uploads.discard(home)
