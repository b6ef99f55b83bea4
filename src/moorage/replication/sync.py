"""Jobs of `moorage sync`: the selected tags of repositories are copied, a bounded number at a time.

    job ──► repositories by pattern ──► tags by pattern ──► `ImageCopier`, one per job ──► a row of the report

A job goes on after an image that fails, and ends early where its registry fails: five images in a row without a
connection, a rate limit that asks to wait for long, a full store.  Nothing is recorded between runs: the next one
copies what the target does not have.

Above: `wiring/sync.py`, `cli/sync.py`.  Below: `images.py`, `selection.py`, `report.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from moorage.concurrency import for_each, one_page
from moorage.errors import NameInvalid, NameUnknown, RegistryError, StorageFull
from moorage.replication.errors import (
    ImageIncomplete,
    ImageMissing,
    PlatformMissing,
    ReplicationError,
    TargetRefused,
)
from moorage.replication.failures import is_temporary, retry_after_s
from moorage.replication.images import ImageCopier
from moorage.replication.report import SyncOutcome, SyncRow
from moorage.replication.requests import CopyRequest
from moorage.types import RepoName, Tag
from moorage.upstream.errors import UpstreamError, UpstreamRateLimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.replication.endpoints import ImageSource, ImageTarget
    from moorage.replication.progress import ReplicationProgress
    from moorage.replication.requests import ReplicationOptions
    from moorage.replication.selection import RepositorySelection

__all__ = ["SyncJob", "SyncRun"]

_GIVE_UP: Final = 5
_LONGEST_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class SyncJob:
    """Repositories of one source for one target; `target_registry` is its host in the report, "" for this
    registry.  `mount`: source and target are the same registry.
    """

    name: str
    selections: Sequence[RepositorySelection]
    target_registry: str = ""
    mount: bool = False


@dataclass(frozen=True, slots=True)
class _Repository:
    """A selected repository, and its tags."""

    selection: RepositorySelection
    name: RepoName
    target: RepoName
    tags: Sequence[Tag]
    known: frozenset[Tag] | None


class SyncRun:
    """One run of one job; every row is passed to `done`."""

    def __init__(
        self,
        job: SyncJob,
        source: ImageSource,
        target: ImageTarget,
        *,
        done: Callable[[SyncRow], None],
        options: ReplicationOptions | None = None,
        parallelism: int = 3,
        progress: ReplicationProgress | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._job = job
        self._source = source
        self._done = done
        self._parallelism = parallelism
        self._copier = ImageCopier(source, target, options, progress, images_at_once=parallelism, sleep=sleep)
        self._failures = 0
        self._stopped = ""

    async def run(self) -> None:
        """Copy what the job selects.  Failures are rows; nothing is raised but defects and cancellation."""
        try:
            seen: set[tuple[RepoName, RepoName, Tag]] = set()
            for selection in self._job.selections:
                for repository in await self._repositories(selection):
                    wanted = [
                        tag for tag in repository.tags if (repository.name, repository.target, tag) not in seen
                    ]
                    seen |= {(repository.name, repository.target, tag) for tag in wanted}
                    await self._copy_all(replace(repository, tags=wanted))
        finally:
            await self._copier.close()

    # --- selection ---------------------------------------------------------------------------------------------

    async def _repositories(self, selection: RepositorySelection) -> list[_Repository]:
        """Return the repositories of a selection with their tags; what cannot be found is a row."""
        found = []
        for name in await self._names(selection):
            try:
                target = selection.target_name(name)
            except NameInvalid as error:
                self._row(SyncOutcome.FAILED, name, reason=f"its name in the target is not valid: {error}")
                continue
            repository = await self._tags(selection, name, target)
            if repository is not None:
                found.append(repository)
        return found

    async def _names(self, selection: RepositorySelection) -> list[RepoName]:
        if selection.match.is_literal:
            return [RepoName(selection.match.text)]
        found: list[RepoName] = []
        if self._stopped:
            self._row(SyncOutcome.NOT_TRIED, selection.match.text, reason=self._stopped)
            return found
        try:
            async for page in self._source.list_repositories():
                found += [name for name in page if selection.match.matches(name)]
        except (UpstreamError, RegistryError) as error:
            remedy = "" if is_temporary(error) else "; name each repository without a star"
            reason = f"the list of repositories cannot be read: {error}{remedy}"
            self._row(SyncOutcome.FAILED, selection.match.text, reason=reason)
            self._note(error)
            return []
        if not found:
            self._row(SyncOutcome.MISSING, selection.match.text, reason="no repository has such a name")
        return sorted(found)

    async def _tags(self, selection: RepositorySelection, name: RepoName, target: RepoName) -> _Repository | None:
        literal = selection.literal_tags
        if literal is not None:
            return _Repository(selection, name, target, literal, None)
        if self._stopped:
            self._row(SyncOutcome.NOT_TRIED, name, reason=self._stopped)
            return None
        known: set[Tag] = set()
        try:
            async for page in self._source.list_tags(name):
                known.update(page)
        except NameUnknown:
            self._row(SyncOutcome.MISSING, name, reason="the source has no such repository")
            return None
        except (UpstreamError, RegistryError) as error:
            self._row(SyncOutcome.FAILED, name, reason=f"its tags cannot be read: {error}")
            self._note(error)
            return None
        tags = selection.select_tags(known)
        for tag in selection.named_tags - known:
            self._row(SyncOutcome.MISSING, f"{name}:{tag}", reason="the source has no such tag")
        if not tags and not selection.named_tags:
            self._row(SyncOutcome.MISSING, name, reason=f"none of its {len(known)} tags is selected")
        return _Repository(selection, name, target, tags, frozenset(known))

    # --- copies ------------------------------------------------------------------------------------------------

    async def _copy_all(self, repository: _Repository) -> None:
        async def copy(tag: Tag) -> None:
            await self._copy(repository, tag)

        await for_each(one_page(repository.tags), copy, limit=self._parallelism)

    async def _copy(self, repository: _Repository, tag: Tag) -> None:
        selection = repository.selection
        source, target = f"{repository.name}:{tag}", f"{repository.target}:{tag}"
        if self._stopped:
            self._row(SyncOutcome.NOT_TRIED, source, target, reason=self._stopped)
            return
        request = CopyRequest(
            repository.name,
            tag,
            repository.target,
            tag,
            platforms=selection.platforms,
            referrers=selection.referrers,
            mount=self._job.mount,
            known_tags=repository.known,
        )
        try:
            result = await self._copier.copy(request)
        except PlatformMissing as error:
            self._failures = 0
            self._row(SyncOutcome.SKIPPED, source, target, reason=str(error))
        except (ImageMissing, ImageIncomplete) as error:
            self._failures = 0
            self._row(SyncOutcome.MISSING, source, target, reason=str(error))
        except (ReplicationError, UpstreamError, RegistryError) as error:
            self._row(SyncOutcome.FAILED, source, target, reason=str(error))
            self._note(error)
        else:
            self._failures = 0
            changed = result.tagged or result.counts.changed
            self._done(
                SyncRow(
                    self._job.name,
                    SyncOutcome.COPIED if changed else SyncOutcome.PRESENT,
                    f"{self._source.title}/{source}",
                    self._target_text(target),
                    result.digest,
                    result.before,
                    counts=result.counts,
                )
            )

    def _note(self, error: Exception) -> None:
        """Count a failure of a connection or of a store, and end the job after too many."""
        cause = error.refusal if isinstance(error, TargetRefused) else error
        if isinstance(cause, UpstreamRateLimited) and (retry_after_s(cause) or 0) > _LONGEST_WAIT_S:
            self._stopped = f"the rest is left to the next run: {cause}"
        if cause is None or not (is_temporary(cause) or isinstance(cause, StorageFull)):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _GIVE_UP and not self._stopped:
            self._stopped = f"{_GIVE_UP} failures in a row, the last one: {cause}"

    def _row(self, outcome: SyncOutcome, source: str, target: str = "", *, reason: str) -> None:
        self._done(
            SyncRow(
                self._job.name,
                outcome,
                f"{self._source.title}/{source}",
                self._target_text(target) if target else "",
                reason=reason,
            )
        )

    def _target_text(self, target: str) -> str:
        return f"{self._job.target_registry}/{target}" if self._job.target_registry else target
