"""Certificates that are renewed on disk: noticed by the master, without a signal.

    changed ─► still for one poll ─► read and checked ─► taken: new workers, one by one
                                          └─► refused: told once that lasts, tried again with the next change

The one rule: nothing is read while it changes.  A tool that writes certificate and key one after the other, or a
long chain piece by piece, is waited for; what does not fit together in between is neither taken nor complained of.

Files are known by what stat(2) says of them with links followed, so a new file under the old name (certbot's
rename), a link that points elsewhere (secrets of Kubernetes are two links deep) and a file written over are all
noticed.  inotify would be quicker, and blind on network file systems.

Whoever obtains certificates (`http.tls.letsencrypt`) writes them where `tls.files` says, and needs no more than
that.
Above: `succession.py`.  Made by: `plan.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    Mark = tuple[int, int, int, int] | None

__all__ = ["POLL_S", "Watched"]

POLL_S: Final = 2.0
"""Seconds between two looks; a change is taken at the second one that shows the same."""

PATIENCE_S: Final = 10.0
"""How long files that do not fit together are expected to be on their way."""

AGAIN_S: Final = 24 * 3600.0
"""Seconds after which files that have not changed are read again, for what time does to them: a certificate that
nobody renews is told of every day."""


class Watched:
    """A set of files, and what is known of their state.  Make it before the files are read for the first time.

    Times are those of a monotonic clock, in seconds, passed in.
    """

    __slots__ = ("_bad_since", "_cause", "_read", "_read_at", "_seen", "_told", "paths")

    def __init__(self, paths: Iterable[str], now: float) -> None:
        self.paths = tuple(paths)
        self._read_at = now
        self._read = self._seen = self._look()
        self._cause = ""
        self._bad_since = 0.0
        self._told = False

    def due(self, now: float) -> bool:
        """Look again: whether to read them.

        They differ from what was last read, or that was a day ago, and they have stood still since the last look.
        """
        found = self._look()
        still, self._seen = found == self._seen, found
        return still and (found != self._read or now - self._read_at >= AGAIN_S)

    def accept(self, now: float) -> None:
        """What the last look saw has been read, and is good."""
        self._read, self._read_at, self._cause, self._told = self._seen, now, "", False

    def refuse(self, cause: str, now: float) -> None:
        """What the last look saw has been read, and cannot be used: not to be read again until it changes."""
        self._read, self._read_at = self._seen, now
        if not self._cause:
            self._bad_since = now
        self._cause, self._told = cause, False

    def complaint(self, now: float) -> str:
        """Why the files cannot be used, once, when that has lasted; else nothing."""
        if not self._cause or self._told or now - self._bad_since < PATIENCE_S:
            return ""
        self._told = True
        return self._cause

    def _look(self) -> tuple[Mark, ...]:
        return tuple(_mark(path) for path in self.paths)


def _mark(path: str) -> Mark:
    """None: it cannot be seen."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
