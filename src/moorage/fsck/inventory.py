"""Inventory: one listing of the whole store, with the size of every blob, made before the check.

Memory: about 200 bytes for each blob, 100 for each repository.  It lacks what was pushed after the listing, and
contains what was deleted after it, so a blob that is not in it is looked up in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.registry.blob_store import BlobStore
from moorage.registry.walk import list_objects
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.registry.walk import ListedObject
    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["LINK_SIZES", "Inventory", "make_inventory"]

_SHA256_BYTES: Final = 32
LINK_SIZES: Final = {71, 72, 135, 136}
"""Bytes of a link: sha256 and sha512, without and with the newline that scripts write."""


@dataclass(slots=True)
class Inventory:
    """The objects of a store.

    `strangers` are keys that no registry writes; `torn_histories` entries of tags that hold no digest, each with
    the digest in its path.
    """

    driver: Driver
    store: BlobStore = field(init=False)
    names: set[RepoName] = field(default_factory=set)
    strangers: list[Key] = field(default_factory=list)
    torn_histories: list[tuple[Key, Digest]] = field(default_factory=list)
    objects: int = 0
    blob_bytes: int = 0
    _known: dict[bytes, int] = field(default_factory=dict)
    """Raw digest to size, or to its complement, which is negative, once a link to the blob was found.  (A `Digest`
    with its texts would be three times as large.)"""

    def __post_init__(self) -> None:
        self.store = BlobStore(self.driver)

    def add(self, found: ListedObject) -> None:
        stat, parsed = found
        self.objects += 1
        if parsed is None:
            self.strangers.append(stat.key)
            return
        if parsed.name is not None:
            self.names.add(parsed.name)
        if parsed.digest is None:
            return
        if parsed.kind == "blob":
            self._known[bytes.fromhex(parsed.digest.hex)] = stat.size
            self.blob_bytes += stat.size
        elif parsed.kind == "history" and stat.size not in LINK_SIZES:
            self.torn_histories.append((stat.key, parsed.digest))

    @property
    def blobs(self) -> int:
        return len(self._known)

    @property
    def unlinked(self) -> tuple[int, int]:
        """The number of blobs without a link, and their bytes: what a garbage collector may remove."""
        sizes = [known for known in self._known.values() if known >= 0]
        return len(sizes), sum(sizes)

    def all(self) -> Iterator[tuple[Digest, int]]:
        """Yield every listed blob and its size in bytes."""
        for raw, known in self._known.items():
            algorithm = "sha256" if len(raw) == _SHA256_BYTES else "sha512"
            yield Digest(algorithm, raw.hex()), _size(known)

    async def size(self, digest: Digest) -> int | None:
        """Return the size of a blob in bytes and mark it as linked; None if there is no such blob."""
        raw = bytes.fromhex(digest.hex)
        known = self._known.get(raw)
        if known is None:
            return await self.size_now(digest)
        size = _size(known)
        self._known[raw] = ~size
        # Swift lists an object in segments with 0 bytes.
        return size or await self.size_now(digest)

    async def size_now(self, digest: Digest) -> int | None:
        """Return the size that the store reports at this moment; None if there is no such blob."""
        stat = await self.store.stat(digest)
        return None if stat is None else stat.size


def _size(known: int) -> int:
    return known if known >= 0 else ~known


async def make_inventory(driver: Driver, listed: Callable[[int], None]) -> Inventory:
    """List everything; `listed` is called with the number of objects of each page."""
    inventory = Inventory(driver)
    async for page in list_objects(driver):
        for each in page:
            inventory.add(each)
        listed(len(page))
    return inventory
