"""Tags: names of manifests, which a push moves.  Owner of all keys of tags, and of deletion marks.

    set       history entry ──► tag link               after the revision link of the manifest (`manifests.py`)
    delete    trash record (`trash.py`) ──► tag link goes ──► history goes
    resolve   read the tag link; the tag is alive only while the revision link of that digest exists

Dead tags.  Deleting a manifest by digest does not search the tags that point to it: a repository may have 100,000
of them, and no deletion may cost their number.  Removing the one revision link makes all of them dead at once,
since every request for a tag asks for both links.  Pushing the same manifest again must not bring dead tags back
to life.  The mark `_manifests/_deleted/ALG/HEX` is written before the revision link is removed, and stays as dead
tags do.  A push that finds it points every tag that still names the digest to `NOWHERE` before the revision link
returns; only here the price is their number.  These tags are not removed, because no store removes a link on
condition: a concurrent push may have set that very tag a moment ago, and its client has got a 201.

The tags that are changed are those whose link, still the same when it is overwritten, named the digest while there
was no revision link.  A push writes its tag after the revision link, so such a tag was set before the deletion or
concurrently.  One doubt is left, since a version names bytes: another push may have brought the revision link back
and set the tag again in the instant between.  So the revision link is read once more, and if it exists the
tag is set back.  No tag of a finished push is lost (unless this process dies in that instant); at worst two pushes
of a deleted manifest that race leave one of its old tags alive.

Unfinished tags.  A crash between history and link leaves a name with a history and no link; on a filesystem also
empty directories.  CNCF Distribution lists such a tag for ever (issue 936).  Removed are only entries of the
history, and only if all of them are older than any running push; never a link.  So a push that sets the tag
meanwhile loses nothing: if the link exists afterwards, its entry is written again.  (Only a process that failed
between the two writes long ago, and repeats the push in that very moment, leaves a tag without an entry, which no
client notices and `moorage storage check --repair` writes.)

Above: `manifests.py`, `tag_list.py`, `purge.py`, `fsck/`.  Below: `links.py`, `coalescing.py`.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.coalescing import Coalescer
from moorage.concurrency import DEFAULT_LIMIT, map_bounded
from moorage.errors import PreconditionFailed, TagInvalid
from moorage.registry import layout
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.links import REVISION, Links, read_link, resolve, write_link
from moorage.registry.trash import EARLIER_LIMIT, Earlier
from moorage.storage.driver import ABSENT, ALWAYS, Conflict, KeyMissing, RequestCost, Unchanged, Write
from moorage.types import Digest, Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from moorage.registry.interface import IfMatch
    from moorage.registry.trash import Trash
    from moorage.storage.driver import Driver, Key, Stat, When
    from moorage.types import RepoName

__all__ = ["NOWHERE", "TagState", "TagStore", "as_tag"]

NOWHERE: Final = Digest("sha256", "0" * 64)
"""Target of dead tags: a valid digest, so that CNCF Distribution as well answers that it is unknown."""

_UNFINISHED_AT_ONCE: Final = 64
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


def as_tag(name: str) -> Tag | None:
    """Return a name below `_manifests/tags` as a tag; None for one that an operator left there."""
    try:  # `suppress` costs a microsecond, for each tag of a list
        return parse_tag(name)
    except TagInvalid:
        return None


class TagState(NamedTuple):
    """A tag and its history, as they were at one moment.

    `link` is the object of its link; `entries` are the manifests that it names or named, each with the time of
    its entry.
    """

    tag: Tag
    digest: Digest
    link: Stat
    entries: Mapping[Digest, datetime]

    @property
    def modified(self) -> datetime:
        """Return when the tag was last set."""
        return self.link.modified


class TagStore:
    """The tags of one driver.  Methods raise StorageUnavailable.

    `at_once` tags of a repository are read together where all have to be examined.  `trash` records deletions.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        links: Links | None = None,
        writes: DeduplicatedWrites | None = None,
        at_once: int = DEFAULT_LIMIT,
        trash: Trash | None = None,
    ) -> None:
        self._driver = driver
        self._trash = trash
        self._remote = driver.request_cost is RequestCost.NETWORK
        self._writes = DeduplicatedWrites(driver) if writes is None else writes
        self._links = Links(driver, writes=self._writes) if links is None else links
        self._at_once = at_once
        self._reads: Coalescer[Key, Digest | None] = Coalescer()

    def key(self, name: RepoName, tag: Tag) -> Key:
        """Return the prefix of all that is stored for the tag, for reports of tools."""
        return layout.tag(name, tag)

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        """Return the digest that the tag names now, None without a tag; its manifest may have been deleted."""
        key = layout.tag_link(name, tag)
        if not self._remote:
            return await read_link(self._driver, key)
        return await self._reads.read(key, partial(read_link, self._driver, key))

    async def current(self, name: RepoName, tag: Tag) -> tuple[Digest | None, When]:
        """Return the digest that the tag names now, and the condition that it still does."""
        return await resolve(self._driver, layout.tag_link(name, tag))

    async def names(
        self, name: RepoName, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        """Yield pages of the names below `_manifests/tags`, in order; not all of them are tags, or alive."""
        async for page in self._driver.children(layout.tags(name), after=after, limit=limit):
            yield page

    # Setting and deleting.

    async def check(self, name: RepoName, tag: Tag, condition: IfMatch) -> When:
        """Check If-Match and If-None-Match now, and return the condition for `set` to check them again.

        Raises PreconditionFailed.
        """
        current, when = await resolve(self._driver, layout.tag_link(name, tag))
        if current is not None and not await self._links.exists(REVISION, name, current):
            current = None  # a dead tag
        if not _holds(condition, current):
            raise PreconditionFailed(f"the tag {tag} points at {current or 'nothing'}")
        return when

    async def record(self, name: RepoName, tag: Tag, digest: Digest) -> None:
        """Write the history entry, durably: the tag names, or is about to name, the manifest."""
        await self._writes.ensure(layout.tag_history_link(name, tag, digest), str(digest).encode())

    async def set(self, name: RepoName, tag: Tag, digest: Digest, when: When = ALWAYS) -> None:
        """Point the tag to a manifest, durably.  The history entry and the revision link exist already.

        Raises PreconditionFailed if another push moved the tag since `check` returned `when`.
        """
        key, data = layout.tag_link(name, tag), str(digest).encode()
        if when is ALWAYS:
            await self._writes.ensure(key, data)
            return
        try:
            await self._writes.write(key, data, when)
        except Conflict as error:
            raise PreconditionFailed(f"the tag {tag} was moved by another push meanwhile") from error

    async def take_back(self, name: RepoName, tag: Tag, digest: Digest | None, to: Digest | None) -> bool:
        """Point a tag that names `digest`, or nothing, to another manifest, or remove it; False if it does not
        name that any more.

        A store that cannot remove on condition (`Driver.removes_exactly`) may remove what another push sets in
        that very moment.  The history stays.
        """
        key = layout.tag_link(name, tag)
        stat = await self._driver.find(key)
        found, when = await resolve(self._driver, key)
        if found != digest:
            return False
        if to is None:
            return stat is not None and not await self._driver.remove_unchanged([stat])
        try:
            await self._writes.write(key, str(to).encode(), when)
        except Conflict:
            return False
        return True

    def as_writes(self, name: RepoName, tags: Iterable[Tag], digest: Digest) -> tuple[list[Write], list[Write]]:
        """Return the writes of `record` and of `set` for a driver that stores objects in order."""
        data = str(digest).encode()
        tags = tuple(tags)
        history = [Write(layout.tag_history_link(name, tag, digest), data) for tag in tags]
        return history, [Write(layout.tag_link(name, tag), data) for tag in tags]

    async def delete(self, name: RepoName, tag: Tag, *, by: str = "", reason: str = "") -> Digest | None:
        """Delete the tag and its history; return the manifest that it named, None if it was dead or not there.

        `by` (a user) and `reason` are recorded with it.
        """
        digest = await read_link(self._driver, layout.tag_link(name, tag))
        alive = digest is not None and await self._links.exists(REVISION, name, digest)
        if digest is not None and alive and self._trash is not None and self._trash.enabled:
            past = await self.past(name, tag)
            await self._trash.add_tag(name, tag, digest, by=by, reason=reason, earlier=past[-EARLIER_LIMIT:])
        # The link first: from then on the tag is gone, even if its history remains.
        await self._driver.delete([layout.tag_link(name, tag)])
        await self._driver.clear(layout.tag(name, tag))
        return digest if alive else None

    # Tags deleted by a job that has examined them before.

    async def examine(self, name: RepoName, tag: Tag | None = None) -> Sequence[TagState]:
        """Return the state of each tag that has a link, or of `tag` only, in order.  Costs a listing of all keys
        below the tags, and a read of each link.
        """
        linked: dict[Tag, Stat] = {}
        entries: dict[Tag, dict[Digest, datetime]] = {}
        async for page in self._driver.scan(layout.tags(name) if tag is None else layout.tag(name, tag)):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is None or parsed.tag is None:
                    continue
                if parsed.kind == "tag":
                    linked[parsed.tag] = stat
                elif parsed.kind == "history" and parsed.digest is not None:
                    entries.setdefault(parsed.tag, {})[parsed.digest] = stat.modified

        async def state(tag: Tag) -> TagState | None:
            digest = await read_link(self._driver, layout.tag_link(name, tag))
            return None if digest is None else TagState(tag, digest, linked[tag], entries.get(tag, {}))

        states = await map_bounded(sorted(linked), state, limit=self._at_once)
        return [found for found in states if found is not None]

    async def remove_unchanged(self, name: RepoName, state: TagState) -> bool:
        """Delete a tag that is still as it was examined, and its history; False if a push has changed it.

        Some stores cannot remove a link on condition (`Driver.removes_exactly`), so a push may set the tag between
        the last look and the removal.  A push writes the history entry before the link: an entry that is newer
        than those of `state`, while there is no link, is that of such a push, and the link is written again.
        """
        link = layout.tag_link(name, state.tag)
        if [state] != list(await self.examine(name, state.tag)):
            return False
        if await self._driver.remove_unchanged([state.link]):
            return False
        entries: dict[Digest, datetime] = {}
        async for page in self._driver.scan(layout.tag(name, state.tag)):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is not None and parsed.kind == "history" and parsed.digest is not None:
                    entries[parsed.digest] = stat.modified
        newer = {digest: at for digest, at in entries.items() if state.entries.get(digest) != at}
        if newer:
            pushed = max(newer, key=lambda digest: newer[digest])
            with suppress(Conflict):
                await self._driver.write(link, str(pushed).encode(), ABSENT)
            return False
        if not await self._exists(link):
            await self._driver.delete([layout.tag_history_link(name, state.tag, digest) for digest in entries])
            await self._driver.prune(layout.tag(name, state.tag), _LONG_AGO)
            pushed_now = await read_link(self._driver, link)
            if pushed_now is not None:  # a push that found its entry before it was removed
                await write_link(self._driver, layout.tag_history_link(name, state.tag, pushed_now), pushed_now)
                return False
            return True
        return False

    async def past(self, name: RepoName, tag: Tag) -> Sequence[Earlier]:
        """Return the manifests in the history of the tag, the current one included, oldest first, each with the
        time at which its entry was last written.
        """
        found = [past async for _, past in self._past_below(layout.tag_history(name, tag))]
        return sorted(found, key=lambda past: past.at)

    def all_past(self, name: RepoName) -> AsyncIterator[tuple[Tag, Earlier]]:
        """Yield what `past` returns, for every tag of the repository, in any order."""
        return self._past_below(layout.tags(name))

    async def _past_below(self, prefix: Key) -> AsyncIterator[tuple[Tag, Earlier]]:
        async for page in self._driver.scan(prefix):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is None or parsed.kind != "history":
                    continue
                if parsed.tag is not None and parsed.digest is not None:
                    yield parsed.tag, Earlier(parsed.digest, stat.modified)

    async def forget(self, name: RepoName, tag: Tag, digest: Digest) -> None:
        """Remove a manifest from the history of a tag that points to another one."""
        await self._driver.delete([layout.tag_history_link(name, tag, digest)])

    # Tags of deleted manifests.

    def deletion_mark(self, name: RepoName, digest: Digest) -> Key:
        """Return the key of the mark, which exists if the manifest was deleted while tags might name it."""
        return layout.deleted_mark(name, digest)

    async def was_deleted(self, name: RepoName, digest: Digest) -> bool:
        """Return whether there is a mark."""
        return await self._exists(layout.deleted_mark(name, digest))

    async def mark_deleted(self, name: RepoName, digest: Digest) -> None:
        """Write the mark, before the revision link is removed."""
        await self._driver.write(layout.deleted_mark(name, digest), str(digest).encode())

    async def unset_dead(self, name: RepoName, digest: Digest) -> None:
        """Point tags that named `digest` when it was deleted to `NOWHERE`, before its revision link returns."""
        if not await self.was_deleted(name, digest):
            return

        async def consider(text: str) -> None:
            tag = as_tag(text)
            if tag is None:
                return
            key = layout.tag_link(name, tag)
            found, when = await resolve(self._driver, key)
            if found != digest or await self._links.exists(REVISION, name, digest):
                return
            with suppress(Conflict):
                changed = await self._driver.write(key, str(NOWHERE).encode(), when)
                if await self._links.exists(REVISION, name, digest):
                    await self._driver.write(key, str(digest).encode(), Unchanged(changed))

        async for page in self.names(name):
            await map_bounded(page, consider, limit=self._at_once)

    async def _exists(self, key: Key) -> bool:
        try:
            await self._driver.stat(key)
        except KeyMissing:
            return False
        return True

    # Tags whose push died.

    async def unfinished(self, name: RepoName, before: datetime) -> AsyncIterator[Tag]:
        """Yield tags without a link, whose history was last written before `before`.

        Costs a `stat` for each tag; in a bucket, a listing of all keys below the tags instead.
        """
        if self._remote:
            for tag in await self._without_link_by_keys(name):
                if await self._entries(name, tag, before) is not None:
                    yield tag
            return

        async def without_link(tag: Tag) -> bool:
            return not await self._exists(layout.tag_link(name, tag))

        async for page in self.names(name):
            tags = list(filter(None, map(as_tag, page)))
            unlinked = await map_bounded(tags, without_link, limit=_UNFINISHED_AT_ONCE)
            for tag, unfinished in zip(tags, unlinked, strict=True):
                if unfinished and await self._entries(name, tag, before) is not None:
                    yield tag

    async def remove_unfinished(self, name: RepoName, tag: Tag, before: datetime) -> bool:
        """Remove the history of a tag that has no link, and its empty directories; False if it has one, or a push
        has written to it since `before`.
        """
        link = layout.tag_link(name, tag)
        if await self._exists(link):
            return False
        entries = await self._entries(name, tag, before)
        if entries is None:
            return False
        await self._driver.delete(entries)
        await self._driver.prune(layout.tag(name, tag), before)
        digest = await read_link(self._driver, link)
        if digest is not None:  # a push that found its entry before it was removed
            await write_link(self._driver, layout.tag_history_link(name, tag, digest), digest)
        return digest is None

    async def _entries(self, name: RepoName, tag: Tag, before: datetime) -> Sequence[Key] | None:
        """Return the tag's history; None if an entry was written at or after `before`, or is none."""
        if await self._exists(layout.tag(name, tag)):  # an operator's file
            return None
        found: list[Key] = []
        async for page in self._driver.scan(layout.tag(name, tag)):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is None or parsed.kind != "history" or stat.modified >= before:
                    return None
                found.append(stat.key)
        return found

    async def _without_link_by_keys(self, name: RepoName) -> Sequence[Tag]:
        """Memory: the names of the repository's tags."""
        linked: dict[Tag, bool] = {}
        async for page in self._driver.scan(layout.tags(name)):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is not None and parsed.tag is not None:
                    linked[parsed.tag] = linked.get(parsed.tag, False) or parsed.kind == "tag"
        return sorted(tag for tag, alive in linked.items() if not alive)


def _holds(condition: IfMatch, current: Digest | None) -> bool:
    def matches(digests: Iterable[Digest]) -> bool:
        digests = tuple(digests)
        return current is not None and (not digests or current in digests)

    if condition.match is not None and not matches(condition.match):
        return False
    return condition.none_match is None or not matches(condition.none_match)
