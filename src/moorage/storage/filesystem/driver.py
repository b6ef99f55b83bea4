"""Driver of objects as files below one directory, laid out exactly as by CNCF Distribution's filesystem driver.

Reads of one small file (`read`, `stat`) run on the event loop itself.  Measured on ext4 with a link of 71
bytes in the page cache: 17 us for open, fstat, read and close, 13 us for stat; a hop to a thread and back takes
60 to 100 us on an idle machine and 380 us on a busy one.  The price: a file that is not cached, or is on a
network, blocks the loop for as long as the disk takes.  Everything that writes, fsyncs, lists or streams runs in
a pool of threads, one hop for a whole operation.

Unfinished files of any writer are called `NAME.UUID.tmp`, as by CNCF Distribution, and are not objects; nor are
files whose name no key can have (`lost+found`).

Below: `durable.py` (fsync and rename), `ordered_writes.py`, `uploads.py`, `listing_cache.py`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import asynccontextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Final, TypeVar

from moorage.concurrency import map_bounded
from moorage.storage.driver import (
    ALWAYS,
    READ_LIMIT_BYTES,
    Content,
    Driver,
    Key,
    KeyMissing,
    LocalFile,
    ObjectTooLarge,
    Published,
    RangeOutside,
    RequestCost,
    Stat,
    Stored,
    Version,
    Write,
)
from moorage.storage.driver_defaults import adopt_by_copying
from moorage.storage.filesystem.bulk import FilesystemBulk
from moorage.storage.filesystem.data_directory import DataDirectory, check_readable
from moorage.storage.filesystem.durable import (
    Directories,
    changing,
    file_status,
    is_directory,
    is_directory_entry,
    is_temporary_name,
    open_regular,
    remove_tree,
    sync,
    sync_directory,
    write_whole,
)
from moorage.storage.filesystem.errors import translated, translating
from moorage.storage.filesystem.listing_cache import ListingCache
from moorage.storage.filesystem.ordered_writes import OrderedWrites, give_name
from moorage.storage.filesystem.removal import (
    FEW,
    delete_few,
    remove_if_unchanged,
    remove_leftovers,
    sync_remaining,
    unlink_all,
)
from moorage.storage.filesystem.streams import FileReader, FileWriter, modified
from moorage.storage.filesystem.threads import ThreadPool
from moorage.storage.filesystem.uploads import FilesystemUploads
from moorage.storage.keys import check_key, is_component

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from moorage.storage.driver import Reader, SignedUrl, UploadState, When, Writer

__all__ = ["FilesystemDriver"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_PAGE: Final = 1000
_PART: Final = 125
"""Files that one thread removes in one go."""
_PARTS_AT_ONCE: Final = 8
_UNSEEN_BYTES: Final = 64 << 10
"""Up to this limit a file is read without asking for its size and kind first, which would cost a third more."""


class FilesystemDriver:
    """See `driver.Driver`.  `root` is `storage.filesystem.rootdirectory`; it is made when first written to,
    and never again once it was seen (`data_directory.py`).
    """

    name = "filesystem"
    request_cost = RequestCost.LOCAL
    signs_urls = False
    lists_unfinished = False
    removes_exactly = True
    resent = 0

    def __init__(self, root: Path, *, max_threads: int = 100, processors: int = 1) -> None:
        self._root = os.path.abspath(root)
        self.pool = ThreadPool(max_threads, processors)
        self._data = DataDirectory(self._root)
        self._directories = Directories(self._root, self._data.create)
        self._listings = ListingCache()
        self.bulk = FilesystemBulk(self._root, self.pool, self._data.check, _read, _is_temporary)
        self.uploads = FilesystemUploads(self._path, self.pool, self._directories, self._data.check)

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    def _missing(self, key: str) -> KeyMissing:
        self._data.check()
        return KeyMissing(key)

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        path = self._path(key)
        try:
            data = _read(path, key, limit)
        except OSError as error:
            raise translated(error, "read", key, path, self._missing) from error
        return Content(data, _version)

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        path = self._path(key)
        write = Write(key, data, when)

        def work() -> None:
            with translating("write", key, path, None):
                self._write_one(write)

        await self.pool.run(work)
        return _version(data)

    def _write_one(self, write: Write) -> None:
        path = self._path(write.key)
        directory = os.path.dirname(path)

        def put(temporary: str) -> None:
            with changing(directory):
                give_name(write, temporary, path, _current, self._path)

        self._directories.within(directory, lambda: write_whole(path, write.data, put))

    def _ordered(self, groups: Sequence[Sequence[Write]]) -> OrderedWrites:
        return OrderedWrites(self._directories, self._path, _current, self._write_one, groups)

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        writes = [write for group in groups for write in group]
        keys = ", ".join(write.key for write in writes)
        paths = ", ".join(self._path(write.key) for write in writes)

        def work() -> None:
            with translating("write", keys, paths, None), self._ordered(groups) as ordered:
                ordered.run()

        await self.pool.run(work)
        return [_version(write.data) for write in writes]

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        path = self._path(link.key)

        def work() -> Published:
            # The link is on disk under a temporary name before the bytes get theirs: one wait for the disk less.
            with translating("write", link.key, path, None), self._ordered([[link]]) as ordered:
                names = self.uploads.move(home, state, to)
                ordered.settle()
                ordered.run()
            return Published(Stored.WRITTEN, self.uploads.remove(home, names))

        return await self.pool.run(work)

    async def stat(self, key: Key) -> Stat:
        path = self._path(key)
        try:
            status = os.stat(path)
        except OSError as error:
            raise translated(error, "stat", key, path, self._missing) from error
        if not stat.S_ISREG(status.st_mode):
            raise KeyMissing(key)
        return Stat(key, status.st_size, status.st_mtime)

    find = Driver.find

    async def delete(self, keys: Collection[Key]) -> None:
        paths = {self._path(key): key for key in keys}
        if len(paths) > FEW:
            await self._delete_many(paths)
            return

        def work() -> None:
            with translating("delete", ", ".join(keys), ", ".join(paths), None):
                self._data.check()
                delete_few(list(paths), self._root)

        await self.pool.run(work)

    async def _delete_many(self, paths: Mapping[str, str]) -> None:
        """Unlink all files, then fsync each directory that has changed once: the first fsync commits them all.

        A file that cannot be unlinked is reported when the others are gone, durably.
        """
        await self.pool.run(self._data.check)
        unlinked = await self._in_parts(list(paths), lambda part: unlink_all(part, self._root))
        changed = {directory for part in unlinked for directory in part.changed}

        def settle() -> None:
            with translating("delete", self._root, self._root, None):
                sync_remaining(changed, self._root)
            for part in unlinked:
                for path, error in part.failed.items():
                    raise translated(error, "delete", paths[path], path, None) from error

        await self.pool.run(settle)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        found = [(self._path(known.key), known) for known in objects]

        def work(part: Sequence[tuple[str, Stat]]) -> list[Key]:
            self._data.check()
            changed: list[Key] = []
            for path, known in part:
                with translating("remove", known.key, path, None):
                    if not remove_if_unchanged(path, known):
                        changed.append(known.key)
            return changed

        return [key for part in await self._in_parts(found, work) for key in part]

    async def _in_parts(self, items: Sequence[_T], work: Callable[[Sequence[_T]], _R]) -> list[_R]:
        """Work on parts of `items` in several threads.

        A file system may wait for its device at each one: ext4 without a journal, if it discards freed blocks, for
        0.3 ms in each rmdir(2).  Eight threads remove six times as many.
        """
        parts = [items[start : start + _PART] for start in range(0, len(items), _PART)]
        return await map_bounded(parts, lambda part: self.pool.run(lambda: work(part)), limit=_PARTS_AT_ONCE)

    async def clear(self, prefix: Key) -> None:
        path = self._path(prefix)

        def work() -> None:
            with (
                translating("clear", prefix, path, None),
                suppress(FileNotFoundError, NotADirectoryError),
            ):
                self._data.check()
                remove_tree(path)
                sync_directory(os.path.dirname(path))

        await self.pool.run(work)

    async def prune(self, prefix: Key, before: datetime) -> None:
        path = self._path(prefix)

        def work() -> None:
            with translating("prune", prefix, path, None):
                remove_leftovers(path, before.timestamp())

        await self.pool.run(work)

    @asynccontextmanager
    async def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        path = self._path(key)
        with translating("open", key, path, self._missing):
            fd, status = open_regular(path)
        try:
            size = status.st_size
            if start > size:
                raise RangeOutside(f"{key}: {start} is past its {size} bytes")
            end = size if stop is None else min(stop, size)
            yield FileReader(self.pool, fd, path, Stat(key, size, modified(status)), start, end)
        finally:
            with translating("close", key, path, None):
                os.close(fd)

    async def open_file(self, key: Key) -> LocalFile | None:
        path = self._path(key)
        with translating("open", key, path, self._missing):
            fd, status = open_regular(path)
        return LocalFile(FileIO(path, opener=lambda *_: fd), status.st_size)

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        del method, expires_s  # clients cannot reach a directory of this host
        check_key(key)
        return None

    @asynccontextmanager
    async def create(self, key: Key) -> AsyncIterator[Writer]:
        path = self._path(key)
        with translating("create", key, path, None):
            writer = await self.pool.run(
                lambda: FileWriter(self.pool, self._directories, key, path), FileWriter.abandon
            )
        try:
            yield writer
        finally:
            with translating("close", key, path, None):
                await self.pool.run(writer.abandon)

    async def adopt(self, key: Key, path: str) -> Stored:
        target = self._path(key)
        directory = os.path.dirname(target)

        def move() -> bool:
            try:
                os.rename(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return False
            sync_directory(directory)
            return True

        def work() -> bool:
            with translating("adopt", key, path, KeyMissing):
                fd, _ = open_regular(path)
                try:
                    os.utime(fd)  # a collector spares young objects; the file may be older
                    sync(fd, path)
                finally:
                    os.close(fd)
            with translating("adopt", key, target, None):
                return self._directories.within(directory, move)

        if await self.pool.run(work):
            return Stored.WRITTEN
        return await adopt_by_copying(self, key, path)

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        path = self._path(prefix)

        def work() -> list[str]:
            with translating("list", prefix, path, self._missing):
                return self._names(path, after, limit)

        try:
            names = await self.pool.run(work)
        except KeyMissing:
            return
        if names:
            yield names

    def _names(self, path: str, after: str, limit: int | None) -> list[str]:
        found: list[str] = []
        while limit is None or len(found) < limit:
            left = None if limit is None else limit - len(found)
            page = self._listings.page(path, after=after, limit=left)
            found += [name for name in page if is_component(name) and not _is_temporary(path, name)]
            if left is None or len(page) < left:
                break
            after = page[-1]
        return found

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        path = self._path(prefix)
        pages = _scan(path, prefix)
        await self.pool.run(self._data.check)
        while True:
            with translating("scan", prefix, path, None):
                page = await self.pool.run(lambda: next(pages, None))
            if page is None:
                return
            yield page

    async def probe(self) -> None:
        def work() -> None:
            with translating("probe", "/", self._root, None), suppress(FileNotFoundError):
                check_readable(self._root)
            self._data.check()

        await self.pool.run(work)

    async def close(self) -> None:
        self.pool.close()


def _read(path: str, key: str, limit: int) -> bytes:
    if limit <= _UNSEEN_BYTES:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = os.pread(fd, limit + 1, 0)
            if 0 < len(data) <= limit:
                return data
        except OSError as error:
            if error.errno != errno.ESPIPE:  # a FIFO
                raise
        finally:
            os.close(fd)
    # Large or unknown, empty or no regular file.
    fd, status = open_regular(path)
    try:
        data = os.read(fd, status.st_size + 1) if status.st_size <= limit else b""
        if max(status.st_size, len(data)) > limit:
            raise ObjectTooLarge(f"{key}: more than {limit} bytes")
        return data
    finally:
        os.close(fd)


def _version(data: bytes) -> Version:
    """Return a hash of the content, 1 us for a link.

    Inode, time and size would not do: links are all of one size, an inode's number is used again at once, and
    the kernel's clock ticks every 1 to 4 ms, so a write and a write back could look like no write.
    """
    return Version(hashlib.blake2b(data, digest_size=16).hexdigest())


def _current(path: str) -> Version | None:
    try:
        fd, status = open_regular(path)
    except FileNotFoundError:
        return None
    try:
        return _version(os.read(fd, status.st_size))
    finally:
        os.close(fd)


def _is_temporary(directory: str, name: str) -> bool:
    """Return whether an entry is the unfinished file of a writer; a directory (a tag, for example) may have such a
    name.
    """
    return is_temporary_name(name) and not is_directory(f"{directory}/{name}")


def _scan(path: str, prefix: str) -> Iterator[list[Stat]]:
    """Walk depth first, with no directory open between pages; skip files that vanish meanwhile.

    Symbolic links are followed, as by CNCF Distribution: operators move a large directory to another disk that
    way.
    """
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
            if not is_component(entry.name):
                continue
            name = f"{key}/{entry.name}"
            if is_directory_entry(entry):
                waiting.append((entry.path, name))
            elif not _is_temporary(directory, entry.name) and (status := file_status(entry)) is not None:
                page.append(Stat(Key(name), status.st_size, modified(status)))
            if len(page) >= _PAGE:
                yield page
                page = []
    if page:
        yield page
