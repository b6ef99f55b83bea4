"""State objects of garbage collection, which collectors write and every registry process reads.

All of them are in one directory (`layout.COLLECTION`), so that one listing shows the whole state:

    running.TOKEN           a collection run is in progress; JSON
    ended.TOKEN             the last run that ended; changes with every run
    condemned.TOKEN.NNNNN   digests that the run is going to remove, unless a request relies on them
    doomed.TOKEN.NNNNN      digests that the run is removing: absent to every request
    probe.TOKEN             written, listed and removed when a run begins, to see how late listings are
    reserve                 space freed by a run on a full disk

TOKEN names a run, and is used once.  An object with a token is written once and never changed, so a process that
has read one need not read it again; `probe` and `reserve` are for collectors only.

A list has one entry per line, sorted:

    DIGEST          the bytes are dead in the whole store, and so is every link to them
    DIGEST NAME     only the link in the repository NAME is dead; others may need the same bytes

Above: requests, and collectors.  Below: `storage/driver.py`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.errors import DigestInvalid
from moorage.registry import layout
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.storage.driver import Driver

__all__ = [
    "CONDEMNED",
    "DOOMED",
    "ENDED",
    "PROBE",
    "RENEW_S",
    "RESERVE",
    "RUNNING",
    "ListEntry",
    "StateName",
    "decode_entries",
    "encode_entries",
    "list_state",
    "new_token",
]

RUNNING: Final = "running"
ENDED: Final = "ended"
CONDEMNED: Final = "condemned"
DOOMED: Final = "doomed"
PROBE: Final = "probe"
RESERVE: Final = "reserve"

RENEW_S: Final = 5.0
"""Seconds for which a process uses a listing in which no run is in progress.

A collector waits longer after it has written `running`, before it examines anything: from then on every process
has seen that a collection is in progress.
"""


class StateName(NamedTuple):
    """Parsed name of a state object.  `number` counts the lists of one run, from 0; -1 for other kinds."""

    kind: str
    token: str
    number: int = -1

    @classmethod
    def parse(cls, name: str) -> StateName | None:
        """Return the parts; None for a name that is none of this version.

        A name that is written in another way, as `doomed.TOKEN.1`, is none: its object would not be found by it.
        """
        kind, _, rest = name.partition(".")
        token, _, number = rest.partition(".")
        if not token:
            return None
        if kind in {CONDEMNED, DOOMED}:
            found = cls(kind, token, int(number)) if number.isdecimal() else None
        else:
            found = cls(kind, token) if kind in {RUNNING, ENDED, PROBE} and not number else None
        return found if str(found) == name else None

    def __str__(self) -> str:
        return f"{self.kind}.{self.token}" + (f".{self.number:05}" if self.number >= 0 else "")


def new_token() -> str:
    """Return a token that no other run has; tokens sort by the time of their run."""
    return f"{time.time_ns() // 1_000_000:013}-{os.urandom(6).hex()}"


async def list_state(driver: Driver) -> list[StateName]:
    """Return the state objects, by one listing.  Raises StorageUnavailable."""
    found: list[StateName] = []
    async for names in driver.children(layout.COLLECTION):
        found += filter(None, map(StateName.parse, names))
    return found


class ListEntry(NamedTuple):
    """An entry of a list; `name` is "" if the digest is dead in the whole store."""

    digest: Digest
    name: str = ""


def encode_entries(entries: Iterable[ListEntry]) -> bytes:
    """Return the content of a list."""
    lines = (f"{digest} {name}\n" if name else f"{digest}\n" for digest, name in entries)
    return "".join(sorted(lines)).encode()


def decode_entries(data: bytes) -> list[ListEntry]:
    """Return the entries of a list.  Lines that are none are left out."""
    found: list[ListEntry] = []
    for line in data.decode("ascii", "replace").splitlines():
        text, _, name = line.partition(" ")
        with suppress(DigestInvalid):
            found.append(ListEntry(Digest.parse(text), name))
    return found
