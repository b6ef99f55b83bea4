"""Blobs through a mirror: one download, followed from its first byte, never served or stored unverified."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

import pytest
from tests.proxy.mirrors import APP, mirror_of
from tests.upstream.faulty import FaultyRegistry, Gate

from moorage.errors import BlobUnknown, UpstreamDenies, UpstreamFailed, UpstreamLimits
from moorage.proxy import download
from moorage.registry.interface import Blob, FoundBlob, GrowingFile
from moorage.storage.driver import StorageUnavailable
from moorage.types import Digest, parse_repo_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proxy.mirrors import Mirror

pytestmark = pytest.mark.asyncio

SIZE = 600_000
LAYER = os.urandom(SIZE)


def gets(upstream: FaultyRegistry, digest: Digest, name: str = APP) -> int:
    return upstream.requests["GET", f"/v2/{name}/blobs/{digest}"]


async def instant(_: float) -> None:
    await asyncio.sleep(0)


async def received_whole(content: GrowingFile, size: int) -> None:
    """Follow a growing file to its end."""
    end = 0
    while end < size:
        end = await content.grown(end, size)


async def settled(mirror: Mirror) -> None:
    """Wait until no blob is on its way."""
    async with asyncio.timeout(10):
        while len(mirror.fills):  # noqa: ASYNC110  it ends by itself
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("size", [0, 1, download.HELD_BACK_BYTES, download.HELD_BACK_BYTES + 1, SIZE])
async def test_the_second_pull_does_not_leave_the_site(tmp_path: Path, size: int, *, files: bool) -> None:
    """A cache that asks twice saves nothing."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER[:size])
        assert await mirror.blob(digest, files=files) == LAYER[:size]
        await settled(mirror)
        before = len(upstream.received)
        assert await mirror.blob(digest, files=files) == LAYER[:size]
        assert await mirror.blobs.stat(APP, digest) == Blob(digest, size)
        assert len(upstream.received) == before
        assert gets(upstream, digest) == 1
        assert not list((tmp_path / "spool").glob("sha256-*"))
        counts = mirror.counts
        assert (counts.requests["blob"], counts.hits["blob"]) == (2, 1)
        assert (counts.pulled["blob"], counts.pushed["blob"]) == (size, 2 * size)


async def test_head_downloads_nothing(tmp_path: Path) -> None:
    """A client that asks for the size of 10 GB must not wait for them."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        assert await mirror.blobs.stat(APP, digest) == Blob(digest, SIZE)
        assert gets(upstream, digest) == 0


async def test_many_clients_share_one_download(tmp_path: Path) -> None:
    """A deployment of 50 nodes must not fetch a layer 50 times; each gets its first byte at once."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=300_000)
        found = await asyncio.gather(*(mirror.blobs.fetch(APP, digest, files=True) for _ in range(20)))
        readers = [one.content for one in found if isinstance(one, FoundBlob)]
        for reader in readers:
            assert isinstance(reader, GrowingFile)
            assert await reader.grown(0, SIZE) > 0, "the first bytes come before the last ones are there"
            reader.close()
        gate.release()
        assert await mirror.blob(digest) == LAYER
        assert gets(upstream, digest) == 1


@pytest.mark.parametrize("span", [range(1), range(5, 77), range(400_000, SIZE), range(SIZE - 1, SIZE)], ids=str)
@pytest.mark.parametrize("files", [False, True])
async def test_a_range_of_a_cold_blob_is_right(tmp_path: Path, span: range, *, files: bool) -> None:
    """The reference answers the whole blob."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        assert await mirror.blob(digest, span=span, files=files) == LAYER[span.start : span.stop]
        await settled(mirror)
        assert await mirror.blob(digest) == LAYER
        assert gets(upstream, digest) == 1


async def test_a_client_that_leaves_does_not_end_the_download(tmp_path: Path) -> None:
    """What was fetched would be fetched again."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=100_000)
        found = await mirror.blobs.fetch(APP, digest, files=True)
        assert isinstance(found, FoundBlob)
        assert isinstance(found.content, GrowingFile)
        found.content.close()
        gate.release()
        await settled(mirror)
        assert await mirror.blob(digest) == LAYER
        assert gets(upstream, digest) == 1


