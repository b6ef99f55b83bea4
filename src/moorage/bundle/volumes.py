"""Volumes: one file in pieces of a given size, `NAME.001`, `NAME.002` and so on; `cat NAME.*` gives the whole.

While a file is written, each piece has the suffix `.partial`, so that a file with its final name is whole.  The
first piece is renamed last.

Above: `files.py`, `writer.py`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING, Final, Self

from moorage.bundle.errors import BundleInvalid, OutputFull, OutputRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["MINIMUM_VOLUME_BYTES", "VolumeReader", "VolumeWriter", "find_volumes", "group_volumes"]

MINIMUM_VOLUME_BYTES: Final = 64 << 10
_LAST: Final = 999
_NUMBERED: Final = re.compile(r"(.+)\.(\d{3})", re.DOTALL)
_PARTIAL: Final = ".partial"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
"""Some network file systems; the caller has to see to it that one export writes a file."""


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number:03d}")


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}{_PARTIAL}")


def _base_of(path: Path) -> Path | None:
    """Return the name without the number of a volume, None if it has none."""
    found = _NUMBERED.fullmatch(path.name)
    return None if found is None else path.with_name(found[1])


def find_volumes(path: Path) -> list[Path]:
    """Return the files of `path`: itself, or the volumes of which it is one, or which have its name.

    Raises BundleInvalid if there are none, if one of them is missing, or if they are unfinished.
    """
    base = path if not path.exists() else _base_of(path)
    if base is None or (path.exists() and not _numbered(base, 1).exists()):
        return [path]
    found: list[Path] = []
    present = {
        int(match[2])
        for each in base.parent.glob(f"{_escaped(base.name)}.*")
        if (match := _NUMBERED.fullmatch(each.name)) and match[1] == base.name
    }
    for number in range(1, max(present, default=0) + 1):
        if number not in present:
            raise BundleInvalid(f"{_numbered(base, number)} is missing; all volumes must be in the same folder")
        found.append(_numbered(base, number))
    if found:
        return found
    if _partial(base).exists() or _partial(_numbered(base, 1)).exists():
        raise BundleInvalid(f"the export to {base} was not finished; run it again, it continues")
    raise BundleInvalid(f"there is no file {path}")


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def group_volumes(paths: Iterable[Path]) -> list[Path]:
    """Return one path for each bundle: volumes of one bundle that are named one by one are one."""
    found: dict[Path, Path] = {}
    for path in paths:
        base = _base_of(path)
        is_volume = base is not None and _numbered(base, 1).exists() and path.exists()
        found.setdefault(base if is_volume and base is not None else path, path)
    return list(found.values())


class VolumeReader:
    """Reads the volumes of a bundle as one file.  Reads may run in several threads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[tuple[int, int, int]] = []  # descriptor, offset of the first byte, length
        self.length = 0
        try:
            for path in paths:
                # Opening a pipe would wait for its writer.
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                found = os.fstat(descriptor)
                self._files.append((descriptor, self.length, found.st_size))
                self.length += found.st_size
                if not stat.S_ISREG(found.st_mode):
                    raise BundleInvalid(
                        f"{path} is not a file; a bundle is read at several places, not from a pipe"
                    )
        except BaseException:
            self.close()
            raise

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer at the end."""
        found = b""
        for descriptor, start, length in self._files:
            if start + length <= offset:
                continue
            while len(found) < size and offset < start + length:
                piece = os.pread(descriptor, min(size - len(found), start + length - offset), offset - start)
                if not piece:
                    return found  # truncated while it is read
                found = found + piece if found else piece
                offset += len(piece)
            if len(found) >= size:
                break
        return found

    def close(self) -> None:
        for descriptor, _, _ in self._files:
            os.close(descriptor)
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VolumeWriter:
    """Appends to the unfinished volumes of `path`; holds a lock, so that two exports never write the same file.

    `volume_bytes` None: one file.  Raises OutputRefused if the output exists, or another process writes it.
    """

    def __init__(self, path: Path, volume_bytes: int | None) -> None:
        self._path = path
        self._volume_bytes = volume_bytes
        for finished in (path, _numbered(path, 1)):
            if os.path.lexists(finished):
                raise OutputRefused(f"{finished} exists; remove it, or name another output")
        self._refuse_other_form()
        try:
            self._lock = os.open(self.partial_path(1), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputRefused(f"{path} cannot be written: {error.strerror}") from error
        self._current: tuple[int, int] | None = None  # number, descriptor
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise OutputRefused(f"another export writes {path} at this moment") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(self._lock)
                raise
        sizes = [each.stat().st_size for each in self.partial_paths()]
        if volume_bytes is not None and any(size != volume_bytes for size in sizes[:-1]):
            os.close(self._lock)
            raise OutputRefused(
                f"{self.partial_path(1)} is left of an export with another --volume-size; use that one, or remove "
                "the unfinished volumes"
            )
        self.length = sum(sizes)

    def _refuse_other_form(self) -> None:
        one, several = _partial(self._path), _partial(_numbered(self._path, 1))
        other = one if self._volume_bytes is not None else several
        if other.exists():
            raise OutputRefused(
                f"{other} is left of an export with another --volume-size; use that one, or remove it"
            )

    def final_path(self, number: int) -> Path:
        return self._path if self._volume_bytes is None else _numbered(self._path, number)

    def partial_path(self, number: int) -> Path:
        return _partial(self.final_path(number))

    def partial_paths(self) -> list[Path]:
        """Return the volumes that exist."""
        found: list[Path] = []
        for number in range(1, _LAST + 1):
            # A crash between two renames leaves both kinds of names.
            final, partial = self.final_path(number), self.partial_path(number)
            if number > 1 and final.exists() and not partial.exists():
                final.rename(partial)
            if not partial.exists():
                break
            found.append(partial)
            if self._volume_bytes is None:
                break
        return found

    def append(self, data: bytes | memoryview) -> None:
        """Write all of `data`.  Raises OutputFull; a part of it may have been written then."""
        view = memoryview(data)
        while view:
            number, room = 1, len(view)
            if self._volume_bytes is not None:
                number += self.length // self._volume_bytes
                room = self._volume_bytes - self.length % self._volume_bytes
            try:
                written = os.write(self._descriptor(number), view[:room])
            except OSError as error:
                raise self._failed(error) from error
            self.length += written
            view = view[written:]

    def _failed(self, error: OSError) -> Exception:
        if error.errno == errno.EFBIG:
            return OutputRefused(
                f"{self._path.parent.absolute()} does not take files of more than {self.length} bytes (FAT32: 4 "
                "GiB); remove the unfinished file and use --volume-size"
            )
        if error.errno not in _FULL:
            return OutputRefused(f"{self._path} cannot be written: {error.strerror}")
        return OutputFull(
            f"no space left in {self._path.parent.absolute()} ({error.strerror}); {self.length} bytes were "
            "written and stay: free some space and run the same command again, it continues"
        )

    def _descriptor(self, number: int) -> int:
        if self._current is not None and self._current[0] == number:
            return self._current[1]
        if number > _LAST:
            raise OutputRefused(f"{self._path} has more than {_LAST} volumes; use a larger --volume-size")
        self._close_current()
        descriptor = os.open(
            self.partial_path(number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._current = number, descriptor
        return descriptor

    def truncate(self, length: int) -> None:
        """Remove everything after the first `length` bytes."""
        self._close_current()
        start = 0
        for path in self.partial_paths():
            size = path.stat().st_size
            if start + size > length:
                os.truncate(path, max(0, length - start))
                if start >= length and start > 0:
                    path.unlink()
            start += size
        self.length = length

    def finish(self) -> list[Path]:
        """Make everything durable and give the volumes their names; return them."""
        self._close_current()
        paths = [self.final_path(number) for number in range(1, len(self.partial_paths()) + 1)]
        for path in reversed(paths):
            _partial(path).rename(path)
        _sync_folder(self._path.parent)
        return paths

    def _close_current(self) -> None:
        if self._current is None:
            return
        descriptor = self._current[1]
        self._current = None
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Release the lock; unfinished volumes stay, unless nothing was written to them."""
        try:
            self._close_current()
            if self.length == 0:
                self.partial_path(1).unlink(missing_ok=True)
        finally:
            os.close(self._lock)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
