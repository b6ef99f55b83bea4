"""Storage driver interface: objects under keys, and uploads that grow until they are published.

One interface for directories and buckets, with the operations of a registry; it has no rename, mkdir, truncate or
"is a directory".  A driver knows nothing of images, tags or digests, and is finished
when it passes `moorage.testing.driver_contract`.

Above: `registry/`.  Beside: `storage/filesystem/driver.py`, `memory.py`, and `storage/object_store/driver.py`
for every object store.  Errors: `errors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, NewType, Protocol

from moorage.storage.errors import (
    Conflict,
    KeyInvalid,
    KeyMissing,
    ObjectTooLarge,
    RangeOutside,
    StorageDenied,
    StorageError,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
    TooManyOpenFiles,
    UploadBusy,
    UploadChanged,
    UploadMissing,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from io import FileIO

__all__ = [
    "ABSENT",
    "ALWAYS",
    "READ_LIMIT_BYTES",
    "Always",
    "Appender",
    "Bulk",
    "Conflict",
    "Content",
    "Driver",
    "Key",
    "KeyInvalid",
    "KeyMissing",
    "LocalFile",
    "Note",
    "ObjectTooLarge",
    "Published",
    "RangeOutside",
    "Reader",
    "RequestCost",
    "SignedUrl",
    "Stat",
    "StorageDenied",
    "StorageError",
    "StorageExhausted",
    "StorageReadOnly",
    "StorageUnavailable",
    "Stored",
    "TooManyOpenFiles",
    "Unchanged",
    "UploadBusy",
    "UploadChanged",
    "UploadMissing",
    "UploadState",
    "Uploads",
    "Version",
    "When",
    "Write",
    "Writer",
]

Key = NewType("Key", str)
"""`docker/registry/v2/...`: components of `[A-Za-z0-9._-]+` joined by `/`, none of them `.` or `..`,
no leading slash.  The driver adds its root."""

Version = NewType("Version", str)
"""Names one state of an object; equal versions mean equal bytes, unequal ones imply nothing."""

READ_LIMIT_BYTES = 4 << 20


class Stat:
    """One object: size in bytes, time of the last write (aware UTC; given so, or as seconds since 1970)."""

    __slots__ = ("_modified", "key", "size")

    def __init__(self, key: Key, size: int, modified: datetime | float) -> None:
        self.key = key
        self.size = size
        self._modified = modified

    @property
    def modified(self) -> datetime:
        # Few callers need it, and it costs as much as the rest of this object.
        if not isinstance(self._modified, datetime):
            self._modified = datetime.fromtimestamp(self._modified, UTC)
        return self._modified

    @property
    def modified_s(self) -> float:
        """Seconds since 1970."""
        return self._modified.timestamp() if isinstance(self._modified, datetime) else self._modified

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stat):
            return NotImplemented
        return (self.key, self.size, self.modified) == (other.key, other.size, other.modified)

    def __hash__(self) -> int:
        return hash((self.key, self.size, self.modified))

    def __repr__(self) -> str:
        return f"Stat({self.key!r}, {self.size}, {self.modified!r})"


class Content:
    """A whole small object.

    `version` may be given as a function, for stores where it must be computed and few callers need it.
    """

    __slots__ = ("_version", "data")

    def __init__(self, data: bytes, version: Version | Callable[[bytes], Version]) -> None:
        self.data = data
        self._version = version

    @property
    def version(self) -> Version:
        if not isinstance(self._version, str):
            self._version = self._version(self.data)
        return self._version


class Always(Enum):
    """The two unconditional conditions of `write`."""

    ALWAYS = "always"
    ABSENT = "absent"


ALWAYS = Always.ALWAYS
ABSENT = Always.ABSENT


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Write only over exactly this version."""

    version: Version


When = Always | Unchanged


