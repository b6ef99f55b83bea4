"""Objects as files below one directory, laid out exactly as CNCF Distribution's filesystem driver does.

What reads one small file (`read`, `stat`) runs on the event loop itself: open, fstat, read and close of a
link in the page cache take about 15 us, a hop to a thread and back 60 to 100 us.  Everything that writes,
fsyncs, lists or streams runs in a pool of threads, one hop for a whole operation.

Below: `durable.py` (fsync and rename), `filesystem_uploads.py`.  Source: reference/storage-layout.md 1-4.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    READ_LIMIT_BYTES,
    Conflict,
    Content,
    Key,
    KeyInvalid,
    KeyMissing,
    LocalFile,
    ObjectTooLarge,
    RangeOutside,
    Stat,
    StorageError,
    StorageExhausted,
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.durable import (
    Directories,
    locked,
    remove_tree,
    replace_file,
    sync_directory,
    temporary_beside,
    version_of,
    write_all,
)
from moorage.storage.listings import Listings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from moorage.storage.driver import Reader, SignedUrl, When, Writer

__all__ = ["FilesystemDriver", "Pool", "check_key", "translating"]

_T = TypeVar("_T")

_KEY: Final = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)
_TEMPORARY: Final = re.compile(r".+\.[0-9a-f-]{36}\.tmp", re.ASCII)
_PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 1000
_LEAST_THREADS: Final = 25  # the reference raises smaller values as well

_EXHAUSTED: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


def check_key(key: str) -> None:
    """Raises KeyInvalid unless `key` is spelt as `driver.Key` says."""
    if _KEY.fullmatch(key) is None or any(part in {".", ".."} for part in key.split("/")):
        raise KeyInvalid(key)


@contextmanager
def translating(key: str, missing: type[StorageError] = KeyMissing) -> Iterator[None]:
    """Turn the system's errors into the driver's; `missing` is what an absent file means here."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise missing(key) from error
        kind = StorageExhausted if error.errno in _EXHAUSTED else StorageUnavailable
        raise kind(f"{key}: {error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})") from error


class Pool:
    """Threads for what blocks.  A caller that is cancelled waits for its thread: nothing goes on behind it."""

    def __init__(self, max_threads: int) -> None:
        self._threads = ThreadPoolExecutor(max(_LEAST_THREADS, max_threads), "storage")

    async def run(self, work: Callable[[], _T]) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with suppress(BaseException):
                await _settled(future)
            raise

    def close(self) -> None:
        self._threads.shutdown(wait=True)


