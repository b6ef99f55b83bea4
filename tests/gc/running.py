"""Runs of a collection in tests: a clock that sleeping advances, stores with garbage, and drivers that die."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from tests.gc.simple_mark import SimpleMark
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.mark import Marker
from moorage.gc.options import CollectionOptions
from moorage.gc.run import Collection, collect
from moorage.registry import layout
from moorage.storage.driver import StorageUnavailable
from moorage.testing.builders import Built, blob, image, index
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Any

    from moorage.gc.report import Report
    from moorage.storage.driver import Driver, Key, Stat

__all__ = [
    "APP",
    "AT_ONCE",
    "OTHER",
    "THIRD",
    "TINY",
    "DyingDriver",
    "FakeClock",
    "Garbage",
    "collection_of",
    "gone",
    "is_whole",
    "put",
    "run",
    "state_of",
]

AT_ONCE = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=0, wait_s=600)
APP, OTHER, THIRD = RepoName("team/app"), RepoName("team/other"), RepoName("team/third")
TINY = 3
"""Objects of a round, in a run of many rounds."""


class FakeClock:
    """Seconds that only sleeping lets pass; `during` is called in each sleep."""

    def __init__(self, during: Callable[[float], Awaitable[object]] | None = None) -> None:
        self.seconds = 0.0
        self.during = during

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if self.during is not None:
            await self.during(self.seconds)


def collection_of(
    driver: Driver,
    options: CollectionOptions = AT_ONCE,
    *,
    clock: FakeClock | None = None,
    simple: bool = False,
    **more: Any,
) -> Collection:
    """Return a run without the process's timer; `now` is far enough ahead for the lease of a dead one.

    `simple`: with the mark of the tests.
    """
    more["marker"] = partial(SimpleMark if simple else _marker, driver, options)
    clock = clock or FakeClock()
    more.setdefault("now", lambda: datetime.now(UTC) + timedelta(seconds=150))
    more.setdefault("guard", lambda _: nullcontext())
    more.setdefault("owner", "test")
    return Collection(driver=driver, options=options, clock=clock, sleep=clock.sleep, **more)


def _marker(driver: Driver, options: CollectionOptions, now: datetime) -> Marker:
    return Marker(driver, options, now=now)


async def run(driver: Driver, options: CollectionOptions = AT_ONCE, **more: Any) -> Report:
    return await collect(collection_of(driver, options, **more))


async def put(driver: Driver, built: Built, tag: str = "", *, name: RepoName = APP) -> None:
    """Write an image as a registry stores it, without the registry."""
    for part in built.closure:
        text = str(part.digest).encode()
        await driver.write(layout.blob_data(part.digest), part.data)
        link = layout.revision_link if part.is_manifest else layout.layer_link
        await driver.write(link(name, part.digest), text)
    if tag:
        await driver.write(layout.tag_history_link(name, Tag(tag), built.digest), str(built.digest).encode())
        await driver.write(layout.tag_link(name, Tag(tag)), str(built.digest).encode())


async def is_whole(driver: Driver, built: Built, *, name: RepoName = APP) -> bool:
    """Return whether everything of an image has its link and its bytes."""
    for part in built.closure:
        link = layout.revision_link if part.is_manifest else layout.layer_link
        if await driver.find(link(name, part.digest)) is None:
            return False
        if await driver.find(layout.blob_data(part.digest)) is None:
            return False
    return True


async def gone(driver: Driver, built: Built, *, name: RepoName = APP) -> bool:
    """Return whether neither links nor bytes of the part itself are left."""
    keys = (layout.revision_link(name, built.digest), layout.layer_link(name, built.digest))
    found = [await driver.find(key) for key in (*keys, layout.blob_data(built.digest))]
    return not any(found)


async def state_of(driver: Driver) -> set[str]:
    """Return the names of the state objects, without tokens: `running`, `condemned`, ..."""
    return {
        stat.key.removeprefix(f"{layout.COLLECTION}/").partition(".")[0].partition("/")[0]
        async for page in driver.scan(layout.COLLECTION)
        for stat in page
    }


class Garbage:
    """A store with everything that is to go, and neighbours that are to stay."""

    def __init__(self) -> None:
        base = blob(size=100, seed=1)
        self.live = index(image(base, blob(size=50, seed=2)), image(base, platform="linux/arm64"))
        self.promoted = image(blob(size=60, seed=3), seed=3)
        """Untagged in APP, tagged in OTHER."""
        child = image(base, blob(size=70, seed=4), seed=4)
        self.dead = index(
            child,
            image(blob(size=80, seed=5), seed=5, platform="linux/arm64"),
        )
        self.elsewhere = index(child, image(blob(size=85, seed=8), seed=8, platform="linux/arm64"))
        """Untagged in THIRD; one of its images is listed by `dead` in APP."""
        self.dangling = blob(size=90, seed=6)
        self.orphan = blob(size=95, seed=7)
        self.base = base

    async def write(self, driver: Driver) -> None:
        await put(driver, self.live, "v1")
        await put(driver, self.promoted)
        await put(driver, self.promoted, "stable", name=OTHER)
        await put(driver, self.dead)
        await put(driver, self.elsewhere, name=THIRD)
        await put(driver, self.dangling)
        await driver.write(layout.blob_data(self.orphan.digest), self.orphan.data)
        await driver.write(layout.torn_mark(self.orphan.digest), b"12")

    async def check(self, driver: Driver, *, removed: bool = True) -> None:
        """Check that nothing live is lost and, if `removed`, that no garbage is left."""
        assert await is_whole(driver, self.live)
        assert await is_whole(driver, self.promoted, name=OTHER)
        if not removed:
            return
        for name, built in ((APP, self.dead), (THIRD, self.elsewhere)):
            for part in built.closure:
                if part.digest != self.base.digest:
                    assert await gone(driver, part, name=name)
        assert await driver.find(layout.layer_link(THIRD, self.base.digest)) is None
        assert await gone(driver, self.dangling)
        assert await gone(driver, self.orphan)
        assert await driver.find(layout.torn_mark(self.orphan.digest)) is None
        assert await driver.find(layout.revision_link(APP, self.promoted.digest)) is None
        assert await driver.find(layout.layer_link(APP, self.promoted.parts[0].digest)) is None


class DyingDriver(InstrumentedDriver):
    """A process that dies at its call number `at`: before it, or after it; nothing works then."""

    def __init__(self, driver: Driver, at: int = -1, *, after: bool = False) -> None:
        super().__init__(driver)
        self.request_cost = driver.request_cost
        self.removes_exactly = driver.removes_exactly
        self.at = at
        self.after = after
        self.calls = 0
        self.dead = False

    async def before(self, call: str) -> None:
        if self.dead:
            raise StorageUnavailable("the process is dead")
        self.calls += 1
        if self.calls == self.at and not (self.after and call.startswith(("write", "delete", "remove", "prune"))):
            self.die()

    async def after_change(self, call: str) -> None:
        if self.calls == self.at and not self.dead:
            self.die()

    def die(self) -> None:
        self.dead = True
        raise StorageUnavailable("the process dies")

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        await self.before(f"scan {prefix}")
        async for page in self._driver.scan(prefix):
            yield page
