"""Records of changes of tags expire by a collection; what a restore needs of the past stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.gc.running import APP, OTHER, collection_of, put

from moorage.gc.options import CollectionOptions
from moorage.gc.run import collect
from moorage.registry import layout
from moorage.registry.history import TagHistory, tag_events
from moorage.registry.timeline import state_at, tag_timeline
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from moorage.storage.driver import Driver
    from moorage.types import Digest

V1 = Tag("v1")
ONE, TWO = image(seed=1), image(seed=2)
HELD = RepoName("team/held")


async def note(driver: Driver, name: RepoName, digest: Digest, *, age: timedelta) -> None:
    history = TagHistory(driver, now=lambda: datetime.now(UTC) - age)
    history.note(name, V1, digest, by="ann")
    await history.close()


async def recorded(driver: Driver, name: RepoName) -> list[Digest | None]:
    return [event.digest async for page in tag_events(driver, name) for event in page]


async def test_records_expire_after_the_longer_time_except_where_a_hold_is() -> None:
    """Else the histories of a busy registry grow for ever; a time below the grace time or undo loses nothing."""
    driver = MemoryDriver()
    for name in (APP, OTHER, HELD):
        await put(driver, ONE, V1, name=name)
        await note(driver, name, ONE.digest, age=timedelta(days=9))
        await note(driver, name, TWO.digest, age=timedelta(days=5))
    options = CollectionOptions(undo_s=7 * 86_400, grace_s=86_400)
    report = await collect(collection_of(driver, options, holds=lambda name: name == HELD))
    assert report.history == 2
    for name in (APP, OTHER):
        assert await recorded(driver, name) == [TWO.digest]
    assert set(await recorded(driver, HELD)) == {ONE.digest, TWO.digest}
    report = await collect(collection_of(driver, CollectionOptions(undo_s=0, grace_s=6 * 86_400)))
    assert await recorded(driver, APP) == [TWO.digest], "grace counts if it is longer"
    await collect(collection_of(driver, CollectionOptions(undo_s=0, grace_s=86_400), cleans=False))
    assert await recorded(driver, APP) == [TWO.digest]
    await collect(collection_of(driver, CollectionOptions(undo_s=0, grace_s=86_400)))
    assert await recorded(driver, APP) == []


async def test_a_tag_that_came_back_has_its_past_without_the_expired_record() -> None:
    """It pointed to ONE for a month, to TWO an hour ago, and to ONE again: yesterday it was ONE."""
    driver = MemoryDriver()
    await put(driver, ONE, V1)
    tagged = await driver.find(layout.tag_history_link(APP, V1, ONE.digest))
    assert tagged is not None
    later = datetime.now(UTC) + timedelta(days=30)
    for digest, age in ((TWO.digest, timedelta(hours=1)), (ONE.digest, timedelta())):
        history = TagHistory(driver, now=lambda age=age: later - age)  # type: ignore[misc]
        history.note(APP, V1, digest)
        await history.close()
    timeline = await tag_timeline(driver, APP, V1)
    assert [event.digest for event in timeline] == [ONE.digest, TWO.digest, ONE.digest]
    assert state_at(timeline, later - timedelta(days=1)) == ONE.digest
