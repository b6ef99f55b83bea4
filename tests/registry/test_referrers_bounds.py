"""The work of listing referrers is bounded by constants, for any content: counted, not timed.

The numbers are those of docs/api.md, "Referrers".
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, everything, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.registry import layout, media
from moorage.registry.layout import ParsedKey, parse_key
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrers import StoredReferrers, fallback_tag
from moorage.storage.driver import READ_LIMIT_BYTES, Key
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, image, index
from moorage.types import Digest, Referrer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.storage.driver import Content, Driver
    from moorage.testing.builders import Built

SUBJECT, OTHER = image(seed=1), image(seed=2)
SIGNATURE = artifact("application/vnd.example.sig", subject=SUBJECT, annotations={"by": "me"})
SBOM = artifact("application/vnd.example.sbom", subject=SUBJECT)
PLAIN = image(seed=9, subject=SUBJECT)
INDEX = index(subject=SUBJECT)


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


@pytest.fixture
def manifests(driver: MemoryDriver) -> StoredManifests:
    return StoredManifests(driver, delete_enabled=True)


class Counting(InstrumentedDriver):
    """Keeps what was asked for, and how many bytes were read."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.calls: Counter[str] = Counter()
        self.read_bytes = 0

    async def before(self, call: str) -> None:
        verb, _, key = call.partition(" ")
        self.calls[f"{verb} {_kind(key)}"] += 1

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        content = await super().read(key, limit=limit)
        self.read_bytes += len(content.data)
        return content


def _kind(key: str) -> str:
    parsed = parse_key(Key(key))
    return "list" if parsed is None else parsed.kind


def bare(built: Built) -> Key:
    return layout.referrer_link(NAME, SUBJECT.digest, built.digest)


async def undescribe(driver: Driver, *built: Built) -> None:
    """Links as an earlier version wrote them."""
    for one in built:
        await driver.write(bare(one), str(one.digest).encode())


