"""An instrumented driver behaves as before, and reports its calls."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import Key, KeyMissing, Write
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.instrumented import InstrumentedDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.driver_contract import DriverContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from moorage.storage.driver import Driver

KEY = Key("a/b")
HOME = Key("x/_uploads/1")


class Seen:
    """Records each call and its outcome."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.keys: list[str] = []
        self.errors: list[type[BaseException]] = []
        self.open = 0

    @contextmanager
    def __call__(self, driver: str, action: str, key: str) -> Iterator[None]:
        assert driver in {"inmemory", "filesystem"}
        self.actions.append(action)
        self.keys.append(key)
        self.open += 1
        try:
            yield
        except BaseException as error:
            self.errors.append(type(error))
            raise
        finally:
            self.open -= 1


class TestFilesystem(DriverContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], Driver]:
        return lambda: InstrumentedDriver(FilesystemDriver(tmp_path / "root"), Seen())


class TestMemoryWatchedTwice(DriverContract):
    @pytest.fixture
    def connect(self) -> Callable[[], Driver]:
        shared = InstrumentedDriver(InstrumentedDriver(MemoryDriver(), Seen()), Seen())
        return lambda: shared


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def driver(seen: Seen) -> AsyncIterator[Driver]:
    watched = InstrumentedDriver(MemoryDriver(), seen)
    yield watched
    await watched.close()
    assert seen.open == 0


async def test_objects_are_told_of_by_the_reference_s_names(driver: Driver, seen: Seen) -> None:
    """Dashboards select by them."""
    await driver.write(KEY, b"x")
    await driver.read(KEY)
    await driver.stat(KEY)
    await driver.handover(KEY, method="GET", expires_s=1)
    await driver.probe()
    await driver.open_file(KEY)
    async with driver.open(KEY) as reader:
        assert seen.open == 0, "what the caller does while it reads is no action"
        assert b"".join([piece async for piece in reader]) == b"x"
    async with driver.create(Key("a/c")) as writer:
        await writer.write([b"y"])
        await writer.commit()
    await driver.delete([KEY])
    await driver.clear(Key("a"))
    assert seen.actions == [
        "PutContent", "GetContent", "Stat", "URLFor", "Stat", "Reader", "Reader", "Writer", "Write", "Commit",
        "Delete", "Delete",
    ]  # fmt: skip
    assert seen.keys[0] == KEY


async def test_uploads_are_told_of(driver: Driver, seen: Seen) -> None:
    state = await driver.uploads.begin(HOME)
    await driver.uploads.state(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"x"])
        state = await appender.checkpoint()
    async with driver.uploads.read(HOME, state) as reader:
        assert [piece async for piece in reader] == [b"x"]
    await driver.uploads.publish(HOME, state, KEY)
    await driver.uploads.discard(HOME)
    assert seen.keys[-2:] == [KEY, HOME]
    assert seen.actions == [
        "PutContent", "Stat", "Writer", "Write", "Commit", "Reader", "Move", "Delete",
    ]  # fmt: skip


async def test_several_writes_in_one_step_are_one_action(driver: Driver, seen: Seen) -> None:
    """Work of one thread has one duration; counted by parts it would not appear at all."""
    await driver.write_ordered([[Write(Key("a/1"), b"x")], [Write(Key("a/2"), b"x")]])
    state = await driver.uploads.begin(HOME)
    await driver.publish(HOME, state, KEY, Write(Key("a/3"), b"x"))
    assert seen.actions == ["PutContent", "PutContent", "Move"]
    assert seen.keys == ["a/2", HOME, KEY]


async def test_pages_are_told_of_one_by_one_and_not_what_happens_between(driver: Driver, seen: Seen) -> None:
    """A listing that is sent to a slow client is no slow storage."""
    await driver.write(KEY, b"x")
    seen.actions.clear()
    async for page in driver.children(Key("a")):
        assert list(page) == ["b"]
        assert seen.open == 0
    assert set(seen.actions) == {"List"}
    seen.actions.clear()
    assert [stat.key async for page in driver.scan(Key("a")) for stat in page] == [KEY]
    assert set(seen.actions) == {"Walk"}
    seen.actions.clear()
    await driver.uploads.begin(HOME)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert [home async for home in driver.uploads.abandoned(Key("x"), later)] == [HOME]
    assert "Walk" in seen.actions


async def test_a_listing_that_is_left_early_is_closed(driver: Driver, seen: Seen) -> None:
    await driver.write(KEY, b"x")
    pages = driver.children(Key("a"))
    await anext(pages)
    await pages.aclose()  # type: ignore[attr-defined]  # a generator, as every driver's is
    assert seen.open == 0


async def test_failures_are_told_and_raised(driver: Driver, seen: Seen) -> None:
    with pytest.raises(KeyMissing):
        await driver.read(KEY)
    with pytest.raises(KeyMissing):
        async with driver.open(KEY):
            pytest.fail("there is nothing to read")
    assert seen.errors == [KeyMissing, KeyMissing]


async def test_what_fails_while_reading_is_the_caller_s(driver: Driver, seen: Seen) -> None:
    """A client that hangs up is no failure of the storage."""
    await driver.write(KEY, b"x")
    with pytest.raises(ZeroDivisionError):
        async with driver.open(KEY):
            raise ZeroDivisionError
    assert seen.errors == []
