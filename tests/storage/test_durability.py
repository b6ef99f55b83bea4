"""The files after a power cut, derived from the system calls that were made.

A small model of a disk at its worst watches every call: a name is lost until its directory is fsynced, bytes
until their file is.  What a call of the driver acknowledged must not be lost.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from moorage.storage.driver import ABSENT, Key, Note, StorageDenied
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LAYER = "docker/registry/v2/blobs/sha256/ab/{0}/data"
LINK = "docker/registry/v2/repositories/a/_layers/sha256/{0}/link"
HOME = "docker/registry/v2/repositories/a/_uploads/{0}"


class Disk:
    """Calls through, and keeps what is not durable: names by path, bytes by inode."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        self.dirty: set[int] = set()
        self.syncs: list[str] = []
        self._real: dict[str, Callable[..., Any]] = {}
        for name in (
            "open",
            "mkdir",
            "mknod",
            "rename",
            "link",
            "unlink",
            "rmdir",
            "pwritev",
            "ftruncate",
            "fsync",
            "fdatasync",
        ):
            self._real[name] = getattr(os, name)
            patch.setattr(os, name, getattr(self, f"_{name}"))

    def _open(self, path: str, flags: int, mode: int = 0o777, **rest: Any) -> int:
        new = flags & os.O_CREAT and not os.path.lexists(path)
        fd: int = self._real["open"](path, flags, mode, **rest)
        if new:
            self.names.add(path)
            self.dirty.discard(os.fstat(fd).st_ino)
        return fd

    def _mknod(self, path: str, mode: int = 0o600) -> None:
        self._real["mknod"](path, mode)
        self.names.add(path)
        self.dirty.discard(Path(path).stat().st_ino)  # that of a file that is gone

    def _mkdir(self, path: str, mode: int = 0o777) -> None:
        self._real["mkdir"](path, mode)
        self.names.add(path)

    def _rename(self, source: str, target: str) -> None:
        self.may_name(source, target)
        self._real["rename"](source, target)
        self.names.discard(source)
        self.names.add(target)

    def _link(self, source: str, target: str) -> None:
        self.may_name(source, target)
        self._real["link"](source, target)
        self.names.add(target)

    def _unlink(self, path: str, **rest: Any) -> None:
        self._real["unlink"](path, **rest)
        self.names.add(path)

    def _rmdir(self, path: str, **rest: Any) -> None:
        self._real["rmdir"](path, **rest)

    def _pwritev(self, fd: int, views: Any, offset: int) -> int:
        self.dirty.add(os.fstat(fd).st_ino)
        written: int = self._real["pwritev"](fd, views, offset)
        return written

    def _ftruncate(self, fd: int, size: int) -> None:
        self.dirty.add(os.fstat(fd).st_ino)
        self._real["ftruncate"](fd, size)

    def _fsync(self, fd: int) -> None:
        self._real["fsync"](fd)
        self.synced(fd)

    def _fdatasync(self, fd: int) -> None:
        self._real["fdatasync"](fd)
        self.synced(fd)

    def may_name(self, source: str, target: str) -> None:
        """Bytes come before names, but for notes, which may be lost (`filesystem/uploads.py`)."""
        safe = "/hashstates/" in target or Path(source).stat().st_ino not in self.dirty
        assert safe, f"{target} is named before its bytes are on disk"

    def synced(self, fd: int) -> None:
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        self.syncs.append(path)
        self.dirty.discard(os.fstat(fd).st_ino)
        self.names = {name for name in self.names if not self._settled(name, path)}

    def _settled(self, name: str, synced: str) -> bool:
        """Return whether the entry of `name` is durable now: it is in `synced`, or in a directory below that is
        gone, which is durable, too.
        """
        if str(Path(name).parent) == synced:
            return True
        below = [path for path in Path(name).parents if str(path.parent) == synced]
        return bool(below) and not below[0].exists()

    def keeps(self, path: Path) -> None:
        """The file, or its absence, survives a power cut."""
        if path.exists():
            assert path.stat().st_ino not in self.dirty, "its bytes are lost"
        for name in (path, *path.parents):
            assert str(name) not in self.names, f"the entry of {name} is lost"

    def count(self) -> int:
        """Return the number of fsyncs since the last call."""
        number = len(self.syncs)
        self.syncs.clear()
        return number


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def driver(tmp_path: Path, disk: Disk) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path / "new/root")
    yield driver
    await driver.close()


async def push(driver: FilesystemDriver, name: str) -> tuple[str, str]:
    """A layer as the registry stores it; the keys of its blob and its link."""
    home, blob, link = (Key(form.format(name)) for form in (HOME, LAYER, LINK))
    state = await driver.uploads.begin(home)
    async with driver.uploads.append(home, state) as appender:
        await appender.write([b"first"])
        await appender.checkpoint([Note("hashstates/sha256/5", b"x")])
        await appender.write([b"second"])
        state = await appender.checkpoint()
    await driver.uploads.publish(home, state, blob)
    await driver.write(link, name.encode())
    await driver.uploads.discard(home)
    return blob, link


