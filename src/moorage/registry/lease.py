"""Lease: background work that is to run on one node of a cluster holds a small object in the store.

    absent, or released ──acquire──► held ──acquire by the owner──► held for another term
                                       └──── older than its term ──acquire by another──► held by that one

An optimization and no lock: two nodes may hold a lease at once, so the work must be harmless when it runs twice.
Nothing here relies on conditional writes, which some object stores lack: after writing, the owner reads the object
back, and the last writer holds the lease.  Two nodes that write and read at the same moment may both read their
own name.

Expiry compares the clock of this node with the modification time of the store: they are assumed to differ by less
than the part of the term that the owner leaves unused.  A larger difference makes a node take over early, or late
by as much, at most by a term.

Content: JSON with the owner, the term, the version of this format, and since version 2 the owner's `PROTOCOL`, by
which a garbage collector recognizes nodes of a release that does not know its markers.

Source of the key: `layout.py`; CNCF Distribution never lists it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorage.registry import layout
from moorage.registry.nodes import PROTOCOL
from moorage.registry.records import read_record, report_damage, resolve_record
from moorage.registry.stamps import utc_now
from moorage.storage.driver import ABSENT, Conflict, KeyMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from moorage.storage.driver import Driver, Key

__all__ = ["Holder", "Lease", "foreign_protocol", "read_holder"]

_REMEDY: Final = "no node does its work until the term is over; remove it if no node is at work"


class Holder(NamedTuple):
    """The owner of a lease, and the time of the store at which it was acquired or extended last."""

    owner: str
    at: datetime
    term_s: float

    def has_expired(self, now: datetime) -> bool:
        """Return whether another owner may take the lease, as `Lease` decides it."""
        return abs((now - self.at).total_seconds()) >= self.term_s


async def read_holder(driver: Driver, name: str) -> Holder | None:
    """Return who holds the lease `name`, for messages; None if it is free or unreadable.  Raises StorageError."""
    key = layout.lease(name)
    try:
        stat = await driver.stat(key)
    except KeyMissing:
        return None
    fields = await read_record(driver, key, remedy=_REMEDY)
    if not fields:
        return None
    try:
        return Holder(str(fields["owner"]), stat.modified, float(fields["term_s"]))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        report_damage(key, f"no owner and term: {error!r}", remedy=_REMEDY)
        return None


class Lease:
    """The lease `name` on behalf of `owner`, a text that no other process uses.

    A lease that is not acquired again within `term_s` seconds may be taken by another owner.
    """

    def __init__(
        self, driver: Driver, name: str, owner: str, *, term_s: float, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._driver = driver
        self._key = layout.lease(name)
        self._owner = owner
        self._term_s = term_s
        self._now = now
        self._may_hold = False

    async def acquire(self) -> bool:
        """Take the lease, or extend it by a term; return whether this owner holds it.  Raises StorageError."""
        try:
            fields, when = await resolve_record(self._driver, self._key, remedy=_REMEDY)
            if fields is not None and _owner(self._key, fields) != self._owner and not await self._has_expired():
                return False
        except KeyMissing:
            when = ABSENT
        # Before the write, which may be cancelled after it has happened.
        self._may_hold = True
        try:
            await self._driver.write(self._key, self._content(), when)
            written = await read_record(self._driver, self._key, remedy=_REMEDY)
        except Conflict:
            if when is ABSENT:
                await self._require_object()
            return False
        except KeyMissing:
            return False
        return written is not None and _owner(self._key, written) == self._owner

    async def _require_object(self) -> None:
        """Raise StorageUnavailable if the lease neither exists nor can be created: no node would do the work."""
        try:
            await self._driver.stat(self._key)
        except KeyMissing:
            raise StorageUnavailable(f"{self._key} cannot be created: it exists, and is no object") from None

    async def release(self) -> None:
        """Let another node take the lease at once, if this owner holds it.  Raises StorageError."""
        if not self._may_hold:
            return
        self._may_hold = False
        found = await read_record(self._driver, self._key, remedy=_REMEDY)
        if found is not None and _owner(self._key, found) == self._owner:
            await self._driver.delete([self._key])

    async def _has_expired(self) -> bool:
        """Return whether the term is over.  A time more than a term ahead was written with a wrong clock: it is.

        Raises KeyMissing.
        """
        modified = (await self._driver.stat(self._key)).modified
        return abs((self._now() - modified).total_seconds()) >= self._term_s

    def _content(self) -> bytes:
        content = {"version": 2, "owner": self._owner, "term_s": self._term_s, "protocol": PROTOCOL}
        return json.dumps(content).encode()


async def foreign_protocol(driver: Driver, name: str, *, now: datetime) -> int | None:
    """Return the protocol of the owner of a lease in its term, if it is not this release's: 0 for a release
    before protocols were numbered.  Raises StorageUnavailable.
    """
    key = layout.lease(name)
    fields = await read_record(driver, key, remedy=_REMEDY)
    if not fields:
        return None
    try:
        modified = (await driver.stat(key)).modified
    except KeyMissing:
        return None
    term_s = fields.get("term_s")
    if not isinstance(term_s, int | float) or abs((now - modified).total_seconds()) >= term_s:
        return None
    protocol = fields.get("protocol", 0)
    return None if protocol == PROTOCOL else protocol if isinstance(protocol, int) else -1


def _owner(key: Key, fields: Mapping[str, Any]) -> str:
    """Return the owner of a lease; "" for a damaged one, which is no process."""
    if "owner" not in fields:
        report_damage(key, "it has no owner", remedy=_REMEDY)
    return str(fields.get("owner", ""))
