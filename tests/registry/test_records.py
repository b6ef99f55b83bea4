"""Records: a damaged object in the store is never passed over silently, and each reader takes its safe side."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from moorage.caches import LRUCache
from moorage.registry import layout, nodes, records
from moorage.registry.collection_pause import PAUSED, read_pause
from moorage.registry.erase import audit_records
from moorage.registry.history import tag_events
from moorage.registry.lease import Lease, foreign_protocol, read_holder
from moorage.registry.pulls import PullTimes
from moorage.registry.records import read_record, resolve_record
from moorage.storage.driver import ABSENT, ALWAYS, StorageUnavailable, Unchanged
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.storage.driver import Content, Driver, Key

KEY = layout.lease("records")
DAMAGED = {
    "empty": (b"", "not JSON"),
    "torn": (b'{"version": 1, "own', "not JSON"),
    "no text": (b"\xff\xfe", "not JSON"),
    "list": (b"[1]", "a JSON list"),
    "null": (b"null", "a JSON NoneType"),
    "deep": (b"[" * 4000, "not JSON"),
    "not a number": (b'{"term_s": NaN}', "NaN is no JSON"),
    "large": (b" " * 5000, "larger than 4096 bytes"),
}


@pytest.fixture(autouse=True)
def _nothing_is_reported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_reported", LRUCache[str, bool](1000))


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


@pytest.mark.parametrize(("data", "cause"), DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_record_has_no_fields_and_one_line_in_the_log(
    driver: MemoryDriver, data: bytes, cause: str
) -> None:
    """Without the line an operator does not learn why the work of a record is not done; with one per read, the
    line hides all others.
    """
    await driver.write(KEY, data)
    with capture_logs() as logs:
        for _ in range(3):
            assert await read_record(driver, KEY, remedy="remove it") == {}
            fields, state = await resolve_record(driver, KEY, remedy="remove it")
            assert fields == {}
    [line] = logs
    assert cause in line.pop("cause")
    assert line == {
        "event": "an object in the store is damaged, or of another release",
        "key": KEY,
        "log_level": "error",
        "remedy": "remove it",
    }
    await driver.write(KEY, b"{}", state)


async def test_a_record_is_read_with_its_state(driver: MemoryDriver) -> None:
    """The state is the condition by which nothing is overwritten that was not read."""
    with capture_logs() as logs:
        assert await read_record(driver, KEY, remedy="") is None
        assert await resolve_record(driver, KEY, remedy="") == (None, ABSENT)
        version = await driver.write(KEY, b'{"owner": "a"}')
        assert await resolve_record(driver, KEY, remedy="") == ({"owner": "a"}, Unchanged(version))
        assert await resolve_record(driver, KEY, remedy="", limit=3) == ({}, ALWAYS)
        await driver.write(KEY, b" " * 5000 + b"{}")
        assert await read_record(driver, KEY, remedy="", limit=6000) == {}
    assert [line["cause"] for line in logs] == ["it is larger than 3 bytes"]


async def test_a_store_that_fails_is_no_damage() -> None:
    """A pause that could not be read for a moment is neither absent nor damaged."""

    class Failing(MemoryDriver):
        async def read(self, key: Key, *, limit: int = 0) -> Content:
            raise StorageUnavailable("no response")

    with capture_logs() as logs, pytest.raises(StorageUnavailable):
        await read_record(Failing(), KEY, remedy="")
    assert logs == []


async def _pause(driver: Driver) -> None:
    assert await read_pause(driver) is not None


async def _node(driver: Driver) -> None:
    [node] = await nodes.live_nodes(driver, now=datetime.now(UTC))
    assert node.protocol != nodes.PROTOCOL, "no collection runs beside it"


async def _acquired(driver: Driver) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    assert not await Lease(driver, "work", "node", term_s=3600).acquire(), "some node may hold it"
    assert await Lease(driver, "work", "node", term_s=3600, now=lambda: later).acquire(), "not for ever"


async def _holder(driver: Driver) -> None:
    assert await read_holder(driver, "work") is None


async def _released(driver: Driver) -> None:
    lease = Lease(driver, "other", "node", term_s=3600)
    assert await lease.acquire()
    await driver.write(layout.lease("other"), (await driver.read(layout.lease("work"))).data)
    await lease.release()
    assert await driver.find(layout.lease("other")) is not None, "it may be that of another node"


async def _protocol(driver: Driver) -> None:
    assert await foreign_protocol(driver, "work", now=datetime.now(UTC)) is None


async def _pulls(driver: Driver) -> None:
    times = PullTimes(driver)
    await times.load()
    assert times.since is None, "nothing is deleted by pulls"


async def _audit(driver: Driver) -> None:
    assert await audit_records(driver, blob().digest) == []


READERS: dict[str, tuple[Key, Callable[[Driver], Awaitable[None]]]] = {
    "pause": (layout.collection(PAUSED), _pause),
    "node": (layout.node("host-1"), _node),
    "lease": (layout.lease("work"), _acquired),
    "holder of a lease": (layout.lease("work"), _holder),
    "lease that is released": (layout.lease("work"), _released),
    "protocol of a lease": (layout.lease("work"), _protocol),
    "beginning of pulls": (layout.pulls("since"), _pulls),
    "erasure": (layout.audit("20261129T100000.000000Z-aaaaaaaa"), _audit),
}


@pytest.mark.parametrize("data", [b"torn", b"[1]"])
@pytest.mark.parametrize(("key", "check"), READERS.values(), ids=READERS)
async def test_every_reader_takes_the_safe_side_and_reports_the_damage(
    driver: MemoryDriver, key: Key, check: Callable[[Driver], Awaitable[None]], data: bytes
) -> None:
    await driver.write(key, data)
    with capture_logs() as logs:
        await check(driver)
    [line] = logs
    assert key == line["key"] or line["key"] == layout.lease("other")
    assert line["remedy"]


@pytest.mark.parametrize(
    ("key", "check", "data", "cause"),
    [
        (*READERS["lease"], b'{"term_s": 3600}', "no owner"),
        (*READERS["holder of a lease"], b'{"owner": "a", "term_s": null}', "no owner and term"),
        (*READERS["beginning of pulls"], b'{"version": 2, "since": 1, "alive": 1}', "version 2 is not known"),
        (*READERS["beginning of pulls"], b'{"version": 1, "since": 1e300, "alive": 1}', "no beginning"),
        (*READERS["erasure"], b'{"digests": 7}', "no list of digests"),
    ],
)
async def test_fields_of_another_form_are_reported(
    driver: MemoryDriver, key: Key, check: Callable[[Driver], Awaitable[None]], data: bytes, cause: str
) -> None:
    """JSON of the wrong fields is as unreadable as none."""
    await driver.write(key, data)
    with capture_logs() as logs:
        await check(driver)
    [line] = logs
    assert line["key"] == key
    assert cause in line["cause"]


async def test_changes_of_tags_that_cannot_be_read_are_reported(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An incomplete history looks as if a tag had never been moved."""
    name = RepoName("team/app")
    key = layout.below(layout.tag_events(name), "20261129T100000.000000Z-aaaaaaaa")
    for data, cause in (
        (b"torn\n", "not JSON"),
        (b'{"version": 2}', "version 2 is not known"),
        (b'{"version":1,"at":"2026-11-29T12:00:00","tag":"v1","digest":null,"by":""}', "no time zone"),
        (b"x" * 100, "larger than 99 bytes"),
    ):
        monkeypatch.setattr(records, "_reported", LRUCache[str, bool](1000))
        await driver.write(key, data)
        monkeypatch.setattr("moorage.registry.history._LIMIT_BYTES", 99)
        with capture_logs() as logs:
            assert [events async for events in tag_events(driver, name)] == []
        [line] = logs
        assert line["key"] == key
        assert cause in line["cause"]