async def test_an_acknowledged_object_survives(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """Every new directory from the root's own parent down, and the bytes before the name."""
    for number in range(3):
        key = Key(f"a/{number}/b/link")
        await driver.write(key, b"text")
        disk.keeps(tmp_path / "new/root" / key)
        await driver.write(key, b"again")
        disk.keeps(tmp_path / "new/root" / key)
        await driver.write(Key(f"{key}2"), b"text", ABSENT)
        disk.keeps(tmp_path / "new/root" / f"{key}2")


async def test_a_created_object_survives(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """So does what is written in one go, also by the one who comes second."""
    for _ in range(2):
        async with driver.create(Key("a/b/data")) as writer:
            await writer.write([b"text"])
            await writer.commit()
            disk.keeps(tmp_path / "new/root/a/b/data")


async def test_a_layer_survives_before_its_link(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """A link without its blob is a pull that fails for ever; the reference can leave one."""
    for number in range(3):
        for key in await push(driver, f"ab{number}"):
            disk.keeps(tmp_path / "new/root" / key)


async def test_a_deletion_survives(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """Deleted objects do not come back with the power."""
    keys = [Key("a/b/1"), Key("a/b/2"), Key("a/c/1")]
    for key in keys:
        await driver.write(key, b"text")
    await driver.write(Key("a/c/2"), b"text")
    disk.count()
    await driver.delete(keys)
    assert sorted(disk.syncs) == [str(tmp_path / "new/root/a"), str(tmp_path / "new/root/a/c")]
    for key in keys:
        disk.keeps(tmp_path / "new/root" / key)
    disk.count()
    await driver.delete([Key("a/c/2")])
    assert disk.syncs == [str(tmp_path / "new/root/a/c")]
    disk.keeps(tmp_path / "new/root/a/c/2")
    await driver.write(Key("a/t/v1/link"), b"text")
    disk.count()
    await driver.clear(Key("a/t/v1"))
    assert disk.syncs == [str(tmp_path / "new/root/a/t")]


async def test_many_deletions_cost_an_fsync_for_each_directory_that_is_left(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path
) -> None:
    """A collector removes links by the ten thousand, each in a directory of its own, and looks for marks that no
    blob has.
    """
    root = tmp_path / "new/root"
    keys = [Key(f"{name}/_layers/{number}/link") for name in ("a", "b") for number in range(10)]
    for key in keys:
        await driver.write(key, b"text")
    disk.count()
    await driver.delete([Key(f"{key.rpartition('/')[0]}/torn") for key in keys])
    assert not disk.syncs
    await driver.delete(keys)
    assert sorted(disk.syncs) == [str(root / "a/_layers"), str(root / "b/_layers")]
    for key in keys:
        disk.keeps(root / key)
        assert not (root / key).parent.exists()


async def test_a_deletion_is_durable_though_a_pruner_takes_the_directories(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest directory that is left stands for those that another process has removed meanwhile."""
    root = tmp_path / "new/root"
    keys = [Key(f"a/b/c/{number}/link") for number in range(3)]
    for key in keys:
        await driver.write(key, b"text")
    rmdir = os.rmdir

    def also_above(path: str) -> None:
        rmdir(path)
        if not any((root / "a/b/c").iterdir()):
            rmdir(str(root / "a/b/c"))
            rmdir(str(root / "a/b"))

    monkeypatch.setattr(os, "rmdir", also_above)
    disk.count()
    await driver.delete(keys)
    assert disk.syncs == [str(root / "a")]
    for key in keys:
        disk.keeps(root / key)


async def test_many_deletions_go_on_after_one_that_fails(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are gone, durably, and the error names the one that is left."""
    root = tmp_path / "new/root"
    keys = [Key(f"a/{number}/link") for number in range(600)]
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True)
        path.touch()
        disk.names.add(str(path))
    unlink = os.unlink

    def refusing(path: str) -> None:
        if path == str(root / keys[3]):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(StorageDenied, match="a/3/link: Permission denied"):
        await driver.delete(keys)
    for key in keys:
        assert (root / key).exists() == (key == keys[3])
        assert key == keys[3] or str(root / key) not in disk.names


async def test_a_directory_that_others_made_is_not_trusted(
    driver: FilesystemDriver, disk: Disk, tmp_path: Path
) -> None:
    """Another worker's new directory may not be durable yet: its existence proves nothing."""
    (tmp_path / "new/root/a/b").mkdir(parents=True)
    await driver.write(Key("a/b/link"), b"text")
    disk.keeps(tmp_path / "new/root/a/b/link")


async def test_a_blob_that_was_there_is_made_durable(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """The winner of a race may not have fsynced when the second client gets its 201."""
    blob = tmp_path / "new/root" / LAYER.format("ab")
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"firstsecond")
    disk.names.add(str(blob))
    await push(driver, "ab")
    disk.keeps(blob)


async def test_the_price_of_a_layer(driver: FilesystemDriver, disk: Disk) -> None:
    """Fsyncs decide how many layers a second a disk takes; CNCF Distribution makes about 15.

    Moorage: one for each chunk's bytes; the blob's directory and the entry of that; the link's bytes, directory
    and entry.  A link that is written again costs its bytes and its directory.
    """
    await push(driver, "ab0")
    disk.count()
    _, link = await push(driver, "ab1")
    assert disk.count() == 2 + 2 + 3
    await driver.write(Key(link), b"ab1")
    assert disk.count() == 2


async def test_a_torn_tail_is_cut_off_durably(driver: FilesystemDriver, disk: Disk, tmp_path: Path) -> None:
    """Otherwise a blob that was whole when it was acknowledged could be longer after a power cut."""
    home, blob = Key(HOME.format("1")), Key(LAYER.format("1"))
    state = await driver.uploads.begin(home)
    async with driver.uploads.append(home, state) as appender:
        await appender.write([b"whole"])
        state = await appender.checkpoint()
        await appender.write([b"torn"])
    await driver.uploads.publish(home, state, blob)
    disk.keeps(tmp_path / "new/root" / blob)
