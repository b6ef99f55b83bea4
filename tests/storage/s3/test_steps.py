"""A registry on S3 dies at every request it makes; another node continues.

The dead node's requests reach the store no more, those of its cleanups included.  At each step either nothing of
the fatal request has happened, or all of it and only the answer was lost.  On moto, or on the store that the
environment names, through `front()`.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.moments import sampled
from tests.s3 import Bucket, Request, Trouble, a_bucket, front, is_moto
from tests.storage.pushing import Client

from moorage.storage.driver import Key, KeyMissing, StorageUnavailable, UploadMissing
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.driver import ObjectDriver
from moorage.storage.s3.options import S3Limits
from moorage.storage.s3.store import S3Store
from moorage.testing.builders import blob
from moorage.testing.upload_contract import HOME, TO

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

UNDER = Key("docker/registry/v2/repositories")
DROPPED, LOST = Trouble(500, "InternalError"), Trouble(500, "InternalError", done=True)
CUTS = (0.03, 1.9, 1.901, 4.0, 4.321)
"""Ends of requests, in chunks: tails that stay in the state, short chunks, whole ones, more of them than parts."""
PARTS = 3
EVERY = int(os.environ.get("MOORAGE_STEPS") or sampled(8, 1))
"""Only the first, and then each of so many requests, is fatal; those between them where the answer is lost."""


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(watched=True) as bucket:
        yield bucket


class World:
    """One bucket, on which nodes die.  `unit` is the smallest part that the store takes."""

    def __init__(self, bucket: Bucket, unit: int) -> None:
        self.bucket, self.unit = bucket, unit
        self.data = blob(size=round(CUTS[-1] * unit)).data
        self.ends = [round(cut * unit) for cut in CUTS]

    def node(self) -> ObjectDriver:
        """With one attempt a request, so that the first loss is the end."""
        limits = S3Limits(part_bytes=3 * self.unit, parts=PARTS, group_bytes=2 * self.unit)
        options = self.bucket.options(
            chunksize=self.unit,
            limits=limits,
            multipartcopythresholdsize=3 * self.unit,
            multipartcopymaxconcurrency=1,
            attempts=1,
        )
        store = S3Store(options)
        return ObjectDriver(store, ChunkLog(store, tail_bytes=self.unit // 10))

    def clear(self) -> None:
        client, name = self.bucket.client, self.bucket.name
        for key in list(self.bucket.keys()):
            client.delete_object(Bucket=name, Key=key)
        for entry in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=name, Key=entry["Key"], UploadId=entry["UploadId"])

    def assert_holds(self, *keys: Key) -> None:
        assert self.bucket.keys() == dict.fromkeys(keys, len(self.data))
        assert self.bucket.in_progress() == []


@pytest.fixture
def world(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> World:
    if not is_moto():
        return World(bucket, 5 << 20)
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    return World(bucket, 1000)


class Dying:
    """From request `step` on nothing reaches the store; that one may be done, and its answer lost."""

    def __init__(self, step: int, how: Trouble) -> None:
        self.count, self._step, self._how = 0, step, how

    def __call__(self, _: Request) -> Trouble | None:
        self.count += 1
        if self.count < self._step:
            return None
        return self._how if self.count == self._step else DROPPED

    @property
    def died(self) -> bool:
        return self.count >= self._step


async def purge(driver: ObjectDriver) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    async for home in driver.uploads.abandoned(UNDER, later):
        await driver.uploads.discard(home)
    await driver.uploads.sweep(Key("docker"), later)
    await driver.delete(
        [stat.key async for page in driver.scan(Key("docker/registry/v2/conditions")) for stat in page]
    )


async def whole(world: World, driver: ObjectDriver) -> bool:
    """Return whether there is a blob, which is never in part."""
    try:
        found = await driver.read(TO, limit=len(world.data))
    except KeyMissing:
        return False
    assert found.data == world.data, "torn"
    return True


@pytest.mark.parametrize("how", [DROPPED, LOST], ids=["before", "after"])
async def test_a_crash_at_any_request_loses_and_tears_nothing(world: World, how: Trouble) -> None:
    """After a crash of any node at any request, acknowledged bytes are there, and a blob is whole or missing."""
    step, died = 1 - EVERY + (EVERY // 2 if how is LOST else 0), True
    while died:
        step += EVERY
        world.clear()
        front().trouble = dying = Dying(step, how)
        first, client = world.node(), Client(world.data, world.ends)
        try:
            await client.push(first)
        except StorageUnavailable:
            assert dying.died
        died = dying.died
        await first.close()
        front().trouble = None
        second = world.node()
        there = await whole(world, second)
        if not client.finished:
            try:
                await client.push(second)
            except UploadMissing:  # the answer to its end, or to its beginning, was lost: it begins anew
                assert there or step < 10
                client.acknowledged = -1
                await client.push(second)
        assert await whole(world, second)
        await purge(second)
        await second.close()
        world.assert_holds(TO)
    assert step > 30


@pytest.mark.parametrize("how", [DROPPED, LOST], ids=["before", "after"])
async def test_a_crash_of_a_discard_leaves_nothing_for_ever(world: World, how: Trouble) -> None:
    """A client cancels, and the node dies over it: the purger finds what is left."""
    step, died = 0, True
    while died:
        step += 1
        world.clear()
        first = world.node()
        state = await first.uploads.begin(HOME)
        async with first.uploads.append(HOME, state) as appender:
            await appender.write([world.data])
            await appender.checkpoint()
        front().trouble = dying = Dying(step, how)
        try:
            await first.uploads.discard(HOME)
        except StorageUnavailable:
            assert dying.died
        died = dying.died
        await first.close()
        front().trouble = None
        second = world.node()
        await purge(second)
        await second.close()
        world.assert_holds()
