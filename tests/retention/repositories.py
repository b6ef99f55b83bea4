"""Repositories in memory, with images, and a run of retention over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.history import TagHistory
from moorage.registry.links import LAYER, Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.tags import TagStore
from moorage.registry.trash import Trash
from moorage.registry.validation import ValidationRules
from moorage.retention.decide import Pulls
from moorage.retention.facts import FactsReader
from moorage.retention.run import RetentionRun, RetentionStore
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.retention.rules import RetentionPolicy
    from moorage.storage.driver import Driver
    from moorage.testing.builders import Built

NAME: Final = RepoName("team/app")
NEVER: Final = Pulls(lambda _name, _reference: None, None)


async def no_sleep(_seconds: float) -> None:
    """Instead of the wait before the last look."""


class Repository:
    """Pushes images into one repository; `later` is how far the clock of a run is ahead."""

    def __init__(self, driver: Driver, name: RepoName = NAME) -> None:
        self.driver = driver
        self.name = name
        links = Links(driver)
        tags = TagStore(driver, links=links)
        contents = ManifestContents(BlobStore(driver))
        manifests = StoredManifests(
            driver, delete_enabled=True, links=links, tags=tags, contents=contents,
            rules=ValidationRules(platforms=frozenset()),
        )  # fmt: skip
        trash = Trash(driver, keep_s=3600.0)
        gate = CollectionGate(driver, BlobStore(driver), links)
        facts = FactsReader(driver, tags, contents, trash)
        self.store = RetentionStore(driver, tags, links, manifests, trash, facts, TagHistory(driver), gate)

    async def push(self, built: Built, *tags: str) -> Digest:
        """Push a manifest with all that it names, blobs included."""
        for part in built.closure:
            if part.media_type in {"application/vnd.oci.image.manifest.v1+json",
                                   "application/vnd.oci.image.index.v1+json"}:  # fmt: skip
                await self.store.manifests.put(self.name, part.digest, part.media_type, part.data)
            else:
                blobs = BlobStore(self.driver)
                await blobs.write(part.digest, part.data)
                await self.store.links.set(LAYER, self.name, part.digest)
        for tag in tags:
            await self.store.manifests.put(self.name, Tag(tag), built.media_type, built.data)
        return built.digest

    def run(
        self,
        policy: RetentionPolicy,
        *,
        later: timedelta = timedelta(days=100),
        pulls: Pulls = NEVER,
        dry_run: bool = False,
        sleep: Callable[[float], object] = no_sleep,
    ) -> RetentionRun:
        return RetentionRun(
            self.store, policy, pulls, dry_run=dry_run, now=lambda: datetime.now(UTC) + later, sleep=sleep,  # type: ignore[arg-type]
        )  # fmt: skip

    async def tags(self) -> set[str]:
        """Return the tags whose manifest can be pulled."""
        facts = await self.store.facts.read(self.name)
        return {str(state.tag) for state in facts.alive()}

    async def manifests(self) -> set[Digest]:
        return set((await self.store.facts.read(self.name)).manifests)
