"""Packed sets of dead content: they are sets and mappings, and take few bytes for each object."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

import pytest
from tests.gc.stores import mark

from moorage.gc.cache import DigestTable
from moorage.gc.marked import Marked, TagHistoryEntry
from moorage.gc.packed_sets import DeadBlobs, DeadHistory, DeadLinks
from moorage.gc.references import packed
from moorage.registry.collection_state import ListEntry, encode_entries
from moorage.registry.digest_list import DigestList, contains
from moorage.storage.driver import Stat
from moorage.testing.builders import image
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from tests.gc.stores import Store

A, B, C = RepoName("a"), RepoName("b"), RepoName("c")
ONE, TWO, WIDE, OTHER = Digest.of(b"1"), Digest.of(b"2"), Digest.of(b"3", "sha512"), Digest.of(b"4")


@pytest.fixture(params=["new", "of a file"])
def table(request: pytest.FixtureRequest) -> DigestTable:
    found = DigestTable()
    for digest in (TWO, WIDE, ONE):
        found.number(packed(digest))
    return found if request.param == "new" else DigestTable(*found.sections())


def links(table: DigestTable) -> DeadLinks:
    found = DeadLinks(table)
    found.replace(B, [table.number(packed(ONE)), table.number(packed(TWO))])
    found.replace(A, [table.number(packed(WIDE))])
    return found


def test_digests_keep_their_numbers_when_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found by its number, and its number by it, before and after, also those of sha512."""
    monkeypatch.setattr("moorage.gc.cache.LATER_LIMIT", 3)
    digests = [Digest.of(bytes([i]), "sha512" if i % 5 == 0 else "sha256") for i in range(20)]
    table = DigestTable()
    for _ in range(2):
        assert [table.number(packed(digest)) for digest in digests] == list(range(20))
    assert [table.digest(number) for number in range(20)] == [packed(digest) for digest in digests]
    assert table.find(packed(OTHER)) is None
    assert len(table) == 20
    assert table.has_wide
    again = DigestTable(*table.sections())
    assert [again.find(packed(digest)) for digest in digests] == list(range(20))


def test_links_are_a_set(table: DigestTable) -> None:
    """The sweep computes with them and with ordinary sets."""
    found = links(table)
    whole = {(B, ONE), (B, TWO), (A, WIDE)}
    assert found == whole
    assert whole == found
    assert found == links(table)
    assert found != {(B, ONE), (B, TWO), (A, ONE)}
    assert (len(found), bool(found), bool(DeadLinks(table))) == (3, True, False)
    assert [name for name, _ in found] == [B, B, A], "the order of repositories"
    assert (B, ONE) in found
    for missing in ((A, ONE), (C, ONE), (B, OTHER), (B, WIDE), B, (B, str(ONE)), (B, ONE, ONE)):
        assert missing not in found
    some: set[tuple[RepoName, Digest]] = {(B, ONE), (C, TWO)}
    for operated, expected in (
        (found & some, {(B, ONE)}),
        (some & found, {(B, ONE)}),
        (found - some, {(B, TWO), (A, WIDE)}),
        (some - found, {(C, TWO)}),
        (found | some, whole | some),
        (found ^ some, whole ^ some),
    ):
        assert type(operated) is set
        assert operated == expected
    some &= found
    assert some == {(B, ONE)}
    assert some < found
    assert found.isdisjoint({(C, ONE)})
    assert "sha256" in repr(found)
    with pytest.raises(TypeError):
        hash(found)


def test_links_of_a_repository_are_replaced(table: DigestTable) -> None:
    """A mark may examine a repository twice."""
    found = links(table)
    one = table.number(packed(ONE))
    found.replace(B, [one, one])
    assert found == {(B, ONE), (A, WIDE)}
    found.replace(A, [])
    assert len(found) == 1
    assert list(found.repositories()) == [B]


def test_blobs_are_a_mapping_of_sizes(table: DigestTable) -> None:
    """A bucket lists them in the order of their digests, which is not that of their numbers."""
    sizes = {ONE: 10, TWO: 1 << 40, WIDE: 0}
    blobs = DeadBlobs(table)
    for digest, size in sorted(sizes.items()):
        blobs.add(table.number(packed(digest)), size)
    assert blobs == sizes
    assert (len(blobs), blobs.total(), dict(blobs)) == (3, 10 + (1 << 40), sizes)
    assert list(blobs.numbers) == [0, 1, 2]
    assert blobs[ONE] == 10
    assert ONE in blobs
    assert OTHER not in blobs
    assert "sha256" not in blobs
    assert blobs.get(OTHER) is None
    assert not blobs.has(packed(OTHER))
    assert blobs.size(99) is None
    one = table.number(packed(ONE))
    blobs.retain(lambda number: number == one)
    assert blobs == {ONE: 10}
    assert blobs.total() == 10
    blobs.retain(lambda _: False)
    assert not blobs
    assert repr(blobs) == "{}"


def test_history_is_a_set(table: DigestTable) -> None:
    found = DeadHistory(table)
    one, two = table.number(packed(ONE)), table.number(packed(TWO))
    found.replace(A, [("v1", one), ("v1", two), ("v2", one)])
    found.replace(B, [("v1", one)])
    found.replace(B, [])
    entries = {
        TagHistoryEntry(A, Tag("v1"), ONE),
        TagHistoryEntry(A, Tag("v1"), TWO),
        TagHistoryEntry(A, Tag("v2"), ONE),
    }
    assert found == entries
    assert len(found) == 3
    assert found - {TagHistoryEntry(A, Tag("v2"), ONE)} < entries
    assert TagHistoryEntry(A, Tag("v2"), TWO) not in found


def test_a_merged_list_has_the_entries_of_all() -> None:
    """One search instead of one in each of eight hundred lists."""
    randomly = random.Random(1)
    entries = [
        ListEntry(Digest.of(randomly.randbytes(4), algorithm), name)
        for algorithm in ("sha256", "sha512")
        for name in ("", "a", "b")
        for _ in range(60)
    ]
    randomly.shuffle(entries)
    lists = [DigestList(encode_entries(entries[start : start + 50])) for start in range(0, len(entries), 40)]
    merged = DigestList.merged(lists)
    for entry in entries:
        assert contains([merged], entry.name or "anywhere", entry.digest)
        assert contains([merged], "c", entry.digest) is not bool(entry.name)
    assert not contains([merged], "a", OTHER)
    assert not contains([DigestList.merged([])], "a", OTHER)


@pytest.mark.slow
async def test_a_mark_keeps_no_object_for_each_dead_one(store: Store) -> None:
    """A store of years has a million, and the process of a container a limit."""

    def objects() -> int:
        gc.collect()
        return sum(isinstance(each, Digest | Stat | TagHistoryEntry) for each in gc.get_objects())

    def dead(count: int, name: str) -> None:
        built = image()
        for number in range(count):
            built = image(annotations={"number": f"{number} of {name}"})
            store.push(name, "latest", built)
            store.layer(name, store.blob(f"layer {number} of {name}".encode()))
        store.push(name, "latest", image(seed=99))

    dead(2, "few")
    held: list[Marked] = [await mark(store)]
    before = objects()
    held.append(await mark(store))
    of_few = objects() - before
    dead(80, "many")
    held.append(await mark(store))
    before = objects()
    held.append(await mark(store))
    assert len(held[-1].revisions) > 80
    assert len(held[-1].blobs) > 160
    assert len(held[-1].history) > 80
    assert objects() - before <= of_few + 5
