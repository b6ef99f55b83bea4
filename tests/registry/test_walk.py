"""The walk that checks, copies and rebuilds share: complete, resumable, of bounded concurrency."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.registry import layout, walk
from moorage.registry.manifests import StoredManifests
from moorage.storage.driver import RequestCost, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import artifact, image
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.registry.walk import ListedBlob, RepositoryListing
    from moorage.storage.driver import Driver

ONE, STRONG = Digest.of(b"one"), Digest.of(b"two", "sha512")
NAMES = tuple(
    RepoName(name) for name in ("a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "a0", "b/c/d", "ord", "ord-x")
)


class Interrupted(Exception):
    """Raised by a visitor in the place of a signal."""


class Remote(InstrumentedDriver):
    request_cost = RequestCost.NETWORK


async def fill(driver: Driver, *names: str) -> None:
    for name in names:
        await driver.write(layout.layer_link(RepoName(name), ONE), str(ONE).encode())


def prefix(digest: Digest) -> str:
    return f"{digest.algorithm}/{digest.hex[:2]}"


async def visited(driver: Driver, *, after: str = "", with_manifests: bool = False) -> list[str]:
    found: list[str] = []

    async def visit(repository: RepositoryListing) -> None:
        found.append(repository.name)

    await walk.visit_repositories(driver, visit, after=after, with_manifests=with_manifests, in_flight=1)
    return found


@pytest.mark.parametrize("kind", ["bucket", "store"])
async def test_every_repository_is_visited_once_and_in_order(driver: Driver, kind: str) -> None:
    """One that is left out is not copied, and its blobs would be collected."""
    store = ObjectDriver.with_chunk_log(MemoryObjects(Bucket())) if kind == "bucket" else driver
    await fill(store, *reversed(NAMES))
    await store.write(layout.below(layout.REPOSITORIES, "UPPER/_layers/file"), b"")
    await store.write(layout.below(layout.REPOSITORIES, "empty/file"), b"")
    assert await visited(store) == list(NAMES)


async def test_repositories_without_a_manifest_are_left_out_on_request(driver: Driver) -> None:
    """The catalog does not show them either; a rebuild would list each of them in vain."""
    await fill(driver, *NAMES)
    await driver.write(layout.revision_link(NAMES[3], ONE), str(ONE).encode())
    assert await visited(driver, with_manifests=True) == [NAMES[3]]


async def test_a_repository_with_many_nested_ones_is_visited() -> None:
    """Its own directories sort behind the nested ones and are not on the first page of children."""
    driver = MemoryDriver()
    nested = [f"many/{number:04}" for number in range(1100)]
    await fill(driver, "many", *nested)
    assert await visited(driver) == ["many", *nested]


async def test_each_family_is_listed_for_the_visitor_that_asks_for_it(driver: Driver) -> None:
    manifests = StoredManifests(driver)
    built = image(seed=1)
    signature = artifact("application/vnd.example.sig", subject=built)
    await push(driver, manifests, built, Tag("v1"), tags=(Tag("v2"),))
    await push(driver, manifests, signature)
    await driver.write(layout.below(layout.upload_home(NAME, "some-uuid"), "startedat"), b"")
    await driver.write(layout.below(layout.tags(NAME), ".bad/current/link"), b"")
    found: set[object] = set()

    async def add(*entry: object) -> None:
        found.add(entry)

    async def visit(repository: RepositoryListing) -> None:
        assert repository.name == NAME
        await repository.each_layer(lambda digest: add("layer", digest))
        await repository.each_manifest(lambda digest: add("manifest", digest))
        await repository.each_tag(lambda tag: add("tag", tag))
        await repository.each_upload(lambda upload: add("upload", upload))
        await repository.each_referrer(lambda subject, digest: add("referrer", subject, digest))

    await walk.visit_repositories(driver, visit)
    assert found == {
        *(("layer", part.digest) for part in (*built.blobs, *signature.blobs)),
        ("manifest", built.digest),
        ("manifest", signature.digest),
        ("tag", "v1"),
        ("tag", "v2"),
        ("upload", "some-uuid"),
        ("referrer", built.digest, signature.digest),
    }


async def test_a_family_that_no_visitor_asks_for_is_not_listed(driver: Driver) -> None:
    """A search index of tags would pay for the listings of all layers, in a bucket most of the time of a walk."""
    await push(driver, StoredManifests(driver), image(), Tag("v1"))
    calls: list[str] = []

    class Counting(InstrumentedDriver):
        async def before(self, call: str) -> None:
            calls.append(call)

    async def nothing(_: object) -> None:
        pass

    await walk.visit_repositories(Counting(driver), lambda repository: repository.each_tag(nothing))
    assert [call for call in calls if "/_" in call] == [f"children {layout.tags(NAME)}"]


@pytest.mark.parametrize("in_flight", [1, 4, 64])
@pytest.mark.parametrize("failing", NAMES)
async def test_an_interrupted_walk_continues_after_its_position(
    driver: Driver, failing: RepoName, in_flight: int
) -> None:
    """A collection that begins anew after each restart of its node never ends on a large store."""
    await fill(driver, *NAMES)
    positions = [""]
    first: list[str] = []

    async def fail(repository: RepositoryListing) -> None:
        if repository.name == failing:
            raise Interrupted
        first.append(repository.name)

    with pytest.raises(Interrupted):
        await walk.visit_repositories(driver, fail, reached=positions.append, in_flight=in_flight)
    stored = positions[-1]
    before = list(NAMES[: NAMES.index(failing)])
    assert stored == (before[-1] if before else "")
    assert first[: len(before)] == before
    assert await visited(driver, after=stored) == list(NAMES[NAMES.index(failing) :])


async def test_a_position_may_name_what_was_deleted_since(driver: Driver) -> None:
    await fill(driver, *NAMES)
    assert await visited(driver, after="a/b-b") == list(NAMES[3:])


async def test_the_position_waits_for_the_repository_that_takes_longest(driver: Driver) -> None:
    """A walk that resumed behind an unfinished repository would leave the rest of it out."""
    await fill(driver, *NAMES)
    others, positions = asyncio.Event(), list[str]()
    done: list[str] = []

    async def visit(repository: RepositoryListing) -> None:
        if repository.name == NAMES[0]:
            await others.wait()
            assert not positions
        done.append(repository.name)
        if len(done) == len(NAMES) - 1:
            others.set()

    await walk.visit_repositories(driver, visit, reached=positions.append, in_flight=16)
    assert positions == [NAMES[-1]]


async def test_names_in_hand_are_visited_without_a_listing(driver: Driver) -> None:
    """A check has listed every object before."""
    await fill(driver, *NAMES)

    class Unlisted(InstrumentedDriver):
        async def before(self, call: str) -> None:
            raise AssertionError(call)

    found: list[str] = []

    async def visit(repository: RepositoryListing) -> None:
        found.append(repository.name)

    await walk.visit_repositories(Unlisted(driver), visit, names=set(NAMES), in_flight=1)
    assert found == list(NAMES)
    found.clear()
    await walk.visit_repositories(Unlisted(driver), visit, names=set(NAMES), after=NAMES[5], in_flight=1)
    assert found == list(NAMES[6:])


async def test_positions_held_behind_a_long_visit_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one huge repository keeps the names of all others in memory."""
    monkeypatch.setattr(walk, "WINDOW", 3)
    driver = MemoryDriver()
    await fill(driver, *NAMES)
    begun: list[str] = []
    settled, release = asyncio.Event(), asyncio.Event()

    async def visit(repository: RepositoryListing) -> None:
        begun.append(repository.name)
        if len(begun) == walk.WINDOW:
            settled.set()
        if repository.name == NAMES[0]:
            await release.wait()

    running = asyncio.create_task(walk.visit_repositories(driver, visit, in_flight=64))
    await settled.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert begun == list(NAMES[:3])
    release.set()
    await running
    assert begun == list(NAMES)


