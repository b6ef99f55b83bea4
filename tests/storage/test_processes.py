"""Several processes on one directory, and system calls that fail or are slow: what no other driver has."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from tests.live import require_root

from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    Note,
    StorageDenied,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
    TooManyOpenFiles,
    Unchanged,
    UploadBusy,
    UploadMissing,
)
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.testing.listing_contract import keys_below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from types import ModuleType

HOME = Key("r/a/_uploads/1")
KEY = Key("r/a/tags/v1/current/link")
TO = Key("blobs/x/data")


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path / "root")
    yield driver
    await driver.close()


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".tmp")]


def python(code: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
    """A process that runs `code` as the body of a coroutine with `driver` on the directory given first."""
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    program = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from moorage.storage.driver import *\n"
        "from moorage.storage.filesystem.driver import FilesystemDriver\n"
        f"async def main():\n    driver = FilesystemDriver(Path(sys.argv[1]))\n{lines}\n"
        "    await driver.close()\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_one_process_in_four_creates_an_object(driver: FilesystemDriver, tmp_path: Path) -> None:
    """Immutable tags hold among the workers of a host; each round, one of four wins."""
    code = """
sys.stdin.readline()
for number in range(30):
    try:
        await driver.write(Key(f"a/{number}/link"), sys.argv[2].encode(), ABSENT)
        print(number, flush=True)
    except Conflict:
        pass
"""
    racers = [python(code, tmp_path / "root", name) for name in "0123"]
    outputs = [racer.communicate(b"go\n", timeout=60)[0].decode().split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert sorted(int(number) for won in outputs for number in won) == list(range(30))
    for name, won in zip("0123", outputs, strict=True):
        for number in won:
            assert (await driver.read(Key(f"a/{number}/link"))).data == name.encode()


async def test_a_killed_writer_frees_the_upload(driver: FilesystemDriver, tmp_path: Path) -> None:
    """SIGKILL in the middle of a chunk: the next request continues at the last checkpoint, at once."""
    state = await driver.uploads.begin(HOME)
    code = """
home = Key(sys.argv[2])
async with driver.uploads.append(home, await driver.uploads.state(home)) as appender:
    await appender.write([b"kept"])
    await appender.checkpoint([Note("hashstates/sha256/4", b"x")])
    await appender.write([b"lost"])
    print("writing", flush=True)
    sys.stdin.readline()
"""
    writer = python(code, tmp_path / "root", HOME)
    assert writer.stdout
    assert writer.stdout.readline() == b"writing\n"
    with pytest.raises(UploadBusy):
        await driver.uploads.publish(HOME, state, TO)
    writer.kill()
    writer.communicate(timeout=60)
    assert (tmp_path / "root" / HOME / "data").read_bytes() == b"keptlost"
    state = await driver.uploads.state(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"!"])
        state = await appender.checkpoint()
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"kept!"


class Held:
    """Make a system call wait, in any thread, until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType = os) -> None:
        self.entered, self._go = threading.Event(), threading.Event()
        real = getattr(module, name)

        def held(*arguments: object) -> None:
            self.entered.set()
            assert self._go.wait(60)
            real(*arguments)

        monkeypatch.setattr(module, name, held)

    async def until_entered(self) -> None:
        await asyncio.to_thread(self.entered.wait, 60)

    def release(self) -> None:
        self._go.set()


