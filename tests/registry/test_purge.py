"""Uploads that nobody finishes go, by age; those that somebody may still go on with stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.http.client import Client
from tests.registry.watched import WatchedDriver

from moorage.app import build
from moorage.config.model import Settings
from moorage.config.sections.storage import Inmemory, Maintenance, Storage, UploadPurging
from moorage.registry import layout
from moorage.registry.purge import Purger, purge
from moorage.storage.driver import Key, StorageUnavailable
from moorage.types import RepoName

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Uploads

HOMES = [layout.upload_home(RepoName(name), f"0000000{number}-0000-7000-8000-000000000000")
         for number, name in enumerate(("library/app", "a/b/c/d", "library/app/tools"))]  # fmt: skip
LATER = timedelta(seconds=2)


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


async def test_a_store_that_fails_ends_the_pass_and_not_the_purger(driver: Driver) -> None:
    """It tries again at its next time; a registry does not end because a disk was away for a moment."""

    class Away(WatchedDriver):
        @property
        def uploads(self) -> Uploads:
            raise StorageUnavailable("the disk is away")

    assert await Purger(Away(driver), age_s=0, interval_s=60, dry_run=False).once() == 0


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
