"""A mark that uses what an earlier one read finds what one from the beginning finds."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from tests.gc.naive_mark import Naive, naive_mark
from tests.gc.stores import EAGER, NOW, Store, dead_digests, mark

from moorage.gc.cache import DigestTable, MarkCache
from moorage.gc.mark import Marker
from moorage.registry import layout
from moorage.registry.trash import Trash
from moorage.storage.driver import Key, RequestCost, Stat
from moorage.storage.filesystem import bulk as filesystem_bulk
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from moorage.gc.marked import Marked
    from moorage.storage.driver import Content
    from moorage.testing.builders import Built

OPTIONS: Final = (EAGER, replace(EAGER, delete_untagged=False), replace(EAGER, undo_s=3 * 86_400))
IMAGES: Final = [image(blob(seed=seed % 5), blob(seed=seed), seed=seed) for seed in range(8)]
BUILT: Final[list[Built]] = [
    *IMAGES,
    index(*IMAGES[:2]),
    index(IMAGES[2], IMAGES[3]),
    index(*IMAGES[2:5], annotations={"of": str(IMAGES[6].digest)}),
    artifact("application/signature", blob(seed=50), subject=IMAGES[0]),
    artifact("application/sbom", blob(seed=51), subject=IMAGES[5]),
]
NAMES: Final = ("a", "a/b", "c/d/e", "z")


def result(marked: Marked) -> tuple[object, ...]:
    return (
        dict(marked.blobs),
        set(marked.layers),
        set(marked.revisions),
        marked.repositories,
        marked.counts.repositories,
        marked.counts.manifests,
        marked.counts.layers,
    )


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories that changed a moment ago have fingerprints, as their changes here are apart."""
    monkeypatch.setattr(filesystem_bulk, "SETTLED_NS", 0)


def change(store: Store, randomly: random.Random, *, leaving: bool = True) -> None:
    """Make one change that a push, a mount, a deletion or a collection makes.

    `leaving`: a removed link may leave its directory, as CNCF Distribution does; that it is gone is not seen then.
    """
    name = randomly.choice(NAMES)
    built = randomly.choice(BUILT)
    age = timedelta(days=randomly.choice((0.01, 1, 2, 4)))
    match randomly.randrange(8):
        case 0 | 1:
            store.push(name, f"v{randomly.randrange(3)}", built, age)
        case 2:
            store.manifest(name, built, age)
        case 3:
            store.manifest(name, blob(seed=randomly.randrange(60)), age)
        case 4:
            store.blob(f"orphan {randomly.randrange(20)}".encode(), age)
        case 5:
            remove_one(store, randomly, layout.revisions(RepoName(name)), leaving=leaving)
        case 6:
            remove_one(store, randomly, layout.layers(RepoName(name)), leaving=leaving)
        case 7:
            remove_one(store, randomly, layout.tags(RepoName(name)), "*/current/link", leaving=leaving)


def remove_one(
    store: Store, randomly: random.Random, below: str, pattern: str = "*/*/link", *, leaving: bool
) -> None:
    found = sorted((store.root / below).glob(pattern))
    if found:
        path = randomly.choice(found)
        path.unlink()
        if not leaving or randomly.random() < 0.7:
            path.parent.rmdir()


@pytest.mark.parametrize("seed", range(6))
async def test_the_second_mark_finds_what_the_first_would(store: Store, seed: int) -> None:
    """One that keeps too much is allowed where a tag moves unseen; one that removes more never is."""
    randomly = random.Random(seed)
    options = OPTIONS[seed % len(OPTIONS)]
    cache = MarkCache()
    for round_ in range(12):
        for _ in range(randomly.randrange(4)):
            change(store, randomly, leaving=options.delete_untagged)
        again = await mark(store, options, cache=cache)
        fresh = await mark(store, options)
        if options.delete_untagged:
            assert set(again.blobs) <= set(fresh.blobs), round_
            assert again.layers <= fresh.layers
            assert again.revisions <= fresh.revisions
        else:
            assert result(again) == result(fresh), round_


