"""A whole store, one after the other: listing, repositories, blobs' bytes if asked, what crashes left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from moorage.concurrency import for_each, one_page
from moorage.fsck.context import Context
from moorage.fsck.findings import Finding, Outcome, Severity
from moorage.fsck.inventory import take
from moorage.fsck.repairs import exists, overwrite
from moorage.fsck.repository import RepositoryCheck
from moorage.fsck.tags import check_tag
from moorage.registry import layout
from moorage.registry.links import resolve
from moorage.registry.manifests import StoredManifests
from moorage.registry.torn_blobs import is_empty_in_error
from moorage.registry.walk import RepositoryListing, repositories
from moorage.storage.driver import ABSENT, KeyMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest

__all__ = ["CheckOptions", "CheckReporter", "CheckSummary", "check"]

_HASHED: Final = 4


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """`settled_before`: what was written later may belong to a running push; `stale_before`: uploads and temporary
    files that began earlier were abandoned.
    """

    settled_before: datetime
    stale_before: datetime
    digests: bool = False
    repair: bool = False


@dataclass(slots=True)
class CheckSummary:
    """What was looked at and what came of it; `counts` are findings that are still there, by severity."""

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
    """Told while the check goes on; must not block."""

    def phase(self, name: str, total: int | None) -> None:
        """Something begins; `total` is what `advanced` counts up to, if that is known."""

    def advanced(self, count: int) -> None: ...

    def found(self, finding: Finding) -> None: ...


async def check(driver: Driver, options: CheckOptions, reporter: CheckReporter) -> CheckSummary:
    """Raises StorageError when the store fails; what was told until then holds."""
    summary = CheckSummary()

    def tell(finding: Finding) -> None:
        if finding.outcome is Outcome.REPAIRED:
            summary.repaired += 1
        else:
            summary.counts[finding.severity] += 1
        reporter.found(finding)

    reporter.phase("objects listed", None)
    inventory = await take(driver, reporter.advanced)
    context = Context(driver, StoredManifests(driver), inventory, options.settled_before, options.repair, tell)
    await _listed(context)
    reporter.phase("repositories", len(inventory.names))
    await repositories(driver, partial(_repository, context, reporter), names=inventory.names)
    await _blobs(context, reporter, digests=options.digests)
    reporter.phase("leftovers", None)
    await _leftovers(context, options.stale_before, reporter.advanced)
    summary.objects, summary.repositories = inventory.objects, len(inventory.names)
    summary.blobs, summary.blob_bytes = inventory.blobs, inventory.blob_bytes
    summary.unlinked, summary.unlinked_bytes = inventory.unlinked
    return summary


async def _listed(context: Context) -> None:
    """What the listing alone shows."""
    for key in context.inventory.strangers:
        if await exists(context.driver, key):
            await context.found("unknown-key", key, "no registry writes such a key")
    for key, digest in context.inventory.torn_histories:
        found, when = await resolve(context.driver, key)
        if found is None and when is not ABSENT:
            fix = partial(overwrite, context.driver, key, digest, when)
            await context.found("history-torn", key, "the link holds no digest", fix)


async def _repository(context: Context, reporter: CheckReporter, listing: RepositoryListing) -> None:
    repository = RepositoryCheck(context, listing.name)
    await repository.run(listing)
    await listing.each_tag(partial(check_tag, repository))
    reporter.advanced(1)


async def _blobs(context: Context, reporter: CheckReporter, *, digests: bool) -> None:
    inventory = context.inventory
    empty = set()
    for digest in [digest for digest, size in inventory.all() if is_empty_in_error(digest, size)]:
        if await inventory.size_now(digest) == 0:
            empty.add(digest)
            await context.found("blob-empty", context.blobs.key(digest), "it has no bytes")
    if digests:
        reporter.phase("bytes hashed", inventory.blob_bytes)
        filled = (digest for digest, _ in inventory.all() if digest not in empty)
        await for_each(one_page(filled), partial(_hash, context, reporter.advanced), at_once=_HASHED)


async def _hash(context: Context, advanced: Callable[[int], None], digest: Digest) -> None:
    key = context.blobs.key(digest)
    try:
        found, size = await context.blobs.hashed(digest, advanced)
    except KeyMissing:
        return  # collected meanwhile
    except StorageUnavailable as error:
        await context.driver.probe()  # raises if more than this blob cannot be read
        await context.found("blob-unreadable", key, str(error))
        return
    if found != digest.hex:
        await context.found("blob-corrupt", key, f"its {size} bytes are {digest.algorithm}:{found}")


async def _leftovers(context: Context, before: datetime, advanced: Callable[[int], None]) -> None:
    uploads = context.driver.uploads
    async for home in uploads.abandoned(layout.REPOSITORIES, before):
        fix = partial(_discard, context, home)
        await context.found("upload-stale", home, f"begun before {before:%Y-%m-%d %H:%M} UTC", fix)
        advanced(1)
    keys: Sequence[Key] = await uploads.sweep(layout.ROOT, before, dry_run=not context.repair)
    for key in keys:
        await context.found("temporary-stale", key, "begun and never completed", _swept)
        advanced(1)


async def _discard(context: Context, home: Key) -> bool:
    await context.driver.uploads.discard(home)
    return True


async def _swept() -> bool:
    return True
