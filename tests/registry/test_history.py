"""History of tags: which manifest, when, by whom; it costs a push nothing and never fails one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.registry.images import NAME, T1, T2, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.registry import history, layout
from moorage.registry.history import TagEvent, TagHistory, expired_events, tag_events
from moorage.registry.interface import Caller
from moorage.registry.manifests import StoredManifests
from moorage.registry.timeline import state_at, tag_timeline, tag_timelines
from moorage.registry.trash import Trash
from moorage.storage.driver import StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.storage.driver import Driver

ONE, OTHER = image(seed=1), image(seed=2)
A, B = Digest.of(b"a"), Digest.of(b"b")
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Clock:
    """A clock and a sleep that only the test advances."""

    def __init__(self) -> None:
        self.now = NOW
        self.slept: list[float] = []
        self.tick = asyncio.Event()

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.tick.wait()


class Failing(InstrumentedDriver):
    """Refuses writes while `broken`."""

    broken = True

    async def before(self, call: str) -> None:
        if self.broken and call.startswith("write"):
            raise StorageUnavailable("out of order")


async def events_of(driver: Driver, tag: Tag | None = None, name: RepoName = NAME) -> list[TagEvent]:
    return [event async for page in tag_events(driver, name, tag) for event in page]


async def objects(driver: Driver) -> int:
    return len([stat async for page in driver.scan(layout.tag_events(NAME)) for stat in page])


async def test_changes_of_a_second_are_one_object(driver: Driver) -> None:
    """A CI that sets ten tags must not cost ten more objects."""
    clock = Clock()
    written = TagHistory(driver, now=clock, sleep=clock.sleep)
    for number in range(10):
        written.note(NAME, Tag(f"v{number}"), A, by="ann")
    written.note(RepoName("other"), T1, B)
    await asyncio.sleep(0)
    assert clock.slept == [1.0]
    assert await objects(driver) == 0
    clock.tick.set()
    assert written._task is not None
    await written._task
    assert await objects(driver) == 1
    assert [(event.tag, event.digest, event.by) for event in await events_of(driver)] == [
        (f"v{number}", A, "ann") for number in range(10)
    ]
    assert len(await events_of(driver, name=RepoName("other"))) == 1
    await written.close()
    assert await objects(driver) == 1


async def test_close_writes_what_is_left(driver: Driver) -> None:
    """A worker that is replaced takes nothing with it."""
    clock = Clock()
    written = TagHistory(driver, now=clock, sleep=clock.sleep)
    written.note(NAME, T1, A, by="bob", reason="moorage restore")
    written.note(NAME, T1, None, by="bob", reason="deleted by a client")
    await written.close()
    assert await events_of(driver, T1) == [
        TagEvent(NOW + timedelta(milliseconds=1), T1, A, "bob", "moorage restore"),
        TagEvent(NOW + timedelta(milliseconds=2), T1, None, "bob", "deleted by a client"),
    ]
    assert await events_of(driver, T2) == []


async def test_a_failing_store_costs_history_and_no_push() -> None:
    """One warning, a count, and history again when the store works again."""
    store = Failing(MemoryDriver())
    written = TagHistory(store)
    with capture_logs() as logs:
        for _ in range(3):
            written.note(NAME, T1, A)
            await written.flush()
        assert written.dropped == 3
        assert [entry["log_level"] for entry in logs] == ["warning"]
        assert "out of order" in logs[0]["cause"]
        store.broken = False
        written.note(NAME, T1, B)
        await written.flush()
        store.broken = True
        written.note(NAME, T1, A)
        await written.close()
    assert len(logs) == 2
    assert written.dropped == 4
    assert [event.digest for event in await events_of(store)] == [B]


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs must not fill the memory of a worker."""
    monkeypatch.setattr(history, "PENDING_LIMIT", 10)
    clock, store = Clock(), MemoryDriver()
    written = TagHistory(store, now=clock, sleep=clock.sleep)
    with capture_logs() as logs:
        for _ in range(25):
            written.note(NAME, T1, A)
    assert written.dropped == 15
    assert len(logs) == 1
    await written.close()
    assert len(await events_of(store)) == 10