@pytest.mark.parametrize("seed", range(9))
async def test_a_mark_finds_what_the_rules_say(store: Store, seed: int) -> None:
    """Compared with an implementation that shares no line with the one that is tested."""
    randomly = random.Random(100 + seed)
    options = OPTIONS[seed % len(OPTIONS)]
    dead = 0
    for round_ in range(8):
        for _ in range(1 + randomly.randrange(6)):
            change(store, randomly)
        marked = await mark(store, options)
        naive = naive_mark(
            store.root,
            NOW.timestamp(),
            grace_s=options.grace_s,
            undo_s=options.undo_s,
            delete_untagged=options.delete_untagged,
        )
        found = Naive(
            {digest.hex for digest in marked.blobs},
            {(name, digest.hex) for name, digest in marked.layers},
            {(name, digest.hex) for name, digest in marked.revisions},
        )
        assert found == naive, round_
        dead += len(naive.blobs) + len(naive.layers) + len(naive.revisions)
    assert dead, "the rounds had nothing to remove"


async def test_an_unchanged_store_costs_fingerprints_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, built in enumerate(BUILT):
        store.push(f"team/{number}", "latest", built)
    cache = MarkCache()
    await mark(store, cache=cache)

    async def refuse(keys: Sequence[Key], **_: object) -> Sequence[None]:
        assert not keys, "nothing has changed"
        return ()

    for method in ("names", "read", "find"):
        monkeypatch.setattr(store.driver.bulk, method, refuse)
    # The names of the directories of blobs are listed to find new ones.
    monkeypatch.setattr(Marker, "_blob_prefixes", lambda _: known(cache))
    marked = await mark(store, cache=cache)
    assert not dead_digests(marked)
    assert marked.counts.manifests == len(BUILT) + 7


async def known(cache: MarkCache) -> list[str]:
    return list(cache.prefixes)


async def test_a_link_that_returns_to_an_empty_directory_is_seen(store: Store) -> None:
    """No directory above it changes."""
    one = image()
    store.manifest("a", one)
    link = store.root / layout.revision_link(RepoName("a"), one.digest)
    link.unlink()
    cache = MarkCache()
    options = replace(EAGER, delete_untagged=False)
    assert (await mark(store, options, cache=cache)).blobs
    await mark(store, options, cache=cache)
    link.write_text(str(one.digest))
    assert not dead_digests(await mark(store, options, cache=cache))


async def test_a_file_continues_where_the_last_process_ended(store: Store, tmp_path: Path) -> None:
    for number, built in enumerate(BUILT):
        store.push(f"team/{number}", "latest", built)
    store.manifest("wide", image(blob(seed=1, algorithm="sha512"), seed=99))
    cache = MarkCache("store", "options")
    first = await mark(store, cache=cache)
    path = tmp_path / "cache" / "mark"
    cache.save(path)
    loaded = MarkCache.load(path, "store", "options")
    assert len(loaded.records) == len(cache.records)
    assert loaded.records == cache.records
    assert loaded.counts == cache.counts
    assert [loaded.digests.digest(i) for i in range(len(loaded.digests))] == [
        cache.digests.digest(i) for i in range(len(cache.digests))
    ]
    assert result(await mark(store, cache=loaded)) == result(first)
    store.push("later", "latest", image(seed=77))
    later = await mark(store, cache=loaded)
    loaded.save(path)
    again = MarkCache.load(path, "store", "options")
    assert result(await mark(store, cache=again)) == result(later)
    assert not MarkCache.load(path, "another store", "options").records
    other = MarkCache.load(path, "store", "other options")
    assert not other.records
    assert other.has_references(next(iter(again.records["later"].revisions)))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign", "directory"])
