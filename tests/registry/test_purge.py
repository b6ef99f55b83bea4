"""Uploads that no client finishes are removed by age; those that a client may still continue stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.http.client import Client
from tests.registry.images import NAME, everything, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.config.model import Settings
from moorage.config.sections.storage import Inmemory, Maintenance, Storage, UploadPurging
from moorage.registry import layout
from moorage.registry.lease import Lease
from moorage.registry.manifests import StoredManifests
from moorage.registry.purge import Purger, purge
from moorage.registry.tags import TagStore
from moorage.storage.driver import ALWAYS, Key, RequestCost, StorageDenied, StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import image
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import RepoName, Tag
from moorage.wiring.app import build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from moorage.storage.driver import Driver, Stat, Uploads, Version, When

HOMES = [layout.upload_home(RepoName(name), f"0000000{number}-0000-7000-8000-000000000000")
         for number, name in enumerate(("library/app", "a/b/c/d", "library/app/tools"))]  # fmt: skip
LATER = timedelta(seconds=2)
DEAD = Tag("dead")
ONE, OTHER = image(seed=1), image(seed=2)


@pytest.fixture
async def filled(driver: Driver) -> Driver:
    for home in HOMES:
        state = await driver.uploads.begin(home)
        async with driver.uploads.append(home, state) as appender:
            await appender.write([b"bytes that nobody came back for"])
            await appender.checkpoint()
    return driver


async def left(driver: Driver) -> set[Key]:
    found = [home async for home in driver.uploads.abandoned(layout.REPOSITORIES, datetime.now(UTC) + LATER)]
    return set(found)


async def test_uploads_begun_before_a_time_are_removed(filled: Driver) -> None:
    """A registry whose clients crash now and then fills its disk otherwise."""
    gone = [home async for home in purge(filled, before=datetime.now(UTC) + LATER)]
    assert sorted(gone) == sorted(HOMES)
    assert await left(filled) == set()


async def test_young_uploads_stay(filled: Driver) -> None:
    """A push over a slow line takes hours."""
    assert [home async for home in purge(filled, before=datetime.now(UTC) - timedelta(hours=1))] == []
    assert await left(filled) == set(HOMES)


async def test_a_dry_run_only_tells(filled: Driver) -> None:
    """`uploadpurging.dryrun`: an operator looks before anything goes."""
    purger = Purger(filled, age_s=-2, interval_s=60, dry_run=True)
    assert await purger.once() == len(HOMES)
    assert await left(filled) == set(HOMES)


async def test_a_pass_removes_by_age(filled: Driver) -> None:
    assert await Purger(filled, age_s=3600, interval_s=60, dry_run=False).once() == 0
    assert await Purger(filled, age_s=-2, interval_s=60, dry_run=False).once() == len(HOMES)
    assert await left(filled) == set()


async def test_blobs_and_manifests_are_not_touched(filled: Driver) -> None:
    key = Key(f"{layout.ROOT}/repositories/library/app/_layers/sha256/{'0' * 64}/link")
    await filled.write(key, b"a link")
    assert await Purger(filled, age_s=-2, interval_s=60, dry_run=False).once() == len(HOMES)
    assert (await filled.read(key)).data == b"a link"


@pytest.fixture(params=["memory", "filesystem", "objects"])
async def half(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """Tags `kept` and `v1` of an image; `dead` has a history of two and no link, as a killed push leaves it."""
    found: Driver = MemoryDriver()
    if request.param == "filesystem":
        found = FilesystemDriver(tmp_path / "store")
    elif request.param == "objects":
        found = ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
    await push(found, StoredManifests(found), ONE, tags=(Tag("kept"), Tag("v1")))
    for built in (ONE, OTHER):
        await found.write(layout.tag_history_link(NAME, DEAD, built.digest), str(built.digest).encode())
    yield found
    await found.close()


async def names(driver: Driver) -> list[str]:
    return [name async for page in driver.children(layout.tags(NAME)) for name in page]


async def test_half_written_tags_are_removed_by_age(half: Driver) -> None:
    """CNCF Distribution on the same store lists them for ever, and each list of ours reads them in vain."""
    before = await everything(half)
    assert await Purger(half, age_s=3600, interval_s=60, dry_run=False).once() == 0, "its push may be running"
    assert await everything(half) == before
    assert await Purger(half, age_s=-5, interval_s=60, dry_run=False).once() == 1
    assert await names(half) == ["kept", "v1"]
    gone = {layout.tag_history_link(NAME, DEAD, built.digest) for built in (ONE, OTHER)}
    assert await everything(half) == {key: data for key, data in before.items() if key not in gone}


async def test_one_young_entry_keeps_the_tag(half: Driver) -> None:
    """A push in progress has written its entry, and is about to write the link."""
    cut = (await half.stat(layout.tag_history_link(NAME, DEAD, OTHER.digest))).modified
    assert not await TagStore(half).remove_unfinished(NAME, DEAD, cut)
    assert [tag async for tag in TagStore(half).unfinished(NAME, cut)] == []
    assert "dead" in await names(half)


async def test_a_dry_run_names_half_written_tags(half: Driver) -> None:
    before = await everything(half)
    with capture_logs() as logs:
        assert await Purger(half, age_s=-5, interval_s=60, dry_run=True).once() == 1
    assert await everything(half) == before
    assert [(log["event"], log["tag"]) for log in logs] == [("half-written tag found", layout.tag(NAME, DEAD))]


@pytest.mark.parametrize("moment", ["stat", "scan", "delete", "prune"])
async def test_a_push_beside_the_removal_loses_nothing(half: Driver, moment: str) -> None:
    """Whenever its link appears, the tag is there afterwards, with its history."""

    class Racing(InstrumentedDriver):
        request_cost = half.request_cost
        pushed = False

        async def before(self, call: str) -> None:
            if call.startswith(moment) and not self.pushed:
                self.pushed = True
                await half.write(layout.tag_link(NAME, DEAD), str(ONE.digest).encode())

        def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
            return self._scan(prefix)

        async def _scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
            await self.before("scan")
            async for page in super().scan(prefix):
                yield page

    racing = Racing(half)
    assert not await TagStore(racing).remove_unfinished(NAME, DEAD, datetime.now(UTC) + LATER)
    assert racing.pushed
    assert (await StoredManifests(half).get(NAME, DEAD)).data == ONE.data
    assert layout.tag_history_link(NAME, DEAD, ONE.digest) in await everything(half)


async def test_what_is_no_half_written_tag_stays(half: Driver) -> None:
    """Torn links, an operator's files, and a name that is no tag."""
    await half.write(layout.tag_link(NAME, DEAD), b"")
    await half.write(Key(f"{layout.tag(NAME, Tag('odd'))}/notes.txt"), b"mine")
    await half.write(Key(f"{layout.tags(NAME)}/.git/index/x"), b"mine")
    await half.write(Key(f"{layout.tags(NAME)}/README"), b"mine")
    before = await everything(half)
    assert await Purger(half, age_s=-5, interval_s=60, dry_run=False).once() == 0
    assert await everything(half) == before


