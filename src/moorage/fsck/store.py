"""The check of a whole store: inventory, repositories, digests of blobs on request, leftovers of crashes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from moorage.concurrency import for_each, one_page
from moorage.fsck.context import CheckContext
from moorage.fsck.findings import Finding, Outcome, Severity
from moorage.fsck.inventory import make_inventory
from moorage.fsck.repairs import exists, overwrite
from moorage.fsck.repository import RepositoryCheck
from moorage.fsck.tags import check_tag
from moorage.registry import layout
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.links import resolve
from moorage.registry.manifests import StoredManifests
from moorage.registry.torn_blobs import is_empty_in_error
from moorage.registry.walk import RepositoryListing, visit_repositories
from moorage.storage.driver import ABSENT, KeyMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest, RepoName

__all__ = ["CheckOptions", "CheckReporter", "CheckSummary", "check"]

_HASHED: Final = 4


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """`settled_before`: objects written later may belong to a running push; `stale_before`: uploads and temporary
    files begun earlier are abandoned.  `digests`: hash every blob.  `is_sparse`: manifests of this repository may
    lack config and layers.
    """

    settled_before: datetime
    stale_before: datetime
    digests: bool = False
    repair: bool = False
    is_sparse: Callable[[RepoName], bool] = lambda _: False


@dataclass(slots=True)
class CheckSummary:
    """Totals of a check; `counts` are the findings that are not repaired, by severity."""

    objects: int = 0
    repositories: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    unlinked: int = 0
    unlinked_bytes: int = 0
    repaired: int = 0
    counts: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))

    @property
    def clean(self) -> bool:
        return not (self.counts[Severity.ERROR] or self.counts[Severity.WARNING])


class CheckReporter(Protocol):
    """Receives progress and findings while the check runs; must not block."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins; `total` is the sum of the counts that `advanced` will receive, None if unknown."""

    def advanced(self, count: int) -> None:
        """`count` more units of the phase are done."""

    def found(self, finding: Finding) -> None:
        """Something is damaged, or was repaired."""


async def check(driver: Driver, options: CheckOptions, reporter: CheckReporter) -> CheckSummary:
    """Check the store.  Raises StorageError when it fails; the findings reported until then hold."""
    summary = CheckSummary()

    def reported(finding: Finding) -> None:
        if finding.outcome is Outcome.REPAIRED:
            summary.repaired += 1
        else:
            summary.counts[finding.severity] += 1
        reporter.found(finding)

    gate = CollectionGate(driver)
    begun = await gate.begin()
    reporter.phase("objects listed", None)
    inventory = await make_inventory(driver, reporter.advanced)
    context = CheckContext(
        driver,
        StoredManifests(driver),
        inventory,
        options.settled_before,
        options.repair,
        reported,
        gate,
        begun,
        options.is_sparse,
    )
    await _check_inventory(context)
    reporter.phase("repositories", len(inventory.names))
    await visit_repositories(driver, partial(_check_repository, context, reporter), names=inventory.names)
    await _check_blobs(context, reporter, digests=options.digests)
    reporter.phase("leftovers", None)
    await _check_leftovers(context, options.stale_before, reporter.advanced)
    summary.objects, summary.repositories = inventory.objects, len(inventory.names)
    summary.blobs, summary.blob_bytes = inventory.blobs, inventory.blob_bytes
    summary.unlinked, summary.unlinked_bytes = inventory.unlinked
    return summary


async def _check_inventory(context: CheckContext) -> None:
    """Report what the listing alone shows."""
    for key in context.inventory.strangers:
        if await exists(context.driver, key):
            await context.report("unknown-key", key, "no registry writes such a key")
    for key, digest in context.inventory.torn_histories:
        found, when = await resolve(context.driver, key)
        if found is None and when is not ABSENT:
            fix = partial(overwrite, context.driver, key, digest, when)
            await context.report("history-torn", key, "the link holds no digest", fix)


async def _check_repository(context: CheckContext, reporter: CheckReporter, listing: RepositoryListing) -> None:
    repository = RepositoryCheck(context, listing.name)
    await repository.run(listing)
    await listing.each_tag(partial(check_tag, repository))
    reporter.advanced(1)


async def _check_blobs(context: CheckContext, reporter: CheckReporter, *, digests: bool) -> None:
    inventory = context.inventory
    empty = set()
    for digest in [digest for digest, size in inventory.all() if is_empty_in_error(digest, size)]:
        if await inventory.size_now(digest) == 0:
            empty.add(digest)
            await context.report("blob-empty", context.blobs.key(digest), "it has no bytes")
    if digests:
        reporter.phase("bytes hashed", inventory.blob_bytes)
        filled = (digest for digest, _ in inventory.all() if digest not in empty)
        await for_each(one_page(filled), partial(_hash, context, reporter.advanced), limit=_HASHED)


async def _hash(context: CheckContext, advanced: Callable[[int], None], digest: Digest) -> None:
    key = context.blobs.key(digest)
    try:
        found, size = await context.blobs.hashed(digest, advanced)
    except KeyMissing:
        return  # collected meanwhile
    except StorageUnavailable as error:
        await context.driver.probe()  # raises if the whole store cannot be read
        await context.report("blob-unreadable", key, str(error))
        return
    if found != digest.hex:
        await context.report("blob-corrupt", key, f"its {size} bytes are {digest.algorithm}:{found}")


async def _check_leftovers(context: CheckContext, before: datetime, advanced: Callable[[int], None]) -> None:
    uploads = context.driver.uploads
    async for upload in uploads.abandoned(layout.REPOSITORIES, before):
        fix = partial(_discard, context, upload)
        await context.report("upload-stale", upload, f"begun before {before:%Y-%m-%d %H:%M} UTC", fix)
        advanced(1)
    keys: Sequence[Key] = await uploads.sweep(layout.ROOT, before, dry_run=not context.repair)
    for key in keys:
        await context.report("temporary-stale", key, "begun and never completed", _swept)
        advanced(1)


async def _discard(context: CheckContext, upload: Key) -> bool:
    await context.driver.uploads.discard(upload)
    return True


async def _swept() -> bool:
    return True
