"""A registry on Google Cloud Storage dies at any request it makes; another node continues.

The dead node's requests reach the store no more, those of its cleanups included.  At each step either nothing of
the fatal request has happened, or all of it and only the answer was lost.  Each run takes every fourth request of
a push, in the second case those between; `python3 dev.py moments` takes all.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.moments import sampled
from tests.storage.gcs.bucket import Bucket, a_bucket
from tests.storage.gcs.server import DROP, LOSE, Request
from tests.storage.pushing import Client

from moorage.storage.driver import Key, KeyMissing, StorageUnavailable, UploadMissing
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob
from moorage.testing.upload_contract import HOME, TO

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.slow

DATA = blob(size=4321).data
ENDS = (30, 1900, 1901, 4000, len(DATA))
"""Cut so that checkpoints leave tails in the state, short chunks, whole ones, and joins are trees with a tail."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Reached as an emulator is: without credentials."""
    with a_bucket() as bucket:
        bucket.server.open_to_all = True
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.server.endpoint)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        yield bucket


def node(bucket: Bucket) -> ObjectDriver:
    """With one attempt a request, so that the first loss is the end."""
    store = bucket.store(endpoint="", credentials={}, chunksize=500, sources=3, attempts=1)
    return ObjectDriver(store, ChunkLog(store, tail_bytes=50))


@pytest.mark.parametrize("how", [DROP, LOSE], ids=["before", "after"])
async def test_a_crash_at_any_request_loses_and_tears_nothing(bucket: Bucket, how: tuple[int, str]) -> None:
    """After a crash of any node at any request, acknowledged bytes are there, and a blob is whole or missing."""
    every = sampled(4, 1)
    for step in itertools.count(1 + (every // 2 if how is LOSE else 0), every):
        bucket.objects.clear()
        count = [0]

        def trouble(request: Request, count: list[int] = count, step: int = step) -> tuple[int, str] | None:
            count[0] += 1
            return None if count[0] < step else how if count[0] == step else DROP

        bucket.server.trouble = trouble
        first, client = node(bucket), Client(DATA, ENDS)
        try:
            await client.push(first)
        except StorageUnavailable:
            died = True
        else:
            died = count[0] >= step
        await first.close()
        bucket.server.trouble = None
        if TO in bucket.objects:
            assert bucket.objects[TO].data == DATA, f"torn at request {step}"
        await go_on(bucket, client)
        if not died:
            assert step > 30
            return


async def go_on(bucket: Bucket, client: Client) -> None:
    """Another node, to whom the client turns, and later the purger."""
    second = node(bucket)
    if not client.finished:
        try:
            await client.push(second)
        except UploadMissing:  # the answer to its end, or to its beginning, was lost: it begins anew
            assert TO in bucket.objects
            client.acknowledged = -1
            await client.push(second)
    assert bucket.objects[TO].data == DATA
    later = datetime.now(UTC) + timedelta(hours=1)
    async for home in second.uploads.abandoned(Key("docker/registry/v2/repositories"), later):
        await second.uploads.discard(home)
    await second.uploads.sweep(Key("docker"), later)
    assert bucket.keys() == {TO: len(DATA)}
    await second.close()


@pytest.mark.parametrize("how", [DROP, LOSE], ids=["before", "after"])
async def test_a_crash_of_a_discard_leaves_nothing_for_ever(bucket: Bucket, how: tuple[int, str]) -> None:
    """A client cancels, and the node dies over it: the purger finds what is left."""
    for step in itertools.count(1):
        bucket.objects.clear()
        first = node(bucket)
        state = await first.uploads.begin(HOME)
        async with first.uploads.append(HOME, state) as appender:
            await appender.write([DATA])
            await appender.checkpoint()
        count = [0]

        def trouble(request: Request, count: list[int] = count, step: int = step) -> tuple[int, str] | None:
            count[0] += 1
            return None if count[0] < step else how if count[0] == step else DROP

        bucket.server.trouble = trouble
        try:
            await first.uploads.discard(HOME)
        except StorageUnavailable:
            died = True
        else:
            died = False
        await first.close()
        bucket.server.trouble = None
        second = node(bucket)
        if f"{HOME}/state" not in bucket.objects:
            with pytest.raises(UploadMissing):
                await second.uploads.state(HOME)
        later = datetime.now(UTC) + timedelta(hours=1)
        async for home in second.uploads.abandoned(Key("docker/registry/v2/repositories"), later):
            await second.uploads.discard(home)
        assert bucket.keys() == {}
        with pytest.raises(KeyMissing):
            await second.stat(TO)
        await second.close()
        if not died:
            return
