"""Object store interface: primitive operations on one bucket, from which a driver is made.

    driver.py     Driver     ──┐
    listing.py    `children` ──┼──►  ObjectStore   ◄── azure/store.py
                               │          ▲
    chunk_log.py  Uploads    ──┴──►  JoiningStore  ◄── s3/store.py, gcs/store.py

A store whose blobs grow by themselves (Azure) is an `ObjectStore` and has its own `driver.Uploads`; for all others
`chunk_log.py` makes uploads of the operations of `JoiningStore`.

**No safety argument above may rest on a condition alone.**  `put` with ABSENT or Unchanged is as exact as the
store makes it, and one store let three racing creators win.  The callers stay correct then: chunks have names that
no other writer uses, blobs are named by their content.

Keys are `driver.Key`s; the store adds its root prefix and removes it.  The errors are those of
`storage/driver.py`, and no other exception escapes.  A cancelled call may have been carried out or not; a caller
that depends on the outcome awaits its end (`shielding.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from moorage.storage.driver import ALWAYS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from moorage.storage.driver import Content, Key, Reader, SignedUrl, Stat, Stored, Version, When

__all__ = ["JoiningStore", "LargeWriter", "NamePage", "ObjectStore", "Pages", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """An object to be joined.  The join raises UploadChanged, as far as the store can detect it, if the object is
    no longer of this version; UploadMissing if it is gone.
    """

    key: Key
    size: int
    version: Version


@dataclass(frozen=True, slots=True)
class NamePage:
    """A page of the names directly below a prefix, in the store's order: that of whole keys, where a prefix ends
    with a slash.  `names` have no slash; a name that is both an object and a prefix occurs twice.

    `token` requests the next page; it is "" on the last one.
    """

    names: Sequence[str]
    token: str


class LargeWriter(Protocol):
    """An object written piece by piece, invisible until `commit`."""

    async def add(self, data: Sequence[bytes]) -> None:
        """Write the next piece: exactly `ObjectStore.chunk` bytes, or fewer in the last one."""

    async def commit(self) -> Stored:
        """Make the object visible, whole and durable; an object of the same size may be kept."""


class Pages(Protocol):
    """Names below a prefix, page by page."""

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = 1000) -> NamePage:
        """Return at most `limit` names directly below `prefix`, from the first key greater than `PREFIX/` +
        `after`; with `token` those that follow the page that returned it.
        """


class ObjectStore(Pages, Protocol):
    """One bucket below one root prefix.  See the module docstring."""

    name: str
    """As `Driver.name`."""

    removes_exactly: bool
    """As `Driver.removes_exactly`."""

    @property
    def resent(self) -> int:
        """As `Driver.resent`."""

    chunk: int
    """Bytes of a chunk of uploads that begin now, and of a piece of a `LargeWriter`."""

    async def get(self, key: Key, *, limit: int) -> Content:
        """Return the whole object, by one request.  Raises KeyMissing, ObjectTooLarge."""

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        """Write the pieces, one after the other, as one object: all or nothing, durable on return.

        Retries inside; a condition that an earlier attempt of this call made false is no Conflict.  Raises
        Conflict.
        """

    async def head(self, key: Key) -> Stat:
        """Return size and time.  Raises KeyMissing."""

    def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        """See `Driver.open`."""

    async def delete(self, keys: Sequence[Key]) -> None:
        """Remove any number of objects, the first keys first; missing ones are fine.  Uses as few requests as the
        store allows.
        """

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        """See `Driver.remove_unchanged`."""

    def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        """See `Driver.scan`: every object below `prefix`, pages of up to 1000, each once."""

    def large(self, key: Key) -> AbstractAsyncContextManager[LargeWriter]:
        """Write a large object in one go.  Leaving without `commit` leaves nothing."""

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        """Return a URL for GET or HEAD that needs no credentials; None where the store cannot make one.  Makes no
        request, except for credentials that are due.
        """

    async def probe(self) -> None:
        """Make one cheap request that fails unless the bucket can be read.  Raises StorageUnavailable."""

    async def close(self) -> None:
        """Free connections and tasks."""


class JoiningStore(ObjectStore, Protocol):
    """An object store that joins objects, with access to unfinished uploads of CNCF Distribution: for `ChunkLog`.

    `data` is the key `HOME/data` of such an upload.
    """

    any_length: bool
    """True: `join` takes sources of any length in any place.  S3 does not: a source other than the last must
    be exactly as long as the others (R2) and at least 5 MiB (all)."""

    def describe(self, key: str) -> str:
        """Return the object's name, endpoint and bucket, for the log."""

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        """Make one object of the sources, one after the other, and `tail`: by the store itself, of any size.  An
        object of the same size may be kept.

        Invisible under `to` until it is whole.  `scratch` is a prefix for intermediate objects, which are removed
        with the upload.  Raises UploadMissing, UploadChanged.  A failure or a cancellation leaves nothing that
        the store keeps and no listing shows, unless the process dies.
        """

    async def legacy_size(self, data: Key) -> int | None:
        """Return the bytes of CNCF Distribution's unfinished upload, None if there is none.  Changes nothing."""

    async def adopt(self, data: Key) -> Source | None:
        """Make an object of CNCF Distribution's unfinished upload; None if it is empty.  Idempotent."""

    async def abort(self, data: Key) -> None:
        """Remove what was begun at exactly this key and never completed."""

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        """Return the keys below `under` at which an object was begun before `before` and never completed; with
        `abort` also remove what was begun.
        """
