"""Files in an upload's directory: data, notes, markers and start time.

`uploads.py` has the layout.  All functions block.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Note, StorageUnavailable, Version
from moorage.storage.filesystem.durable import (
    DIRECTORY_MODE,
    FILE_MODE,
    open_regular,
    temporary_beside,
    write_at,
)
from moorage.storage.start_times import started_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "DATA",
    "OFFSET",
    "STARTED",
    "begun",
    "found_names",
    "notes_at",
    "offset_in",
    "offset_reached",
    "version_of",
    "write_file",
    "write_note",
]

STARTED: Final = "startedat"
DATA: Final = "data"
OFFSET: Final = "offset."
_NOTES: Final = "hashstates"
_FORMAT: Final = "format."
_KNOWN_FORMAT: Final = f"{_FORMAT}1"
"""The current format, also that of uploads without such a file.  docs/formats.md has the rule."""


def offset_in(name: str) -> int | None:
    """Return the offset in the name of a note or marker; None if it has none."""
    text = name.rpartition("/")[2].removeprefix(OFFSET)
    return int(text) if text.isascii() and text.isdigit() else None


def found_names(path: str) -> Iterator[tuple[int, str]]:
    """Yield (offset, path) of every note and marker.  Raises StorageUnavailable for an unknown format."""
    for name in os.listdir(path):
        if name.startswith(_FORMAT) and name != _KNOWN_FORMAT:
            raise StorageUnavailable(
                f"{path}: {name} is not known to this version of Moorage; continue the upload with the version "
                "that began it, or begin it again"
            )
        if name.startswith(OFFSET) and (offset := offset_in(name)) is not None:
            yield offset, f"{path}/{name}"
        elif name == _NOTES:
            with suppress(FileNotFoundError, NotADirectoryError):
                for algorithm in os.listdir(f"{path}/{_NOTES}"):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        for note in os.listdir(f"{path}/{_NOTES}/{algorithm}"):
                            if (offset := offset_in(note)) is not None:
                                yield offset, f"{path}/{_NOTES}/{algorithm}/{note}"


def version_of(status: os.stat_result) -> Version:
    """Return the version of `data`: the same at the same offset only if no request has written since."""
    return Version(f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")


def offset_reached(offsets: Sequence[int], size: int) -> int:
    """Return the greatest of `offsets` that `size` reaches; without any, `size`."""
    if not offsets:
        return size
    return max((offset for offset in offsets if offset <= size), default=0)


def notes_at(path: str, found: Sequence[tuple[int, str]], offset: int) -> Iterator[Note]:
    """Yield the notes of the checkpoint at `offset`."""
    for at, note in found:
        name = note[len(path) + 1 :]
        if at == offset and not name.startswith(OFFSET):
            with suppress(FileNotFoundError):
                yield Note(name, _read(note))


def begun(path: str) -> tuple[datetime, bool]:
    """Return the time in `startedat` and True; without a valid one the last modification time and False."""
    with suppress(OSError):
        started = started_at(_read(f"{path}/{STARTED}"))
        if started is not None:
            return started, True
    newest = 0.0
    for directory, _, files in os.walk(path, onerror=_raise):
        for name in [".", *files]:
            try:
                newest = max(newest, os.stat(f"{directory}/{name}").st_mtime)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
    return datetime.fromtimestamp(newest, UTC), False


def _raise(error: OSError) -> None:
    """Raise errors of `os.walk`: an unreadable entry may be new, and skipping it could purge a live upload."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _read(path: str) -> bytes:
    """Return the first KiB of a file, more than any note or time has."""
    fd, _ = open_regular(path)
    try:
        return os.read(fd, 1024)
    finally:
        os.close(fd)


def write_file(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    try:
        if data:
            write_at(fd, (data,), 0)
    finally:
        os.close(fd)


def write_note(home: str, note: Note) -> None:
    """Write a note atomically; it is not durable (`uploads.py`).

    The upload's own directory is never created here: an upload that was discarded meanwhile stays deleted.
    """
    parts = note.name.split("/")
    for depth in range(1, len(parts)):
        with suppress(FileExistsError):
            os.mkdir("/".join([home, *parts[:depth]]), DIRECTORY_MODE)
    path = f"{home}/{note.name}"
    temporary = temporary_beside(path)
    try:
        write_file(temporary, note.data)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
