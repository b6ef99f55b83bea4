"""Interleavings of a mirror: readers that stay, processes that end, repositories and clocks that differ."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from io import FileIO
from typing import TYPE_CHECKING, Any

import pytest
from tests.proxy.mirrors import APP, LATEST, mirror_of
from tests.upstream.faulty import FaultyRegistry, Gate

from moorage.errors import BlobUnknown, Unavailable, UpstreamFailed, UpstreamLimits
from moorage.http.streaming import GrowingFileResponse
from moorage.proxy import download
from moorage.proxy.checks import TagChecks
from moorage.proxy.fill import Fill
from moorage.proxy.upstreams import UpstreamOptions
from moorage.registry.interface import FoundBlob, GrowingFile
from moorage.types import Digest, parse_repo_name

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proxy.mirrors import Mirror

    from moorage.registry.interface import Manifest

pytestmark = pytest.mark.asyncio

SIZE = 600_000
LAYER = os.urandom(SIZE)
OTHER = parse_repo_name("public/other")


async def follow(mirror: Mirror, digest: Digest) -> GrowingFile:
    found = await mirror.blobs.fetch(APP, digest, files=True)
    assert isinstance(found, FoundBlob)
    assert isinstance(found.content, GrowingFile)
    return found.content


async def store(mirror: Mirror, directory: Path, digest: Digest) -> None:
    """Store the layer for a repository that is not the one of the test."""
    path = directory / "pushed"
    path.write_bytes(LAYER)
    await mirror.stored.mirrored.store_blob(parse_repo_name("local/pushed"), digest, str(path), SIZE)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken connections are continued without a pause."""
    monkeypatch.setattr(download, "_PAUSES_S", (0, 0, 0))


@pytest.mark.usefixtures("at_once")
async def test_a_slow_reader_of_a_failed_download_does_not_keep_its_lock(tmp_path: Path) -> None:
    """Else the blob cannot be pulled until the slowest client has left: its descriptor shares the lock."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail("/blobs/", cut_after=100_000)
        slow = await follow(mirror, digest)
        with pytest.raises(UpstreamFailed):
            await slow.grown(500_000, SIZE)
        upstream.recover()
        async with asyncio.timeout(5):
            assert await mirror.blob(digest) == LAYER
        slow.close()


async def test_a_cancelled_download_closes_its_file_after_the_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would write into whatever file or socket has the descriptor by then."""
    writing, continues = threading.Event(), threading.Event()
    whole: list[bool] = []
    pwrite = os.pwrite

    def slow(file: int, data: bytes, offset: int) -> int:
        before = os.fstat(file).st_ino
        writing.set()
        continues.wait(10)
        whole.append(os.fstat(file).st_ino == before)
        return pwrite(file, data, offset)

    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER[:100])
        monkeypatch.setattr(os, "pwrite", slow)
        pull = asyncio.create_task(mirror.blob(digest))
        await asyncio.to_thread(writing.wait, 10)
        closing = asyncio.create_task(mirror.fills.close())
        done, _ = await asyncio.wait([closing], timeout=0.05)
        continues.set()
        await closing
        with pytest.raises(UpstreamFailed):
            await pull
        assert not done
        assert whole
        assert all(whole)


async def test_a_follower_continues_although_the_store_has_the_blob_by_then(tmp_path: Path) -> None:
    """A blob may be pushed to a local repository meanwhile; clients must not wait for ever."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as two:
        digest = upstream.add_blob(APP, LAYER)
        async with mirror_of(upstream, tmp_path) as one:
            upstream.fail(f"/blobs/{digest}", hold=gate, hold_at=300_000, times=1)
            (await follow(one, digest)).close()
            following = asyncio.create_task(two.blob(digest))
            await gate.entered()
            async with asyncio.timeout(5):
                while not two.fills._fills or not two.fills._fills[digest].size:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            await store(two, tmp_path, digest)
        async with asyncio.timeout(5):
            assert await following == LAYER


async def test_a_blob_that_is_being_collected_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are there, and a collector is about to remove them: no repository may get a link to those."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        await store(mirror, tmp_path, digest)
        gate = mirror.stored.mirrored._gate
        answers = [False]
        admits = gate.admits

        async def doomed(*arguments: Any) -> bool:
            return answers.pop() if answers else await admits(*arguments)

        monkeypatch.setattr(gate, "admits", doomed)
        assert await mirror.blob(digest) == LAYER


async def test_a_part_that_a_third_process_has_begun_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two followers of a download that ended race for the next one; the one that loses has to follow again."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        spool = mirror.fills._spool
        begin = spool.begin
        locked = [None, None]
        monkeypatch.setattr(spool, "begin", lambda digest: locked.pop() if locked else begin(digest))
        assert await mirror.blob(digest) == LAYER


async def test_a_part_from_before_a_power_failure_is_not_followed(tmp_path: Path) -> None:
    """Its size may be on disk without its bytes, which nothing has compared with the digest since."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        spool = mirror.fills._spool
        part = spool.begin(digest)
        assert part is not None
        part.path.write_bytes(bytes(SIZE))
        spool._info_path(digest).write_text(json.dumps({"size": SIZE, "names": [APP], "boot": "earlier"}))
        pull = asyncio.create_task(mirror.blob(digest))
        done, _ = await asyncio.wait([pull], timeout=0.05)
        part.close()
        assert not done
        assert await pull == LAYER


