"""Registry interface: repositories with blobs, manifests, tags and uploads.

`http/` and the commands use a registry through these Protocols only, so that the stored registry (`stored.py`) and
a registry that answers from an upstream one are interchangeable.  Every implementation passes
`moorage.testing.registry_contract`.

Arguments have been parsed (`types.py`).  Errors are `RegistryError`s (`errors.py`), named at each method; any
method may also raise `Unavailable` or `StorageFull`.  Sizes and offsets are bytes.  Times are aware UTC.  Lists
are in byte order of the name.  A `Caller` is passed to operations whose result or record depends on the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from io import FileIO

    from moorage.types import Digest, Reference, Referrer, RepoName, Tag


__all__ = [
    "UNKNOWN_CALLER",
    "Blob",
    "BlobContent",
    "BlobRedirect",
    "Blobs",
    "Caller",
    "Deleted",
    "FoundBlob",
    "GrowingFile",
    "IfMatch",
    "Manifest",
    "Manifests",
    "Mounted",
    "Page",
    "Pushed",
    "Referrers",
    "ReferrersPage",
    "Registry",
    "Repositories",
    "Tags",
    "UploadPart",
    "UploadStatus",
    "Uploaded",
    "Uploads",
]


class Caller:
    """Client of a request; an immutable value.

    `user` is "" without authentication; `address` is reported by trusted proxies only, "" if unknown; `request_id`
    is that of the access log, "" outside a request.  The address may be given as a function, which is called once
    it is needed: behind a proxy it costs 3 us.
    """

    __slots__ = ("_address", "request_id", "user")

    def __init__(self, user: str = "", address: str | Callable[[], str] = "", request_id: str = "") -> None:
        self.user: Final = user
        self._address = address
        self.request_id: Final = request_id

    @property
    def address(self) -> str:
        if not isinstance(self._address, str):
            self._address = self._address()
        return self._address


UNKNOWN_CALLER: Final = Caller()


@dataclass(frozen=True, slots=True)
class Page:
    """Names, in byte order; `more`: at least one more name follows the last of them."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """Descriptors that together are below 4 MiB; `next` is the `after` of the next page, None at the end.

    A page may be short, even empty, and not be the last one: the work for each is bounded as well.
    """

    entries: tuple[Referrer, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a repository; `digest` is the requested one."""

    digest: Digest
    size: int


@runtime_checkable
class GrowingFile(Protocol):
    """A file of a blob that is still being received; the receiver calls `close`."""

    file: FileIO

    async def grown(self, offset: int, stop: int) -> int:
        """Wait until at least one byte from `offset` on is in the file; return the end of those, at most `stop`.

        The last bytes of a blob are there only when its digest has been verified.  Raises RegistryError if the
        transfer ends before.
        """

    def close(self) -> None: ...


if TYPE_CHECKING:
    BlobContent = bytes | FileIO | GrowingFile | AbstractAsyncContextManager[AsyncIterator[bytes]]


@dataclass(slots=True)  # frozen costs half a microsecond for each pull
class FoundBlob:
    """Content of a blob of `size` bytes; `span` is the selected part of it, None for the whole blob.

    `content` is one of
        bytes           the whole blob, which is small
        an open file    of exactly `size` bytes, which the receiver closes; `span` is a part of it
        a growing file  that will have `size` bytes, which the receiver closes; only where a file may be one
        a stream        of the span, in pieces of 1 B to 1 MiB; entering it raises BlobUnknown if they vanished
    """

    size: int
    span: range | None
    content: BlobContent


@dataclass(frozen=True, slots=True)
class BlobRedirect:
    """URL from which the client can fetch the blob."""

    url: str


@dataclass(frozen=True, slots=True)
class Mounted:
    """A blob that was linked into another repository; `source` is None for a mount from any repository."""

    digest: Digest
    size: int
    source: RepoName | None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A blob that an upload became."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """An upload: `offset` bytes are kept; `state` is the signed token for the next request's URL."""

    uuid: str
    offset: int
    state: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was pushed, byte for byte; `digest` is the requested one, or that of the tag.

    `stale`: reason for which the tag may be another one by now at the registry that this one mirrors; "": none.
    """

    digest: Digest
    media_type: str
    data: bytes
    stale: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A manifest that was stored: its digest as pushed, its subject if it has one, and the tags that were set."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A blob or manifest that was removed from a repository, or the `tags` that were removed from a manifest.

    A deletion by digest does not look up the tags that it removes: `tags` is empty.
    """

    digest: Digest
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class IfMatch:
    """Conditions of a PUT by tag (RFC 9110 section 13.1): digests that the tag must, or must not, point to.

    An empty tuple is `*` (any manifest); None: the header is absent.
    """

    match: tuple[Digest, ...] | None = None
    none_match: tuple[Digest, ...] | None = None


