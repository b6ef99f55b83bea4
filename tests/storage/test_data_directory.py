"""A data directory that disappears below a running server: nothing is absent, and nothing is created."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import ABSENT, Key, KeyMissing, StorageUnavailable, UploadMissing
from moorage.storage.filesystem import data_directory
from moorage.storage.filesystem.data_directory import DataDirectory
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.listing_contract import flat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from moorage.storage.filesystem.data_directory import Identity

KEY = Key("docker/registry/v2/repositories/a/link")
HOME = Key("docker/registry/v2/repositories/a/_uploads/1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


@pytest.fixture
async def driver(root: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(root)
    yield driver
    await driver.close()


def moved(root: Path) -> None:
    root.rename(root.parent / "away")


def replaced(root: Path) -> None:
    """The directory that an unmounted volume leaves."""
    moved(root)
    root.mkdir()


def restore(root: Path) -> None:
    if root.exists():
        root.rmdir()
    (root.parent / "away").rename(root)


def is_absent_or_empty(root: Path) -> bool:
    return not root.exists() or not list(root.iterdir())


@pytest.mark.parametrize("lose", [moved, replaced])
async def test_what_was_in_a_lost_directory_is_unavailable_and_not_absent(
    driver: FilesystemDriver, root: Path, lose: Callable[[Path], None]
) -> None:
    """After a 404, clients would believe that their images were deleted; a deletion would seem to succeed."""
    await driver.write(KEY, b"text")
    state = await driver.uploads.begin(HOME)
    lose(root)

    async def opened() -> None:
        async with driver.open(KEY):
            raise AssertionError

    async def scanned() -> None:
        async for _ in driver.scan(Key("docker")):
            raise AssertionError

    async def appended() -> None:
        async with driver.uploads.append(HOME, state):
            raise AssertionError

    for call in (
        lambda: driver.read(KEY),
        lambda: driver.stat(KEY),
        opened,
        lambda: flat(driver.children(Key("docker"))),
        scanned,
        lambda: driver.delete([KEY]),
        lambda: driver.clear(Key("docker")),
        driver.probe,
        lambda: driver.uploads.state(HOME),
        appended,
        lambda: driver.uploads.publish(HOME, state, Key("docker/blob")),
    ):
        with pytest.raises(StorageUnavailable, match=rf"{root}.*ENOENT.*the data directory has disappeared"):
            await call()

    restore(root)
    assert (await driver.read(KEY)).data == b"text"
    assert (await driver.uploads.state(HOME)).offset == 0
    with pytest.raises(KeyMissing):
        await driver.read(Key("absent"))
    with pytest.raises(UploadMissing):
        await driver.uploads.state(Key("absent"))


@pytest.mark.parametrize("lose", [moved, replaced])
async def test_nothing_is_created_in_the_place_of_a_lost_directory(
    driver: FilesystemDriver, root: Path, lose: Callable[[Path], None]
) -> None:
    """Pushes that went below the mount point are gone when the volume is back, also in known directories."""
    await driver.write(KEY, b"text")
    lose(root)

    async def created() -> None:
        async with driver.create(KEY):
            raise AssertionError

    for call in (
        lambda: driver.write(KEY, b"more"),
        lambda: driver.write(Key("other/link"), b"more", ABSENT),
        lambda: driver.uploads.begin(HOME),
        created,
    ):
        with pytest.raises(StorageUnavailable, match="the data directory has disappeared"):
            await call()
        assert is_absent_or_empty(root)


async def test_another_directory_with_a_registry_is_taken(driver: FilesystemDriver, root: Path) -> None:
    """A volume that is mounted again, or a backup that was restored."""
    await driver.write(KEY, b"text")
    replaced(root)
    (root / KEY).parent.mkdir(parents=True)
    (root / KEY).write_bytes(b"restored")
    assert (await driver.read(KEY)).data == b"restored"
    with pytest.raises(KeyMissing):
        await driver.read(Key("absent"))
    await driver.write(Key("docker/other"), b"text")


async def test_a_directory_that_never_existed_is_empty_until_the_first_write(tmp_path: Path) -> None:
    """A new registry; once its directory is there it counts as seen."""
    root = tmp_path / "above" / "data"
    driver = FilesystemDriver(root)
    with pytest.raises(KeyMissing):
        await driver.read(KEY)
    await driver.write(KEY, b"text")
    await driver.clear(Key("docker"))
    with pytest.raises(KeyMissing):
        await driver.read(KEY)
    moved(root)
    with pytest.raises(StorageUnavailable):
        await driver.write(KEY, b"text")
    await driver.close()


def test_a_root_that_cannot_be_looked_at_is_unavailable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what was asked for."""
    data = DataDirectory(str(root))

    def denied(_: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(root))

    monkeypatch.setattr(os, "stat", denied)
    with pytest.raises(StorageUnavailable, match="EACCES"):
        data.check()


def test_a_root_that_another_thread_creates_during_the_look_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pushes into a new directory run side by side; one of them was refused now and then."""
    data = DataDirectory(str(tmp_path / "data"))
    look = data_directory.identify

    def overtaken(path: str, known: Identity | None) -> Identity:
        monkeypatch.setattr(data_directory, "identify", look)
        try:
            return look(path, known)
        finally:
            data.create()
            data.check()

    monkeypatch.setattr(data_directory, "identify", overtaken)
    data.check()
    assert (tmp_path / "data").is_dir()
