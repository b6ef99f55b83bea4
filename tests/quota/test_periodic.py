"""The periodic count: when one is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http.client import codes

from moorage.quota.facts import StoredUsage, read_base
from moorage.quota.limits import Limit
from moorage.quota.periodic import PeriodicCount
from moorage.registry import layout
from moorage.registry.collection_state import ENDED, StateName, new_token
from moorage.testing.builders import blob
from moorage.types import RepoName

if TYPE_CHECKING:
    from tests.quota.conftest import StartNode, Time

    from moorage.storage.driver import Driver, Key

NAME = RepoName("team-a/app")
LIMIT = Limit("team-a", bytes=10_000)


async def no_sleep(_: float) -> None:
    """Return at once."""


def counter(driver: Driver, time: Time, *patterns: str) -> PeriodicCount:
    return PeriodicCount(driver, patterns or ("team-a",), interval_s=86400, clock=time, sleep=no_sleep)


async def test_a_count_is_due_at_first_then_after_the_interval(driver: Driver, time: Time) -> None:
    """Counting each minute would read the whole store each minute."""
    job = counter(driver, time)
    assert await job.look()
    assert not await job.look()
    time.now += 86399
    assert not await job.look()
    time.now += 1
    assert await job.look()
    assert await counter(driver, time, "team-a", "team-b").look(), "a new rule"
    base = await read_base(driver, await StoredUsage.of(driver))
    assert base.counted.keys() == {"team-a", "team-b"}


async def test_a_collection_is_followed_by_a_count(node: StartNode, driver: Driver, time: Time) -> None:
    """What a collection has freed must be free."""
    started = node(LIMIT)
    removed = await started.client.push_blob(blob(size=10_000), NAME)
    await started.usage.exchange()
    time.now = 1_000_000_000.0  # before the time of the store, in which the collection ends
    job = counter(driver, time)
    await driver.delete(await _bases(driver))
    assert await job.look()
    assert not await job.look()
    await driver.delete([layout.layer_link(NAME, removed.digest)])
    time.now += 3600
    await driver.write(layout.collection(str(StateName(ENDED, new_token()))), b"")
    assert await job.look()
    await started.usage.exchange()
    assert started.used() == (0, 0)


async def _bases(driver: Driver) -> list[Key]:
    return [layout.usage(f"base.{token}") for token in (await StoredUsage.of(driver)).bases]


async def test_a_refusal_by_old_numbers_is_checked(node: StartNode, driver: Driver, time: Time) -> None:
    """Another program has removed what the quota still counts: the second attempt a minute later must succeed."""
    started = node(LIMIT)
    removed = await started.client.push_blob(blob(size=10_000), NAME)
    await started.usage.exchange()
    await driver.delete([layout.layer_link(NAME, removed.digest)])
    assert codes(await started.client.start_upload(NAME)) == ["DENIED"]
    await started.usage.settle()
    job = counter(driver, time)
    assert not await job.look(), "numbers of a moment ago are believed"
    time.now += 700
    for _ in range(2):
        assert codes(await started.client.start_upload(NAME)) == ["DENIED"]
    await started.usage.settle()
    assert await job.look()
    assert not await job.look()
    await started.usage.exchange()
    assert (await started.client.start_upload(NAME)).status_code == 202
