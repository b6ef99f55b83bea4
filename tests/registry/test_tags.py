"""Tag lists: byte order, pages that lose nothing, and nothing listed that cannot be pulled."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.registry.images import NAME, T1, T2, T3, add_blobs, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import NameUnknown, Unavailable
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.tag_list import StoredTags
from moorage.registry.unserved_manifests import UnservedManifests
from moorage.storage.driver import READ_LIMIT_BYTES, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from moorage.storage.driver import Content, Driver, Key

ONE, OTHER = image(seed=1), image(seed=2)
SCHEMA_1 = json.dumps({"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}).encode()
ORDERED = ("1", "1.0", "1.0-alpine", "1.0.1", "A", "B", "_z", "a", "a-b", "a.b", "a_b", "b", "v1", "v10", "v2")


async def fill(driver: Driver, tags: tuple[str, ...], name: RepoName = NAME) -> StoredManifests:
    manifests = StoredManifests(driver, delete_enabled=True)
    await push(driver, manifests, ONE, name=name, tags=tuple(Tag(tag) for tag in tags))
    return manifests


async def walk(tags: StoredTags, limit: int) -> list[str]:
    """All tags, page by page, as a client follows the links."""
    found: list[str] = []
    while True:
        page = await tags.list(NAME, last=found[-1] if found else "", limit=limit)
        assert len(page.names) == limit or not page.more
        found += page.names
        if not page.more:
            return found


async def test_tags_are_in_byte_order(driver: Driver) -> None:
    """Clients compute `last` in byte order; on S3 the reference sorts `1.0.1` before `1.0`."""
    await fill(driver, tuple(reversed(ORDERED)))
    assert (await StoredTags(driver).list(NAME)).names == ORDERED


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 14, 15, 16, 1000])
async def test_pages_lose_nothing_and_say_when_they_end(driver: Driver, limit: int) -> None:
    """On S3 the reference drops `v10` after a page that ended with `v1`; and its last page has a next one."""
    await fill(driver, ORDERED)
    assert await walk(StoredTags(driver), limit) == list(ORDERED)


async def test_last_need_not_exist_and_works_without_a_limit(driver: Driver) -> None:
    """The tag that a page ended with may be deleted before the next page is requested."""
    await fill(driver, ORDERED)
    tags = StoredTags(driver)
    assert (await tags.list(NAME, last="a-a")).names == ORDERED[8:]
    assert (await tags.list(NAME, last="1.0", limit=2)).names == ("1.0-alpine", "1.0.1")
    assert (await tags.list(NAME, last="\U0001f680 /..")).names == ()
    assert (await tags.list(NAME, last="v2", limit=5)).names == ()


async def test_a_page_of_none_is_empty(driver: Driver) -> None:
    """`n=0` checks that the repository exists."""
    await fill(driver, ("a",))
    assert (await StoredTags(driver).list(NAME, limit=0)).names == ()
    with pytest.raises(NameUnknown):
        await StoredTags(driver).list(RepoName("no/such"), limit=0)


async def test_a_repository_is_known_once_it_held_a_manifest(driver: Driver) -> None:
    """Blobs alone do not make it one; without its last tag it stays one, with an empty list and not null."""
    tags = StoredTags(driver)
    await add_blobs(driver, ONE)
    for limit in (None, 5):
        with pytest.raises(NameUnknown) as caught:
            await tags.list(NAME, limit=limit)
        assert caught.value.detail == {"name": NAME}
    manifests = await fill(driver, ("a",))
    await manifests.delete(NAME, Tag("a"))
    for limit in (None, 5):
        assert (await tags.list(NAME, limit=limit)).names == ()
    with pytest.raises(NameUnknown):
        await tags.list(RepoName("library"))


async def test_nested_repositories_do_not_mix(driver: Driver) -> None:
    """`a` and `a/b` share a directory."""
    await fill(driver, ("inner",), RepoName("library/alpine/inner"))
    await fill(driver, ("outer",))
    assert (await StoredTags(driver).list(NAME)).names == ("outer",)


async def test_a_page_shows_only_what_can_be_pulled(driver: Driver) -> None:
    """Half-written pushes and manifests that are gone are left out, and the page is full all the same."""
    await fill(driver, ORDERED)
    other = StoredManifests(driver)
    await push(driver, other, OTHER, Tag("A"))
    await driver.delete([layout.tag_link(NAME, Tag("1.0"))])
    await driver.write(layout.tag_link(NAME, Tag("_z")), b"")
    await driver.delete([layout.revision_link(NAME, OTHER.digest)])
    shown = [tag for tag in ORDERED if tag not in {"1.0", "A", "_z"}]
    for limit in (1, 2, 3, 5, 100):
        assert await walk(StoredTags(driver), limit) == shown


async def test_dead_tags_cost_few_listings(driver: Driver) -> None:
    """A cleanup deleted thousands by digest: the first page behind them must not list once for each n."""
    many = tuple(f"old{i:04}" for i in range(300))
    manifests = await fill(driver, many)
    await manifests.delete(NAME, ONE.digest)
    await push(driver, manifests, OTHER, Tag("z"))
    watched = Counting(driver)
    page = await StoredTags(watched).list(NAME, limit=1)
    assert (page.names, page.more) == (("z",), False)
    assert watched.listings <= 6
    assert (await StoredTags(driver).list(NAME)).names == ("z",)


class Counting(InstrumentedDriver):
    listings = reads = bodies = 0

    async def before(self, call: str) -> None:
        self.bodies += call.startswith(f"read {layout.BLOBS}")
        self.listings += call.startswith("children")
        self.reads += call.startswith(("read", "stat"))


async def test_a_page_reads_only_what_it_shows(driver: Driver) -> None:
    """A page of 3 costs the same in a repository of 15 tags or 100,000: four links, the manifest's, its bytes."""
    await fill(driver, ORDERED)
    watched = Counting(driver)
    tags = StoredTags(watched)
    await tags.list(NAME, limit=3)
    assert watched.bodies == 1
    watched.listings = watched.reads = 0
    await tags.list(NAME, limit=3)
    assert (watched.listings, watched.reads, watched.bodies) == (1, 4 + 1, 1), "the bytes were proven before"


