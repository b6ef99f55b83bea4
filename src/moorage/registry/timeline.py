"""Timelines of tags: every known change of a tag, joined from all that the store has about its past.

    _history/STAMP            changes with their time and user; may lack some (`history.py`)
    tags/TAG/index/...        manifests that the tag has pointed to, and when; CNCF Distribution's as well
    _trash/...                deletions of the tag, of its manifest, and of the whole repository

An entry of the index is used for a manifest that no recorded change names, with the time of the entry.  A tag
whose manifest was deleted by digest leads nowhere from that time on, and counts as deleted.

Above: `moorage history`.  Below: `history.py`, `trash.py`, `tags.py`.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.registry.history import TagEvent, tag_events
from moorage.registry.tags import NOWHERE, TagStore
from moorage.registry.trash import EARLIER_KIND, MANIFEST_KIND, TAG_KIND, Trash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from moorage.registry.trash import TrashEntry
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName, Tag

__all__ = ["state_at", "tag_timeline", "tag_timelines"]


def state_at(timeline: Sequence[TagEvent], at: datetime) -> Digest | None:
    """Return the manifest to which the tag pointed at a time; None if it is not known to have existed."""
    found: Digest | None = None
    for event in timeline:
        if event.at > at:
            break
        found = event.digest
    return found


async def tag_timeline(driver: Driver, name: RepoName, tag: Tag) -> Sequence[TagEvent]:
    """Return the changes of one tag, oldest first.  Raises StorageUnavailable."""
    gathered = _Gathered()
    async for events in tag_events(driver, name, tag):
        gathered.changes[tag] += events
    for past in await TagStore(driver).past(name, tag):
        gathered.index[tag].append(TagEvent(past.at, tag, past.digest))
    trash = Trash(driver, keep_s=0)
    for under in (layout.trashed_tag(name, tag), layout.trashed_repository(name)):
        async for page in trash.entries(name, under=under):
            gathered.add_trash([entry for entry in page if entry.tag in {None, tag}])
    for digest in gathered.digests(tag):
        async for page in trash.entries(name, under=layout.trashed_manifest(name, digest)):
            gathered.add_trash(page)
    return gathered.timeline(tag)


async def tag_timelines(driver: Driver, name: RepoName) -> Mapping[Tag, Sequence[TagEvent]]:
    """Return the changes of every tag of a repository, deleted ones included, each oldest first.

    Memory: about 0.5 KiB for each change.  Raises StorageUnavailable.
    """
    gathered = _Gathered()
    async for events in tag_events(driver, name):
        for event in events:
            gathered.changes[event.tag].append(event)
    async for tag, past in TagStore(driver).all_past(name):
        gathered.index[tag].append(TagEvent(past.at, tag, past.digest))
    async for page in Trash(driver, keep_s=0).entries(name):
        gathered.add_trash(page)
    return {tag: gathered.timeline(tag) for tag in gathered.tags()}


class _Gathered:
    """The past of some tags, by its source."""

    def __init__(self) -> None:
        self.changes: defaultdict[Tag, list[TagEvent]] = defaultdict(list)
        self.index: defaultdict[Tag, list[TagEvent]] = defaultdict(list)
        self._deletions: defaultdict[Tag, list[TagEvent]] = defaultdict(list)
        self._manifests: defaultdict[Digest, list[TrashEntry]] = defaultdict(list)

    def add_trash(self, entries: Sequence[TrashEntry]) -> None:
        for entry in entries:
            if entry.kind == MANIFEST_KIND and not entry.of_repository:
                self._manifests[entry.digest].append(entry)
            elif entry.tag is not None and entry.kind in {TAG_KIND, EARLIER_KIND}:
                self.index[entry.tag] += [TagEvent(past.at, entry.tag, past.digest) for past in entry.earlier]
                if entry.kind == TAG_KIND:
                    self._deletions[entry.tag].append(TagEvent(entry.at, entry.tag, None, entry.by, entry.reason))

    def tags(self) -> set[Tag]:
        return {*self.changes, *self.index, *self._deletions}

    def digests(self, tag: Tag) -> set[Digest]:
        return {event.digest for event in (*self.changes[tag], *self.index[tag]) if event.digest is not None}

    def timeline(self, tag: Tag) -> Sequence[TagEvent]:
        recorded = {event.digest for event in self.changes[tag]}
        # Records expire; then the index has when the tag pointed to a digest first.
        begin = min((event.at for event in self.changes[tag]), default=None)
        older = {
            event.digest: event
            for event in self.index[tag]
            if event.digest != NOWHERE
            and (event.digest not in recorded or (begin is not None and event.at < begin - _SAME_PUSH))
        }
        events = [*self.changes[tag], *older.values(), *self._deletions[tag]]
        for digest in self.digests(tag):
            events += [
                TagEvent(entry.at, tag, digest, entry.by, _MANIFEST_GONE + entry.reason)
                for entry in self._manifests.get(digest, ())
            ]
        found: list[TagEvent] = []
        for event in sorted(events, key=lambda event: event.at):
            last = found[-1] if found else None
            if event.reason.startswith(_MANIFEST_GONE):
                if last is None or last.digest != event.digest:
                    continue  # the tag pointed to another manifest by then
                found.append(event._replace(digest=None, reason=event.reason.removeprefix(_MANIFEST_GONE)))
            elif event.digest is not None or (last is not None and last.digest is not None):
                found.append(event)
        return found


_SAME_PUSH = timedelta(minutes=1)
"""An entry of the index that is so much older than the first record is not that of the same push."""
_MANIFEST_GONE = "\0"
"""Marks the deletion of the manifest that an event names, which deletes the tag only if it points to it."""
