"""Registry interface: repositories with blobs, manifests, tags and uploads.

`Registry` has six parts.  `http/`, `cli/` and later the web pages call only these; the stored registry
(`registry/*.py`) and the pull-through cache (`proxy/`, later) implement them.  Everything passed in has been
parsed (`types.py`); everything refused is a `RegistryError` (`errors.py`), named at each method.  Any method
may also raise `Unavailable` or `StorageFull`.

Sizes and offsets are bytes.  Times are aware UTC.  Lists are in byte order of the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.storage.driver import LocalFile, SignedUrl
    from moorage.types import Digest, Reference, Referrer, RepoName, Tag, UploadStatus

__all__ = [
    "Blob",
    "Blobs",
    "IfMatch",
    "Manifest",
    "Manifests",
    "Page",
    "Pushed",
    "Referrers",
    "ReferrersPage",
    "Registry",
    "Repositories",
    "Tags",
    "UploadPart",
    "Uploads",
]


@dataclass(frozen=True, slots=True)
class Page:
    """Names, in byte order, and whether at least one more follows the last of them."""

    names: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """Descriptors that together stay below 4 MiB; `next` is the `after` of the next page, None at the end.

    A page may be short, even empty, and another one follow: the work for each is bounded, too.
    """

    entries: tuple[Referrer, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as one repository sees it.

    `digest` is the one asked for; `stored` the one its bytes lie under, which differs only for the sha512
    links that CNCF Distribution writes (they name a sha256 digest).
    """

    digest: Digest
    size: int
    stored: Digest


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was pushed, byte for byte; `digest` is the one asked for, or the tag's."""

    digest: Digest
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """A manifest that was stored: its digest as pushed, its subject if it names one, the tags now at it."""

    digest: Digest
    subject: Digest | None
    tags: tuple[Tag, ...]


@dataclass(frozen=True, slots=True)
class IfMatch:
    """The conditions of a PUT by tag (RFC 9110 section 13.1): digests the tag may, or may not, point at.

    An empty tuple is `*` (any manifest); None: the header is absent.
    """

    match: tuple[Digest, ...] | None = None
    none_match: tuple[Digest, ...] | None = None


class Blobs(Protocol):
    """Bytes named by their digest, visible through each repository that links them."""

    @property
    def leads_elsewhere(self) -> bool:
        """False where `elsewhere` returns None for every blob."""

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        """Never reads content.  Raises BlobUnknown."""

    def open(
        self, name: RepoName, blob: Blob, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Bytes [start, stop) in pieces of 1 B to 1 MiB; entering raises BlobUnknown if it vanished."""

    async def elsewhere(self, name: RepoName, digest: Digest, *, client: str = "") -> SignedUrl | None:
        """Where a client may fetch the blob itself, if the store serves clients; asks only for the link, so that
        a blob whose bytes are gone is a 404 of the store's.  `client` is its address, by which the place may be
        chosen; "" if unknown.  Raises BlobUnknown.
        """

    async def read(self, blob: Blob) -> bytes:
        """The whole of a small blob (up to 64 KiB), at once.  Raises BlobUnknown if it vanished."""

    async def open_file(self, blob: Blob) -> LocalFile | None:
        """The blob as an open file of exactly `blob.size` bytes, which the caller closes; None where blobs are not
        files of this host.  Raises BlobUnknown if it vanished or is torn.
        """

    async def handover(self, blob: Blob, *, method: str, client: str = "") -> SignedUrl | None:
        """URL at which the client can fetch the bytes from the store, if it serves clients; asked after `stat`
        found the blob.
        """

    async def mount(self, name: RepoName, digest: Digest, source: RepoName | None) -> Blob:
        """Link a blob of `source` into `name`; `source` None stands for any repository and is passed only
        for a caller who may read them all.  Raises BlobUnknown, upon which a client uploads it.
        """

    async def delete(self, name: RepoName, digest: Digest) -> None:
        """Remove this repository's link only.  Raises BlobUnknown, Unsupported."""


class UploadPart(Protocol):
    """One request's share of an upload.  Leaving the context keeps, durably, what was written."""

    async def write(self, chunk: bytes | Sequence[bytes]) -> None:
        """Hash and store one chunk, or the chunks that one receive brought, in order.

        Return at once until a batch waits behind the one being stored, then as fast as the disk.  Chunks are
        kept without a copy until they are stored; a list of them is the caller's again when this returns.
        """

    async def commit(self) -> UploadStatus:
        """Make all bytes durable; return the new status."""

    async def finish(self, digest: Digest) -> Blob:
        """All of it durable, proven to be `digest`, published and linked; the upload is gone.

        Raises DigestInvalid (the upload is then gone as well: its bytes are not what the client meant).
        """


class Uploads(Protocol):
    """Blobs on their way in.  Any request may reach any process."""

    async def start(self, name: RepoName, *, algorithm: str = "sha256") -> UploadStatus:
        """A new upload; `algorithm` is a hint that its digest will be of that kind."""

    async def status(self, name: RepoName, uuid: str) -> UploadStatus:
        """Return the status of an upload.  Raises BlobUploadUnknown."""

    def extend(
        self, name: RepoName, uuid: str, state: str, *, start: int | None = None, algorithm: str = "sha256"
    ) -> AbstractAsyncContextManager[UploadPart]:
        """Go on.  `state` is the token from the URL; `start` the first byte of Content-Range, if any.

        Entering raises BlobUploadUnknown, BlobUploadInvalid (forged or foreign token) and, with the
        current status in it, RangeInvalid when token or `start` is not the upload's offset.  The first
        `write` raises RangeInvalid when another request is writing.  Nothing has been stored then.
        """

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        """Raises BlobUploadUnknown, BlobUploadInvalid."""


class Manifests(Protocol):
    """Manifests, stored byte for byte."""

    async def get(self, name: RepoName, reference: Reference) -> Manifest:
        """Raises ManifestUnknown."""

    async def put(
        self,
        name: RepoName,
        reference: Reference,
        media_type: str,
        data: bytes,
        *,
        tags: Sequence[Tag] = (),
        condition: IfMatch | None = None,
        check_class: Callable[[str], None] | None = None,
    ) -> Pushed:
        """Check, store, link, then tag with `reference` (if a tag) and `tags`.

        `check_class` is called with the class of an image's config (`media.class_of`) and may raise Denied;
        perhaps in another thread.
        Raises ManifestInvalid, ManifestBlobUnknown, DigestInvalid, PreconditionFailed: nothing is stored
        then.  A tag never points at a manifest that is not whole.
        """

    async def delete(self, name: RepoName, reference: Reference) -> None:
        """A tag: that tag only.  A digest: the manifest and every tag that points at it, at once.

        Raises ManifestUnknown, Unsupported.
        """


class Tags(Protocol):
    async def list(self, name: RepoName, *, last: str = "", limit: int | None = None) -> Page:
        """Tags after `last`, at most `limit`.  Raises NameUnknown if the repository never held a manifest."""


class Referrers(Protocol):
    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> ReferrersPage:
        """Manifests of this repository whose subject is `subject`, ordered by digest text, those after the
        digest text `after`, with an artifact type among `artifact_types` if any are given.  An unknown subject
        has none.
        """


class Repositories(Protocol):
    async def list(self, *, last: str = "", limit: int) -> Page:
        """Repositories that ever held a manifest, after `last`, by component: `a/b` before `a-b`."""


class Registry(Protocol):
    """The six parts, and what the endpoint of the whole thing needs."""

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
        """Is the storage there?  Raises Unavailable."""

    async def close(self) -> None: ...