async def test_a_part_that_could_not_be_stored_is_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified; to download its end again would cut those that still read it, if the upstream is down."""

    async def failing(*_: object) -> None:
        raise Unavailable("the store fails")

    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        with monkeypatch.context() as patched:
            patched.setattr(mirror.stored.mirrored, "store_blob", failing)
            slow = await follow(mirror, digest)
            assert await mirror.blob(digest) == LAYER
            async with asyncio.timeout(5):
                while len(mirror.fills):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        upstream.fail(disconnect=True)
        assert await mirror.blob(digest) == LAYER
        assert os.pread(slow.file.fileno(), SIZE, 0) == LAYER
        slow.close()


async def test_an_error_of_one_repository_is_not_that_of_another(tmp_path: Path) -> None:
    """A request for a digest that is not there would break the pull of a repository that has it."""
    gate = Gate()
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(OTHER, LAYER)
        upstream.fail(f"{APP}/blobs", method="GET", hold=gate)
        wrong = asyncio.create_task(mirror.blob(digest))
        await gate.entered()
        right = asyncio.create_task(mirror.blob(digest, OTHER))
        async with asyncio.timeout(5):
            while OTHER not in mirror.fills._fills[digest].names:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        gate.release()
        with pytest.raises(BlobUnknown):
            await wrong
        assert await right == LAYER


async def test_a_blob_that_does_not_exist_leaves_no_file(tmp_path: Path) -> None:
    """A loop of such requests would use up the inodes within the day after which parts are removed."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        with pytest.raises(BlobUnknown):
            await mirror.blob(Digest.of(b"missing"))
        assert not list((tmp_path / "spool").glob("sha256-*"))


@pytest.mark.usefixtures("at_once")
async def test_a_part_that_is_longer_than_the_blob_is_given_up(tmp_path: Path) -> None:
    """It is that of a wrong answer, and its continuation is refused (416) each time."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        upstream.fail("/blobs/", length=2 * SIZE, cut_after=SIZE, times=1)
        with pytest.raises(UpstreamFailed):
            await mirror.blob(digest)
        assert await mirror.blob(digest) == LAYER


async def test_a_check_in_the_future_does_not_count(tmp_path: Path) -> None:
    """A clock that was wrong when the node started would keep tags old until it is that late."""
    now = [1_700_000_000.0]
    checks = TagChecks(tmp_path / "checks", now=lambda: now[0])
    options = UpstreamOptions(check_interval_s=60)
    async with (
        FaultyRegistry() as upstream,
        mirror_of(upstream, tmp_path, options=options, checks=checks) as mirror,
    ):
        upstream.add_image(APP, LATEST, [b"old"])
        await mirror.tag()
        new = upstream.add_image(APP, LATEST, [b"new"])
        now[0] -= 86400
        assert (await mirror.tag()).digest == new


async def test_a_tag_that_cannot_be_stored_is_not_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has the old image; after the new one clients must not get it for the time of the interval."""
    now = [1_700_000_000.0]
    checks = TagChecks(tmp_path / "checks", now=lambda: now[0])
    options = UpstreamOptions(check_interval_s=60)

    async def full(*_: object) -> None:
        raise Unavailable("the store is full")

    async with (
        FaultyRegistry() as upstream,
        mirror_of(upstream, tmp_path, options=options, checks=checks) as mirror,
    ):
        upstream.add_image(APP, LATEST, [b"old"])
        await mirror.tag()
        new = upstream.add_image(APP, LATEST, [b"new"])
        now[0] += 61
        monkeypatch.setattr(mirror.stored.mirrored, "store_manifest", full)
        found: list[Manifest] = [await mirror.tag() for _ in range(2)]
        assert [one.digest for one in found] == [new, new]


