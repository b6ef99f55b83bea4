"""Watches certificate files for changes, by polling in the master.

    changed ─► unchanged for one poll ─► read and checked ─► accepted: workers use it for new connections
                                               └─► refused: logged once that lasts, retried after the next change

Invariant: no file is read while it changes.  A tool may write certificate and key one after the other, or a long
chain in pieces; files that do not match meanwhile are neither used nor reported.

A change is a different stamp of a file (`reloading.py`), links followed, which detects a new file under the old
name (certbot's rename), a link with a new target (secrets of Kubernetes are two links deep) and a file written
in place. inotify would be quicker, but reports nothing on network file systems.

The housekeeper (`http.tls.letsencrypt`) only has to write certificates to the files that `tls.files` returns.
Above: `server/processes/rolling_restart.py`.  Made by: `server/processes/worker_config.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.reloading import stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.reloading import Stamp

__all__ = ["POLL_S", "FileWatcher"]

POLL_S: Final = 2.0
"""Seconds between two polls; a change is read at the second one with the same result."""

MISMATCH_GRACE_S: Final = 10.0
"""Seconds for which files that do not match count as a renewal in progress."""

REREAD_S: Final = 24 * 3600.0
"""Seconds after which unchanged files are read again: a certificate that expires soon is logged every day."""


class FileWatcher:
    """A set of files and the last known state of each.  Create it before the files are first read.

    Times are those of a monotonic clock, in seconds, passed in.
    """

    __slots__ = ("_accepted", "_bad_since", "_cause", "_read", "_read_at", "_reported", "_seen", "paths")

    def __init__(self, paths: Iterable[str], now: float) -> None:
        self.paths = tuple(paths)
        self._read_at = now
        self._accepted = self._read = self._seen = self._stat_all()
        self._cause = ""
        self._bad_since = 0.0
        self._reported = False

    def due(self, now: float) -> bool:
        """Poll the files and return whether to read them.

        They are read if they differ from the state that was last read, or if that was a day ago, and have not
        changed since the last poll.
        """
        found = self._stat_all()
        is_stable = found == self._seen
        self._seen = found
        return is_stable and (found != self._read or now - self._read_at >= REREAD_S)

    def accept(self, now: float) -> tuple[str, ...]:
        """Record that the last polled state was read and is usable; return the files that it changed."""
        pairs = zip(self.paths, self._accepted, self._seen, strict=True)
        changed = tuple(path for path, before, after in pairs if before != after)
        self._accepted = self._read = self._seen
        self._read_at = now
        self._cause = ""
        self._reported = False
        return changed

    def refuse(self, cause: str, now: float) -> None:
        """Record that the last polled state was read and is not usable; it is not read again until it changes."""
        self._read = self._seen
        self._read_at = now
        if not self._cause:
            self._bad_since = now
        self._cause = cause
        self._reported = False

    def reportable_cause(self, now: float) -> str:
        """Return why the files are not usable, once, after `MISMATCH_GRACE_S`; else an empty string."""
        if not self._cause or self._reported or now - self._bad_since < MISMATCH_GRACE_S:
            return ""
        self._reported = True
        return self._cause

    def _stat_all(self) -> tuple[Stamp | None, ...]:
        return tuple(stamp_of(path) for path in self.paths)