async def _settled(future: asyncio.Future[_T]) -> None:
    """Wait until `future` is done, through further cancellations."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])


def _when(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


class FilesystemDriver:
    """See `driver.Driver`.  `root` is `storage.filesystem.rootdirectory`; it is made when first written to."""

    name = "filesystem"

    def __init__(self, root: Path, *, max_threads: int = 100) -> None:
        from moorage.storage.filesystem_uploads import FilesystemUploads  # noqa: PLC0415  it builds on Pool

        self._root = os.path.abspath(root)
        self._pool = Pool(max_threads)
        self._directories = Directories(self._root)
        self._listings = Listings()
        self.uploads = FilesystemUploads(self._path, self._pool, self._directories)

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        with translating(key):
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                if status.st_size > limit:
                    raise ObjectTooLarge(f"{key}: {status.st_size} bytes, at most {limit}")
                data = os.read(fd, status.st_size + 1)
            finally:
                os.close(fd)
        return Content(data, Version(version_of(status)))

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        path = self._path(key)
        directory = os.path.dirname(path)

        def commit(temporary: str) -> None:
            with locked(directory) as fd:
                if when is ABSENT:
                    try:
                        os.link(temporary, path)
                    except FileExistsError as error:
                        raise Conflict(f"{key}: it exists") from error
                    os.unlink(temporary)
                else:
                    if isinstance(when, Unchanged) and _current_version(path) != when.version:
                        raise Conflict(f"{key}: it has changed")
                    os.rename(temporary, path)
                os.fsync(fd)

        def work() -> str:
            with translating(key, StorageUnavailable):
                return self._directories.within(directory, lambda: replace_file(path, data, commit))

        return Version(await self._pool.run(work))

    async def stat(self, key: Key) -> Stat:
        with translating(key):
            status = os.stat(self._path(key))
        if not stat.S_ISREG(status.st_mode):
            raise KeyMissing(key)
        return Stat(key, status.st_size, _when(status))

    async def delete(self, keys: Collection[Key]) -> None:
        paths = [(key, self._path(key)) for key in keys]

        def work() -> None:
            for key, path in paths:
                with translating(key, StorageUnavailable):
                    _delete(path)

        await self._pool.run(work)

    async def clear(self, prefix: Key) -> None:
        path = self._path(prefix)

        def work() -> None:
            with translating(prefix, StorageUnavailable), suppress(FileNotFoundError):
                remove_tree(path)
                sync_directory(os.path.dirname(path))

        await self._pool.run(work)

    @asynccontextmanager
    async def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        with translating(key):
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(fd)
                if start > status.st_size:
                    raise RangeOutside(f"{key}: {start} is past its {status.st_size} bytes")
            except BaseException:
                os.close(fd)
                raise
        end = status.st_size if stop is None else min(stop, status.st_size)
        try:
            yield FileReader(self._pool, fd, Stat(key, status.st_size, _when(status)), start, end)
        finally:
            os.close(fd)

    async def handover(self, key: Key, *, method: str, expires_s: int) -> LocalFile | SignedUrl | None:
        del method, expires_s  # a file needs neither
        return LocalFile(self._path(key))

    @asynccontextmanager
    async def create(self, key: Key) -> AsyncIterator[Writer]:
        path = self._path(key)
        with translating(key, StorageUnavailable):
            writer = await self._pool.run(lambda: FileWriter(self._pool, self._directories, key, path))
        try:
            yield writer
        finally:
            await self._pool.run(writer.abandon)

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        path = self._path(prefix)

        def work() -> list[str]:
            with translating(prefix):
                if limit is None:
                    return [
                        name for name in self._listings.names(path, after=after) if not _is_temporary(path, name)
                    ]
                found: list[str] = []
                position = after
                while len(found) < limit:
                    page = self._listings.page(path, after=position, limit=limit)
                    found += [name for name in page if not _is_temporary(path, name)]
                    if len(page) < limit:
                        break
                    position = page[-1]
                return found[:limit]

        with suppress(KeyMissing):
            if names := await self._pool.run(work):
                yield names

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        pages = _scan(self._path(prefix), prefix)
        while True:
            with translating(prefix, StorageUnavailable):
                page = await self._pool.run(lambda: next(pages, None))
            if page is None:
                return
            yield page

    async def probe(self) -> None:
        def work() -> None:
            with translating("/", StorageUnavailable), suppress(FileNotFoundError):
                os.stat(self._root)

        await self._pool.run(work)

    async def close(self) -> None:
        self._pool.close()


class FileReader:
    """A part of an open file."""

    def __init__(self, pool: Pool, fd: int, stat: Stat, start: int, stop: int) -> None:
        self._pool, self._fd, self._position, self._stop = pool, fd, start, stop
        self.stat = stat

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (wanted := min(_PIECE_BYTES, self._stop - self._position)) > 0:
            with translating(self.stat.key, StorageUnavailable):
                piece = await self._pool.run(lambda: os.pread(self._fd, wanted, self._position))
            if not piece:
                raise StorageUnavailable(f"{self.stat.key}: it ends {self._stop - self._position} bytes early")
            self._position += len(piece)
            yield piece


class FileWriter:
    """A new file beside its final name, until `commit`."""

    def __init__(self, pool: Pool, directories: Directories, key: Key, path: str) -> None:
        self._pool, self._directories, self._key, self._path = pool, directories, key, path
        self._temporary = temporary_beside(path)
        self._fd = directories.within(
            os.path.dirname(path),
            lambda: os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666),
        )

    async def write(self, chunks: Sequence[bytes]) -> None:
        with translating(self._key, StorageUnavailable):
            await self._pool.run(lambda: write_all(self._fd, chunks))

    async def commit(self) -> None:
        def work() -> None:
            os.fsync(self._fd)
            with suppress(FileExistsError):
                os.link(self._temporary, self._path)
            sync_directory(os.path.dirname(self._path))

        with translating(self._key, StorageUnavailable):
            await self._pool.run(work)

    def abandon(self) -> None:
        """Close; what was not committed is gone, what was keeps its own name only."""
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)


def _current_version(path: str) -> str | None:
    try:
        return version_of(os.stat(path))
    except FileNotFoundError:
        return None


def _delete(path: str) -> None:
    """Unlink, durably; the directory goes too when this was its last entry, never one above it."""
    directory = os.path.dirname(path)
    try:
        os.unlink(path)
        sync_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    with suppress(OSError):
        os.rmdir(directory)


def _is_temporary(directory: str, name: str) -> bool:
    """Another writer's unfinished file; a directory (a tag, say) may have such a name."""
    return (
        name.endswith(".tmp")
        and _TEMPORARY.fullmatch(name) is not None
        and not os.path.isdir(f"{directory}/{name}")
    )


def _scan(path: str, prefix: str) -> Iterator[list[Stat]]:
    """Depth first with one open directory at a time; what vanishes meanwhile is left out."""
    page: list[Stat] = []
    waiting = [(path, prefix)]
    while waiting:
        directory, key = waiting.pop()
        try:
            with os.scandir(directory) as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name = f"{key}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, name))
            elif not _is_temporary(directory, entry.name):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    page.append(Stat(Key(name), status.st_size, _when(status)))
            if len(page) >= _PAGE:
                yield page
                page = []
    if page:
        yield page
