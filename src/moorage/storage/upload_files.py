"""The files of an upload's directory: data, notes, markers and the time when it began.

`filesystem_uploads.py` draws them.  Everything here blocks.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Note, StorageUnavailable, Version
from moorage.storage.durable import (
    DIRECTORY_MODE,
    FILE_MODE,
    open_regular,
    temporary_beside,
    write_at,
)
from moorage.storage.started import started_at

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
"""The form of today's uploads, also of those without such a name.  docs/formats.md has the rule."""


def offset_in(name: str) -> int | None:
    """The offset in the name of a note or marker."""
    text = name.rpartition("/")[2].removeprefix(OFFSET)
    return int(text) if text.isascii() and text.isdigit() else None


def found_names(path: str) -> Iterator[tuple[int, str]]:
    """(offset, path) of every note and marker.  Raises StorageUnavailable for an upload of a later format."""
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
    if not offsets:
        return size
    return max((offset for offset in offsets if offset <= size), default=0)


def notes_at(path: str, found: Sequence[tuple[int, str]], offset: int) -> Iterator[Note]:
    for at, note in found:
        name = note[len(path) + 1 :]
        if at == offset and not name.startswith(OFFSET):
            with suppress(FileNotFoundError):
                yield Note(name, _read(note))


def begun(path: str) -> tuple[datetime, bool]:
    """Return the time in `startedat`, and True; without a readable one, that of the last write, and False."""
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
    """An entry that cannot be read may be new: treated as old, a live upload would be purged."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _read(path: str) -> bytes:
    """The first KiB of a file: more than any note or time has."""
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
    """Whole or not at all for other processes; a power cut may take it (module docstring).

    The home itself is never made here: an upload that was discarded meanwhile stays gone.
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