async def test_all_tags_at_once_cost_one_read_each_and_two_for_each_manifest(driver: Driver) -> None:
    """100,000 tags in a bucket are as many requests; the manifests' bytes are read once in a process."""
    manifests = await fill(driver, ORDERED)
    await push(driver, manifests, OTHER, Tag("A"))
    watched = Counting(driver)
    proving = ManifestContents(BlobStore(watched), cache_bytes=0)
    tags = StoredTags(watched, contents=proving)
    assert (await tags.list(NAME)).names == ORDERED
    assert watched.bodies == 2
    watched.listings = watched.reads = 0
    assert (await tags.list(NAME)).names == ORDERED
    assert (watched.listings, watched.reads) == (1, 15 + 2 * 2), "two stats for each manifest"
    assert watched.bodies == 2


async def test_few_manifests_are_read_at_the_same_time() -> None:
    """Each may have 4 MiB; 64 of them would be a quarter of a gigabyte for one request."""
    driver, running, most = MemoryDriver(), 0, 0

    class Slow(InstrumentedDriver):
        async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
            nonlocal running, most
            if not key.startswith(layout.BLOBS):
                return await super().read(key, limit=limit)
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return await super().read(key, limit=limit)

    for seed in range(20):
        await push(driver, StoredManifests(driver), image(seed=seed), Tag(f"v{seed:02}"))
    assert len((await StoredTags(Slow(driver)).list(NAME)).names) == 20
    assert 1 < most <= 8


