"""Joins of chunks in Google Cloud Storage, on a fake (`gcs/server.py`), and the objects that are left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.storage.gcs.bucket import Bucket, read_all, requested

from moorage.storage.driver import (
    Key,
    StorageUnavailable,
    UploadChanged,
    UploadMissing,
)
from moorage.storage.object_store.interface import Source
from moorage.testing.builders import blob
from moorage.testing.upload_contract import HOME, TO

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.storage.gcs.server import Request

    from moorage.storage.gcs.store import GcsStore

pytestmark = pytest.mark.slow

DATA = blob(size=23_456).data
SCRATCH = Key(f"{HOME}/joining")


async def sources_of(store: GcsStore, data: bytes, size: int) -> list[Source]:
    """`data` in objects of `size` bytes."""
    found = []
    for number, start in enumerate(range(0, len(data), size)):
        key, piece = Key(f"{HOME}/parts/{number:08d}"), data[start : start + size]
        found.append(Source(key, len(piece), await store.put(key, [piece])))
    return found


@pytest.mark.parametrize("tail", [b"", b"tail"])
@pytest.mark.parametrize("count", [1, 2, 32, 33, 70])
async def test_any_number_of_chunks_is_joined(
    make: Callable[..., GcsStore], bucket: Bucket, count: int, tail: bytes
) -> None:
    """Google refuses more than 32 sources in a call; a layer has as many chunks as it has."""
    store = make(sources=32)
    data = DATA[: count * 7]
    sources = await sources_of(store, data, 7)
    await store.join(TO, sources, tail, SCRATCH)
    assert await read_all(store, TO) == data + tail
    assert bucket.objects[TO].kind == "application/octet-stream"
    assert bucket.keys() == {**{source.key: source.size for source in sources}, TO: len(data + tail)}


async def test_a_rewrite_that_takes_several_calls_is_done_to_its_end(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """Between storage classes or places Google copies for 30 s and returns a token for the next request."""
    bucket.server.rewritten = 10_000
    store = make()
    sources = await sources_of(store, DATA, len(DATA))
    await store.join(TO, sources, b"", SCRATCH)
    assert await read_all(store, TO) == DATA
    assert ["rewriteToken" in request.query for request in requested(bucket, "rewrite")] == [False, True, True]


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_a_blob_that_is_there_is_kept(make: Callable[..., GcsStore], bucket: Bucket, count: int) -> None:
    """A layer that another client has pushed meanwhile is not written again under a reader."""
    store = make()
    sources = await sources_of(store, DATA[:800], 800 // count)
    await store.put(TO, [DATA[:800]])
    generation = bucket.objects[TO].generation
    await store.join(TO, sources, b"", SCRATCH)
    assert bucket.objects[TO].generation == generation


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_what_is_there_and_is_not_the_blob_is_replaced(
    make: Callable[..., GcsStore], bucket: Bucket, count: int
) -> None:
    """An object torn by another program does not prevent the whole layer for ever."""
    store = make()
    sources = await sources_of(store, DATA[:800], 800 // count)
    await store.put(TO, [b"torn"])
    await store.join(TO, sources, b"", SCRATCH)
    assert await read_all(store, TO) == DATA[:800]


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("there", [None, b"torn"])
async def test_a_chunk_overwritten_behind_our_back_is_refused(
    make: Callable[..., GcsStore], bucket: Bucket, count: int, there: bytes | None
) -> None:
    """A blob is exactly what its writer hashed, or nothing."""
    store = make()
    sources = await sources_of(store, DATA[:800], 800 // count)
    if there is not None:
        await store.put(TO, [there])
    await store.put(sources[-1].key, [DATA[: sources[-1].size]])
    with pytest.raises(UploadChanged):
        await store.join(TO, sources, b"", SCRATCH)
    await store.delete([sources[-1].key])
    with pytest.raises((UploadMissing, UploadChanged)):
        await store.join(TO, sources, b"", SCRATCH)
    assert (bucket.objects[TO].data if there is not None else None) == there
    assert not [key for key in bucket.objects if key.startswith(SCRATCH)]


async def test_a_failing_join_leaves_nothing_between(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """Every object that is left behind is billed every month."""
    store = make()
    sources = await sources_of(store, DATA[:3000], 100)
    fails = [0]

    def trouble(request: Request) -> tuple[int, str] | None:
        fails[0] += request.what == "compose"
        return (400, "invalid") if request.what == "compose" and fails[0] > 7 else None

    bucket.server.trouble = trouble
    with pytest.raises(StorageUnavailable, match="400 invalid"):
        await store.join(TO, sources, b"tail", SCRATCH)
    assert set(bucket.keys()) == {source.key for source in sources}


async def test_a_cancelled_join_leaves_nothing_between(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """A client that hangs up while its layer is joined."""
    store = make()
    sources = await sources_of(store, DATA[:3000], 100)
    composing = asyncio.Event()
    loop = asyncio.get_running_loop()

    def trouble(request: Request) -> None:
        if request.what == "compose":
            loop.call_soon_threadsafe(composing.set)

    bucket.server.trouble = trouble
    task = asyncio.ensure_future(store.join(TO, sources, b"tail", SCRATCH))
    await composing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(bucket.keys()) == {source.key for source in sources}


async def test_racing_publishers_make_one_blob(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    """Two clients push one layer; the one that comes second is answered 201 all the same."""
    nodes = [make(), make()]
    lists = [await sources_of(nodes[0], DATA[:3000], 1000) for _ in nodes][-1:] * 2
    bucket.server.requests.clear()
    await asyncio.gather(
        *(node.join(TO, list(sources), b"", SCRATCH) for node, sources in zip(nodes, lists, strict=True))
    )
    assert await read_all(nodes[0], TO) == DATA[:3000]