@dataclass(frozen=True, slots=True)
class Write:
    """One object of `Driver.write_ordered`, not written if there is an object under the key `unless`."""

    key: Key
    data: bytes
    when: When = ALWAYS
    unless: Key | None = None


class Stored(Enum):
    """Result of storing an object whose key names its content.

    WRITTEN: the object is the one that was just written.  KEPT: an object of the same size was under the key
    already and was not replaced; also where a store cannot know which of the two happened.
    """

    WRITTEN = "written"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Published:
    """Result of `Driver.publish`.  `discard_error`: the upload could not be discarded; the rest has succeeded."""

    stored: Stored
    discard_error: StorageError | None = None


@dataclass(frozen=True, slots=True)
class LocalFile:
    """An object that is a file of this host, opened for reading: the server sends it by sendfile(2).

    The holder closes `file`.  `size` is that of the open file, in bytes.
    """

    file: FileIO
    size: int


class RequestCost(Enum):
    """Order of magnitude of one call of a driver."""

    LOCAL = "local"
    """A system call of this host or less: microseconds.  Remembering results gains nothing."""
    NETWORK = "network"
    """A request to another host: milliseconds, and often a price.  Concurrent requests take no longer than one."""


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """URL at which a client can fetch the object from the store."""

    url: str


@dataclass(frozen=True, slots=True)
class Note:
    """Small data that belongs to an upload's offset; `name` is a relative key: `hashstates/sha256/4096`."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class UploadState:
    """State of an upload.  `offset` bytes are stored and survive this process; `notes` were written at exactly
    that offset (empty: none survived, and the bytes must be read again where they are needed).
    """

    offset: int
    started: datetime
    notes: tuple[Note, ...] = ()
    version: Version = Version("")
    held: object = field(default=None, compare=False, repr=False)
    """Private to the driver: data that it need not read again with this state."""


class Reader(Protocol):
    """An object being read.  Iterating gives the bytes in pieces of 1 B to 1 MiB."""

    @property
    def stat(self) -> Stat: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Writer(Protocol):
    """An object being written in one go; invisible until `commit`."""

    async def write(self, chunks: Sequence[bytes]) -> None:
        """Append.  The chunks must not be changed until this returns."""

    async def commit(self) -> Stored:
        """Make it visible and durable.  An object already under the key is replaced; a store may keep one of that
        size, since keys written this way name their content, and then returns KEPT.
        """


class Appender(Protocol):
    """An upload being extended by one request."""

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        """Append after everything written so far; not yet durable.

        `also` is called with the same chunks in a thread, the one that writes them if there is one: a hash then
        costs no second hop to a thread.
        """

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        """Write `chunks` as `write` does, make all bytes so far durable, and `notes` with them; return the new
        state.

        (A small blob is written and made durable in one step, at half the cost.)

        After a crash at any moment, `Uploads.state` finds either this checkpoint or an earlier one, never
        a mixture.  Raises UploadMissing when the upload was discarded meanwhile, UploadChanged when another
        concurrent request was faster (`Uploads.append`).
        """

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        """Return what `checkpoint` without notes does, for a state that this process publishes next.

        Its bytes need not outlive the process until then: a store that writes them to their final key saves
        a second write.  Nothing may be written after it.  Raises as `checkpoint` does, or leaves that to
        `publish`.
        """


class Uploads(Protocol):
    """Bytes that arrive in pieces, possibly each at another process.  `home` is the upload's key
    prefix (`.../_uploads/UUID`).
    """

    async def begin(self, home: Key) -> UploadState:
        """Start an upload of no bytes.  Visible to every process when this returns."""

    async def state(self, home: Key) -> UploadState:
        """Return the state of an upload.  Bytes past the last checkpoint do not count.  Raises UploadMissing."""

    def append(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Appender]:
        """Extend an upload at `state.offset`, alone: entering raises UploadBusy while another request writes,
        UploadChanged when the offset is no longer `state.offset`, UploadMissing when it is gone.

        A store without locks admits several; then the first `checkpoint` wins, and those of the others raise
        UploadChanged or UploadMissing.  Bytes of two requests never mix.

        Bytes of a crashed request after `state.offset` are dropped.  Leaving the context without
        a checkpoint drops what was written since the last one.
        """

    def read(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Reader]:
        """Read the first `state.offset` bytes, to be hashed again.  Raises UploadMissing, UploadChanged."""

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        """Make exactly the bytes of `state` an object under `to`, durably, by the store itself.  An existing
        object is replaced, so that a push repairs wrong bytes; a store where this costs another request may keep
        one of that size, and then returns KEPT.  A reader that has the old object open gets it whole, or an error.
        Afterwards `state` raises UploadMissing or returns the same offset, and later calls for the upload do not
        change the object; `discard` removes the rest.

        Raises UploadMissing, UploadBusy, UploadChanged.  A store whose uploads grow by new objects only may
        publish a state that another request has extended: its bytes are still those of `state`.
        """

    async def discard(self, home: Key) -> None:
        """Remove the upload with all its objects.  A missing one is fine."""

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        """Yield homes below `under` that began before `before`, and those without a start time that were last
        written before it (CNCF Distribution leaves such).
        """

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        """Remove, or with `dry_run` only find, data that no listing shows: parts of objects below `under` that
        were begun before `before` and never completed, which a bucket keeps, or files of crashed writers in a
        directory.  Return their keys.
        """


class Bulk(Protocol):
    """Many keys in one call; results are in the order of the keys.

    Raises what the driver raises for one key, except that nothing is raised for a missing object or prefix.
    """

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        """Return a text for each prefix that changes whenever a name directly below it appears or vanishes.

        None: unknown; list it.  So is a prefix that changed within the last seconds: a further change might
        go unnoticed.  Read the fingerprint first and then list, and the list is current for as long as the
        fingerprint is the same.  Changes further below have no effect on it.  Empty: a store with directories has
        none there.
        """

    async def names(self, prefixes: Sequence[Key]) -> Sequence[Sequence[str]]:
        """Return the names directly below each prefix, as `Driver.children` does, in any order."""

    async def read(self, keys: Sequence[Key], *, limit: int) -> Sequence[bytes | None]:
        """Return each object; None for one that is missing or larger than `limit` bytes."""

    async def find(self, keys: Sequence[Key]) -> Sequence[Stat | None]:
        """Return what `Driver.find` does."""


class Driver(Protocol):
    """Objects under keys, for one root directory, bucket or container.

    Sizes and offsets are bytes; times are aware UTC.  Every method may be called concurrently, from any
    process, and may raise `KeyInvalid` (before any I/O) and `StorageUnavailable`; others are listed per
    method, and no other exception escapes.
    """

    name: str
    """For logs and metrics: `filesystem`, `inmemory`, `s3aws`, ..."""

    request_cost: RequestCost
    """Cost of one call, by which callers decide what to cache, to coalesce and to do concurrently."""

    signs_urls: bool
    """False: `handover` always returns None.  True: it may return a URL."""

    lists_unfinished: bool
    """True: `Uploads.sweep` costs a few requests, because the store lists objects that were begun and never
    completed.  False: it has nothing to find, or walks every directory to find it."""

    removes_exactly: bool
    """True: `remove_unchanged` compares the object at the moment of its removal.  False: it removes any object."""

    @property
    def resent(self) -> int:
        """Number of requests, at least of those that remove, that this process has sent again after an attempt
        that failed or got no answer.  A remote store may still carry out that attempt.
        """

    @property
    def uploads(self) -> Uploads: ...

    @property
    def bulk(self) -> Bulk:
        """Operations on many keys at once, for walks over a whole store."""

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        """Return a whole small object.  Raises KeyMissing, ObjectTooLarge."""

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        """Write an object, all or nothing: readers see the old object until this returns, and once it has returned
        the new one survives a power cut.  Raises Conflict when `when` does not hold.
        """

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        """Write objects as `write` does, one group after another: the objects of a group survive a power cut
        before one of the next is visible.  Return their versions, in order.

        Raises Conflict when a condition does not hold; the groups before are then written, and of its own some
        objects may be.  A filesystem shares fsyncs and needs one thread for all.
        """

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        """`Uploads.publish`, then write `link` when the bytes are durable, then discard the upload.

        Raises what `Uploads.publish` and `write` raise.
        """

    async def stat(self, key: Key) -> Stat:
        """Return size and time of an object; never reads its content.  Raises KeyMissing."""

    async def find(self, key: Key) -> Stat | None:
        """Return what `stat` does, or None if there is no object.  A driver may take this default over:
        `find = Driver.find`.
        """
        try:
            return await self.stat(key)
        except KeyMissing:
            return None

    async def delete(self, keys: Collection[Key]) -> None:
        """Remove objects, durably; missing ones are fine.  Directories that become empty may stay."""

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        """Remove each object that is still the one of its `Stat`; return the keys of those that are another one by
        now, which stay.  Missing ones are fine.

        The objects must be older than a second: a rewritten one differs by its time.  Where a store has no
        conditional removal (`removes_exactly` is False), the object is removed as it is.  A power cut may bring
        an object back.  A store that removes many objects by one request does so here, up to 1000.
        """

    async def clear(self, prefix: Key) -> None:
        """Remove every object below `prefix`, and on a filesystem the directory itself: it is no longer a
        child of its parent.  Not atomic: delete objects that must go first beforehand.  No objects are fine.
        """

    async def prune(self, prefix: Key, before: datetime) -> None:
        """Remove leftovers at and below `prefix`: empty directories, and files of writers that crashed before
        `before`.  Never removes an object, not even one that is written meanwhile.  A store without directories
        has nothing to remove.
        """

    def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        """Stream bytes [start, stop); `stop` None or past the end means to the end.  Leaving the context
        frees the handle even if the reader stopped early.  Entering raises KeyMissing, RangeOutside.
        """

    async def open_file(self, key: Key) -> LocalFile | None:
        """Return the object as an open file, which the caller closes; None where objects are not files of this
        host. Raises KeyMissing.
        """

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        """Return a URL at which a client can fetch the object from the store; None where the store serves no
        clients. Does not check that the object exists.
        """

    def create(self, key: Key) -> AbstractAsyncContextManager[Writer]:
        """Write an object of any size in one go.  Leaving without `commit` leaves nothing."""

    async def adopt(self, key: Key, path: str) -> Stored:
        """Make a local file, complete and never changed again, the object `key`, durably.

        For keys that name their content; what `Writer.commit` states about an object under the key holds here.
        A filesystem moves the file, so that `path` is gone; elsewhere its bytes are copied, and it stays.  The
        file may be open for reading, and stays readable.  Raises KeyMissing if there is no file.
        """

    def children(self, prefix: Key, *, after: str = "", limit: int | None = None) -> AsyncIterator[Sequence[str]]:
        """Yield names directly below `prefix`, of objects and prefixes alike, in byte order of the name, each
        once, only those greater than `after`, at most `limit` of them, in pages.  No names: no pages.

        Reads nothing below the names.  A name is listed if there is an object at or below it; a filesystem
        also lists empty directories.
        """

    def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        """Yield every object below `prefix`, in pages, each once, in any order.  For collectors and rebuilds."""

    async def probe(self) -> None:
        """Check, at the cost of one request, that the store can be read.  Raises StorageUnavailable.

        An empty store is readable, and so is a root directory that does not exist yet.  Nothing is written;
        whether a data directory is writable is checked once per node, by `server/processes/storage_monitor.py`.
        """

    async def close(self) -> None:
        """Free connections and threads; the driver is not used after."""
