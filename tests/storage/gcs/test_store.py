"""The Google Cloud Storage driver beside its contract, on a fake (`gcs/server.py`): conditions, listings,
keys, failures of the store.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.storage.gcs.bucket import Bucket, always, first, read_all, requested
from tests.storage.gcs.server import DROP, LOSE, Request, Stored

from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Key,
    StorageExhausted,
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.gcs.requests import SESSION_TYPE
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.driver import ObjectDriver
from moorage.storage.object_store.interface import Source
from moorage.testing.builders import blob
from moorage.testing.upload_contract import HOME, TO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.storage.driver import UploadState, When
    from moorage.storage.gcs.store import GcsStore

pytestmark = pytest.mark.slow

DATA = blob(size=23_456).data
KEY = Key("docker/registry/v2/some/key")
SCRATCH = Key(f"{HOME}/joining")


@pytest.mark.parametrize("trouble", [DROP, LOSE, (503, "backendError"), (429, "rateLimitExceeded")])
async def test_a_condition_is_not_made_false_by_our_own_lost_attempt(
    make: Callable[..., GcsStore], bucket: Bucket, trouble: tuple[int, str]
) -> None:
    """A tag that was written, and whose answer was lost, is no conflict."""
    store = make()
    bucket.server.trouble = first("insert", trouble)
    version = await store.put(KEY, [b"mine"], ABSENT)
    assert version == str(bucket.objects[KEY].generation)
    bucket.server.trouble = first("insert", trouble)
    assert await store.put(KEY, [b"mine", b" too"], Unchanged(version)) != version
    bucket.server.trouble = first("insert", trouble)
    with pytest.raises(Conflict):
        await store.put(KEY, [b"late"], Unchanged(version))
    assert bucket.objects[KEY].data == b"mine too"


async def test_versions_of_other_stores_never_match(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """After a move from another back end a remembered version is simply old; 0 would mean "create"."""
    store = make()
    for version in ("", "0", '"d41d8cd98f00b204e9800998ecf8427e"', "-1"):
        with pytest.raises(Conflict):
            await store.put(KEY, [b"text"], Unchanged(Version(version)))
    assert bucket.keys() == {}


async def test_racing_creators_have_one_winner(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """Two pushes of one tag that must not exist yet."""
    stores = [make() for _ in range(6)]
    done = await asyncio.gather(
        *(store.put(KEY, [str(number).encode()], ABSENT) for number, store in enumerate(stores)),
        return_exceptions=True,
    )
    won = [number for number, result in enumerate(done) if isinstance(result, str)]
    assert len(won) == 1
    assert sum(isinstance(result, Conflict) for result in done) == 5
    assert bucket.objects[KEY].data == str(won[0]).encode()


async def test_listings_of_many_pages_miss_and_repeat_nothing(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """Tags sort otherwise as keys than as names, and Google may end a page anywhere."""
    bucket.server.page = 3
    store = make()
    driver = ObjectDriver.with_chunk_log(store)
    names = [f"{major}{rest}" for major in ("1.0", "v1", "v10") for rest in ("", "-alpine", ".1", "_x", "0")]
    for name in names:
        for below in ("current/link", "index/sha256/ab/link"):
            bucket.server._store(bucket.name, f"tags/{name}/{below}", Stored(b"", "x"))
    tags = Key("tags")
    assert [name async for page in driver.children(tags) for name in page] == sorted(set(names))
    for after in ("", "1.0", "1.0-alpine", "v1", "zz"):
        for limit in (1, 2, 7):
            found = [name async for page in driver.children(tags, after=after, limit=limit) for name in page]
            assert found == [name for name in sorted(set(names)) if name > after][:limit]
    assert {
        request.query.get("startOffset") for request in requested(bucket, "list") if "pageToken" in request.query
    } > {"tags/1.0"}, "a token goes with the request that gave it"
    assert len([stat async for page in driver.scan(tags) for stat in page]) == 2 * len(set(names))


async def test_a_listing_reads_only_what_it_shows(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """The catalog of a large registry is one request a page, of names and nothing else."""
    store = make()
    for number in range(50):
        bucket.server._store(bucket.name, f"repositories/r{number:03}/deep/down/link", Stored(b"", "x"))
    await store.get(Key("repositories/r000/deep/down/link"), limit=10)
    bucket.server.requests.clear()
    driver = ObjectDriver.with_chunk_log(store)
    found = [name async for page in driver.children(Key("repositories"), after="r009", limit=5) for name in page]
    assert found == ["r010", "r011", "r012", "r013", "r014"]
    (request,) = bucket.server.requests
    assert int(request.query["maxResults"]) <= 64
    assert request.query["startOffset"] == "repositories/r009"
    assert "name" in request.query["fields"]


async def test_an_empty_page_that_is_not_the_last_is_no_end(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """A page may hold nothing but the reference's sessions."""
    bucket.server.page = 1
    store = make()
    bucket.server._store(bucket.name, "a/1", Stored(b"", SESSION_TYPE))
    bucket.server._store(bucket.name, "a/2", Stored(b"", "x"))
    assert (await store.page(Key("a"), limit=1)).names == ["2"]


