"""Cache of the sizes of blobs: `storage.cache.blobdescriptor`.

Only facts that a digest makes immutable are cached.  The fact that a repository links a blob is never cached here:
links are deleted by clients, on any node, and the link in storage is the truth
(docs/decisions/0007-shared-cache.md).  Absence is not cached either, since another node may store the blob a
moment later.

A cached size implies that the bytes were there when the store was read.  So a collector calls `collecting`
*before* it removes bytes, a reader that misses them calls `forget`, and opening a blob detects it in any case.

Above: `blob_store.py`, `links.py`.  Beside: `moorage.cache`, which keeps sizes in Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from moorage.caches import LRUCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.types import Digest, RepoName

__all__ = ["MemorySizes", "NotForgotten", "Sizes"]


class NotForgotten(Exception):
    """The cache is not reachable, so bytes must not be removed now.  The text has the reason."""


class Sizes(Protocol):
    """Digests are those under which the bytes are stored.  Sizes are bytes.

    All methods but `collecting` always succeed: a cache that is not reachable is empty and ignores changes.
    `requests` counts calls of `get`, `hits` those that found a size.
    """

    @property
    def requests(self) -> int: ...
    @property
    def hits(self) -> int: ...

    async def get(self, digest: Digest) -> int | None:
        """Return the size, if it is cached."""

    async def put(self, digest: Digest, size: int) -> None:
        """Cache the size of a blob that was found in the store a moment ago."""

    async def forget(self, digest: Digest) -> None:
        """Drop a size: the bytes were missing, or not as many."""

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        """Report that `name` no longer links the blobs; the link has been removed from storage already.

        Links are not cached here, but by a registry that shares the cache (CNCF Distribution does in Redis).
        """

    async def collecting(self, digests: Sequence[Digest]) -> None:
        """Drop the sizes of blobs that a collector is about to remove: from now on no node that shares this cache
        gets them from it, not even one that read the sizes before.  Raises NotForgotten.
        """

    def clear(self) -> None:
        """Drop what this process alone remembers: a collector may have removed any of these blobs.  What processes
        share, a collector drops by `collecting`.
        """

    async def close(self) -> None:
        """Close connections."""


class MemorySizes:
    """See `Sizes`.  Of this process alone, at most `limit`; 0 disables the cache."""

    def __init__(self, limit: int) -> None:
        self._sizes: LRUCache[Digest, int] = LRUCache(limit)

    @property
    def requests(self) -> int:
        return self._sizes.requests

    @property
    def hits(self) -> int:
        return self._sizes.hits

    async def get(self, digest: Digest) -> int | None:
        return self._sizes.get(digest)

    async def put(self, digest: Digest, size: int) -> None:
        self._sizes.put(digest, size)

    async def forget(self, digest: Digest) -> None:
        self._sizes.drop(digest)

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        """Do nothing: links are not cached here."""

    async def collecting(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self._sizes.drop(digest)

    def clear(self) -> None:
        self._sizes.clear()

    async def close(self) -> None:
        """Do nothing."""
