"""Spool: files of blobs that are being downloaded, shared by all processes of the node.

    DIRECTORY/ALG-HEX.part     the bytes so far, in order; locked (flock) by the process that downloads
    DIRECTORY/ALG-HEX.json     its size, the repositories whose upstream registry has the blob, and the boot

The one invariant: a part never reaches the size of its blob before its digest has been verified.  The last bytes
are held back in memory until then (`download.py`), so the size of the file is all that another process has to
read: fewer bytes are a download in progress, all bytes are a verified blob, and a corrupt one is never complete.
A power failure may leave a file of full size without its bytes, so the sizes of an earlier boot do not count.

The kernel releases the lock of a process that is killed.  Another one that finds the part unlocked continues at
its end, after hashing the bytes that are there.  A complete part is moved into the store (`Driver.adopt`), where
the spool is on the file system of the store; a reader keeps its open file.

The directory must be local to the node: locks of a network file system may be slow or missing.  Files that no
process continues are removed after a day.

Above: `fill.py`, `download.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.types import Digest, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.types import RepoName

__all__ = ["PartInfo", "Spool", "SpoolPart", "SpoolUnusable", "make_directory"]

_ABANDONED_S: Final = 24 * 3600.0
_INFO_LIMIT_BYTES: Final = 1 << 20


def _boot() -> str:
    """Return the identity of this boot of the machine; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class PartInfo:
    """Size of a blob in bytes, and the repositories for which it was requested from their upstream registry."""

    size: int
    names: frozenset[RepoName]


class SpoolUnusable(Exception):
    """The spool cannot be written: the disk is full, read-only or not permitted.  Blobs are passed on unstored."""


class SpoolPart:
    """An open part.  `file` is its descriptor, for reading and writing; `close` releases the lock as well."""

    def __init__(self, spool: Spool, digest: Digest, file: int, *, locked: bool) -> None:
        self._spool = spool
        self.digest = digest
        self.file = file
        self.locked = locked

    @property
    def path(self) -> Path:
        return self._spool.path(self.digest)

    @property
    def size(self) -> int:
        """Return the number of bytes that are in the file."""
        return os.fstat(self.file).st_size

    def lock(self) -> bool:
        """Acquire the lock; False while another process has it, or if the file is no longer the part."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.locked = True
        if self.is_current():
            return True
        self.unlock()
        return False

    def unlock(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)
        self.locked = False

    def is_current(self) -> bool:
        """Return whether the file is still in the spool, neither adopted nor removed."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.file))

    def close(self) -> None:
        """Release the lock, which readers with a duplicate of the descriptor would keep, and close the file."""
        if self.locked:
            self.unlock()
        os.close(self.file)


def make_directory(directory: Path, levels: int = 2) -> None:
    """Create the last `levels` directories of a path, as far as they are missing.

    Not what is above them: a data directory that was lost, or is not mounted, must not be created again.
    """
    for path in (*reversed(directory.parents[: levels - 1]), directory):
        path.mkdir(exist_ok=True)


class Spool:
    """Parts in one directory, which is created when it is first used.  Methods raise OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._boot = _boot()

    def path(self, digest: Digest) -> Path:
        """Return the path of the part of a blob."""
        return self._directory / f"{digest.algorithm}-{digest.hex}.part"

    def _info_path(self, digest: Digest) -> Path:
        return self._directory / f"{digest.algorithm}-{digest.hex}.json"

    def find(self, digest: Digest) -> SpoolPart | None:
        """Open the part of a blob, unlocked; None if there is none."""
        try:
            file = os.open(self.path(digest), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return SpoolPart(self, digest, file, locked=False)

    def begin(self, digest: Digest) -> SpoolPart | None:
        """Open or create the part of a blob, and lock it; None while another process has the lock."""
        while True:
            file = self._open(digest)
            part = SpoolPart(self, digest, file, locked=False)
            if part.lock():
                return part
            current = part.is_current()
            part.close()
            if current:
                return None

    def _open(self, digest: Digest) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self.path(digest), flags, 0o644)
        except FileNotFoundError:
            make_directory(self._directory)
            return os.open(self.path(digest), flags, 0o644)

    def info(self, digest: Digest) -> PartInfo | None:
        """Return what is known of the blob of a part since the machine was started; None if nothing is, or it is
        unreadable: the part is downloaded anew.
        """
        try:
            with self._info_path(digest).open("rb") as file:
                fields = json.loads(file.read(_INFO_LIMIT_BYTES))
            if fields.get("boot") != self._boot:
                return None
            return PartInfo(int(fields["size"]), frozenset(map(parse_repo_name, fields["names"])))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):  # cut by a crash: the part is downloaded anew
            return None

    def set_info(self, digest: Digest, info: PartInfo) -> None:
        """Replace what is known of the blob of a part.  Not durable: without it the part is downloaded anew."""
        path = self._info_path(digest)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"size": info.size, "names": sorted(info.names), "boot": self._boot}))
        temporary.replace(path)

    def remove(self, digest: Digest) -> None:
        """Remove a part whose lock the caller has, and what is known of it."""
        for path in (self.path(digest), self._info_path(digest)):
            path.unlink(missing_ok=True)

    def remove_info(self, digest: Digest) -> None:
        """Remove what is known of a part that the store has adopted."""
        self._info_path(digest).unlink(missing_ok=True)

    def remove_abandoned(self, *, now: float | None = None) -> int:
        """Remove files that were last written a day ago and that no process has locked; return their number."""
        before = (time.time() if now is None else now) - _ABANDONED_S
        return sum(self._remove_unlocked(path) for path in self._older(before))

    def _older(self, before: float) -> Iterator[Path]:
        try:
            paths = list(self._directory.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            with suppress(FileNotFoundError):
                if path.suffix in {".part", ".json", ".tmp"} and path.stat().st_mtime < before:
                    yield path

    @staticmethod
    def _remove_unlocked(path: Path) -> bool:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(file)):  # else it was adopted, and another one has begun
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(file)
        return True
