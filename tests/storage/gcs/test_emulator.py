"""The Google Cloud Storage driver against an independent model of the service: gcp-storage-emulator.

It checks what requests look like and the way of an image; it ignores conditions, page sizes and where a listing
begins, so what rests on those is tested against our own server (`gcs/server.py`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import Key, KeyMissing, RangeOutside
from moorage.storage.gcs.options import GcsOptions
from moorage.storage.gcs.store import GcsStore
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob
from moorage.testing.listing_contract import flat, keys_below
from moorage.testing.upload_contract import HOME, TO, extend, note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

KEY = Key("docker/registry/v2/repositories/some/name/_manifests/tags/v1.0/current/link")
DATA = blob(size=1_300_000).data


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="moorage")
    server.start()
    yield f"127.0.0.1:{server._api._httpd.server_port}"
    with contextlib.suppress(Exception):
        server.stop()


@pytest.fixture
async def driver(emulator: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectDriver]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    store = GcsStore(GcsOptions(bucket="moorage", rootdirectory="/a root/", chunksize=256 * 1024, sources=3))
    driver = ObjectDriver(store, ChunkLog(store, tail_bytes=1000))
    yield driver
    await driver.clear(Key("docker"))
    await driver.close()


async def test_objects(driver: ObjectDriver) -> None:
    """Written, looked at, read whole and in part, removed."""
    await driver.probe()
    with pytest.raises(KeyMissing):
        await driver.read(KEY)
    version = await driver.write(KEY, b"0123456789")
    assert (await driver.read(KEY)).version == version
    assert (await driver.read(KEY)).data == b"0123456789"
    assert (await driver.stat(KEY)).size == 10
    for start, stop in ((0, None), (3, None), (3, 7), (10, None), (4, 4)):
        async with driver.open(KEY, start=start, stop=stop) as reader:
            assert b"".join([piece async for piece in reader]) == b"0123456789"[start:stop]
            assert reader.stat.size == 10
    with pytest.raises(RangeOutside):
        async with driver.open(KEY, start=11):
            pass
    assert await driver.handover(KEY, method="GET", expires_s=60) is None
    assert await keys_below(driver, "docker") == {KEY: 10}
    await driver.delete([KEY])
    with pytest.raises(KeyMissing):
        await driver.stat(KEY)


async def test_listings(driver: ObjectDriver) -> None:
    """Names in order of names; what is below is not shown."""
    tags = Key("docker/tags")
    for name in ("1.0", "1.0-alpine", "1.0.1", "v1", "v10"):
        await driver.write(Key(f"{tags}/{name}/current/link"), b"not empty: it breaks at an empty upload")
    assert await flat(driver.children(tags)) == ["1.0", "1.0-alpine", "1.0.1", "v1", "v10"]
    assert await flat(driver.children(tags, after="1.0", limit=2)) == ["1.0-alpine", "1.0.1"]


@pytest.mark.parametrize("size", [10, 1_300_000])
async def test_an_upload_from_its_beginning_to_its_end(driver: ObjectDriver, size: int) -> None:
    """Three requests, a join of what they sent, and nothing left."""
    data = DATA[:size]
    state = await driver.uploads.begin(HOME)
    for start, stop in ((0, size // 2), (size // 2, size // 2 + 1), (size // 2 + 1, size)):
        state = await extend(driver, state, data[start:stop], [note(stop)])
        state = await driver.uploads.state(HOME)
        assert state.offset == stop
    await driver.uploads.publish(HOME, state, TO)
    assert (await driver.read(TO, limit=size)).data == data
    await driver.uploads.discard(HOME)
    assert await keys_below(driver, "docker") == {TO: size}


@pytest.mark.parametrize("size", [1000, 512 * 1024, 1_300_000])
async def test_a_large_object_in_one_go(driver: ObjectDriver, size: int) -> None:
    """A resumable session, ended with and without a last short piece."""
    async with driver.create(TO) as writer:
        await writer.write([DATA[:size]])
        await writer.commit()
    assert (await driver.read(TO, limit=size)).data == DATA[:size]
