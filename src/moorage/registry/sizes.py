"""Sizes of blobs, remembered: what `storage.cache.blobdescriptor` switches on.

Only what a digest makes immutable is remembered.  That a repository links a blob is never taken from a memory:
links are deleted by clients, on any node, and the link in storage is the truth
(docs/decisions/0007-shared-cache.md). Absence is not remembered either, since another node may store the blob a
moment later.

A size that is remembered says that the bytes were there when somebody looked.  So whoever removes bytes says so
*before* (`collecting`), whoever misses them says so after (`forget`), and `open` finds out in any case.

Above: `blobs.py`, `manifests.py`, a collector.  Beside: `moorage.cache`, which keeps sizes in Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from moorage.caches import LRUCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.types import Digest, RepoName

__all__ = ["MemorySizes", "NotForgotten", "Sizes"]


class NotForgotten(Exception):
    """The memory cannot be told that bytes are about to go; they must stay until it can.  Says why."""


class Sizes(Protocol):
    """Digests are those under which the bytes lie.  Sizes are bytes.

    All but `collecting` always succeed: a memory that is away knows nothing and is told nothing.
    `requests` and `hits` count what was asked for and what of that was there.
    """

    @property
    def requests(self) -> int: ...
    @property
    def hits(self) -> int: ...

    async def get(self, digest: Digest) -> int | None:
        """The size, if it is known."""

    async def put(self, digest: Digest, size: int) -> None:
        """`digest` was seen in storage a moment ago and has `size` bytes."""

    async def forget(self, digest: Digest) -> None:
        """Its bytes were missing, or not of that size."""

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        """`name` no longer links them; the link is gone from storage already.

        We do not remember links, but a registry that shares the memory may (CNCF Distribution does in Redis).
        """

    async def collecting(self, digests: Sequence[Digest]) -> None:
        """Their bytes are about to be removed by a collector: from now on nobody, on any node that shares this
        memory, is told their sizes out of it, not even one who looked at the bytes before.  Raises NotForgotten.
        """

    async def close(self) -> None:
        """Free what it holds."""


class MemorySizes:
    """See `Sizes`.  Of this process alone, at most `limit`; 0 remembers nothing."""

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
        """Links are not remembered here."""

    async def collecting(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self._sizes.drop(digest)

    async def close(self) -> None:
        """Nothing is held."""