async def test_in_a_bucket_tags_are_listed_and_not_asked_for(half: Driver) -> None:
    """A million tags are two thousand listings a day, and not a million requests."""
    calls: list[str] = []

    class Remote(InstrumentedDriver):
        request_cost = RequestCost.NETWORK

        async def before(self, call: str) -> None:
            calls.append(call)

    assert [tag async for tag in TagStore(Remote(half)).unfinished(NAME, datetime.now(UTC) + LATER)] == [DEAD]
    assert calls == [f"stat {layout.tag(NAME, DEAD)}"], "only what has no link is looked at"


async def test_a_store_that_fails_ends_the_pass_and_not_the_purger(driver: Driver) -> None:
    """It tries again at its next time; a registry does not end because a disk was away for a moment."""

    class CircuitOpen(InstrumentedDriver):
        @property
        def uploads(self) -> Uploads:
            raise StorageUnavailable("the disk is away")

    assert await Purger(CircuitOpen(driver), age_s=0, interval_s=60, dry_run=False).once() == 0


async def test_it_runs_once_in_the_first_hour_and_then_at_its_interval(filled: Driver) -> None:
    """Nodes that are started together do not walk the store together."""
    slept: list[float] = []

    class EnoughError(Exception):
        pass

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise EnoughError

    purger = Purger(filled, age_s=-2, interval_s=7200, dry_run=False, sleep=sleep)
    with pytest.raises(EnoughError):
        await purger.run()
    first, *rest = slept
    assert 0 <= first <= 3600
    assert rest == [7200, 7200]
    assert await left(filled) == set()


class Enough(Exception):
    pass


async def passes(driver: Driver, owner: str, times: int, ahead_s: float = 0.0) -> int:
    """Let a node with a lease wake up `times` times; return how often it listed the store."""
    listed = 0
    slept = 0

    class Counting(InstrumentedDriver):
        @property
        def uploads(self) -> Uploads:
            nonlocal listed
            listed += 1
            return super().uploads

    async def sleep(_: float) -> None:
        nonlocal slept
        slept += 1
        if slept > times:
            raise Enough

    lease = Lease(
        driver, "purging", owner, term_s=5400, now=lambda: datetime.now(UTC) + timedelta(seconds=ahead_s)
    )
    purger = Purger(Counting(driver), age_s=3600, interval_s=3600, dry_run=False, lease=lease, sleep=sleep)
    with pytest.raises(Enough):
        await purger.run()
    return listed


async def test_one_node_purges_until_it_ends(driver: Driver) -> None:
    """Ten nodes over one bucket list it once a day, not ten times; and a node that has left is replaced."""
    other = Lease(driver, "purging", "other", term_s=5400)
    assert await other.acquire()
    assert await passes(driver, "node", 3) == 0
    assert await passes(driver, "node", 3, ahead_s=6000) == 3, "the other one is dead"
    assert await other.acquire(), "released at its end"


async def test_a_store_that_takes_no_lease_is_purged_all_the_same(driver: Driver) -> None:
    """By every node, as long as leases fail: that is harmless.  One line reports it, not one a day."""

    class NoLease(InstrumentedDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            raise StorageDenied("no permission")

    with capture_logs() as logs:
        assert await passes(NoLease(driver), "node", 3) == 3
    assert [line["event"] for line in logs] == [
        "upload purging runs without a lease; other nodes may purge as well"
    ]


@pytest.mark.parametrize("dry", [True, False])
async def test_the_setting_dryrun_decides_whether_anything_goes(dry: bool) -> None:
    """From the configuration to the request of the client whose upload it is: inverted, it would delete."""
    purging = UploadPurging(age=0.0, dryrun=dry)
    storage = Storage(inmemory=Inmemory(), maintenance=Maintenance(uploadpurging=purging))
    app = build(Settings(storage=storage), b"secret", worker=0)
    client = Client(app.asgi)
    location = await client.location()
    assert app.purger is not None
    with capture_logs() as logs:
        assert await app.purger.once() == 1
    assert [entry["event"] for entry in logs] == ["old upload found" if dry else "old upload removed"]
    assert (await client.get(location)).status_code == (204 if dry else 404)
    await app.close()
