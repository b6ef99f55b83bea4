"""Times at which tags were last compared with their upstream registry, shared by the processes of the node.

    DIRECTORY/HEX        an empty file for each tag, named by a hash of repository and tag; its time is the check's

The files survive a restart, and can be removed: then each tag is compared once more.  That a tag is missing at the
upstream registry is remembered by each process for a short time, in which it is not asked, and by `HEX.gone` for
the time in which the registry fails: the tag is not served then.

Above: `manifests.py`.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache, TTLCache
from moorage.proxy.spool import make_directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage.types import RepoName, Tag

__all__ = ["TagChecks"]

_TAGS: Final = 20_000
_ABANDONED_S: Final = 400 * 86400.0
_SKEW_S: Final = 60.0
_GONE: Final = ".gone"


class TagChecks:
    """Checks of tags.  Without a `directory`, or if it cannot be written, each process remembers its own."""

    def __init__(
        self, directory: Path | None, *, absent_s: float = 30.0, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._now = now
        self._times: LRUCache[tuple[RepoName, Tag], float] = LRUCache(_TAGS)
        self._absent: TTLCache[tuple[RepoName, Tag], bool] = TTLCache(_TAGS, absent_s)

    def age_s(self, name: RepoName, tag: Tag, *, within_s: float | None = None) -> float | None:
        """Return the seconds since the last check; None if there was none.

        A check that this process remembers is returned if it is not older than `within_s`; else one of another
        process may be newer.
        """
        now = self._now()
        checked = self._times.get((name, tag))
        if checked is not None and (within_s is None or 0 <= now - checked < within_s):
            return now - checked
        path = self._path(name, tag)
        if path is not None:
            with suppress(OSError):
                found = path.stat().st_mtime
                if checked is None or found > checked:
                    checked = found
                    self._times.put((name, tag), checked)
        if checked is None or checked - now > _SKEW_S:  # the clock was set back: the check may be of any time
            return None
        return max(0.0, now - checked)

    def note(self, name: RepoName, tag: Tag) -> None:
        """Record a check of now."""
        now = self._now()
        self._times.put((name, tag), now)
        self._absent.drop((name, tag))
        path = self._path(name, tag)
        if path is not None and self._write(path, now):
            with suppress(OSError):
                path.with_suffix(_GONE).unlink(missing_ok=True)

    def _write(self, path: Path, now: float) -> bool:
        """Set the time of a file; False if it cannot be written: then it is not shared with other processes."""
        try:
            try:
                self._touch(path, now)
            except FileNotFoundError:
                make_directory(path.parent, levels=3)
                self._touch(path, now)
        except OSError:
            return False
        return True

    @staticmethod
    def _touch(path: Path, now: float) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        os.utime(path, (now, now))

    def note_absent(self, name: RepoName, tag: Tag) -> None:
        """Record that the upstream registry does not have the tag: it is not asked again for a while."""
        self._absent.put((name, tag), True)
        path = self._path(name, tag)
        if path is not None:
            self._write(path.with_suffix(_GONE), self._now())

    def is_absent(self, name: RepoName, tag: Tag) -> bool:
        """Return whether the upstream registry is not to be asked for the tag at the moment."""
        return self._absent.get((name, tag)) is not None

    def was_absent(self, name: RepoName, tag: Tag) -> bool:
        """Return whether the upstream registry did not have the tag when it was last asked."""
        path = self._path(name, tag)
        return self.is_absent(name, tag) or (path is not None and path.with_suffix(_GONE).exists())

    def remove_abandoned(self) -> None:
        """Remove files of tags that have not been checked for a year."""
        if self._directory is None:
            return
        before = self._now() - _ABANDONED_S
        with suppress(OSError):  # there is nothing to remove
            for path in self._directory.iterdir():
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()

    def _path(self, name: RepoName, tag: Tag) -> Path | None:
        if self._directory is None:
            return None
        return self._directory / hashlib.sha256(f"{name}:{tag}".encode()).hexdigest()[:40]
