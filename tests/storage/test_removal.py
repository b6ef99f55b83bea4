"""Conditional removal on a filesystem: races with writers, and crashes of the remover."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import Key
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.filesystem.durable import is_temporary_name, temporary_beside
from moorage.storage.filesystem.removal import remove_leftovers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEY = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    found = FilesystemDriver(tmp_path)
    yield found
    await found.close()


def replacing(monkeypatch: pytest.MonkeyPatch, path: Path, action: Callable[[], object]) -> None:
    """Run `action` just before the file is renamed aside: the last moment for a writer."""
    rename = os.rename

    def late(source: str, target: str) -> None:
        if source == str(path) and ".removed." in target:
            action()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)


async def test_a_file_that_replaces_the_examined_one_is_put_back(
    driver: FilesystemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last instruction before the removal is when a push on another host may store the blob again."""
    await driver.write(KEY, b"old")
    examined = await driver.stat(KEY)
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"new")
    os.utime(fresh, (examined.modified.timestamp(),) * 2)
    replacing(monkeypatch, tmp_path / KEY, lambda: fresh.replace(tmp_path / KEY))
    assert await driver.remove_unchanged([examined]) == [KEY]
    assert (await driver.read(KEY)).data == b"new"
    assert [path.name for path in (tmp_path / KEY).parent.iterdir()] == ["data"]


async def test_a_removed_file_leaves_no_directory(driver: FilesystemDriver, tmp_path: Path) -> None:
    """A million empty directories cost inodes, and the next collection a listing each."""
    await driver.write(KEY, b"old")
    assert not await driver.remove_unchanged([await driver.stat(KEY)])
    assert not (tmp_path / KEY).parent.exists()
    assert (tmp_path / KEY).parent.parent.exists()


async def test_an_interrupted_removal_is_undone(driver: FilesystemDriver, tmp_path: Path) -> None:
    """The process died while a file was aside: it is restored, unless a writer has stored it again."""
    for content in (None, b"pushed again"):
        await driver.write(KEY, b"old")
        aside = temporary_beside(f"{tmp_path / KEY}.removed")
        (tmp_path / KEY).rename(aside)
        assert is_temporary_name(Path(aside).name)
        assert [name async for page in driver.children(Key(str(Path(KEY).parent))) for name in page] == []
        if content is not None:
            await driver.write(KEY, content)
        await driver.prune(Key(str(Path(KEY).parent)), datetime.now(UTC))
        assert (await driver.read(KEY)).data == (content or b"old")
        assert not os.path.exists(aside)  # noqa: ASYNC240, PTH110  a file of the test


async def test_the_sweep_of_temporary_files_restores_as_well(driver: FilesystemDriver, tmp_path: Path) -> None:
    """`moorage storage check --repair` removes temporary files by age, and must not take this one for garbage."""
    await driver.write(KEY, b"old")
    (tmp_path / KEY).rename(temporary_beside(f"{tmp_path / KEY}.removed"))
    assert len(await driver.uploads.sweep(Key("docker"), datetime.now(UTC))) == 1
    assert (await driver.read(KEY)).data == b"old"


def test_leftovers_are_old_temporary_files_and_empty_directories(tmp_path: Path) -> None:
    """A temporary file that is being written must stay, and so must everything with another name."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    old, edge, named = (
        temporary_beside(str(kept / "data")),
        temporary_beside(str(kept / "data")),
        str(kept / "data"),
    )
    for path, written in ((old, 99), (edge, 100), (named, 50)):
        Path(path).touch()
        os.utime(path, (written, written))
    remove_leftovers(str(tmp_path), 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert {str(path) for path in kept.iterdir()} == {edge, named}
