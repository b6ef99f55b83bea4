"""Confirmation of a push of a manifest beside garbage collection: attempts, and tags taken back after a refusal.

    next_attempt ──► bytes, links ──► content_lost ──► note_tags, tags_follow ──► tags ──► lost_after_tags ──► 201
         ▲                                 │                                                    │
         └── settled ◄─────────────────────┴────────────────────────────────────────────────────┘

Everything that the manifest names, and itself, is confirmed (`collection_gate.py`) when the revision link is
there, before the tag is set, and once more after it, since a run may remove manifests without a tag.  If anything
was lost the push begins again, up to `ATTEMPTS` times.

If it is refused in the end, tags that it has set, to a manifest that is lost, are taken back: a local store writes
links and tag in one step while no run is in progress, and a process may be stopped within it for the whole of a
run.

Above: `manifests.py`.  Below: `collection_gate.py`, `tags.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import structlog

from moorage.concurrency import map_bounded
from moorage.errors import Unavailable
from moorage.registry.collection_gate import ATTEMPTS
from moorage.shielding import run_to_completion
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import TracebackType

    from moorage.registry.collection_gate import CollectionGate, CollectionSnapshot
    from moorage.registry.tags import TagStore
    from moorage.registry.validation import NeededContent
    from moorage.types import Digest, RepoName, Tag

__all__ = ["PushConfirmation"]

_log: Final = structlog.get_logger("moorage.registry")


class PushConfirmation:
    """Attempts of one push; as a context, it takes tags back when it is left by an error.

    `lost` has the digests that the current attempt has lost to garbage collection; the caller sets it before
    `next_attempt`.  Methods raise StorageError.
    """

    __slots__ = ("_attempts", "_before", "_digest", "_gate", "_name", "_tags", "_to_set", "_unconfirmed", "lost")

    def __init__(
        self, gate: CollectionGate, tags: TagStore, name: RepoName, digest: Digest, to_set: Sequence[Tag]
    ) -> None:
        self._gate = gate
        self._tags = tags
        self._name = name
        self._digest = digest
        self._to_set = to_set
        self._attempts = 0
        self._before: dict[Tag, Digest | None] = {}  # manifests to which the tags pointed
        # The attempt that has set the tags, or may have, and is not confirmed.
        self._unconfirmed: tuple[CollectionSnapshot, NeededContent] | None = None
        self.lost: Collection[Digest] = ()

    async def next_attempt(self) -> CollectionSnapshot | None:
        """Return the snapshot with which an attempt begins; None if the last one has lost nothing.

        Waits until what was lost is settled.  Raises Unavailable after `ATTEMPTS`.
        """
        if self._attempts:
            if not self.lost:
                return None
            await self._gate.settled(self._name, self.lost)
            if self._attempts == ATTEMPTS:
                raise Unavailable("garbage collection removes content of the manifest; push the image again")
        self._attempts += 1
        return self._gate.recent() or await self._gate.begin()

    async def content_lost(self, begun: CollectionSnapshot, needed: NeededContent) -> Collection[Digest]:
        """Return what garbage collection is removing, or has removed, of the content; its links are durable."""
        return await self._gate.confirm(begun, self._name, needed.stored, needed.links)

    async def note_tags(self) -> None:
        """Note what the tags point to, which are about to be set for the first time.

        Also while no run is in progress: one may begin and end until the tags are confirmed, and nothing else in
        the store has it (a tag's history is not written anew when the tag returns to an earlier manifest).
        """
        new = [tag for tag in self._to_set if tag not in self._before]
        if len(new) == 1:  # as nearly always; a task would cost three times the read in a directory
            self._before[new[0]] = await self._tags.resolve(self._name, new[0])
            return
        found = await map_bounded(new, lambda tag: self._tags.resolve(self._name, tag))
        self._before.update(zip(new, found, strict=True))

    def tags_follow(self, begun: CollectionSnapshot, needed: NeededContent) -> None:
        """Note that the tags are set from now on, by an attempt that is not confirmed."""
        self._unconfirmed = begun, needed

    async def lost_after_tags(self, begun: CollectionSnapshot, needed: NeededContent) -> Collection[Digest]:
        """Return what `content_lost` does when the tags are durable; if it is nothing, the push is confirmed."""
        lost = await self.content_lost(begun, needed)
        if not lost:
            self._unconfirmed = None
        return lost

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._unconfirmed is not None:
            await run_to_completion(self._take_back(*self._unconfirmed))

    async def _take_back(self, begun: CollectionSnapshot, needed: NeededContent) -> None:
        """Point tags of a refused push to what they pointed to before, if its manifest is lost.

        A concurrent push of the same manifest may rely on the tag that it found: if that has completed the
        manifest meanwhile, the tag is set again.
        """
        name, digest = self._name, self._digest
        try:
            if not await self.content_lost(begun, needed):
                return
            for tag, before in self._before.items():
                taken = await self._tags.take_back(name, tag, digest, before)
                if taken and not await self.content_lost(begun, needed):
                    await self._tags.take_back(name, tag, before, digest)
        except StorageError as error:
            _log.error(
                "a tag points to a manifest that garbage collection has damaged; push it again",
                repository=name,
                tags=self._to_set,
                digest=str(digest),
                cause=str(error),
            )