async def test_a_remembered_error_does_not_grow(tmp_path: Path) -> None:
    """Each request that raises it again would add its frames, and keep its memory, for up to an hour."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        upstream.fail("/manifests/", status=429)
        for _ in range(20):
            with pytest.raises(UpstreamLimits):
                await mirror.tag()
        limit = mirror._upstreams.all[0]._limit
        assert limit is not None
        frames = 0
        trace = limit.__traceback__
        while trace is not None:
            frames, trace = frames + 1, trace.tb_next
        assert frames < 20


async def test_an_error_of_one_repository_does_not_block_the_others(tmp_path: Path) -> None:
    """An upstream registry that has lost the data of one image is not down."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        digest = upstream.add_blob(OTHER, LAYER)
        upstream.fail(f"/{APP}/", status=500)
        with pytest.raises(UpstreamFailed):
            await mirror.tag()
        assert await mirror.blob(digest, OTHER) == LAYER


async def test_the_time_to_wait_becomes_shorter(tmp_path: Path) -> None:
    """A client that comes a second before the end of a limit must not wait for all of it again."""
    now = [0.0]
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, clock=lambda: now[0]) as mirror:
        upstream.fail("/manifests/", status=429, headers={"Retry-After": "120"})
        for now[0], left in ((0.0, 120), (100.0, 20), (119.5, 1)):
            with pytest.raises(UpstreamLimits) as caught:
                await mirror.tag()
            assert caught.value.retry_after_s == left


@pytest.mark.parametrize("files", [False, True])
async def test_a_request_that_waits_for_the_upstream_is_a_reader(tmp_path: Path, *, files: bool) -> None:
    """With a short proxy.cachewritetimeout nothing could be pulled from an upstream that is slower than that."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path, unread_s=0) as mirror:
        digest = upstream.add_blob(APP, LAYER)
        assert await mirror.blob(digest, files=files) == LAYER


async def test_a_complete_fill_is_stored_without_readers() -> None:
    """Copying 100 GB into a bucket takes longer than a client needs for the rest of them."""
    fill = Fill(Digest.of(LAYER), APP)
    fill.begin(0, SIZE)
    fill.advance(SIZE)
    ended, _ = await asyncio.wait([watch := asyncio.create_task(fill.unread(0))], timeout=0.02)
    watch.cancel()
    assert not ended


async def test_a_blob_for_which_there_is_no_space_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each pull of it ends in the middle, as long as the disk is nearly full."""

    def nearly_full(_: int) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 100, 100, 10, 10, 10, 0, 255))

    pwrite = os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 409_600:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, data, offset)

    monkeypatch.setattr(os, "fstatvfs", nearly_full)
    monkeypatch.setattr(os, "pwrite", full)
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:
        large, small = upstream.add_blob(APP, LAYER), upstream.add_blob(APP, LAYER[:300_000])
        for _ in range(2):
            assert await mirror.blob(large) == LAYER
            assert await mirror.blob(small) == LAYER[:300_000]
        assert upstream.requests["GET", f"/v2/{APP}/blobs/{small}"] == 1


async def test_a_transfer_that_fails_before_its_first_byte_is_an_error_with_a_status(tmp_path: Path) -> None:
    """Once the status line is sent, the client reads of a cut connection instead of the cause."""

    class Failing:
        file = FileIO(tmp_path / "part", "wb+")

        async def grown(self, offset: int, stop: int) -> int:
            raise UpstreamFailed(f"{offset} to {stop}")

        def close(self) -> None:
            self.file.close()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    response = GrowingFileResponse(Failing(), range(10), 200, [])
    with pytest.raises(UpstreamFailed):
        await response({"type": "http"}, receive, send)
    assert not sent
    assert response.file.file.closed


async def test_the_spool_is_cleaned_again_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user would end the cleaning for ever, and the orderly end of the process."""
    async with FaultyRegistry() as upstream, mirror_of(upstream, tmp_path) as mirror:

        def denied() -> int:
            raise PermissionError("part of another user")

        monkeypatch.setattr(mirror._spool, "remove_abandoned", denied)
        ended, _ = await asyncio.wait([run := asyncio.create_task(mirror.run())], timeout=0.05)
        run.cancel()
        assert not ended
