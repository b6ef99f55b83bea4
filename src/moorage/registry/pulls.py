"""Times of the last pulls, by tag and by digest: recorded in memory, written in batches beside the content.

    GET of a manifest ──► a number in memory ──► every `flush_s`, and at the end: one object per process
    housekeeper       ──► all objects become one list (`PullTimes.compact`)

    _moorage/pulls/since        when recording began, and when it was last alive; JSON
    _moorage/pulls/STAMP.N      lines "SECONDS NAME REFERENCE" below a line with the version

A pull is a GET of a manifest, also one that is answered 304.  HEAD is none: docker, containerd and many jobs
resolve tags by HEAD all day without fetching anything.  A client that resolves a tag so pulls by digest, and both
count for the tag (`retention/decide.py`).

This is the only state of Moorage that cannot be rebuilt from the content: without it retention by pulls deletes
nothing until it has been recorded for long enough.  So that a time without recording is never taken for disuse,
`since` begins anew if it was not written for `GAP_S`: recording was off, or no node has served.

A store that fails costs one warning, and the times are kept in memory until it works.  What was not written when a
process is killed is lost: pulls of `flush_s` at most.

Above: `manifests.py`, `wiring/retention.py`.  Below: `layout.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from moorage.registry import layout
from moorage.registry.records import read_record, report_damage
from moorage.registry.stamps import new_stamp, utc_now
from moorage.storage.driver import KeyMissing, ObjectTooLarge, StorageError
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import Reference

__all__ = ["GAP_S", "PullRecorder", "PullTimes"]

GAP_S: Final = 24 * 3600.0
HORIZON_S: Final = 400 * 86400.0
"""Pulls that are older are forgotten, unless a rule needs them for longer."""

_BEAT_S: Final = 3600.0
_LIMIT: Final = 100_000
"""Entries in the memory of a process at which it writes early; above twice as many it drops new ones."""
_LINES: Final = 20_000
_HEADER: Final = "moorage-pulls 1"
_LIMIT_BYTES: Final = 32 << 20
_DIGITS: Final = 11
"""Of seconds since 1970, to the year 5138: a damaged list must not have a time that is none."""
_SINCE: Final = "since"
_REMEDY: Final = "recording begins anew; retention by pulls deletes nothing until it has lasted long enough"
_log: Final = structlog.get_logger("moorage.registry")


class PullRecorder:
    """Records the pulls of one process.  `note` is called for each pull and never waits."""

    def __init__(
        self,
        driver: Driver,
        *,
        flush_s: float,
        limit: int = _LIMIT,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._flush_s = flush_s
        self._limit = limit
        self._now = now
        self._times: dict[tuple[RepoName, Reference], float] = {}
        self._full = asyncio.Event()
        self._failing = False
        self._beaten = 0.0
        self.dropped = 0

    def note(self, name: RepoName, reference: Reference) -> None:
        """Record a pull of now."""
        times = self._times
        times[name, reference] = self._now()
        if len(times) >= self._limit:
            self._overflow(name, reference)

    def _overflow(self, name: RepoName, reference: Reference) -> None:
        self._full.set()
        if len(self._times) > 2 * self._limit:
            del self._times[name, reference]
            self.dropped += 1

    async def run(self, wait: Callable[[float], Awaitable[None]] | None = None) -> None:
        """Write what was recorded every `flush_s` seconds, or earlier if it is much, until cancelled."""
        wait = wait or self._wait
        while True:
            await self.flush()
            await wait(self._flush_s)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._full.wait()
        except TimeoutError:
            return

    async def flush(self) -> None:
        """Write what was recorded since the last time.  A failure is logged once, until the store works again."""
        times, self._times = self._times, {}
        self._full.clear()
        lines = [f"{int(at)} {name} {reference}" for (name, reference), at in times.items()]
        stamp = new_stamp(utc_now())
        try:
            await self._beat()
            for number, start in enumerate(range(0, len(lines), _LINES)):
                await _write(self._driver, f"{stamp}.{number}", lines[start : start + _LINES])
        except StorageError as error:
            self._times = times | self._times
            if not self._failing:
                self._failing = True
                _log.warning(
                    "times of pulls cannot be written, and are kept in memory until they can be; retention by "
                    "pulls keeps tags too long or, after a restart, deletes tags that were pulled just now",
                    cause=str(error),
                )
            return
        except BaseException:
            # Cancelled while it writes, as at the end of the process: `close` writes them.
            self._times = times | self._times
            raise
        if self.dropped:
            _log.warning("more pulls than can be kept in memory; some were not recorded", dropped=self.dropped)
            self.dropped = 0
        self._failing = False

    async def _beat(self) -> None:
        """Note, once an hour, that pulls are being recorded."""
        now = self._now()
        if now - self._beaten < _BEAT_S and self._beaten:
            return
        since, alive = await _read_since(self._driver)
        if since is None or alive is None or now - alive > GAP_S:
            since = now
        content = json.dumps({"version": 1, "since": int(since), "alive": int(now)}).encode()
        await self._driver.write(layout.pulls(_SINCE), content)
        self._beaten = now

    async def close(self) -> None:
        """Write the rest."""
        if self._times:
            await self.flush()


class PullTimes:
    """The recorded times of a store, as they were when `load` was called."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._times: dict[RepoName, dict[str, int]] = {}
        self.since: datetime | None = None

    def last(self, name: RepoName, reference: Reference) -> datetime | None:
        """Return the time of the last recorded pull by this tag or digest."""
        at = self._times.get(name, _NOTHING).get(str(reference))
        return None if at is None else datetime.fromtimestamp(at, UTC)

    async def load(self, *, now: float | None = None) -> Sequence[Key]:
        """Read all lists; return their keys.  With one that cannot be read `since` is None: nothing is known."""
        since, alive = await _read_since(self._driver)
        moment = time.time() if now is None else now
        known = since is not None and alive is not None and moment - alive <= GAP_S
        keys: list[Key] = []
        self._times = {}
        async for names in self._driver.children(layout.PULLS):
            for name in names:
                if name == _SINCE:
                    continue
                key = layout.pulls(name)
                try:
                    self._merge((await self._driver.read(key, limit=_LIMIT_BYTES)).data)
                except KeyMissing:
                    known = False  # compacted by another node meanwhile
                except (ObjectTooLarge, ValueError) as error:
                    known = False
                    _log.warning(
                        "a list of pulls cannot be read; no tag is deleted by its pulls", key=key, cause=str(error)
                    )
                else:
                    keys.append(key)
        self.since = datetime.fromtimestamp(since, UTC) if known and since is not None else None
        return keys

    def _merge(self, data: bytes) -> None:
        header, *lines = data.decode().splitlines()
        if header != _HEADER:
            raise ValueError(f"expected {_HEADER!r}, found {header[:40]!r}")
        for line in lines:
            at, name, reference = line.split(" ")
            if len(at) > _DIGITS:
                raise ValueError(f"{at[:40]!r} is no time")
            times = self._times.setdefault(RepoName(name), {})
            times[reference] = max(int(at), times.get(reference, 0))

    async def compact(self, *, horizon_s: float = HORIZON_S, now: float | None = None) -> int:
        """Join all lists into one, without what is older than `horizon_s`; return the number of entries.

        Two nodes that do so at once only write some entries twice.
        """
        keys = await self.load(now=now)
        oldest = (time.time() if now is None else now) - horizon_s
        lines = [
            f"{at} {name} {reference}"
            for name, times in self._times.items()
            for reference, at in times.items()
            if at >= oldest
        ]
        if len(keys) <= max(1, -(-len(lines) // _LINES)):
            return len(lines)
        stamp = new_stamp(utc_now())
        for number, start in enumerate(range(0, len(lines), _LINES)):
            await _write(self._driver, f"{stamp}.{number}", lines[start : start + _LINES])
        await self._driver.delete(keys)
        return len(lines)


_NOTHING: Final[dict[str, int]] = {}


async def _write(driver: Driver, name: str, lines: Sequence[str]) -> None:
    await driver.write(layout.pulls(name), "\n".join((_HEADER, *lines)).encode())


async def _read_since(driver: Driver) -> tuple[float | None, float | None]:
    """Return when recording began, and when it was last alive; None for what is unknown."""
    key = layout.pulls(_SINCE)
    fields = await read_record(driver, key, remedy=_REMEDY)
    if not fields:
        return None, None
    try:
        if fields["version"] != 1:
            raise ValueError(f"version {fields['version']!r} is not known")
        since, alive = float(fields["since"]), float(fields["alive"])
        datetime.fromtimestamp(since, UTC)
    except (OSError, OverflowError, ValueError, KeyError, TypeError) as error:
        report_damage(key, f"no beginning: {error!r}", remedy=_REMEDY)
        return None, None
    return since, alive
