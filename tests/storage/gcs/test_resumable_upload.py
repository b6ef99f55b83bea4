"""Large objects in one go, and the uploads that CNCF Distribution left in a bucket, on a fake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.storage.gcs.bucket import Bucket, first, read_all
from tests.storage.gcs.server import DROP, LOSE, Stored

from moorage.storage.driver import (
    Key,
    KeyMissing,
    StorageUnavailable,
    UploadMissing,
)
from moorage.storage.gcs.requests import SESSION_TYPE
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob
from moorage.testing.upload_contract import HOME, TO, extend

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.storage.gcs.store import GcsStore

pytestmark = pytest.mark.slow

DATA = blob(size=23_456).data
KEY = Key("docker/registry/v2/some/key")


@pytest.mark.parametrize("keeps", [None, 1000])
@pytest.mark.parametrize("size", [1000, 1001, 5000, 5432])
@pytest.mark.parametrize("trouble", [None, DROP, LOSE, (503, "backendError")])
async def test_a_large_object_goes_piece_by_piece(
    make: Callable[..., GcsStore], bucket: Bucket, size: int, keeps: int | None, trouble: tuple[int, str] | None
) -> None:
    """Google may keep less than it was sent, and answers get lost; the object is whole or not there."""
    bucket.server.keeps = keeps
    driver = ObjectDriver.with_chunk_log(make(chunksize=2000))
    if trouble is not None:
        bucket.server.trouble = first("session", trouble)
    async with driver.create(TO) as writer:
        for start in range(0, size, 700):
            await writer.write([DATA[start : min(start + 700, size)]])
            assert bucket.keys() == {}
        await writer.commit()
    assert bucket.objects[TO].data == DATA[:size]


async def test_a_large_object_that_is_given_up_leaves_no_session(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """A copy that fails halfway."""
    driver = ObjectDriver.with_chunk_log(make())
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  the refusal comes from inside the context
        async with driver.create(TO) as writer:
            await writer.write([DATA])
            assert len(bucket.server.sessions) == 1
            raise ZeroDivisionError
    assert (bucket.keys(), bucket.server.sessions) == ({}, {})


async def test_a_session_that_is_gone_fails(make: Callable[..., GcsStore], bucket: Bucket) -> None:
    driver = ObjectDriver.with_chunk_log(make())
    with pytest.raises(StorageUnavailable, match="404"):  # noqa: PT012  the refusal comes from inside the context
        async with driver.create(TO) as writer:
            await writer.write([DATA])
            bucket.server.sessions.clear()
            await writer.commit()
    assert bucket.keys() == {}


async def left_behind(
    store: GcsStore, bucket: Bucket, sent: bytes, tail: bytes, *, gone: bool = False, address: str = ""
) -> None:
    """An upload as CNCF Distribution leaves it between two requests."""
    data = Key(f"{HOME}/data")
    uri = address
    if sent:
        uri = uri or await store._uploads._begin(data)
        await store._uploads.deliver(data, uri, sent, 0, None)
    if gone:
        bucket.server.sessions.clear()
    stored = Stored(tail, SESSION_TYPE, {"Session-URI": uri, "Offset": str(len(sent)) if sent else ""})
    bucket.server._store(bucket.name, data, stored)
    bucket.server._store(bucket.name, f"{HOME}/startedat", Stored(b"2026-01-02T03:04:05Z", "text/plain"))


@pytest.mark.parametrize(("sent", "tail"), [(2000, 345), (2000, 0), (0, 345), (0, 0)])
async def test_the_references_unfinished_upload_is_taken_over(
    make: Callable[..., GcsStore], bucket: Bucket, sent: int, tail: int
) -> None:
    """On the day of the migration clients are in the middle of their layers."""
    store = make()
    driver = ObjectDriver.with_chunk_log(store)
    await left_behind(store, bucket, DATA[:sent], DATA[sent : sent + tail])
    with pytest.raises(KeyMissing):
        await driver.stat(Key(f"{HOME}/data"))
    with pytest.raises(KeyMissing):
        await driver.read(Key(f"{HOME}/data"))
    with pytest.raises(KeyMissing):
        await read_all(store, Key(f"{HOME}/data"))
    assert [name async for page in driver.children(HOME) for name in page] == ["startedat"]
    assert [stat.key async for page in driver.scan(HOME) for stat in page] == [f"{HOME}/startedat"]

    state = await driver.uploads.state(HOME)
    assert (state.offset, state.started) == (sent + tail, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    state = await extend(driver, state, b" and more")
    await driver.uploads.publish(HOME, state, TO)
    assert await read_all(store, TO) == DATA[: sent + tail] + b" and more"
    await driver.uploads.discard(HOME)
    assert bucket.keys() == {TO: sent + tail + 9}


async def test_a_session_that_the_reference_finished_is_an_object(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    """It commits first and moves then; a crash between leaves a whole object in the upload."""
    store = make()
    await store.put(Key(f"{HOME}/data"), [DATA])
    await store.put(Key(f"{HOME}/startedat"), [b"2026-01-02T03:04:05Z"])
    driver = ObjectDriver.with_chunk_log(store)
    state = await driver.uploads.state(HOME)
    await driver.uploads.publish(HOME, state, TO)
    assert await read_all(store, TO) == DATA


@pytest.mark.parametrize("how", ["gone", "elsewhere", "no address"])
async def test_a_session_that_cannot_be_finished_is_a_missing_upload(
    make: Callable[..., GcsStore], bucket: Bucket, how: str
) -> None:
    """The client sends the layer anew.  A client with write access to the bucket cannot make the registry send
    bytes to a host of its choice.
    """
    store = make()
    await left_behind(store, bucket, DATA[:2000], b"tail", gone=how == "gone")
    if how != "gone":
        address = "http://169.254.169.254/session/1" if how == "elsewhere" else "not an [address"
        bucket.objects[f"{HOME}/data"].metadata["Session-URI"] = address
    driver = ObjectDriver.with_chunk_log(store)
    state = await driver.uploads.state(HOME)
    with pytest.raises(UploadMissing):
        await driver.uploads.publish(HOME, state, TO)
    await driver.uploads.discard(HOME)
    assert bucket.keys() == {}


@pytest.mark.parametrize("root", ["", "ro[o]t*"])
async def test_what_the_reference_began_goes_when_it_is_old(
    make: Callable[..., GcsStore], bucket: Bucket, root: str
) -> None:
    """Session objects are hidden in listings, so only the sweep finds one without a start time."""
    store = make(rootdirectory=root)
    driver = ObjectDriver.with_chunk_log(store)
    data = store.connection.location.path(f"{HOME}/data")
    bucket.server._store(bucket.name, data, Stored(b"tail", SESSION_TYPE, {}))
    await driver.write(KEY, b"stays")
    now = datetime.now(UTC)
    ours = Key("docker")
    assert await driver.uploads.sweep(ours, now - timedelta(hours=1)) == []
    assert await driver.uploads.sweep(ours, now + timedelta(hours=1), dry_run=True) == [f"{HOME}/data"]
    assert data in bucket.objects
    assert await driver.uploads.sweep(ours, now + timedelta(hours=1)) == [f"{HOME}/data"]
    assert bucket.keys() == {store.connection.location.path(KEY): 5}


async def test_a_cancelled_foreign_upload_leaves_neither_object_nor_session(
    make: Callable[..., GcsStore], bucket: Bucket
) -> None:
    store = make()
    await left_behind(store, bucket, DATA[:2000], b"tail")
    await ObjectDriver.with_chunk_log(store).uploads.discard(HOME)
    assert (bucket.keys(), bucket.server.sessions) == ({}, {})