async def test_a_download_without_readers_ends_and_is_continued_by_the_next(tmp_path: Path) -> None:
    """Otherwise each pull that is given up holds a connection for ever, or its bytes are lost."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, unread_s=0.05) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=300_000, times=1)
        found = await mirror.blobs.fetch(APP, digest, files=True)
        assert isinstance(found, FoundBlob)
        assert isinstance(found.content, GrowingFile)
        async with asyncio.timeout(10):  # what has come is there at once, although nothing follows it
            assert await found.content.grown(290_000, SIZE) > 290_000
        found.content.close()
        await settled(mirror)
        assert await mirror.blob(digest) == LAYER
        gate.release()
        ranges = [one.headers["range"] for one in upstream.received if "range" in one.headers]
        assert ranges == ["bytes=300000-"]


async def test_a_broken_connection_is_continued(tmp_path: Path) -> None:
    """The client sees a pause; the bytes that are there are not fetched again."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", cut_after=200_000, times=1)
        assert await mirror.blob(digest) == LAYER
        assert gets(upstream, digest) == 2


async def test_a_restart_of_the_upstream_breaks_no_download(tmp_path: Path) -> None:
    """While it starts, connections are refused; that must not count against what has begun."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, sleep=instant) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", cut_after=200_000, times=1)
        upstream.fail(f"/blobs/{digest}", disconnect=True, times=2)
        assert await mirror.blob(digest) == LAYER


@pytest.mark.parametrize(
    "fault",
    [{"corrupt_at": 3}, {"corrupt_at": SIZE - 1}, {"length": SIZE - 10, "cut_after": SIZE - 10}, {"extra": b"!"}],
    ids=["first", "last", "short", "long"],
)
async def test_a_wrong_answer_is_neither_complete_nor_stored(tmp_path: Path, fault: dict[str, int]) -> None:
    """A cache that keeps a torn layer breaks every later pull of it."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        added = upstream.fail(f"/blobs/{digest}", **fault)
        if "extra" in fault:
            added.length = SIZE + 1
        found = await mirror.blobs.fetch(APP, digest, files=True)
        assert isinstance(found, FoundBlob)
        assert isinstance(found.content, GrowingFile)
        with pytest.raises(UpstreamFailed):
            await received_whole(found.content, found.size)
        found.content.close()
        await settled(mirror)
        assert await mirror.stored.blobs._store.stat(digest) is None
        assert not list((tmp_path / "spool").glob("sha256-*"))
        upstream.recover()
        assert await mirror.blob(digest) == LAYER


async def test_a_small_wrong_answer_is_an_error(tmp_path: Path) -> None:
    """Nothing of it has been sent, so the client gets a status."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, b"small")
        upstream.fail(f"/blobs/{digest}", corrupt_at=0)
        with pytest.raises(UpstreamFailed, match="other bytes"):
            await mirror.blob(digest)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, UpstreamDenies),
        (403, UpstreamDenies),
        (404, BlobUnknown),
        (429, UpstreamLimits),
        (503, UpstreamFailed),
    ],
)
async def test_errors_carry_the_words_of_the_upstream(tmp_path: Path, status: int, error: type[Exception]) -> None:
    """A client that reads `unknown error` cannot tell its user anything."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail("/blobs/", status=status)
        with pytest.raises(error) as caught:
            await mirror.blob(digest)
        if error is not BlobUnknown:
            assert "as instructed" in str(caught.value)
        with pytest.raises(error):
            await mirror.blobs.stat(APP, digest)


async def test_after_a_limit_the_upstream_is_not_asked_again_before_its_time(tmp_path: Path) -> None:
    """Each further request would prolong the limit."""
    now = [0.0]
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, clock=lambda: now[0]) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail("/blobs/", status=429, headers={"Retry-After": "120"}, times=1)
        for _ in range(3):
            with pytest.raises(UpstreamLimits):
                await mirror.blob(digest)
        assert gets(upstream, digest) == 1
        now[0] = 121
        assert await mirror.blob(digest) == LAYER


async def test_another_endpoint_answers_for_one_that_is_down(tmp_path: Path) -> None:
    """With several endpoints, one that is down costs nothing."""
    async with (
        FaultyRegistry() as gone,
        FaultyRegistry() as upstream,
        mirror_of([gone, upstream], tmp_path) as mirror,
    ):
        gone.fail(disconnect=True)
        digest = upstream.add_blob(APP, LAYER)
        assert await mirror.blob(digest) == LAYER
        assert await mirror.blobs.stat(APP, digest) == Blob(digest, SIZE)


