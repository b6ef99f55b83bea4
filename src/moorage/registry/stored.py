"""The stored registry: every part of `interface.Registry` over one storage driver.

The parts share what they remember of the store: sizes of blobs (`sizes.py`), links (`links.py`), torn blobs
(`torn_blobs.py`), the blobs that uploads have just published, and the state of garbage collection
(`collection_gate.py`).

Above: `wiring/app.py`, which maps settings to `StoredOptions`.  Below: one module per part.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorage.caches import TTLCache
from moorage.concurrency import DEFAULT_LIMIT
from moorage.registry.blob_store import BlobStore
from moorage.registry.blobs import StoredBlobs
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.history import TagHistory
from moorage.registry.links import Links
from moorage.registry.manifest_contents import MANIFESTS_BYTES, ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.mirrored import MirroredContent
from moorage.registry.protection import UNPROTECTED, Protection
from moorage.registry.referrers import REFERRERS_BYTES, StoredReferrers
from moorage.registry.repositories import StoredRepositories
from moorage.registry.sizes import MemorySizes
from moorage.registry.storage_errors import refusing
from moorage.registry.tag_list import StoredTags
from moorage.registry.tags import TagStore
from moorage.registry.trash import Trash
from moorage.registry.uploads import StoredUploads
from moorage.registry.validation import ValidationRules
from moorage.storage.driver import RequestCost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from moorage.caches import LRUCache
    from moorage.registry.pulls import PullRecorder
    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Driver
    from moorage.storage.middleware.rule import Rule
    from moorage.types import Digest

__all__ = ["CACHES_BYTES", "CacheCounts", "StoredOptions", "StoredRegistry"]

CACHES_BYTES: Final = MANIFESTS_BYTES + REFERRERS_BYTES
"""Upper bound of the caches of a process whose entries grow with their content."""

_RECENT_S: Final = 60.0
_SIZES: Final = 10_000


@dataclass(frozen=True, slots=True)
class StoredOptions:
    """Options of a stored registry.

    `undo_s`: seconds for which deleted content can be restored; 0: never, and no history of tags is written.
    `redirects`: clients may be redirected to the store.  `links_s`: seconds for which links of a remote store are
    remembered.  `tags_at_once`: tags of a repository read concurrently.  `processors`: those of all processes of
    the node.  `cache_bytes`: limit of the caches of this process; None is `CACHES_BYTES`.
    `protection`: immutable tags and legal holds.
    """

    delete_enabled: bool = False
    undo_s: float = 0
    redirects: bool = True
    links_s: float = 2.0
    tags_at_once: int = DEFAULT_LIMIT
    validation: ValidationRules = field(default_factory=ValidationRules)
    processors: int = 1
    cache_bytes: int | None = None
    protection: Protection = UNPROTECTED

    def cache_share(self, whole_bytes: int) -> int:
        """Return the limit of a cache that takes `whole_bytes` of `CACHES_BYTES`, scaled to `cache_bytes`."""
        if self.cache_bytes is None or self.cache_bytes >= CACHES_BYTES:
            return whole_bytes
        return whole_bytes * self.cache_bytes // CACHES_BYTES


class CacheCounts(NamedTuple):
    """Look-ups of a cache, and how many of them it answered."""

    name: str
    requests: int
    hits: int


class _Shared:
    """Owners of bytes, links and tags, with their caches, which the parts of a registry share."""

    def __init__(
        self,
        driver: Driver,
        options: StoredOptions,
        sizes: Sizes,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._driver = driver
        self._options = options
        self._writes = writes = DeduplicatedWrites(driver)
        self.links = Links(driver, lasts_s=options.links_s, sizes=sizes, writes=writes)
        recent: TTLCache[Digest, int] = TTLCache(
            10_000 if driver.request_cost is RequestCost.NETWORK else 0, _RECENT_S
        )
        self.store = BlobStore(driver, sizes=sizes, recent=recent, writes=writes)
        self.gate = CollectionGate(driver, self.store, self.links, clock=clock, sleep=sleep)
        self.trash = Trash(driver, keep_s=options.undo_s)
        self.tags = TagStore(
            driver, links=self.links, writes=writes, at_once=options.tags_at_once, trash=self.trash
        )
        self.contents = ManifestContents(self.store, cache_bytes=options.cache_share(MANIFESTS_BYTES))

    def mirrored(self) -> MirroredContent:
        """Return the writer of mirrored content; it has neither protection nor undo."""
        manifests = StoredManifests(
            self._driver,
            delete_enabled=True,
            rules=ValidationRules.sparse(),
            store=self.store,
            links=self.links,
            tags=TagStore(self._driver, links=self.links, writes=self._writes),
            contents=self.contents,
            writes=self._writes,
            gate=self.gate,
        )
        return MirroredContent(self.store, self.links, self.gate, manifests)

    def manifests(self, pulls: PullRecorder | None, history: TagHistory | None) -> StoredManifests:
        return StoredManifests(
            self._driver,
            delete_enabled=self._options.delete_enabled,
            rules=self._options.validation,
            store=self.store,
            links=self.links,
            tags=self.tags,
            contents=self.contents,
            writes=self._writes,
            protection=self._options.protection,
            pulls=pulls,
            trash=self.trash,
            history=history,
            gate=self.gate,
        )


class StoredRegistry:
    """See `registry.interface.Registry`.  `close` closes `driver`, `sizes` and `rules` as well.

    `secret` signs the state of uploads and is shared by all processes.  `rules` choose where redirects lead.
    `pulls` records the times of pulls, and is written at `close`.
    `clock` and `sleep` are those of `collection_gate.py`.
    """

    def __init__(
        self,
        driver: Driver,
        secret: bytes,
        options: StoredOptions | None = None,
        *,
        sizes: Sizes | None = None,
        rules: Sequence[Rule] = (),
        pulls: PullRecorder | None = None,
        clock: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        options = options or StoredOptions()
        self._driver = driver
        self._rules = rules
        self.pulls = pulls
        self._sizes: Sizes = MemorySizes(_SIZES) if sizes is None else sizes
        shared = _Shared(driver, options, self._sizes, clock=clock, sleep=sleep)
        self.mirrored: Final = shared.mirrored()
        self._links = links = shared.links
        self._gate = gate = shared.gate
        store = shared.store
        trash = shared.trash
        self.history = TagHistory(driver) if trash.enabled else None
        self.uploads = StoredUploads(
            driver, secret, store=store, links=links, gate=gate, processors=options.processors
        )
        self.manifests = shared.manifests(pulls, self.history)
        self.blobs = StoredBlobs(
            driver,
            delete_enabled=options.delete_enabled,
            store=store,
            links=links,
            gate=gate,
            redirects=options.redirects,
            rules=rules,
            protected=self.manifests.protected,
            trash=trash,
        )
        self.tags = StoredTags(driver, tags=shared.tags, links=links, contents=shared.contents)
        referrers_bytes = options.cache_share(REFERRERS_BYTES)
        self.referrers = StoredReferrers(driver, self.manifests, cache_bytes=referrers_bytes)
        self.repositories = StoredRepositories(
            driver,
            delete_enabled=options.delete_enabled,
            store=store,
            links=links,
            trash=trash,
            protected=self.manifests.protected,
        )

    async def probe(self) -> None:
        with refusing():
            await self._driver.probe()

    def cache_counts(self) -> Iterator[CacheCounts]:
        """Return the counters of every cache."""
        yield _counts("blobs", self._sizes)
        yield _counts("links", self._links)
        yield _counts("manifests", self.manifests.contents.cache)
        yield _counts("referrers", self.referrers.cache)

    async def close(self, *, driver: bool = True) -> None:
        """See `registry.interface.Registry`.  `driver` False: the driver stays open, for its owner."""
        self.uploads.close()
        if self.pulls is not None:
            await self.pulls.close()
        if self.history is not None:
            await self.history.close()
        await self._gate.close()
        for rule in self._rules:
            await rule.close()
        await self._sizes.close()
        if driver:
            await self._driver.close()


def _counts(name: str, cache: LRUCache[Any, Any] | Sizes | Links) -> CacheCounts:
    return CacheCounts(name, cache.requests, cache.hits)