@pytest.mark.parametrize(
    ("root", "prefix"),
    [("", ""), ("/", ""), ("a", "a/"), ("/a/b/", "a/b/"), ("//a//b//", "a//b/"), ("blank s/ü", "blank s/ü/")],
)
async def test_a_root_stands_before_every_key(
    make: Callable[..., GcsStore], bucket: Bucket, root: str, prefix: str
) -> None:
    """As the reference places them: another spelling would start an empty registry over a full bucket."""
    driver = ObjectDriver.with_chunk_log(make(rootdirectory=root))
    await driver.write(KEY, b"text")
    assert list(bucket.keys()) == [f"{prefix}{KEY}"]
    assert [stat.key async for page in driver.scan(Key("docker")) for stat in page] == [KEY]
    assert [name async for page in driver.children(Key("docker")) for name in page] == ["registry"]
    assert (await driver.read(KEY)).data == b"text"


@pytest.mark.parametrize("cut", [0, 1, 5000])
async def test_a_download_that_breaks_is_taken_up_where_it_broke(
    make: Callable[..., GcsStore], bucket: Bucket, cut: int
) -> None:
    """A pull of gigabytes survives a connection that does not."""
    store = make()
    await store.put(KEY, [DATA])

    def trouble(request: Request) -> None:
        if len(requested(bucket, "media")) > 1:
            bucket.server.cut_after = None

    bucket.server.cut_after, bucket.server.trouble = cut, trouble
    assert await read_all(store, KEY, start=10, stop=20_000) == DATA[10:20_000]
    again = requested(bucket, "media")[1:]
    assert [request.query.get("generation") for request in again] == [str(bucket.objects[KEY].generation)]


async def test_a_download_is_never_put_together_of_two_objects(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """A replacement of the object meanwhile ends the download, and does not change its second half."""
    store = make()
    await store.put(KEY, [DATA])
    bucket.server.cut_after = 5000
    bucket.server.trouble = lambda request: None
    with pytest.raises(StorageUnavailable):  # noqa: PT012  the refusal comes with the second piece
        async with store.stream(KEY) as reader:
            async for _ in reader:
                bucket.server._store(bucket.name, KEY, Stored(DATA[::-1], "x"))


@pytest.mark.parametrize("trouble", [DROP, (503, "backendError"), (429, "rateLimitExceeded"), (408, "")])
async def test_passing_failures_are_tried_again(
    make: Callable[..., GcsStore], bucket: Bucket, trouble: tuple[int, str]
) -> None:
    store = make()
    await store.put(KEY, [DATA[:100]])
    sources = [Source(KEY, 100, Version(str(bucket.objects[KEY].generation)))]
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: store.head(KEY),
        "media": lambda: store.get(KEY, limit=100),
        "list": lambda: store.page(Key("docker")),
        "compose": lambda: store.join(TO, sources * 2, b"", SCRATCH),
        "delete": lambda: store.delete([TO]),
    }
    for what, ask in asks.items():
        bucket.server.trouble = first(what, trouble, 3)
        await ask()
        bucket.server.trouble = always(what, trouble)
        with pytest.raises(StorageUnavailable):
            await ask()