async def test_a_listing_reads_links_and_no_manifests(driver: Driver, manifests: StoredManifests) -> None:
    """Beside the fallback tag: one stat and one small read for each; then the stat alone, which deletions need."""
    for i in range(10):
        await push(driver, manifests, artifact(f"type/{i}", subject=SUBJECT, annotations={"n": str(i)}))
    counting = Counting(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    first = await referrers.list(NAME, SUBJECT.digest)
    assert counting.calls == {
        "children list": 3, "stat revision": 10, "read referrer": 10, "read tag": 1,
    }, "the third list is that of garbage collection, once in five seconds"  # fmt: skip
    counting.calls.clear()
    assert await referrers.list(NAME, SUBJECT.digest) == first
    assert counting.calls == {"children list": 2, "stat revision": 10, "read tag": 1}
    assert len(first.entries) == 10


async def test_a_push_writes_one_object_for_its_referrer_link(driver: Driver) -> None:
    """The descriptor costs no request of its own, and none is missing after a crash."""
    counting = Counting(driver)
    manifests = StoredManifests(counting)
    await push(driver, manifests, SIGNATURE)
    assert counting.calls["write referrer"] == 1
    content = (await driver.read(bare(SIGNATURE))).data
    await push(driver, StoredManifests(driver), SIGNATURE)
    assert (await driver.read(bare(SIGNATURE))).data == content


async def test_what_a_link_does_not_describe_is_read_once_and_nothing_is_written(
    driver: Driver, manifests: StoredManifests
) -> None:
    """Links of an earlier version, torn ones and damaged ones; the list is the same as ever."""
    for built in (SIGNATURE, SBOM, PLAIN, INDEX):
        await push(driver, manifests, built)
    whole = (await StoredReferrers(driver, manifests).list(NAME, SUBJECT.digest)).entries
    before = await everything(driver)
    await undescribe(driver, SIGNATURE)
    await driver.write(bare(SBOM), before[bare(SBOM)][:-1])
    await driver.write(bare(PLAIN), b"")
    await driver.write(bare(INDEX), bytes(READ_LIMIT_BYTES + 1))
    counting = Counting(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    for blobs in (4, 0):
        counting.calls.clear()
        assert (await referrers.list(NAME, SUBJECT.digest)).entries == whole
        assert counting.calls["read blob"] == blobs
    assert not counting.changes


async def test_a_push_gives_an_old_link_its_descriptor(driver: Driver, manifests: StoredManifests) -> None:
    await push(driver, manifests, SIGNATURE)
    described = (await driver.read(bare(SIGNATURE))).data
    await undescribe(driver, SIGNATURE)
    await push(driver, StoredManifests(driver), SIGNATURE)
    assert (await driver.read(bare(SIGNATURE))).data == described


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of what is large in earnest."""
    monkeypatch.setattr("moorage.registry.referrers._SMALL_BYTES", 600)
    monkeypatch.setattr("moorage.registry.referrers._READ_BYTES", 5000)


async def undescribed(driver: Driver, manifests: StoredManifests, count: int) -> Sequence[Built]:
    """Referrers of 4,000 bytes, which no link describes."""
    extra: dict[str, list[dict[str, str]]] = {"x": [{}] * 1200}
    built = [image(seed=i, subject=SUBJECT, extra=extra, artifact_type=f"type/{i % 2}") for i in range(count)]
    for one in built:
        assert 4000 < one.size < 4400
        await push(driver, manifests, one)
    await undescribe(driver, *built)
    return built


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("types", [(), ("type/1",), ("none/such",)])
async def test_the_bytes_that_one_request_reads_are_bounded(
    driver: Driver, manifests: StoredManifests, types: tuple[str, ...]
) -> None:
    """With any content, and also if none of it is shown; following `next` gives all of it."""
    built = await undescribed(driver, manifests, 30)
    counting = Counting(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    found, after, most = list[Referrer](), "", 0
    while True:
        counting.read_bytes = 0
        page = await referrers.list(NAME, SUBJECT.digest, artifact_types=types, after=after)
        most = max(most, counting.read_bytes)
        found += page.entries
        if page.next is None:
            break
        assert page.next > after
        after = page.next
    assert 5000 < most < 5000 + 4400 + 64 * 71
    expected = [one.digest for one in built if not types or one.artifact_type in types]
    assert [entry.digest for entry in found] == sorted(expected)
    counting.read_bytes = 0
    assert (await referrers.list(NAME, SUBJECT.digest)).next is None, "all are remembered"
    assert counting.read_bytes == 0


@pytest.mark.usefixtures("small_bounds")
async def test_large_manifests_are_read_once_for_all_requests(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty clients at once take no more memory than one: one of them reads, and the others wait."""
    built = await undescribed(driver, manifests, 3)
    reading, most = 0, 0

    class Yielding(Counting):
        async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
            nonlocal reading, most
            if parse_key(key) != ParsedKey("blob", digest=built[0].digest) or limit < READ_LIMIT_BYTES:
                return await super().read(key, limit=limit)
            reading += 1
            most = max(most, reading)
            await asyncio.sleep(0)
            reading -= 1
            return await super().read(key, limit=limit)

    monkeypatch.setattr("moorage.registry.referrers._READ_BYTES", 50_000)
    counting = Yielding(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    found = await asyncio.gather(*(referrers.list(NAME, SUBJECT.digest) for _ in range(20)))
    assert {len(page.entries) for page in found} == {3}
    assert most == 1
    assert counting.read_bytes < 20 * 3 * 71 + 3 * 4400 + 3 * 71


async def test_the_number_of_referrers_that_one_request_looks_at_is_bounded(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both those with a link and those of the fallback tag, also if none is shown."""
    monkeypatch.setattr("moorage.registry.referrers._EXAMINED_LIMIT", 5)
    built = [artifact(f"type/{i}", subject=SUBJECT) for i in range(12)]
    subject512 = artifact("type/512", subject=SUBJECT, algorithm="sha512")
    for one in (*built, subject512):
        await push(driver, manifests, one)
    for one in built[6:]:
        await driver.delete([bare(one)])
    kept = index(*built[4:])
    await push(driver, manifests, kept, fallback_tag(SUBJECT.digest))
    counting = Counting(driver)
    for types, expected in (((), 13), (("type/3",), 1), (("none/such",), 0)):
        referrers, after, found, requests = StoredReferrers(counting, StoredManifests(counting)), "", 0, 0
        while True:
            counting.calls.clear()
            page = await referrers.list(NAME, SUBJECT.digest, artifact_types=types, after=after)
            assert counting.calls["stat revision"] <= 5 + 1, "and that of the fallback tag"
            requests, found = requests + 1, found + len(page.entries)
            if page.next is None:
                break
            assert page.next > after
            after = page.next
        assert (found, requests) == (expected, 3)


@pytest.mark.parametrize("large", [False, True])
async def test_large_manifests_are_described_beside_the_event_loop(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch, *, large: bool
) -> None:
    """When they are pushed, and when a list has to read one: no other request waits for it."""
    threads = list[bool]()

    def watch(module: object, name: str) -> None:
        real: Callable[..., object] = getattr(module, name)

        def work(*arguments: object) -> object:
            threads.append(threading.current_thread() is not threading.main_thread())
            return real(*arguments)

        monkeypatch.setattr(module, name, work)

    watch(sys.modules["moorage.registry.manifests"], "encode")
    watch(media, "stored_description")
    built = image(seed=3, subject=SUBJECT, annotations={"k": "x" * (20_000 if large else 10)})
    await push(driver, manifests, built)
    await undescribe(driver, built)
    page = await StoredReferrers(driver, manifests).list(NAME, SUBJECT.digest)
    assert [entry.digest for entry in page.entries] == [built.digest]
    assert threads == [large, large]


async def test_the_index_of_the_fallback_tag_is_parsed_once(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have 4 MiB, and is read for every list."""
    await push(driver, manifests, index(SIGNATURE), fallback_tag(SUBJECT.digest))
    await driver.clear(layout.referrers_of(NAME, SUBJECT.digest))
    parsed = Counter[str]()

    def counting(name: str) -> None:
        real: Callable[[bytes], media.Parsed] = getattr(media, name)

        def parse(data: bytes) -> media.Parsed:
            parsed[name] += 1
            return real(data)

        monkeypatch.setattr(media, name, parse)

    counting("parse")
    counting("stored_description")
    referrers = StoredReferrers(driver, manifests)
    for _ in range(3):
        assert [entry.digest for entry in (await referrers.list(NAME, SUBJECT.digest)).entries] == [
            SIGNATURE.digest
        ]
    assert parsed == {"parse": 1, "stored_description": 1}, "the index, the manifest"


async def test_what_is_no_referrer_is_remembered_as_such(driver: Driver, manifests: StoredManifests) -> None:
    """Any client may put anything into the fallback tag's index, and it must not be read for every list."""
    entries = [artifact("f/x", subject=OTHER), artifact("no/subject"), image(seed=5)]
    for built in entries:
        await push(driver, manifests, built)
    await push(driver, manifests, index(*entries), fallback_tag(SUBJECT.digest))
    counting = Counting(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    for blobs in (len(entries) + 1, 0):
        counting.calls.clear()
        assert not (await referrers.list(NAME, SUBJECT.digest)).entries
        assert counting.calls["read blob"] == blobs


async def test_a_page_of_large_descriptors_is_read_one_by_one(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four at once would be 256 MiB."""
    monkeypatch.setattr("moorage.registry.referrers._SMALL_BYTES", 600)
    built = [artifact("a/b", subject=SUBJECT, annotations={"k": str(i) * 2000}) for i in range(9)]
    for one in built:
        await push(driver, manifests, one)
    counting = Counting(driver)
    referrers = StoredReferrers(counting, StoredManifests(counting))
    monkeypatch.setattr("moorage.registry.referrers.PAGE_LIMIT_BYTES", 5000)
    found, after = list[Digest](), ""
    for count in (2, 2, 2, 2, 1):
        page = await referrers.list(NAME, SUBJECT.digest, after=after)
        assert len(page.entries) == count
        found += [entry.digest for entry in page.entries]
        after = page.next or ""
    assert found == sorted(one.digest for one in built)
    assert after == ""
    assert counting.calls["read blob"] == 0
