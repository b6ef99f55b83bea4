"""What an object store must give: a dozen primitive calls on one bucket, from which a driver is made.

    driver.py   Driver      ──┐
    chunk_log.py       Uploads     ──┼──►  Objects  ◄── storage/s3/objects.py, ... one for each kind of store
    listing.py    `children`  ──┘     (Plain, the part of it without joining, is enough where blobs can grow)

The rule not to miss: **nothing above may rest its safety on a condition alone.**  `put` with ABSENT or Unchanged
is as exact as the store makes it, and one store let three racing creators win.  What is above stays right then,
too: chunks have names that no other writer uses, blobs are named by their content.

Keys are `driver.Key`s; the store puts its root before them and takes it off again.  The errors are those of
`storage/driver.py`, and no other exception escapes.  A call that is cancelled may have happened or not; whoever
must know waits for it to end (`shielding.py`).

Source: docs/reference/object-storage.md, sections 3 to 6.
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

__all__ = ["Foreign", "LargeWriter", "NamePage", "Objects", "Pages", "Plain", "Source"]


@dataclass(frozen=True, slots=True)
class Source:
    """An object to be joined.  The join fails with UploadChanged, as far as the store can tell, when the object
    is no longer of this version; with UploadMissing when it is gone.
    """

    key: Key
    size: int
    version: Version


@dataclass(frozen=True, slots=True)
class NamePage:
    """A page of the names directly below a prefix, in the store's order: that of whole keys, where a prefix has
    a slash at its end.  `names` have none; a name that is both an object and a prefix comes twice.

    `token` asks for the page after this one; "" when this is the last.
    """

    names: Sequence[str]
    token: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """An upload that the reference began here and Moorage has not touched: how many bytes it holds."""

    size: int


class LargeWriter(Protocol):
    """An object written piece by piece, of which nothing can be seen until `commit`."""

    async def add(self, data: Sequence[bytes]) -> None:
        """The next piece: exactly `Objects.chunk` bytes, or the last one."""

    async def commit(self) -> Stored:
        """The object is there, whole and durable; an object of its size may have been kept."""


class Pages(Protocol):
    """Names below a prefix, page by page."""

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = 1000) -> NamePage:
        """At most `limit` names directly below `prefix`, from the first key greater than `PREFIX/` + `after`;
        with `token` what follows the page that gave it.
        """


class Plain(Pages, Protocol):
    """One bucket below one root, for a driver that brings its own uploads.  See the module docstring."""

    name: str
    """As `Driver.name`."""

    chunk: int
    """Bytes of a chunk of the uploads that begin now, and of a piece of a `LargeWriter`."""

    async def get(self, key: Key, *, limit: int) -> Content:
        """The whole object in one request.  Raises KeyMissing, ObjectTooLarge."""

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        """The pieces, one after the other, as one object: all or nothing, durable on return.  Raises Conflict.

        Retries are made inside; a condition that our own lost attempt made false is not a Conflict.
        """

    async def head(self, key: Key) -> Stat:
        """Raises KeyMissing."""

    def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        """As `Driver.open`."""

    async def delete(self, keys: Sequence[Key]) -> None:
        """Any number; missing ones are fine.  In as few requests as the store allows, the first keys first."""

    def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        """As `Driver.scan`: every object below `prefix`, pages of up to 1000, each once."""

    def large(self, key: Key) -> AbstractAsyncContextManager[LargeWriter]:
        """A large object in one go.  Leaving without `commit` leaves nothing."""

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        """A URL for GET or HEAD that whoever has it may use; None where the store cannot make one.  No request,
        except for credentials that are due.
        """

    async def probe(self) -> None:
        """One cheap request that shows that the bucket is there and may be read.  Raises StorageUnavailable."""

    async def close(self) -> None:
        """Free connections and tasks."""


class Objects(Plain, Protocol):
    """What `ChunkLog` needs besides: joining, and what the reference left unfinished."""

    any_length: bool
    """Whether `join` takes sources of any length in any place.  S3 does not: a source that is not the last
    must be exactly as long as the others (R2) and at least 5 MiB (everybody)."""

    def describe(self, key: str) -> str:
        """Return the object's name in the bucket, endpoint and bucket, for the log."""

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        """The sources one after the other, then `tail`, become one object, by the store itself and of any size;
        an object of that size may be kept.

        Nothing is seen under `to` before it is whole.  `scratch` is a prefix for intermediate objects, which
        whoever clears the upload removes.  Raises UploadMissing, UploadChanged.  A failure or a cancellation
        leaves nothing that the store would keep and no listing would show, unless the process dies.
        """

    async def foreign(self, data: Key) -> Foreign | None:
        """What of the reference's unfinished upload lies at `data`, if there is one.  Changes nothing."""

    async def adopt(self, data: Key) -> Source | None:
        """Make an object of what `foreign` tells of; None when there is nothing in it.  May be repeated."""

    async def abort(self, data: Key) -> None:
        """Remove what was begun at exactly this key and never completed."""

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        """Keys below `under` at which an object was begun before `before` and never completed; with `abort` what
        was begun is removed.
        """
