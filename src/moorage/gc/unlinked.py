"""Mark of given digests only: finds those whose bytes no repository of the store links.  `moorage erase` uses it.

    repositories    one listing of each directory of links, or of all keys in a bucket
    blobs           those of the digests that no link and no record of the trash names, if older than the run

Any link keeps the bytes, also one that nothing needs, and one whose path or content names the digest.  Whether a
record of the trash has expired is not asked.  A link that cannot be read keeps everything.

What a push relies on meanwhile is the subject of the protocol between requests and collectors, as for any mark.
A digest that was rescued before the first mark is not kept for that: its links were removed since.

Above: `run.py`, which takes it for a mark.  Below: `repositories.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.errors import DigestInvalid
from moorage.gc.cache import MarkCache
from moorage.gc.marked import Marked
from moorage.gc.references import packed
from moorage.gc.repositories import list_repositories, lost_directories, scan_repositories
from moorage.registry import layout
from moorage.registry.trash import Trash, TrashUnreadable
from moorage.storage.driver import Key, RequestCost
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from moorage.gc.repositories import RepositoryNames
    from moorage.gc.work import Work
    from moorage.storage.driver import Bulk, Driver

__all__ = ["UnlinkedBytes"]

_ALGORITHMS: Final = ("sha256", "sha512")
_LINKS: Final = ("_manifests/revisions", "_layers")
_AT_ONCE: Final = 200
_LINK_BYTES: Final = 4096


class UnlinkedBytes:
    """Marks one store, for one run, which began at `now`: what is written since is kept.

    `linked` has the digests that are kept, each with a repository that names it.

    Raises StorageUnavailable: then nothing is known, and nothing may be removed.
    """

    def __init__(self, driver: Driver, digests: Iterable[Digest], now: datetime) -> None:
        self._driver = driver
        self._now = now
        self._digests = frozenset(digests)
        self._trash = Trash(driver, keep_s=0)
        self._cache = MarkCache()
        self._is_first = True
        self.linked: dict[Digest, str] = {}

    async def mark(self, wanted: Work | None = None) -> Marked:
        """Return the bytes that no repository links now; with `wanted`, `stats` of its blobs."""
        marked = Marked()
        if self._is_first:
            self._is_first = False
            await self._driver.delete([layout.rescued(digest) for digest in sorted(self._digests)])
        self.linked = {}
        if self._driver.request_cost is RequestCost.NETWORK:
            async for batch, keys in scan_repositories(self._driver):
                await self._examine(batch, keys, marked)
        else:
            found = await list_repositories(self._driver, self._cache)
            for key in await lost_directories(self._driver, self._cache):
                marked.note(key, "this directory cannot be listed, and all bytes are kept: mount it")
            for start in range(0, len(found), _AT_ONCE):
                await self._examine(found[start : start + _AT_ONCE], self._driver.bulk, marked)
        if marked.problem_count:
            return marked
        digests = sorted(self._digests - self.linked.keys())
        stats = await self._driver.bulk.find([layout.blob_data(digest) for digest in digests])
        for digest, stat in zip(digests, stats, strict=True):
            if stat is not None and stat.modified <= self._now:
                marked.blobs.add(marked.table.number(packed(digest)), stat.size)
                if wanted is not None and digest in wanted.blobs:
                    marked.stats[digest] = stat
        return marked

    async def _examine(self, batch: Sequence[RepositoryNames], bulk: Bulk, marked: Marked) -> None:
        """Note which of the digests the repositories name."""
        homes = [
            (names.name, algorithm, Key(f"{layout.REPOSITORIES}/{names.name}/{path}/{algorithm}"))
            for names in batch
            for path in _LINKS
            if path.partition("/")[0] in names.reserved
            for algorithm in _ALGORITHMS
        ]
        named: list[tuple[str, Digest, Key]] = []
        aliases: list[tuple[str, Key]] = []
        listed = await bulk.names([home for *_, home in homes])
        for (name, algorithm, home), entries in zip(homes, listed, strict=True):
            for entry in entries:
                key = Key(f"{home}/{entry}/link")
                digest = _digest(f"{algorithm}:{entry}")
                if digest in self._digests and digest is not None:
                    named.append((name, digest, key))
                if digest is not None and algorithm != "sha256":
                    # CNCF Distribution's sha512 links name sha256 digests.
                    aliases.append((name, key))
        # A directory stays where a driver leaves empty ones.
        found = await bulk.find([key for *_, key in named])
        for (name, digest, _), stat in zip(named, found, strict=True):
            if stat is not None:
                self.linked.setdefault(digest, name)
        await self._read_aliases(aliases, bulk, marked)
        for names in batch:
            if "_trash" in names.reserved:
                await self._read_trash(RepoName(names.name), marked)

    async def _read_aliases(self, links: Sequence[tuple[str, Key]], bulk: Bulk, marked: Marked) -> None:
        keys = [key for _, key in links]
        for (name, key), data in zip(links, await bulk.read(keys, limit=_LINK_BYTES), strict=True):
            if data is None:
                continue  # an entry without a link
            target = _digest(data.decode(errors="replace").strip())
            if target is None:
                marked.note(key, "the link holds no digest; bytes are kept")
            elif target in self._digests:
                self.linked.setdefault(target, name)

    async def _read_trash(self, name: RepoName, marked: Marked) -> None:
        async for keys in self._trash.keys(name):
            for key in keys:
                try:
                    entries = await self._trash.read(key)
                except TrashUnreadable as error:
                    marked.note(key, f"{error}; bytes are kept")
                    continue
                for entry in entries:
                    for digest in self._digests.intersection((*entry.manifests, *entry.blobs)):
                        self.linked.setdefault(digest, name)


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None
