"""Stores in any state, written object by object: what pushes, crashes and CNCF Distribution leave."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from moorage.gc.mark import Marker
from moorage.gc.options import CollectionOptions
from moorage.gc.references import unpacked
from moorage.gc.work import objects_of
from moorage.registry import layout
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.gc.cache import MarkCache
    from moorage.gc.marked import Marked
    from moorage.storage.driver import Driver, Key
    from moorage.testing.builders import Built

__all__ = ["EAGER", "NOW", "Store", "dead_digests", "mark"]

NOW: Final = datetime(2026, 11, 29, 12, tzinfo=UTC)
EAGER: Final = CollectionOptions(delete_untagged=True, grace_s=3600, undo_s=0)
"""Everything that nothing needs is removed after an hour."""


async def mark(
    store: Store, options: CollectionOptions = EAGER, *, cache: MarkCache | None = None, now: datetime = NOW
) -> Marked:
    return await Marker(store.driver, options, now=now, cache=cache).mark()


def dead_digests(marked: Marked) -> set[Digest]:
    """Return the digests of all candidates."""
    return {unpacked(marked.table.digest(number)) for _, number in objects_of(marked)}


class Store:
    """Objects of a filesystem driver with any age; two days old unless it is given."""

    def __init__(self, driver: Driver, root: Path) -> None:
        self.driver = driver
        self.root = root

    def write(self, key: Key, data: bytes, age: timedelta = timedelta(days=2)) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        at = (NOW - age).timestamp()
        os.utime(path, (at, at))

    def remove(self, key: Key) -> None:
        """Remove an object, and its directory as Moorage does."""
        path = self.root / key
        path.unlink()
        path.parent.rmdir()

    def blob(self, data: bytes, age: timedelta = timedelta(days=2), *, algorithm: str = "sha256") -> Digest:
        digest = Digest.of(data, algorithm)
        self.write(layout.blob_data(digest), data, age)
        return digest

    def layer(self, name: str, digest: Digest, age: timedelta = timedelta(days=2), *, content: str = "") -> None:
        self.write(layout.layer_link(RepoName(name), digest), (content or str(digest)).encode(), age)

    def manifest(
        self, name: str, built: Built, age: timedelta = timedelta(days=2), *, links: bool = True
    ) -> Digest:
        """Push a manifest or blob with all that it names."""
        self.blob(built.data, age, algorithm=built.digest.algorithm)
        if not built.is_manifest:
            self.layer(name, built.digest, age)
            return built.digest
        if links:
            for part in built.parts:
                self.manifest(name, part, age)
        self.write(layout.revision_link(RepoName(name), built.digest), str(built.digest).encode(), age)
        return built.digest

    def tag(self, name: str, tag: str, digest: Digest, age: timedelta = timedelta(days=2)) -> None:
        repository = RepoName(name)
        self.write(layout.tag_history_link(repository, Tag(tag), digest), str(digest).encode(), age)
        self.write(layout.tag_link(repository, Tag(tag)), str(digest).encode(), age)

    def push(self, name: str, tag: str, built: Built, age: timedelta = timedelta(days=2)) -> Digest:
        digest = self.manifest(name, built, age)
        self.tag(name, tag, digest, age)
        return digest