@pytest.mark.parametrize("remote", [True, False])
async def test_as_many_visits_run_as_the_store_is_worth(*, remote: bool) -> None:
    """One at a time over a network takes hours; hundreds on a local disk delay every pull of the same process."""
    store = MemoryDriver()
    for name in NAMES:
        for number in range(20):
            digest = Digest.of(bytes([number]))
            await store.write(layout.layer_link(name, digest), str(digest).encode())
    driver = Remote(store) if remote else store
    running = most = 0

    async def each(_: Digest) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _turn in range(50):
            await asyncio.sleep(0)
        running -= 1

    await walk.visit_repositories(driver, lambda repository: repository.each_layer(each))
    assert most == walk.requests_in_flight(driver) == (64 if remote else 8)
    assert walk.requests_in_flight(store, driver) == most


async def test_the_narrowest_walk_ends(driver: Driver) -> None:
    """Limits that wait for one another would hang a walk for ever."""
    for number in range(30):
        subject = Digest.of(b"subject %d" % number)
        for other in (ONE, STRONG):
            await driver.write(layout.referrer_link(NAME, subject, other), str(other).encode())
    found: list[Digest] = []

    async def add(_: Digest, digest: Digest) -> None:
        found.append(digest)

    async def visit(repository: RepositoryListing) -> None:
        await repository.each_referrer(add)

    async with asyncio.timeout(60):
        await walk.visit_repositories(driver, visit, in_flight=1)
    assert len(found) == 60


