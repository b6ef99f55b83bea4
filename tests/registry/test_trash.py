"""Trash: a record of each deletion, durable before the link goes, readable by every later process."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from moorage.registry import layout
from moorage.registry.stamps import new_stamp, stamp_time
from moorage.registry.trash import Earlier, Trash, TrashEntry, TrashUnreadable, trash_time
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Key

NAME, NESTED, TAG = RepoName("team/app"), RepoName("team/app/nested"), Tag("v1")
ONE, TWO, STRONG = Digest.of(b"one"), Digest.of(b"two"), Digest.of(b"two", "sha512")
NOW = datetime(2026, 11, 29, 21, 43, 49, 123456, UTC)
DAY_S = 86_400.0


def trash(driver: Driver, keep_s: float = DAY_S, now: datetime = NOW) -> Trash:
    return Trash(driver, keep_s=keep_s, now=lambda: now)


async def read_all(store: Trash, name: RepoName = NAME) -> list[TrashEntry]:
    found = [entry async for page in store.entries(name) for entry in page]
    return sorted(found, key=lambda entry: (entry.at, entry.kind, str(entry.digest)))


def test_a_stamp_keeps_its_time_and_sorts_by_it() -> None:
    """The age of a record is read from its name, and a listing is in order of time."""
    stamp = new_stamp(NOW)
    assert stamp.startswith("20261129T214349.123456Z-")
    assert stamp_time(stamp) == NOW
    assert new_stamp(NOW) != stamp
    assert new_stamp(NOW + timedelta(microseconds=1)) > stamp
    assert new_stamp(NOW - timedelta(days=400)) < stamp


@pytest.mark.parametrize(
    "text", ["", "v1", "20261129T214349.123456Z", "20261329T214349.123456Z-00000000", "20261129T214349Z-00000000"]
)
def test_other_names_are_no_stamps(text: str) -> None:
    """Else a file that an operator left there would be treated as a record, and removed by its age."""
    assert stamp_time(text) is None
    assert trash_time(layout.below(layout.trashed_tag(NAME, TAG), text or "x")) is None


async def test_each_kind_is_read_as_it_was_recorded(driver: Driver) -> None:
    """A restore writes exactly the links that were there."""
    earlier = [Earlier(TWO, NOW - timedelta(days=2))]
    await trash(driver).add_tag(NAME, TAG, ONE, by="alice", reason="API", earlier=earlier)
    await trash(driver).add_manifest(NAME, STRONG, by="", reason="retention: keep 10")
    await trash(driver).add_layer(NAME, STRONG, TWO, by="böb", reason="API")
    await trash(driver).add_layer(NESTED, ONE, ONE, by="carol", reason="API")

    manifest, tag, layer = sorted(
        await read_all(trash(driver)), key=lambda entry: ("manifest", "tag", "layer").index(entry.kind)
    )
    assert (tag.tag, tag.digest, tag.at, tag.by, tag.reason) == (TAG, ONE, NOW, "alice", "API")
    assert tag.earlier == tuple(earlier)
    assert (tag.manifests, tag.blobs) == ((ONE, TWO), ())
    assert (manifest.digest, manifest.by, manifest.manifests) == (STRONG, "", (STRONG,))
    assert manifest.reason == "retention: keep 10"
    assert (layer.digest, layer.stored, layer.by, layer.manifests) == (STRONG, TWO, "böb", ())
    assert layer.blobs == (STRONG, TWO)
    (nested,) = await read_all(trash(driver), NESTED)
    assert (nested.digest, nested.stored, nested.blobs) == (ONE, ONE, (ONE,))


async def test_every_record_has_a_key_that_the_layout_knows(driver: Driver) -> None:
    """Else a check reports it, and a copy or a collection leaves it out."""
    store = trash(driver)
    await store.add_tag(NAME, TAG, ONE, by="", reason="")
    await store.add_manifest(NAME, ONE, by="", reason="")
    await store.add_layer(NAME, ONE, ONE, by="", reason="")
    pages = store.repository_pages(NAME, by="", reason="")
    await pages.add_manifest(ONE)
    await pages.close()
    await pages.end()
    keys = [key async for page in store.keys(NAME) for key in page]
    assert len(keys) == 5
    for key in keys:
        parsed = layout.parse_key(key)
        assert parsed is not None
        assert (parsed.kind, parsed.name) == ("trash", NAME)
        assert trash_time(key) == NOW


async def test_nothing_is_recorded_where_undo_is_off(driver: Driver) -> None:
    """A registry without undo pays nothing for it, and keeps nothing of what was deleted."""
    store = trash(driver, keep_s=0)
    await store.add_tag(NAME, TAG, ONE, by="", reason="")
    await store.add_manifest(NAME, ONE, by="", reason="")
    await store.add_layer(NAME, ONE, ONE, by="", reason="")
    pages = store.repository_pages(NAME, by="", reason="")
    await pages.add_manifest(ONE)
    await pages.close()
    await pages.end()
    assert not store.enabled
    assert [page async for page in driver.scan(layout.ROOT)] == []


async def test_a_repository_is_recorded_in_pages(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 tags must neither be held in memory nor exceed what can be read at once."""
    monkeypatch.setattr("moorage.registry.trash._PAGE_BYTES", 1000)
    store = trash(driver)
    pages = store.repository_pages(NAME, by="alice", reason="not needed")
    for number in range(50):
        await pages.add_tag(Tag(f"v{number}"), ONE)
    await pages.add_earlier(Tag("v7"), Earlier(TWO, NOW - timedelta(days=1)))
    await pages.add_manifest(ONE)
    await pages.add_layer(STRONG, TWO)
    await pages.close()

    (deletion,) = await store.deletions(NAME)
    assert len(deletion.pages) > 3
    assert (deletion.stamp, deletion.at, deletion.ended, deletion.continues) == (pages.stamp, NOW, False, "")
    entries = await read_all(store)
    assert {entry.tag for entry in entries if entry.kind == "tag"} == {f"v{number}" for number in range(50)}
    assert [entry.digest for entry in entries if entry.kind == "manifest"] == [ONE]
    assert [(entry.digest, entry.stored) for entry in entries if entry.kind == "layer"] == [(STRONG, TWO)]
    (past,) = (entry for entry in entries if entry.kind == "earlier")
    assert (past.tag, past.manifests, past.earlier[0].at) == ("v7", (TWO,), NOW - timedelta(days=1))
    assert {(entry.by, entry.reason, entry.stamp, entry.of_repository) for entry in entries} == {
        ("alice", "not needed", pages.stamp, True)
    }
    await pages.end()
    rest = store.repository_pages(NAME, by="alice", reason="again", continues=pages.stamp)
    await rest.add_manifest(TWO)
    await rest.close()
    assert {(found.continues, found.ended) for found in await store.deletions(NAME)} == {
        ("", True),
        (pages.stamp, False),
    }


