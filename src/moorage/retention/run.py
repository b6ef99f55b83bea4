"""A run of retention: each repository is examined, decided, and what goes is deleted.

    tags        each one only if it is still as it was examined (`TagStore.remove_unchanged`)
    manifests   after a second look at the repository: only what no tag, index, subject, hold or recent push needs
                now, and only while its revision link is the one that was examined
    last look   `SETTLE_S` after the last manifest of the run: a tag that was set to one meanwhile brings the
                manifest back, with its family

Why the last look.  A push writes the revision link, then the tag.  If the manifest exists already, a deletion may
come between the two, and the tag of an acknowledged push would be dead.  Such a push has written its tag, or the
entry of the tag's history, within moments; then the links are written again, and confirmed as those of a push are
(`registry/collection_gate.py`).  The bytes are there, since garbage collection spares what the trash names.  A
push that takes longer than `SETTLE_S` between the two writes, of a manifest that no tag named, is not noticed;
what it needs can be restored from the trash.

Everything that goes is recorded in the trash first, with the rule as the reason.

Above: `wiring/retention.py`.  Below: `decide.py`, `facts.py`, `registry/`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import ManifestUnknown
from moorage.registry import media
from moorage.registry.links import LAYER, REVISION
from moorage.registry.referrer_links import encode
from moorage.registry.stamps import utc_now
from moorage.registry.trash import Earlier
from moorage.retention.decide import RetentionPlan, decide, unneeded
from moorage.retention.families import closure
from moorage.storage.driver import KeyMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from moorage.registry.collection_gate import CollectionGate
    from moorage.registry.history import TagHistory
    from moorage.registry.links import Links
    from moorage.registry.manifests import StoredManifests
    from moorage.registry.tags import TagStore
    from moorage.registry.trash import Trash
    from moorage.retention.decide import Pulls, RemovedManifest, TagDecision
    from moorage.retention.facts import FactsReader
    from moorage.retention.families import Facts
    from moorage.retention.rules import RetentionPolicy
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["SETTLE_S", "RepositoryResult", "RetentionRun", "RetentionStore"]

SETTLE_S: Final = 5.0
_BY: Final = "moorage retention"
_log: Final = structlog.get_logger("moorage.retention")


@dataclass(frozen=True, slots=True)
class RetentionStore:
    """The parts of one store that a run uses."""

    driver: Driver
    tags: TagStore
    links: Links
    manifests: StoredManifests
    trash: Trash
    facts: FactsReader
    history: TagHistory
    gate: CollectionGate


@dataclass(slots=True)
class RepositoryResult:
    """The plan for a repository, and what of it was done.  `changed`: tags that a push has changed meanwhile.

    `readable` is False if a manifest cannot be read, so that no manifest is deleted.
    """

    plan: RetentionPlan
    tags: list[TagDecision] = field(default_factory=list)
    manifests: list[RemovedManifest] = field(default_factory=list)
    changed: list[TagDecision] = field(default_factory=list)
    readable: bool = True


class RetentionRun:
    """One run over a store.  Methods raise StorageUnavailable."""

    def __init__(
        self,
        store: RetentionStore,
        policy: RetentionPolicy,
        pulls: Pulls,
        *,
        dry_run: bool = False,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._policy = policy
        self._pulls = pulls
        self._dry_run = dry_run
        self._now = now
        self._sleep = sleep
        self._removed: dict[RepoName, tuple[Facts, set[Digest], datetime]] = {}

    async def repository(self, name: RepoName) -> RepositoryResult:
        """Decide on one repository, and delete what goes."""
        if not self._policy.concerns(name):
            return RepositoryResult(RetentionPlan(name))
        facts = await self._store.facts.read(name)
        plan = decide(self._policy, facts, self._pulls, self._now())
        result = RepositoryResult(plan, readable=facts.is_readable)
        if self._dry_run or not (plan.removed_tags or plan.manifests):
            return result
        for decision in plan.removed_tags:
            if await self._remove_tag(name, decision):
                result.tags.append(decision)
            else:
                result.changed.append(decision)
        if plan.manifests:
            await self._remove_manifests(result, await self._store.facts.read(name, facts))
        return result

    async def _remove_tag(self, name: RepoName, decision: TagDecision) -> bool:
        state = decision.state
        earlier = [Earlier(digest, at) for digest, at in state.entries.items() if digest != state.digest]
        reason = f"retention: {decision.rule}"
        await self._store.trash.add_tag(name, state.tag, state.digest, by=_BY, reason=reason, earlier=earlier)
        if not await self._store.tags.remove_unchanged(name, state):
            return False
        self._store.history.note(name, state.tag, None, by=_BY, reason=reason)
        return True

    async def _remove_manifests(self, result: RepositoryResult, facts: Facts) -> None:
        name = facts.name
        began = self._now()
        planned = [removed for removed in result.plan.manifests if removed.digest in facts.manifests]
        gone = unneeded(self._policy, facts, [removed.digest for removed in planned], (), began)
        for removed in planned:
            if removed.digest not in gone or not await self._is_unchanged(facts, removed.digest):
                continue
            reason = f"retention: {removed.rule}"
            await self._store.trash.add_manifest(name, removed.digest, by=_BY, reason=reason)
            try:
                await self._store.manifests.delete(name, removed.digest)
            except ManifestUnknown:
                continue  # deleted by a client meanwhile
            result.manifests.append(removed)
        if result.manifests:
            self._removed[name] = facts, {removed.digest for removed in result.manifests}, began

    async def _is_unchanged(self, facts: Facts, digest: Digest) -> bool:
        try:
            stat = await self._store.driver.stat(self._store.links.key(REVISION, facts.name, digest))
        except KeyMissing:
            return False
        return stat.modified == facts.manifests[digest].modified

    async def settle(self) -> Sequence[tuple[RepoName, Digest]]:
        """Bring back manifests that a push has tagged while they were deleted; return them.

        Also called after an interruption, since what was deleted before it is not looked at by a later run.
        """
        if not self._removed:
            return []
        await self._sleep(SETTLE_S)
        restored: list[tuple[RepoName, Digest]] = []
        for name, (facts, digests, _) in self._removed.items():
            for state in await self._store.tags.examine(name):
                before = facts.tags.get(state.tag)
                new = {
                    digest
                    for digest, at in state.entries.items()
                    if before is None or before.entries.get(digest) != at
                }
                for digest in (new | {state.digest}) & digests:
                    restored += [(name, member) for member in await self._restore(facts, digest, digests)]
        self._removed.clear()
        return restored

    async def _restore(self, facts: Facts, digest: Digest, removed: set[Digest]) -> list[Digest]:
        """Write the links of a family again, without touching tags that name it."""
        name = facts.name
        begun = await self._store.gate.begin()
        family = list(closure(facts, [digest]) & removed)
        for member in family:
            await self._store.links.set(REVISION, name, member)
            try:
                data = (await self._store.manifests.contents.load(member)).data
            except ManifestUnknown:
                continue
            await self._store.manifests.link(
                name, member, encode(member, len(data), media.stored_description(data))
            )
        links = {self._store.links.key(REVISION, name, member): member for member in family}
        blobs = {blob for member in family for blob, _ in facts.manifests[member].blobs}
        links |= {self._store.links.key(LAYER, name, blob): blob for blob in blobs}
        # Also asks a collector that is going to remove some of it to leave it.
        if lost := await self._store.gate.confirm(begun, name, {*family, *blobs}, links):
            _log.error(
                "a manifest was tagged while retention deleted it, and garbage collection has removed its "
                "content; push the image again",
                repository=name,
                digest=str(digest),
                lost=sorted(map(str, lost)),
            )
        _log.warning(
            "a push has tagged a manifest while retention deleted it; its family was restored",
            repository=name,
            digest=str(digest),
        )
        removed -= set(family)
        return family