@pytest.mark.parametrize(
    ("answer", "kind", "output"),
    [
        ((403, "forbidden"), StorageUnavailable, "may not do this"),
        ((403, "quotaExceeded"), StorageExhausted, "quotaExceeded"),
        ((401, "authError"), StorageUnavailable, "not valid"),
        ((400, "invalid"), StorageUnavailable, "made by a test"),
    ],
)
async def test_lasting_failures_are_told_with_place_and_reason(
    make: Callable[..., GcsStore], bucket: Bucket, answer: tuple[int, str], kind: type[Exception], output: str
) -> None:
    """The log of a failed push names the bucket, the key and the remedy, and holds no token."""
    store = make()
    bucket.server.trouble = always("insert", answer)
    with pytest.raises(kind) as caught:
        await store.put(KEY, [b"text"])
    for text in (output, bucket.name, KEY, str(answer[0])):
        assert text in str(caught.value)
    assert not [token for token in bucket.server.tokens if token in str(caught.value)]
    assert "uploadType" not in str(caught.value)


async def test_a_token_that_is_no_longer_taken_is_renewed(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """A key that was rotated, a server whose clock went wrong: one request more, not an hour of failures."""
    store = make()
    await store.put(KEY, [b"text"])
    bucket.server.tokens.clear()
    assert (await store.get(KEY, limit=10)).data == b"text"


async def test_a_bucket_that_is_not_there_is_told(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """An object that is missing and a bucket that is missing are both 404."""
    driver = ObjectDriver.with_chunk_log(make(bucket="no-such-bucket"))
    for ask in (driver.probe(), driver.stat(KEY), driver.read(KEY), driver.write(KEY, b""), driver.delete([KEY])):
        with pytest.raises(StorageUnavailable, match="there is no such bucket"):
            await ask
    with pytest.raises(StorageUnavailable, match="there is no such bucket"):
        _ = [page async for page in driver.children(Key("docker"))]


async def test_an_answer_that_is_not_googles_is_told(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """An endpoint that is some other web server."""
    store = make()
    await store.put(KEY, [b"text"])
    bucket.server.trouble = lambda request: (200, "")
    for ask in (store.head(KEY), store.put(KEY, [b"text"])):
        with pytest.raises(
            StorageUnavailable, match=r"http://127\.0\.0\.1:[0-9]+, bucket .*: .*is the endpoint right"
        ):
            await ask
    bucket.server.trouble = None
    with pytest.raises(StorageUnavailable, match="Cannot connect"):
        await make(endpoint="http://127.0.0.1:1", attempts=2).head(KEY)


async def test_a_closed_store_opens_nothing(bucket: Bucket) -> None:
    """Requests that still run when a worker ends would open sessions that nothing closes (tests/leaks.py finds
    them).
    """
    for used in (True, False):
        store = bucket.store()
        if used:
            await store.put(KEY, [b"text"])
        await store.close()
        with pytest.raises(StorageUnavailable, match="closed"):
            await store.head(KEY)
        await store.close()


async def test_memory_of_an_upload_is_bounded(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """Two chunks at most are on their way: the third is taken only when the first has been put."""
    driver = ObjectDriver(store := make(), ChunkLog(store, tail_bytes=0))
    on_way = most = 0
    put = store.put

    async def counted(key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        nonlocal on_way, most
        on_way += sum(map(len, data))
        most = max(most, on_way)
        try:
            return await put(key, data, when)
        finally:
            on_way -= sum(map(len, data))

    store.put = counted
    state: UploadState = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        for start in range(0, 20_000, 100):
            await appender.write([DATA[start : start + 100]])
        state = await appender.checkpoint()
    assert state.offset == 20_000
    assert most < 3000