async def test_a_tag_that_a_push_moves_is_never_missing(driver: Driver) -> None:
    """Between the read of the tag and the look at what it named, the tag moves and the old manifest is deleted."""
    manifests = await fill(driver, ("v1",))

    class Racing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call == f"stat {layout.revision_link(NAME, ONE.digest)}":
                await push(driver, manifests, OTHER, Tag("v1"))
                await driver.delete([layout.revision_link(NAME, ONE.digest)])

    for limit in (None, 5):
        await fill(driver, ("v1",))
        assert (await StoredTags(Racing(driver)).list(NAME, limit=limit)).names == ("v1",)


async def test_a_damaged_manifest_is_one_line_in_the_log(driver: Driver) -> None:
    """A mirror requests the list every minute."""
    await fill(driver, ("v1", "v2"))
    await driver.write(layout.blob_data(ONE.digest), b"other bytes")
    tags = StoredTags(driver)
    with capture_logs() as logs:
        for _ in range(3):
            assert (await tags.list(NAME)).names == ()
    assert [log["digest"] for log in logs] == [str(ONE.digest)]


@pytest.mark.parametrize("limit", [None, 1])
async def test_what_is_not_served_is_read_once(driver: Driver, limit: int | None) -> None:
    """1,500 tags of schema 1, or a few broken manifests of 4 MB, kept the event loop busy at each request."""
    now = [time.time() + 10]
    await fill(driver, ORDERED)
    await push(driver, StoredManifests(driver), OTHER, Tag("A"))
    await driver.write(layout.blob_data(ONE.digest), SCHEMA_1)
    await driver.write(layout.blob_data(OTHER.digest), b"other bytes")
    watched = Counting(driver)
    store = BlobStore(watched)
    unserved = UnservedManifests(store, clock=lambda: now[0])
    tags = StoredTags(watched, contents=ManifestContents(store, unserved=unserved))
    assert (await tags.list(NAME, limit=limit)).names == ()
    first = watched.bodies
    assert (await tags.list(NAME, limit=limit)).names == ()
    assert watched.bodies == first, "neither is read again"
    now[0] += 61
    assert (await tags.list(NAME, limit=limit)).names == ()
    assert watched.bodies > first, "a restored file may have the time of the damaged one"
    await driver.write(layout.blob_data(OTHER.digest), OTHER.data)
    assert (await tags.list(NAME, limit=limit)).names == ("A",), "what is repaired is listed at once"


async def test_an_object_written_a_moment_ago_is_read_again(driver: Driver) -> None:
    """The write that repairs it may get the same time."""
    await fill(driver, ("v1",))
    await driver.write(layout.blob_data(ONE.digest), b"!" * len(ONE.data))
    watched = Counting(driver)
    written = (await driver.stat(layout.blob_data(ONE.digest))).modified.timestamp()
    store = BlobStore(watched)
    unserved = UnservedManifests(store, clock=lambda: written + 1)
    tags = StoredTags(watched, contents=ManifestContents(store, unserved=unserved))
    for reads in (1, 2):
        assert (await tags.list(NAME)).names == ()
        assert watched.bodies == reads


async def test_a_failing_store_is_no_empty_list(driver: Driver) -> None:
    """A mirror that sees an empty list deletes its copies."""

    class Failing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            raise StorageUnavailable(call)

    await fill(driver, (T1, T2, T3))
    for limit in (None, 5):
        with pytest.raises(Unavailable):
            await StoredTags(Failing(driver)).list(NAME, limit=limit)


async def test_what_is_no_tag_is_not_listed(driver: Driver) -> None:
    """A backup program's leavings cannot be pulled, and must not break the list for all clients."""
    await fill(driver, (T1,))
    for junk in (".git", "-x", "y" * 129):
        await driver.write(
            layout.below(layout.below(layout.tags(NAME), junk), "current/link"), str(ONE.digest).encode()
        )
    for limit in (None, 5):
        assert (await StoredTags(driver).list(NAME, limit=limit)).names == (T1,)