async def test_old_records_expire_and_young_ones_stay(driver: Driver) -> None:
    """Else deleted content is kept for ever, or lost within the time that was promised."""
    await trash(driver).add_tag(NAME, TAG, ONE, by="", reason="")
    await trash(driver, now=NOW + timedelta(hours=20)).add_manifest(NAME, TWO, by="", reason="")
    just_before, later = NOW + timedelta(days=1, seconds=-1), NOW + timedelta(days=1)
    assert await trash(driver, now=just_before).expire(NAME) == []
    (found,) = await trash(driver, now=later).expire(NAME, dry_run=True)
    assert len(await read_all(trash(driver))) == 2
    assert await trash(driver, now=later).expire(NAME) == [found]
    assert [entry.digest for entry in await read_all(trash(driver))] == [TWO]
    assert await trash(driver, keep_s=0, now=later).expire(NAME) != [], (
        "off: what was recorded before goes as well"
    )


async def only_key(driver: Driver) -> Key:
    (key,) = [stat.key async for page in driver.scan(layout.trash(NAME)) for stat in page]
    return key


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({"version": 2, "digest": str(ONE), "by": "", "reason": ""}).encode(),
        json.dumps({"version": 1, "digest": "sha256:ab", "by": "", "reason": ""}).encode(),
        json.dumps({"version": 1, "digest": str(ONE)}).encode(),
        b"[" * 100_000,
        b"x" * ((4 << 20) + 1),
    ],
    ids=["empty", "torn", "no object", "binary", "later version", "digest", "missing", "nested", "huge"],
)
async def test_a_damaged_record_is_reported_and_left_out(driver: Driver, content: bytes) -> None:
    """One torn object must not end a restore or a collection; its digest is still known from its key."""
    store = trash(driver)
    await store.add_manifest(NAME, ONE, by="", reason="")
    key = await only_key(driver)
    await driver.write(key, content)
    with pytest.raises(TrashUnreadable) as error:
        await store.read(key)
    assert error.value.digest == ONE
    assert key in str(error.value)
    with capture_logs() as logs:
        assert await read_all(store) == []
    assert [entry["key"] for entry in logs] == [key]
    complaints: list[Key] = []
    assert [page async for page in store.entries(NAME, unreadable=lambda key, _: complaints.append(key))] == []
    assert complaints == [key]


async def test_a_record_that_is_removed_meanwhile_is_no_error(driver: Driver) -> None:
    """A collection expires records while a restore lists them."""
    store = trash(driver)
    await store.add_tag(NAME, TAG, ONE, by="", reason="")
    key = await only_key(driver)
    await store.remove([key])
    assert list(await store.read(key)) == []


async def test_other_objects_are_left_alone(driver: Driver) -> None:
    """An operator's file is no record: it neither fails a listing nor expires."""
    store = trash(driver)
    other = layout.below(layout.trash(NAME), "README")
    await driver.write(other, b"mine")
    assert await read_all(store) == []
    assert await store.expire(NAME, now=NOW + timedelta(days=900)) == []
    with pytest.raises(TrashUnreadable, match="no record"):
        await store.read(other)
    assert await only_key(driver) == other


@pytest.mark.parametrize(
    "line",
    [
        '{"of": "v1", "earlier": []}',
        '{"tag": "v1", "digest": 5}',
        '{"manifest": null}',
        '"layer"',
        f'{{"tag": "v1", "digest": "{ONE}", "earlier": [["{TWO}", "2026-01-01"]]}}',
        "[" * 100_000,
    ],
)
async def test_a_damaged_page_is_unreadable_whatever_its_damage(driver: Driver, line: str) -> None:
    """Some raised other exceptions, which ended every garbage collection."""
    key = layout.below(layout.trashed_repository(NAME), f"{new_stamp(NOW)}.00000")
    header = json.dumps({"version": 1, "by": "", "reason": ""})
    await driver.write(key, f"{header}\n{line}".encode())
    with pytest.raises(TrashUnreadable):
        await trash(driver).read(key)
    await driver.write(key, b"[" * 100_000)
    with pytest.raises(TrashUnreadable):
        await trash(driver).deletions(NAME)
