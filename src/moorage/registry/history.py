"""History of tags: which manifest a tag pointed to, when, by which user; written in the background.

    note ──► batch of the repository ──about a second──► _history/STAMP, one JSON object on each line

A push notes its tags after they are set and waits for nothing, so what a process has noted within the last second
is lost if it is killed: tags are durable, the record of their user is not, and nothing rebuilds it.  `close`
writes what is left.  A store that fails loses the batch, with one warning until a batch is written again, and a
count (`dropped`); a push never fails because of it.  At most `PENDING_LIMIT` changes wait; more are dropped alike.

A line is `{"version": 1, "at": ..., "tag": ..., "digest": ..., "by": ...}`; a digest of null is a deletion, and
`why` its reason.  A line that cannot be read is left out, with a line in the log for its object.

Above: `manifests.py`, `timeline.py`.  Below: `stamps.py`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from moorage.concurrency import map_bounded
from moorage.errors import RegistryError
from moorage.registry import layout
from moorage.registry.records import decode_record, report_damage
from moorage.registry.stamps import new_stamp, stamp_time, utc_now
from moorage.storage.driver import KeyMissing, ObjectTooLarge, StorageError
from moorage.types import Digest, Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["PENDING_LIMIT", "TagEvent", "TagHistory", "expired_events", "tag_events"]

PENDING_LIMIT: Final = 10_000
"""Changes that wait to be written: about 3 MiB."""

_VERSION: Final = 1
_FLUSH_S: Final = 1.0
_CLOSE_S: Final = 5.0
_AT_ONCE: Final = 16
_LIMIT_BYTES: Final = 64 << 20
_REMEDY: Final = "these changes are missing in moorage history; tags are not affected"
_log: Final = structlog.get_logger("moorage.registry")


class TagEvent(NamedTuple):
    """A change of a tag; `digest` None: the tag was deleted.  `by` is a user, "" if unknown."""

    at: datetime
    tag: Tag
    digest: Digest | None
    by: str = ""
    reason: str = ""


class TagHistory:
    """Records changes of tags in one store.  `dropped` counts those that were lost.

    `flush_s`: seconds after the first change of a batch until it is written.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        flush_s: float = _FLUSH_S,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._flush_s = flush_s
        self._now = now
        self._sleep = sleep
        self._batches: dict[RepoName, list[TagEvent]] = {}
        self._pending = 0
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._writing = False
        self.dropped = 0

    def note(self, name: RepoName, tag: Tag, digest: Digest | None, *, by: str = "", reason: str = "") -> None:
        """Record that the tag points to `digest` since this moment, or was deleted; returns at once."""
        if self._pending >= PENDING_LIMIT:
            self._drop(1, "too many changes wait to be written")
            return
        self._batches.setdefault(name, []).append(TagEvent(self._now(), tag, digest, by, reason))
        self._pending += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._later(), name="history of tags")

    async def _later(self) -> None:
        while self._batches:
            await self._sleep(self._flush_s)
            await self.flush()

    async def flush(self) -> None:
        """Write everything noted so far; a batch that cannot be written is dropped."""
        batches, self._batches = self._batches, {}
        self._pending = 0
        self._writing = True
        try:
            await map_bounded(batches.items(), self._write, limit=_AT_ONCE)
        finally:
            self._writing = False

    async def _write(self, batch: tuple[RepoName, list[TagEvent]]) -> None:
        name, events = batch
        key = layout.below(layout.tag_events(name), new_stamp(events[0].at))
        try:
            await self._driver.write(key, "\n".join(map(_encode, events)).encode())
            self._failing = False
        except StorageError as error:
            self._drop(len(events), str(error))

    def _drop(self, count: int, cause: str) -> None:
        self.dropped += count
        if not self._failing:
            self._failing = True
            _log.warning("changes of tags are missing in their history; the tags themselves are set", cause=cause)

    async def close(self) -> None:
        """Write what is left, for at most five seconds; nothing may be noted after."""
        task, self._task = self._task, None
        try:
            async with asyncio.timeout(_CLOSE_S):
                if task is not None:
                    if not self._writing:
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
                await self.flush()
        except TimeoutError:
            self._drop(1, "the store does not respond")


def _encode(event: TagEvent) -> str:
    fields: dict[str, Any] = {
        "version": _VERSION,
        "at": event.at.astimezone(UTC).isoformat(),
        "tag": event.tag,
        "digest": None if event.digest is None else str(event.digest),
        "by": event.by,
    }
    if event.reason:
        fields["why"] = event.reason
    return json.dumps(fields, separators=(",", ":"))


async def tag_events(driver: Driver, name: RepoName, tag: Tag | None = None) -> AsyncIterator[Sequence[TagEvent]]:
    """Yield the recorded changes of a tag, or of all tags, in pages, in order of time within a page.

    Raises StorageUnavailable.
    """

    async def read(stamp: str) -> Sequence[TagEvent]:
        key = layout.below(layout.tag_events(name), stamp)
        try:
            data = (await driver.read(key, limit=_LIMIT_BYTES)).data
        except KeyMissing:
            return ()
        except ObjectTooLarge:
            report_damage(key, f"it is larger than {_LIMIT_BYTES} bytes", remedy=_REMEDY)
            return ()
        events = [_decode(key, line) for line in data.split(b"\n") if line]
        return [event for event in events if event is not None and (tag is None or event.tag == tag)]

    async for stamps in driver.children(layout.tag_events(name)):
        valid = [stamp for stamp in stamps if stamp_time(stamp) is not None]
        found = [event for events in await map_bounded(valid, read) for event in events]
        if found:
            yield sorted(found, key=lambda event: event.at)


async def expired_events(driver: Driver, name: RepoName, before: datetime) -> Sequence[Key]:
    """Return the keys of recorded changes from before `before`, which a collector may remove."""
    found: list[Key] = []
    async for stamps in driver.children(layout.tag_events(name)):
        for stamp in stamps:
            at = stamp_time(stamp)
            if at is not None and at < before:
                found.append(layout.below(layout.tag_events(name), stamp))
    return found


def _decode(key: Key, line: bytes) -> TagEvent | None:
    fields = decode_record(key, line, remedy=_REMEDY)
    try:
        if fields["version"] != _VERSION:
            raise ValueError(f"version {fields['version']!r} is not known")
        digest = None if fields["digest"] is None else Digest.parse(fields["digest"])
        at = datetime.fromisoformat(fields["at"])
        if at.tzinfo is None:
            raise ValueError(f"{at} has no time zone")
        return TagEvent(at, parse_tag(fields["tag"]), digest, str(fields["by"]), str(fields.get("why", "")))
    except (ValueError, KeyError, TypeError, RegistryError) as error:
        report_damage(key, f"a line is no change of a tag: {error!r}", remedy=_REMEDY)
        return None
