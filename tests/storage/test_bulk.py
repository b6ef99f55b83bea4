"""Operations on many files at once."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import Key, KeyInvalid, StorageDenied, StorageUnavailable
from moorage.storage.filesystem import bulk as filesystem_bulk
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.instrumented import InstrumentedDriver
from moorage.storage.keys import check_keys, components

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    found = FilesystemDriver(tmp_path / "root")
    yield found
    await found.close()


async def test_a_directory_has_a_fingerprint_once_it_has_settled(
    driver: FilesystemDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in the same tick of the file system's clock would leave the time as it is."""
    await driver.write(Key("a/one"), b"1")
    assert await driver.bulk.fingerprints([Key("a")]) == [None]
    monkeypatch.setattr(filesystem_bulk, "SETTLED_NS", 0)
    (before,) = await driver.bulk.fingerprints([Key("a")])
    assert before is not None
    assert await driver.bulk.fingerprints([Key("a"), Key("a/one"), Key("b")]) == [before, None, ""]
    os.utime(tmp_path / "root/a", (1, 1))
    (after,) = await driver.bulk.fingerprints([Key("a")])
    assert after not in {None, before}, "the time of change cannot be set back"


async def test_unfinished_files_of_writers_are_no_names(driver: FilesystemDriver, tmp_path: Path) -> None:
    await driver.write(Key("a/one"), b"1")
    (tmp_path / "root/a/link.0c7eb1b1-3a0e-4d5e-9d5c-000000000000.tmp").write_bytes(b"")
    (tmp_path / "root/a/lost+found").mkdir()
    (tmp_path / "root/a/v1.tmp").mkdir()
    (names,) = await driver.bulk.names([Key("a")])
    assert sorted(names) == ["one", "v1.tmp"]


async def test_a_data_directory_that_is_gone_is_not_empty(driver: FilesystemDriver, tmp_path: Path) -> None:
    """What is in a file system that is no longer mounted has not been deleted."""
    await driver.write(Key("a/one"), b"1")
    await driver.bulk.names([Key("a")])
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    for call in (driver.bulk.names, driver.bulk.find, driver.bulk.fingerprints):
        with pytest.raises(StorageUnavailable):
            await call([Key("a")])
    with pytest.raises(StorageUnavailable):
        await driver.bulk.read([Key("a/one")], limit=10)


async def test_an_error_of_one_key_is_that_of_the_call(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that may not be read must not look empty."""
    await driver.write(Key("a/one"), b"1")

    def denied(path: str) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(StorageDenied, match="check owner and mode"):
        await driver.bulk.names([Key("a")])


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "a/./b", "../a", "a/..", "a\nb", "\n", "a b", "ä"])
def test_many_keys_are_checked_as_one_is(key: str) -> None:
    with pytest.raises(KeyInvalid):
        check_keys(["a/b", key, "c"])
    check_keys(["a/b", "_x/1.0-y", ".hidden/..c"])
    check_keys([])


def test_names_that_keys_cannot_have_are_left_out() -> None:
    assert components(["a", "1.0", "b c", "..", "x\ny", "ä"]) == ["a", "1.0"]
    assert components(["a", "b"]) == ["a", "b"]
    assert components(["a", "x\ny"]) == ["a"]


async def test_instrumented_calls_are_reported_and_passed_on(driver: FilesystemDriver) -> None:
    calls: list[tuple[str, str, str]] = []

    def watch(name: str, action: str, key: str) -> AbstractContextManager[object]:
        from contextlib import nullcontext

        calls.append((name, action, key))
        return nullcontext()

    watched = InstrumentedDriver(driver, watch)
    key = Key("a/one")
    await driver.write(key, b"1")
    assert await watched.bulk.read([key], limit=10) == [b"1"]
    assert await watched.bulk.names([Key("a")]) == [["one"]]
    assert [stat and stat.size for stat in await watched.bulk.find([key])] == [1]
    assert await watched.bulk.fingerprints([Key("a")]) == [None]
    assert calls == [
        ("filesystem", "GetContent", "a/one"),
        ("filesystem", "List", "a"),
        ("filesystem", "Stat", "a/one"),
        ("filesystem", "Stat", "a"),
    ]