class Blobs(Protocol):
    """Bytes named by their digest, visible through each repository that links them."""

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        """Return the size, without reading content.  Raises BlobUnknown."""

    async def fetch(
        self,
        name: RepoName,
        digest: Digest,
        *,
        select: Callable[[int], range | None] | None = None,
        redirect: bool = True,
        files: bool = False,
        caller: Caller = UNKNOWN_CALLER,
    ) -> BlobRedirect | FoundBlob:
        """Return the content of a blob, or with `redirect` the URL from which the client can fetch it.

        `select` is called with the size and returns the requested part of the blob, None for all of it; its errors
        are raised.  It is not called before a redirect: the client requests the part there again.  `files`: the
        content may be an open file.  The choice of a URL may depend on the address of the `caller`.

        Raises BlobUnknown.  A redirect may lead to a blob whose bytes have vanished: a 404 of the store.
        """

    async def mount(
        self,
        name: RepoName,
        digest: Digest,
        source: RepoName | None,
        *,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Mounted:
        """Link a blob of `source` into `name`; a `source` of None is any repository, and is passed only for a
        caller who may read them all.  Raises BlobUnknown, after which a client uploads the blob, QuotaExceeded.
        """

    async def delete(self, name: RepoName, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        """Remove the blob from this repository only.  Raises BlobUnknown, Unsupported."""


class UploadPart(Protocol):
    """One request's part of an upload.  Leaving the context keeps, durably, the bytes that were written."""

    async def write(self, chunk: bytes | Sequence[bytes]) -> None:
        """Hash and store one chunk, or the chunks of one receive, in order.

        Return at once until a batch waits behind the one being stored, then as fast as the disk.  Chunks are
        kept without a copy until they are stored; a list of them may be reused when this returns.
        """

    async def commit(self) -> UploadStatus:
        """Make all bytes durable; return the new status."""

    async def finish(self, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Uploaded:
        """Prove that all bytes are those of `digest`, publish the blob durably and link it; the upload is gone.

        Raises DigestInvalid; the upload is then gone as well, since its bytes are of no use.
        """


class Uploads(Protocol):
    """Uploads of blobs.  Each request may reach another process."""

    async def start(
        self, name: RepoName, *, algorithm: str = "sha256", digest: Digest | None = None
    ) -> UploadStatus:
        """Start an upload; `algorithm` is a hint for the digest of its blob, `digest` the one that is announced.

        Raises QuotaExceeded.
        """

    async def status(self, name: RepoName, uuid: str) -> UploadStatus:
        """Return the status of an upload.  Raises BlobUploadUnknown."""

    def extend(
        self,
        name: RepoName,
        uuid: str,
        state: str,
        *,
        start: int | None = None,
        algorithm: str = "sha256",
        length: int | None = None,
        digest: Digest | None = None,
    ) -> AbstractAsyncContextManager[UploadPart]:
        """Continue an upload.  `state` is the token from the URL; `start` the first byte of Content-Range, if any.
        `length` is that of the request's body, None if it is not announced; `digest` is announced by the last one.

        Entering raises BlobUploadUnknown, BlobUploadInvalid (a forged token, or one of another upload) and, with
        the current status, RangeInvalid if token or `start` is not the upload's offset.  The first `write` raises
        RangeInvalid if another request is writing.  Nothing has been stored then.

        Entering and `write` raise QuotaExceeded; the upload is then removed.
        """

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        """Remove an upload.  Raises BlobUploadUnknown, BlobUploadInvalid."""


class Manifests(Protocol):
    """Manifests, stored byte for byte."""

    async def get(
        self,
        name: RepoName,
        reference: Reference,
        *,
        accepts: Callable[[str], bool] | None = None,
        pull: bool = False,
    ) -> Manifest:
        """Return a manifest, or the tag's.  Raises ManifestUnknown.

        `pull`: a client gets the manifest, so the time may be recorded; without it, a digest that garbage
        collection is removing counts as absent.

        `accepts` returns whether the client accepts a media type; None: every one.  For the tag of a Docker
        manifest list that it does not accept, the list's image for linux/amd64 is returned.
        """

    async def put(
        self,
        name: RepoName,
        reference: Reference,
        media_type: str,
        data: bytes,
        *,
        tags: Sequence[Tag] = (),
        condition: IfMatch | None = None,
        classes: Collection[str] | None = None,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Pushed:
        """Check, store, link, then tag with `reference` (if a tag) and `tags`.

        `classes` are the classes of images (`media.class_of`) that the caller may push here; None: all.
        Raises ManifestInvalid, ManifestBlobUnknown, DigestInvalid, Denied, PreconditionFailed, QuotaExceeded;
        nothing is stored then.  A tag never points to an incomplete manifest.
        """

    async def delete(self, name: RepoName, reference: Reference, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        """Remove a tag, and that tag only; or by its digest a manifest and every tag that points to it, at once.

        Raises ManifestUnknown, Unsupported.
        """


class Tags(Protocol):
    """Names of manifests."""

    async def list(self, name: RepoName, *, last: str = "", limit: int | None = None) -> Page:
        """Return tags after `last`, at most `limit`.  Raises NameUnknown if there never was a manifest."""


class Referrers(Protocol):
    """Manifests by their subject."""

    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> ReferrersPage:
        """Return manifests of this repository whose subject is `subject`, ordered by digest text, those after the
        digest text `after`, with an artifact type among `artifact_types` if any are given.  An unknown subject
        has none.
        """


class Repositories(Protocol):
    """The catalog."""

    async def list(self, *, last: str = "", limit: int) -> Page:
        """Return repositories that ever had a manifest, after `last`, by component: `a/b` before `a-b`."""

    async def delete(self, name: RepoName, *, caller: Caller = UNKNOWN_CALLER) -> object:
        """Remove a repository with all its tags, manifests and links to blobs; those below it stay.

        When this returns it is not listed.  Raises NameUnknown, Unsupported.
        """


class Registry(Protocol):
    """A registry: its six parts, its health, its end."""

    @property
    def repositories(self) -> Repositories: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def uploads(self) -> Uploads: ...
    @property
    def manifests(self) -> Manifests: ...
    @property
    def tags(self) -> Tags: ...
    @property
    def referrers(self) -> Referrers: ...

    async def probe(self) -> None:
        """Check that requests can be served.  Raises Unavailable."""

    async def close(self) -> None:
        """Free connections and threads; the registry is not used after."""