def test_a_damaged_file_is_ignored(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cache"
    cache = MarkCache("store", "options")
    cache.digests.number(b"x" * 32)
    cache.save(path)
    data = bytearray(path.read_bytes())
    if damage == "directory":
        path.unlink()
        path.mkdir()
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes({"cut": bytes(data[:-10]), "empty": b"", "foreign": b"SQLite format 3"}[damage])
    assert len(MarkCache.load(path, "store", "options").digests) == 0
    assert "cannot be used" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    MarkCache("store", "options").save(tmp_path / "file" / "cache")
    assert "cannot be written" in capsys.readouterr().out
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_digests_are_found_by_bisection() -> None:
    randomly = random.Random(1)
    raws = [randomly.randbytes(32) for _ in range(200)] + [randomly.randbytes(64) for _ in range(3)]
    table = DigestTable()
    for raw in raws[:120]:
        table.number(raw)
    for raw in raws[120:]:
        table = DigestTable(*table.sections())
        table.number(raw)
    table = DigestTable(*table.sections())
    assert [table.find(raw) for raw in raws] == list(range(len(raws)))
    assert [table.digest(number) for number in range(len(raws))] == raws
    assert table.find(bytes(32)) is None
    assert table.find(b"\xff" * 32) is None


class Bucket(MemoryDriver):
    """A store of another host, which counts requests; a page has 1,000 keys, in their order."""

    request_cost = RequestCost.NETWORK

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0
        self.reads = 0
        self.sort = True

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        found = [stat async for page in super().scan(prefix) for stat in page]
        if self.sort:
            found.sort(key=lambda stat: stat.key)
        for start in range(0, max(1, len(found)), 1000):
            self.listings += 1
            yield found[start : start + 1000]

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        self.listings += 1
        async for page in super().children(prefix, after=after, limit=limit):
            yield page

    async def read(self, key: Key, *, limit: int = 4 << 20) -> Content:
        self.reads += 1
        return await super().read(key, limit=limit)

    async def stat(self, key: Key) -> Stat:
        raise AssertionError(f"{key}: a listing has its size and time")


async def a_bucket(store: Store) -> Bucket:
    bucket = Bucket()
    async for page in store.driver.scan(layout.ROOT):
        for stat in page:
            await bucket.write(stat.key, (await store.driver.read(stat.key)).data)
    return bucket


@pytest.mark.parametrize("sort", [True, False], ids=["in order", "in any order"])
async def test_a_bucket_is_judged_as_a_directory(store: Store, *, sort: bool) -> None:
    randomly = random.Random(7)
    for _ in range(40):
        change(store, randomly)
    bucket = await a_bucket(store)
    bucket.sort = sort
    later = NOW + timedelta(days=30_000)
    for options in OPTIONS:
        found = await Marker(bucket, options, now=later).mark()
        here = await mark(store, options, now=later)
        assert found.blobs == here.blobs
        assert found.layers == here.layers
        assert found.revisions == here.revisions


async def test_requests_of_a_bucket_are_one_listing_and_one_read_of_each_manifest(
    store: Store, tmp_path: Path
) -> None:
    """Without untagged manifests to delete, links and tags are not read at all."""
    for number, built in enumerate(BUILT):
        store.push(f"team/{number}", "latest", built)
    bucket = await a_bucket(store)
    options = replace(EAGER, delete_untagged=False)
    marker = Marker(bucket, options, now=NOW + timedelta(days=30_000))
    marked = await marker.mark()
    manifests = {built.digest for one in BUILT for built in one.closure if built.is_manifest}
    assert (bucket.listings, bucket.reads) == (2, len(manifests))
    await marker.mark()
    assert (bucket.listings, bucket.reads) == (4, len(manifests))
    assert marked.counts.layers > 30
    eager = Marker(bucket, EAGER, now=NOW + timedelta(days=30_000), cache=marker.cache)
    await eager.mark()
    assert bucket.reads == len(manifests) + len(BUILT)  # each tag
    await eager.mark()
    assert bucket.reads == len(manifests) + len(BUILT)  # none has another time
    eager.cache.save(tmp_path / "cache")
    loaded = MarkCache.load(tmp_path / "cache", "", "")
    assert loaded.records == eager.cache.records
    await Marker(bucket, EAGER, now=NOW + timedelta(days=30_000), cache=loaded).mark()
    assert bucket.reads == len(manifests) + len(BUILT)


async def test_a_tag_that_moves_within_one_tick_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its link in the listing is the same; before anything is removed, it is read."""
    one, other, third = image(seed=1), image(seed=2), image(seed=3)
    store.push("a", "v1", one)
    store.push("a", "v2", other)
    store.push("kept", "v1", third)
    bucket = await a_bucket(store)
    for tag in ("v1", "v2"):
        for built in (one, other):
            await bucket.delete([layout.tag_history_link(RepoName("a"), Tag(tag), built.digest)])
    times = {stat.key: stat async for page in bucket.scan(layout.ROOT) for stat in page}
    marker = Marker(bucket, EAGER, now=NOW + timedelta(days=30_000))
    assert not dead_digests(await marker.mark())
    # v1 moves unseen, then v2 is deleted: by what is recalled, `other` would be dead and `one` alive.
    await bucket.write(layout.tag_link(RepoName("a"), Tag("v1")), str(other.digest).encode())
    await bucket.delete([layout.tag_link(RepoName("a"), Tag("v2"))])
    scan = bucket.scan

    async def as_before(prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        async for page in scan(prefix):
            yield [times[stat.key] for stat in page]

    monkeypatch.setattr(bucket, "scan", as_before)
    reads = bucket.reads
    marked = await marker.mark()
    assert marked.revisions == {("a", one.digest)}
    assert not {part.digest for part in other.closure} & set(marked.blobs)
    assert bucket.reads == reads + 1


async def test_the_trash_keeps_what_can_be_restored(store: Store) -> None:
    one, layer = image(seed=1), blob(seed=2)
    for built in (one, layer):
        for part in built.closure:
            store.blob(part.data)
    for part in one.blobs:
        store.layer("a", part.digest)
    trash = Trash(store.driver, keep_s=86_400, now=lambda: NOW)
    await trash.add_manifest(RepoName("a"), one.digest, by="alice", reason="test")
    await trash.add_layer(RepoName("a"), layer.digest, layer.digest, by="alice", reason="test")
    await trash.add_tag(RepoName("b"), Tag("v1"), one.digest, by="alice", reason="test")
    options = replace(EAGER, undo_s=86_400)
    cache = MarkCache()
    assert not dead_digests(await mark(store, options, cache=cache))
    later = await mark(store, options, cache=cache, now=NOW + timedelta(days=2))
    assert set(later.blobs) == {layer.digest, *(part.digest for part in one.closure)}
    assert later.layers == {("a", part.digest) for part in one.blobs}
    assert len(later.trash) == 3


async def test_a_new_sha512_manifest_is_seen_in_a_repository_that_had_none(store: Store) -> None:
    """It appears in a directory that is not watched."""
    wide = image(seed=1, algorithm="sha512")
    store.push("a", "latest", image(seed=2))
    store.blob(wide.data, algorithm="sha512")
    cache = MarkCache()
    assert set((await mark(store, cache=cache)).blobs) == {wide.digest}
    store.push("a", "latest", image(seed=2))
    store.write(layout.revision_link(RepoName("a"), wide.digest), str(wide.digest).encode())
    store.tag("a", "latest", wide.digest)
    found = await mark(store, replace(EAGER, delete_untagged=False), cache=cache)
    assert wide.digest not in found.blobs
    assert isinstance(wide.digest, Digest)


async def test_a_file_is_written_only_if_there_is_anything_new(store: Store, tmp_path: Path) -> None:
    store.push("a", "latest", image())
    path = tmp_path / "cache"
    cache = MarkCache("store", "options")
    await mark(store, cache=cache)
    cache.save(path)
    loaded = MarkCache.load(path, "store", "options")
    await mark(store, cache=loaded)
    path.unlink()
    loaded.save(path)
    assert not path.exists()
    store.push("b", "latest", image())
    await mark(store, cache=loaded)
    loaded.save(path)
    assert path.exists()


async def test_an_alias_that_comes_after_its_manifest_is_seen(store: Store) -> None:
    """The directory of algorithms is watched as long as a manifest names a layer of another one."""
    data = b"bytes of a layer"
    stored, alias = store.blob(data), Digest.of(data, "sha512")
    layer = replace(blob(data), digest=alias)
    one = image(layer, seed=1)
    store.push("a", "latest", replace(one, parts=tuple(part for part in one.parts if part != layer)))
    cache = MarkCache()
    assert set((await mark(store, cache=cache)).blobs) == {stored}
    store.layer("a", alias, content=str(stored))
    assert not dead_digests(await mark(store, cache=cache))


async def test_a_first_layer_of_sha512_is_seen(store: Store) -> None:
    """It appears in a directory that is not watched."""
    store.push("a", "latest", image())
    wide = store.blob(b"wide", algorithm="sha512")
    cache = MarkCache()
    assert set((await mark(store, cache=cache)).blobs) == {wide}
    store.layer("a", wide, timedelta(minutes=1))
    assert not dead_digests(await mark(store, cache=cache))
