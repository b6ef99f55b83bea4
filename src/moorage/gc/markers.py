"""State objects of a run (`registry/collection_state.py`), as collectors write them.

A list is written once.  To withdraw an entry, the list without it is written under another number, then the old
one is removed: in between, both count.

On a full disk a list cannot be written.  Then the reserve, an object that an earlier run has left for this, is
removed, and the list is written in smaller ones, as far as they go.

Above: `run.py`, `sweep.py`.  Below: `registry/collection_state.py`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import DigestInvalid
from moorage.registry import layout
from moorage.registry.collection_state import (
    CONDEMNED,
    DOOMED,
    ENDED,
    PROBE,
    RESERVE,
    RUNNING,
    ListEntry,
    StateName,
    decode_entries,
    encode_entries,
    list_state,
)
from moorage.registry.digest_list import DigestList
from moorage.registry.nodes import PROTOCOL
from moorage.storage.driver import KeyMissing, ObjectTooLarge, RequestCost, StorageExhausted, StorageReadOnly
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Driver, Key, Stat

__all__ = ["ListEntry", "Markers", "create_reserve", "decode_entries", "encode_entries"]

_LOCAL_LIST: Final = 1_000
_REMOTE_LIST: Final = 10_000
"""Entries of one list.  A request that waits for a doomed digest waits for its list, so small ones are better;
but each process reads each list, by a request to the store."""
_SMALLEST: Final = 1
_RESERVE_BYTES: Final = 1 << 20
_LIST_LIMIT_BYTES: Final = 16 << 20
_SETTLED_LISTINGS: Final = 20


async def create_reserve(driver: Driver) -> None:
    """Write the reserve, unless it exists.  Raises StorageError."""
    key = layout.collection(RESERVE)
    if await driver.find(key) is None:
        await driver.write(key, bytes(_RESERVE_BYTES))


class Markers:
    """State objects of the run `token`, and those of others.  Methods raise StorageError."""

    def __init__(self, driver: Driver, token: str) -> None:
        self._driver = driver
        self.token = token
        self._numbers = {CONDEMNED: 0, DOOMED: 0}
        self.list_size = _LOCAL_LIST if driver.request_cost is RequestCost.LOCAL else _REMOTE_LIST

    # The run.

    async def begin(self, owner: str) -> Stat:
        """Write `running`; return its time, which is that of the store's clock."""
        key = layout.collection(str(StateName(RUNNING, self.token)))
        content = {"version": 1, "owner": owner, "protocol": PROTOCOL}
        await self._write(key, json.dumps(content).encode())
        return await self._driver.stat(key)

    async def write_ended(self) -> None:
        await self._write(layout.collection(str(StateName(ENDED, self.token))), b'{"version": 1}')

    async def write_probe(self) -> None:
        """Write an object that requests do not read, for `preconditions.check_listings`."""
        await self._write(layout.collection(str(StateName(PROBE, self.token))), b'{"version": 1}')

    async def list_once(self) -> set[StateName]:
        return set(await list_state(self._driver))

    async def listing(self) -> list[StateName]:
        """Return all state objects.

        A directory of many entries is not read in one step, so it is listed until two listings agree.
        """
        found = sorted(await list_state(self._driver))
        for _ in range(_SETTLED_LISTINGS):
            again = sorted(await list_state(self._driver))
            if again == found:
                break
            found = again
        return found

    async def is_in_place(self, *lists: StateName) -> bool:
        """Return whether this run's `running` and these lists exist still: no other collector took its place."""
        return {StateName(RUNNING, self.token), *lists} <= await self.list_once()

    async def modified(self, name: StateName) -> datetime | None:
        """Return the time of a state object; None if it is gone."""
        found = await self._driver.find(layout.collection(str(name)))
        return None if found is None else found.modified

    async def remove(self, names: Iterable[StateName]) -> None:
        await self._driver.delete([layout.collection(str(name)) for name in names])

    # Lists.

    async def write_lists(
        self, kind: str, entries: Sequence[ListEntry], into: dict[StateName, list[ListEntry]]
    ) -> set[StateName]:
        """Write lists of the entries, in this order, and add them to `into`; return their names.

        On a full disk some entries may be in none of them.  Raises StorageExhausted if not even the smallest list
        can be written.
        """
        written: set[StateName] = set()
        size = self.list_size
        start = 0
        while start < len(entries):
            part = list(entries[start : start + size])
            name = StateName(kind, self.token, self._numbers[kind])
            self._numbers[kind] += 1
            # Before the write, which may be carried out although it fails.
            into[name] = part
            try:
                await self._write(layout.collection(str(name)), encode_entries(part))
            except StorageReadOnly:
                raise
            except StorageExhausted:
                del into[name]
                if size > _SMALLEST:
                    size = max(size // 4, _SMALLEST)
                    continue
                if not written:
                    raise
                break
            written.add(name)
            start += len(part)
        return written

    async def read_list(self, name: StateName) -> list[ListEntry]:
        """Return the entries of a list; none if it is gone, or larger than any that a run has written."""
        return decode_entries(await self._content(name))

    async def read_packed(self, name: StateName, *, names: bool = True) -> DigestList:
        """As `read_list`, packed; without `names`, of each entry the digest only."""
        data = await self._content(name)
        return DigestList(data if names else b"\n".join(line.partition(b" ")[0] for line in data.splitlines()))

    async def _content(self, name: StateName) -> bytes:
        try:
            content = await self._driver.read(layout.collection(str(name)), limit=_LIST_LIMIT_BYTES)
        except (KeyMissing, ObjectTooLarge):
            return b""
        return content.data

    async def shrink(
        self, name: StateName, keep: Sequence[ListEntry], lists: dict[StateName, list[ListEntry]]
    ) -> set[StateName]:
        """Replace a list of `lists` by one of the entries `keep`; return the new names, none for no entries."""
        new = await self.write_lists(name.kind, keep, lists) if keep else set()
        await self.remove([name])
        del lists[name]
        return new

    # Rescued digests.

    async def rescued(self) -> list[Stat]:
        """Return the objects of digests that requests rely on."""
        return [
            stat async for page in self._driver.scan(layout.below(layout.COLLECTION, "rescued")) for stat in page
        ]

    @staticmethod
    def rescued_digest(stat: Stat) -> Digest | None:
        """Return the digest of such an object; None for another one."""
        parts = stat.key.split("/")[-2:]
        try:
            return Digest.parse(":".join(parts))
        except DigestInvalid:
            return None

    async def remove_rescued(self, before: datetime) -> None:
        """Remove the objects of digests that no request has relied on since `before`."""
        keys = [stat.key for stat in await self.rescued() if stat.modified < before]
        await map_bounded([keys[start : start + 1000] for start in range(0, len(keys), 1000)], self._driver.delete)

    # Space.

    async def make_reserve(self) -> None:
        """Write the reserve, unless it exists or the disk is full."""
        with suppress(StorageExhausted):
            await create_reserve(self._driver)

    async def _write(self, key: Key, data: bytes) -> None:
        """Write an object; on a full disk, with the space of the reserve."""
        try:
            await self._driver.write(key, data)
        except StorageReadOnly:
            raise
        except StorageExhausted:
            reserve = layout.collection(RESERVE)
            if await self._driver.find(reserve) is None:
                raise
            await self._driver.delete([reserve])
            await self._driver.write(key, data)