async def test_another_repository_needs_the_blob_at_its_upstream(tmp_path: Path) -> None:
    """Content of a private repository must not be readable through another one, by guessing a digest."""
    other = parse_repo_name("public/other")
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        assert await mirror.blob(digest) == LAYER
        await settled(mirror)
        with pytest.raises(BlobUnknown):
            await mirror.blob(digest, other)
        upstream.add_blob(other, LAYER)
        assert await mirror.blob(digest, other) == LAYER
        assert gets(upstream, digest, other) == 0, "the bytes are here already"


async def test_another_repository_may_not_follow_a_download(tmp_path: Path) -> None:
    """The same, while the blob is on its way."""
    gate = Gate()
    other = parse_repo_name("public/other")
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"{APP}/blobs/{digest}", hold=gate, hold_at=100_000)
        found = await mirror.blobs.fetch(APP, digest, files=True)
        assert isinstance(found, FoundBlob)
        with pytest.raises(BlobUnknown):
            await mirror.blob(digest, other)
        upstream.add_blob(other, LAYER)
        following = asyncio.create_task(mirror.blob(digest, other))
        gate.release()
        assert await following == LAYER
        assert isinstance(found.content, GrowingFile)
        found.content.close()
        await settled(mirror)
        assert gets(upstream, digest) + gets(upstream, digest, other) == 1
        upstream.fail(disconnect=True)
        assert await mirror.blob(digest, other) == LAYER, "both repositories have their link"


async def test_two_processes_share_one_download(tmp_path: Path) -> None:
    """Workers are processes; each of them would download for itself."""
    gate = Gate()
    async with (
        FaultyRegistry() as upstream,
        mirror_of(upstream, tmp_path) as one,
        mirror_of(upstream, tmp_path) as two,
    ):
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=300_000)
        first = await one.blobs.fetch(APP, digest, files=True)
        second = await two.blobs.fetch(APP, digest, files=True)
        assert isinstance(first, FoundBlob)
        assert isinstance(second, FoundBlob)
        assert isinstance(first.content, GrowingFile)
        assert isinstance(second.content, GrowingFile)
        assert await second.content.grown(0, SIZE) > 0
        gate.release()
        await received_whole(second.content, SIZE)
        assert os.pread(second.content.file.fileno(), SIZE, 0) == LAYER
        first.content.close()
        second.content.close()
        await settled(one)
        await settled(two)
        assert gets(upstream, digest) == 1


async def test_a_process_takes_over_where_another_one_has_ended(tmp_path: Path) -> None:
    """A worker that is killed must not break the pulls of the others."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as two:
        digest = upstream.add_blob(APP, LAYER)
        async with mirror_of(upstream, tmp_path) as one:
            upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=300_000, times=1)
            found = await one.blobs.fetch(APP, digest, files=True)
            assert isinstance(found, FoundBlob)
            assert isinstance(found.content, GrowingFile)
            found.content.close()
            following = asyncio.create_task(two.blob(digest))
            await gate.entered()
        assert await following == LAYER
        assert gets(upstream, digest) == 2
        assert upstream.received[-1].headers["range"].startswith("bytes=")


async def test_a_full_disk_passes_blobs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that cannot store must not stop its clients."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        (tmp_path / "spool").write_bytes(b"not a directory")
        assert await mirror.blob(digest) == LAYER
        assert await mirror.blob(digest, span=range(10, 20)) == LAYER[10:20]
        upstream.fail("/blobs/", corrupt_at=7)
        with pytest.raises(UpstreamFailed):
            await mirror.blob(digest)
        upstream.recover()
        (tmp_path / "spool").unlink()

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(Exception, match="service unavailable"):
                await mirror.blob(digest)
        await settled(mirror)
        assert not list((tmp_path / "spool").glob("sha256-*.part")), "the space is given back"
        assert await mirror.blob(digest) == LAYER


async def test_a_store_that_fails_at_the_end_costs_the_client_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are there; the next pull stores them."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)

        async def failing(*_: object) -> None:
            raise StorageUnavailable("the store fails")

        with monkeypatch.context() as patched:
            patched.setattr(mirror.stored.mirrored._store, "adopt", failing)
            assert await mirror.blob(digest) == LAYER
            await settled(mirror)
        assert await mirror.blob(digest) == LAYER
        await settled(mirror)
        upstream.fail(disconnect=True)
        assert await mirror.blob(digest) == LAYER