async def test_a_store_that_hangs_delays_the_end_by_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker must end when it is replaced."""
    monkeypatch.setattr(history, "_CLOSE_S", 0.01)

    class Hanging(InstrumentedDriver):
        async def before(self, call: str) -> None:
            await asyncio.Event().wait()

    written = TagHistory(Hanging(MemoryDriver()))
    written.note(NAME, T1, A)
    with capture_logs() as logs:
        await written.close()
    assert written.dropped
    assert "does not respond" in logs[0]["cause"]


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '{"version":2}', '{"version":1,"at":"x","tag":"v1","digest":null,"by":""}',
     '{"version":1,"at":"2026-11-29T12:00:00","tag":"v1","digest":null,"by":""}', "[" * 100_000,
     '{"version":1,"at":"2026-11-29T12:00:00+00:00","tag":"/","digest":null,"by":""}'],
)  # fmt: skip
async def test_a_damaged_line_is_left_out(driver: Driver, line: str) -> None:
    """The rest of the history is shown."""
    written = TagHistory(driver, now=Clock())
    written.note(NAME, T1, A)
    await written.close()
    (key,) = [stat.key async for page in driver.scan(layout.tag_events(NAME)) for stat in page]
    await driver.write(key, (await driver.read(key)).data + b"\n" + line.encode() + b"\n\xff")
    await driver.write(layout.below(layout.tag_events(NAME), "notes"), b"of an operator")
    assert [event.digest for event in await events_of(driver)] == [A]


async def test_old_changes_are_found_by_their_name(driver: Driver) -> None:
    """A collector removes them without reading them."""
    written = TagHistory(driver, now=Clock())
    written.note(NAME, T1, A)
    await written.close()
    assert await expired_events(driver, NAME, NOW) == []
    (key,) = await expired_events(driver, NAME, NOW + timedelta(seconds=1))
    parsed = layout.parse_key(key)
    assert parsed is not None
    assert (parsed.kind, parsed.name) == ("tag-event", NAME)


def served(driver: Driver, undo_s: float = 3600) -> tuple[StoredManifests, TagHistory]:
    written = TagHistory(driver)
    trash = Trash(driver, keep_s=undo_s)
    return StoredManifests(driver, delete_enabled=True, trash=trash, history=written), written


async def test_pushes_and_deletions_are_recorded_with_their_user(driver: Driver) -> None:
    """The first question after a bad deployment: who moved the tag, and what was there before?"""
    manifests, written = served(driver)
    await push(driver, manifests, ONE)
    await push(driver, manifests, OTHER)
    began = datetime.now(UTC)
    for built, user in ((ONE, "ann"), (OTHER, "bob")):
        await manifests.put(NAME, T1, built.media_type, built.data, tags=(T2,), caller=Caller(user))
    moved = datetime.now(UTC)
    await manifests.delete(NAME, T1, caller=Caller("eve"))
    await written.close()

    timeline = await tag_timeline(driver, NAME, T1)
    assert [(event.digest, event.by, event.reason) for event in timeline] == [
        (ONE.digest, "ann", ""),
        (OTHER.digest, "bob", ""),
        (None, "eve", "deleted by a client"),
    ]
    assert began < timeline[0].at < timeline[1].at < moved < timeline[2].at
    assert state_at(timeline, began) is None
    assert state_at(timeline, timeline[0].at) == ONE.digest
    assert state_at(timeline, moved) == OTHER.digest
    assert state_at(timeline, datetime.now(UTC)) is None
    every = await tag_timelines(driver, NAME)
    assert every[T1] == timeline
    assert [event.digest for event in every[T2]] == [ONE.digest, OTHER.digest]


async def test_a_deletion_by_digest_ends_its_tags_and_no_other(driver: Driver) -> None:
    """A tag that had moved on is still there, and its history shows no deletion."""
    manifests, written = served(driver)
    await push(driver, manifests, ONE, tags=(T1, T2))
    await push(driver, manifests, OTHER, tags=(T2,))
    await manifests.delete(NAME, ONE.digest, caller=Caller("eve"))
    await written.close()
    assert [event.digest for event in await tag_timeline(driver, NAME, T1)] == [ONE.digest, None]
    assert [event.digest for event in await tag_timeline(driver, NAME, T2)] == [ONE.digest, OTHER.digest]
    assert [event.digest for event in (await tag_timelines(driver, NAME))[T1]] == [ONE.digest, None]


async def test_a_volume_of_the_reference_shows_what_its_tags_pointed_to(tmp_path: Path) -> None:
    """Its index has every manifest of a tag; the time is that of the file."""
    import os

    from moorage.storage.filesystem.driver import FilesystemDriver

    old = datetime(2024, 5, 1, 10, tzinfo=UTC)
    for days, digest in ((0, A), (3, B)):
        path = tmp_path / layout.tag_history_link(NAME, T1, digest)
        path.parent.mkdir(parents=True)
        path.write_text(str(digest))
        seconds = (old + timedelta(days=days)).timestamp()
        os.utime(path, (seconds, seconds))
    driver = FilesystemDriver(tmp_path)
    timeline = await tag_timeline(driver, NAME, T1)
    assert timeline == [TagEvent(old, T1, A), TagEvent(old + timedelta(days=3), T1, B)]
    assert state_at(timeline, old + timedelta(days=2)) == A
    await driver.close()


@pytest.mark.parametrize("undo_s", [0, 3600])
async def test_undo_decides_whether_deletions_are_recorded(driver: Driver, undo_s: float) -> None:
    """0 turns it off: nothing is written, by any of the deletions."""
    from moorage.registry.blobs import StoredBlobs

    trash = Trash(driver, keep_s=undo_s)
    manifests = StoredManifests(driver, delete_enabled=True, trash=trash)
    blobs = StoredBlobs(driver, delete_enabled=True, trash=trash)
    await push(driver, manifests, ONE, tags=(T1,))
    caller = Caller("eve")
    await manifests.delete(NAME, T1, caller=caller, reason="retention: keep 3")
    await manifests.delete(NAME, ONE.digest, caller=caller)
    for part in ONE.blobs:
        await blobs.delete(NAME, part.digest, caller=caller)
    entries = [entry async for page in trash.entries(NAME) for entry in page]
    if not undo_s:
        assert entries == []
        return
    assert {(entry.kind, entry.digest) for entry in entries} == {
        ("tag", ONE.digest),
        ("manifest", ONE.digest),
        *(("layer", part.digest) for part in ONE.blobs),
    }
    assert {entry.by for entry in entries} == {"eve"}
    assert {entry.reason for entry in entries if entry.kind == "tag"} == {"retention: keep 3"}


@pytest.mark.parametrize("reference", [T1, ONE.digest, "blob"], ids=["tag", "digest", "blob"])
async def test_the_record_is_durable_before_anything_is_removed(
    reference: Tag | Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot take the record keeps the content: else it would be gone without a way back."""
    from tests.registry.images import everything

    from moorage.errors import Unavailable
    from moorage.registry.blobs import StoredBlobs

    store = Failing(MemoryDriver())
    store.broken = False
    trash = Trash(store, keep_s=60)
    manifests = StoredManifests(store, delete_enabled=True, trash=trash)
    await push(store, manifests, ONE, tags=(T1,))
    before = await everything(store)
    store.broken = True
    blobs = StoredBlobs(store, delete_enabled=True, trash=trash)
    blob = ONE.blobs[0].digest
    deletion = blobs.delete(NAME, blob) if reference == "blob" else manifests.delete(NAME, reference)
    with pytest.raises(Unavailable):
        await deletion
    assert await everything(store) == before


async def test_deleting_by_digest_lists_no_tags() -> None:
    """With 100,000 tags a deletion takes as long as with one."""
    calls: list[str] = []

    class Counting(InstrumentedDriver):
        async def before(self, call: str) -> None:
            calls.append(call)

    async def cost(tags: int) -> int:
        store = Counting(MemoryDriver())
        manifests = StoredManifests(store, delete_enabled=True, trash=Trash(store, keep_s=60))
        await push(store, manifests, ONE, tags=tuple(Tag(f"v{number}") for number in range(tags)))
        calls.clear()
        await manifests.delete(NAME, ONE.digest)
        assert not [call for call in calls if "children" in call or "scan" in call], calls
        return len(calls)

    assert await cost(50) == await cost(1)