async def test_a_cancelled_write_ends_before_its_caller_goes_on(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a cancellation nothing writes behind the caller's back: what it deletes next stays deleted."""
    held = Held(monkeypatch, "fsync")
    write = asyncio.ensure_future(driver.write(KEY, b"text"))
    await held.until_entered()
    for _ in range(3):
        write.cancel()
        await asyncio.sleep(0)
        assert not write.done()
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await write
    await driver.delete([KEY])
    with pytest.raises(KeyMissing):
        await driver.read(KEY)


def test_a_driver_outlives_an_event_loop(tmp_path: Path) -> None:
    """A command that runs two loops, one after the other, with one driver does not wait for ever in the second."""
    driver = FilesystemDriver(tmp_path)
    for text in (b"first", b"second"):
        asyncio.run(asyncio.wait_for(driver.write(KEY, text), 30))
    assert (tmp_path / KEY).read_bytes() == b"second"
    asyncio.run(driver.close())


async def test_a_cancelled_checkpoint_counts(driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are on disk and noted: cutting them off afterwards would set the upload back to nothing."""
    state = await driver.uploads.begin(HOME)
    held = Held(monkeypatch, "fdatasync")

    async def request() -> None:
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"12345"])
            await appender.checkpoint([Note("hashstates/sha256/5", b"x")])

    task = asyncio.ensure_future(request())
    await held.until_entered()
    task.cancel()
    with pytest.raises(UploadBusy):
        await driver.uploads.publish(HOME, state, TO)
    held.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = await driver.uploads.state(HOME)
    assert state.offset == 5
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"12345"


async def test_a_version_is_compared_and_replaced_in_one_step(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a tag and its replacement no other worker comes in."""
    version = await driver.write(KEY, b"old")
    with monkeypatch.context() as patch:
        held = Held(patch, "rename")
        first = asyncio.ensure_future(driver.write(KEY, b"first", Unchanged(version)))
        await held.until_entered()
        held.entered.clear()
        second = asyncio.ensure_future(driver.write(KEY, b"second", Unchanged(version)))
        # It must not get as far as its own rename; 0.2 s is a hundred times what it would need.
        assert not await asyncio.to_thread(held.entered.wait, 0.2)
        held.release()
        await first
        with pytest.raises(Conflict):
            await second
    assert (await driver.read(KEY)).data == b"first"


async def test_a_lock_on_what_was_discarded_is_no_lock(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that opened the upload just before it was cancelled does not write into what is gone."""
    state = await driver.uploads.begin(HOME)
    with monkeypatch.context() as patch:
        held = Held(patch, "flock", fcntl)
        late = asyncio.ensure_future(driver.uploads.publish(HOME, state, TO))
        await held.until_entered()
        await driver.uploads.discard(HOME)
        await driver.uploads.begin(HOME)
        held.release()
        with pytest.raises(UploadMissing):
            await late
    with pytest.raises(KeyMissing):
        await driver.stat(TO)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageExhausted),
        (errno.EDQUOT, StorageExhausted),
        (errno.EROFS, StorageReadOnly),
        (errno.EFBIG, StorageExhausted),
        (errno.EIO, StorageUnavailable),
        (errno.EACCES, StorageDenied),
        (errno.ESTALE, StorageUnavailable),
        (errno.EMFILE, TooManyOpenFiles),
        (errno.ENFILE, TooManyOpenFiles),
        (errno.ETIMEDOUT, StorageUnavailable),
    ],
)
@pytest.mark.parametrize("call", ["open", "pwritev", "fsync", "rename", "mkdir"])
async def test_a_failing_system_call(
    driver: FilesystemDriver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    kind: type[StorageUnavailable],
) -> None:
    """The client's 507 or 503 is the right one, the log names the cause, and no temporary file stays."""
    await driver.write(KEY, b"old")

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        key = Key("new/directory/link") if call == "mkdir" else KEY
        with pytest.raises(StorageUnavailable, match=errno.errorcode[number]) as caught:
            await driver.write(key, b"new")
        assert type(caught.value) is kind
    assert (await driver.read(KEY)).data in ({b"old", b"new"} if call == "fsync" else {b"old"})
    assert temporaries(tmp_path) == []
    await driver.write(KEY, b"newer")
    assert (await driver.read(KEY)).data == b"newer"


async def test_without_hard_links_absent_still_holds(
    driver: FilesystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes on FUSE and SMB have no link(2); immutable tags work there as well."""

    def failing(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", failing)
    writes = [driver.write(KEY, b"%d" % number, ABSENT) for number in range(8)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(await keys_below(driver, "r")) == 1


@pytest.mark.fault
def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE (systemd's LimitFSIZE) ends an upload with a refusal; what was acknowledged stays usable."""
    code = """
import resource
home, to = Key("r/_uploads/1"), Key("b/data")
state = await driver.uploads.begin(home)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
async with driver.uploads.append(home, state) as appender:
    await appender.write([b"a" * 60_000])
    state = await appender.checkpoint([Note("hashstates/sha256/60000", b"x")])
    try:
        await appender.write([b"b" * 60_000])
    except StorageExhausted as error:
        assert "EFBIG" in str(error), error
    else:
        raise AssertionError
    await appender.write([b"c" * 10])
    state = await appender.checkpoint([Note("hashstates/sha256/60010", b"x")])
try:
    await driver.write(Key("r/link"), b"x" * 200_000)
except StorageExhausted:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
async with driver.uploads.append(home, await driver.uploads.state(home)) as appender:
    await appender.write([b"d" * 60_000])
    state = await appender.checkpoint()
await driver.uploads.publish(home, state, to)
data = (await driver.read(to)).data
assert data == b"a" * 60_000 + b"c" * 10 + b"d" * 60_000, len(data)
"""
    process = python(code, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert temporaries(tmp_path) == []
    assert not (tmp_path / "r/link").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB and 64 inodes."""
    require_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


@pytest.mark.root
@pytest.mark.fault
async def test_a_full_disk_and_room_again(disk: Path) -> None:
    """No space for bytes, none for inodes: refusals, nothing torn, no temporary files; then all requests succeed
    again.
    """
    driver = FilesystemDriver(disk / "root")
    await driver.write(KEY, b"old")
    state = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"a" * 1000])
        state = await appender.checkpoint()
        with pytest.raises(StorageExhausted, match="ENOSPC"):
            await appender.write([b"b" * 2_000_000])
    await driver.write(KEY, b"there is room again, since the failed request's bytes were dropped")
    (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    with pytest.raises(StorageExhausted, match="ENOSPC"):
        await driver.write(KEY, b"new" * 10_000)
    with pytest.raises(StorageExhausted):
        async with driver.create(TO) as writer:
            await writer.write([b"text" * 10_000])
    (disk / "filler").unlink()
    inodes = [disk / str(number) for number in range(os.statvfs(disk).f_favail)]
    for path in inodes:
        path.touch()
    for attempt in (driver.write(Key("new/directory/link"), b""), driver.uploads.begin(Key("r/b/_uploads/2"))):
        with pytest.raises(StorageExhausted, match="ENOSPC"):
            await attempt
    assert (await driver.read(KEY)).data.startswith(b"there is room")
    assert temporaries(disk) == []
    for path in inodes:
        path.unlink()
    await driver.write(Key("new/directory/link"), b"text")
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO)).data == b"a" * 1000
    await driver.close()


@pytest.mark.root
@pytest.mark.fault
async def test_a_read_only_disk(disk: Path) -> None:
    """Pulls succeed, pushes are refused as with a full disk."""
    driver = FilesystemDriver(disk / "root")
    await driver.write(KEY, b"text")
    state = await driver.uploads.begin(HOME)
    remount(disk, "ro")
    assert (await driver.read(KEY)).data == b"text"
    attempts = [
        driver.write(KEY, b"new"),
        driver.delete([KEY]),
        driver.clear(Key("r/a/tags")),
        driver.uploads.begin(Key("r/a/_uploads/2")),
        driver.uploads.publish(HOME, state, TO),
        driver.uploads.discard(HOME),
    ]
    for attempt in attempts:
        with pytest.raises(StorageExhausted, match="EROFS"):
            await attempt
    remount(disk, "rw")
    await driver.write(KEY, b"new")
    assert (await driver.read(KEY)).data == b"new"
    await driver.close()