async def test_a_failing_store_ends_the_walk(driver: Driver) -> None:
    """Else what could not be listed would pass for absent, and a collection would remove what it links."""
    await fill(driver, *NAMES)

    class Failing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call == f"children {layout.layers(NAMES[4])}":
                raise StorageUnavailable(call)

    async def nothing(_: object) -> None:
        pass

    with pytest.raises(StorageUnavailable):
        await walk.visit_repositories(Failing(driver), lambda repository: repository.each_layer(nothing))


@pytest.mark.parametrize("in_flight", [1, 64])
async def test_blobs_are_visited_by_prefix_and_resumed(driver: Driver, in_flight: int) -> None:
    """A sweep that is interrupted continues where it was."""
    stored = sorted(
        Digest.of(b"%d" % number, algorithm) for number in range(40) for algorithm in ("sha256", "sha512")
    )
    for digest in stored:
        await driver.write(layout.blob_data(digest), b"12345")
        await driver.write(layout.torn_mark(digest), b"5")
    for stray in ("README", "sha256/README", "sha256/zz/file", "sha256/ab/file", "md5/ab/abcd/data"):
        await driver.write(layout.below(layout.BLOBS, stray), b"")
    failing = stored[50]
    positions = [""]
    first: list[Digest] = []
    rest: list[Digest] = []

    async def fail(page: Sequence[ListedBlob]) -> None:
        assert {blob.stat.size for blob in page} == {5}
        if failing in (blob.digest for blob in page):
            raise Interrupted
        first.extend(blob.digest for blob in page)

    async def collect(page: Sequence[ListedBlob]) -> None:
        rest.extend(blob.digest for blob in page)

    with pytest.raises(Interrupted):
        await walk.visit_blobs(driver, fail, reached=positions.append, in_flight=in_flight)
    await walk.visit_blobs(driver, collect, after=positions[-1], in_flight=in_flight)
    assert sorted(rest) == [digest for digest in stored if prefix(digest) > positions[-1]]
    assert set(first) | set(rest) == set(stored)
    assert positions[-1] < prefix(failing)
    if in_flight == 1:
        assert not set(first) & set(rest)


async def test_objects_are_all_listed_and_parsed(driver: Driver) -> None:
    """What is not listed is not checked."""
    await push(driver, StoredManifests(driver), image(), Tag("v1"))
    await driver.write(layout.below(layout.ROOT, "stray/file"), b"12")
    found = [entry async for page in walk.list_objects(driver) for entry in page]
    keys = [stat.key async for page in driver.scan(layout.ROOT) for stat in page]
    assert sorted(entry.stat.key for entry in found) == sorted(keys)
    assert [entry.stat.size for entry in found if entry.parsed is None] == [2]


async def test_digests_below_a_key_are_those_that_clients_could_name() -> None:
    """What an editor or a restored backup left beside them ends neither a listing nor a copy."""
    driver = MemoryDriver()
    for digest in (ONE, STRONG):
        await driver.write(layout.layer_link(NAME, digest), str(digest).encode())
    for stray in ("sha256/notes.txt/link", "sha256/ab/link", f"md5/{'ab' * 16}/link", "README"):
        await driver.write(layout.below(layout.layers(NAME), stray), b"")
    found = [digest async for page in walk.list_digests(driver, layout.layers(NAME)) for digest in page]
    assert sorted(map(str, found)) == sorted(map(str, (ONE, STRONG)))
    assert [page async for page in walk.list_digests(driver, layout.revisions(NAME))] == []


async def test_digests_after_one_of_them() -> None:
    """In the order of their texts, for any `after`: a client may request the page after anything."""
    driver = MemoryDriver()
    stored = sorted(
        Digest.of(bytes([number]), algorithm) for number in range(20) for algorithm in ("sha256", "sha512")
    )
    for digest in stored:
        await driver.write(layout.layer_link(NAME, digest), str(digest).encode())
    texts = [str(digest) for digest in stored]
    odd = ["", "sha256", "sha256:", "sha256:g", "sha256;", "sha3", "sha512:", "t", "\n", "\u00e9", "sha256:../x"]
    for after in (*texts, *odd, *(text[:20] for text in texts)):
        pages = walk.list_digests(driver, layout.layers(NAME), after=after)
        assert [str(digest) async for page in pages for digest in page] == [text for text in texts if text > after]
