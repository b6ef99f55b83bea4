"""The upload engine: one pass, any process, nothing lost that was acknowledged, nothing mixed."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import BlobUploadInvalid, BlobUploadUnknown, DigestInvalid, RangeInvalid, Unavailable
from moorage.registry import hashing, layout
from moorage.registry.uploads import StoredUploads, new_upload_id
from moorage.storage.driver import KeyMissing, Note, StorageUnavailable, UploadMissing
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.listing_contract import keys_below
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from pathlib import Path

    from moorage.registry.interface import UploadStatus
    from moorage.storage.driver import Appender, Driver, Key, Reader, Stored, Uploads, UploadState

NAME = RepoName("library/app")
SECRET = b"secret"
DATA = random.Random(1).randbytes(3 << 20)
SMALL = b"a small layer"


class Watched(InstrumentedDriver):
    """Counts what is read again, can fail once at a named call of `uploads` or of the link, and can be slow."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.reads = 0
        self.fails_at = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def before(self, call: str) -> None:
        self.trip(call)

    def trip(self, call: str) -> None:
        if self.fails_at and self.fails_at in call:
            self.fails_at = ""
            raise StorageUnavailable(f"injected failure of {call}")

    @property
    def uploads(self) -> Uploads:
        return _WatchedUploads(self, super().uploads)


class _WatchedUploads:
    def __init__(self, watched: Watched, inner: Uploads) -> None:
        self._watched, self._inner = watched, inner

    async def begin(self, home: Key) -> UploadState:
        return await self._inner.begin(home)

    async def state(self, home: Key) -> UploadState:
        return await self._inner.state(home)

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        async with self._inner.append(home, state) as appender:
            yield _WatchedAppender(self._watched, appender)
        self._watched.trip("leave")

    def read(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Reader]:
        self._watched.reads += 1
        return self._inner.read(home, state)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        self._watched.trip("publish")
        return await self._inner.publish(home, state, to)

    async def discard(self, home: Key) -> None:
        self._watched.trip("discard")
        await self._inner.discard(home)

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        return self._inner.abandoned(under, before)

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        return await self._inner.sweep(under, before, dry_run=dry_run)


class _WatchedAppender:
    def __init__(self, watched: Watched, inner: Appender) -> None:
        self._watched, self._inner = watched, inner

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        self._watched.reached.set()
        await self._watched.gate.wait()
        self._watched.trip("append")
        await self._inner.write(chunks, also)

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        if chunks:
            self._watched.trip("append")
        self._watched.trip("checkpoint")
        return await self._inner.checkpoint(notes, chunks, also)

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        if chunks:
            self._watched.trip("append")
        self._watched.trip("checkpoint")
        return await self._inner.seal(chunks, also)


@pytest.fixture
def watched(driver: Driver) -> Watched:
    return Watched(driver)


@pytest.fixture
def uploads(watched: Watched) -> Requests:
    return Requests(watched)


class Requests(StoredUploads):
    """With the requests that most tests make."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver, SECRET)

    async def patch(self, at: UploadStatus, *pieces: bytes, start: int | None = None) -> UploadStatus:
        async with self.extend(NAME, at.uuid, at.state, start=start) as part:
            for piece in filter(None, pieces):
                await part.write(piece)
            return await part.commit()

    async def put(self, at: UploadStatus, digest: Digest, data: bytes = b"") -> None:
        async with self.extend(NAME, at.uuid, at.state, algorithm=digest.algorithm) as part:
            if data:
                await part.write(data)
            blob = await part.finish(digest)
        assert (blob.digest, blob.size) == (digest, at.offset + len(data))


async def stored(driver: Driver, digest: Digest) -> bytes:
    """The blob, through its link."""
    assert (await driver.read(layout.layer_link(NAME, digest))).data == str(digest).encode()
    return (await driver.read(layout.blob_data(digest))).data


async def is_gone(uploads: StoredUploads, at: UploadStatus) -> bool:
    try:
        await uploads.status(NAME, at.uuid)
    except BlobUploadUnknown:
        return True
    return False


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_each_request_may_reach_another_process_and_nothing_is_read_again(
    watched: Watched, algorithm: str
) -> None:
    """A gigabyte that is read once more for its digest doubles the price of a push."""
    at = await Requests(watched).start(NAME, algorithm=algorithm)
    for start in range(0, len(DATA), 1 << 20):
        at = await Requests(watched).patch(at, DATA[start : start + (1 << 20)], start=start)
        assert at.offset == start + (1 << 20)
    digest = Digest.of(DATA, algorithm)
    await Requests(watched).put(at, digest)
    assert await stored(watched, digest) == DATA
    assert watched.reads == 0


async def test_an_algorithm_that_nobody_foretold_costs_one_reading(watched: Watched, uploads: Requests) -> None:
    at = await uploads.patch(await uploads.start(NAME), DATA)
    digest = Digest.of(DATA, "sha512")
    await uploads.put(at, digest)
    assert await stored(watched, digest) == DATA
    assert watched.reads == 1


async def test_a_small_upload_is_not_read_again_by_the_same_process(tmp_path: Path) -> None:
    """Layers below 1 MiB, which are most, would be hashed twice: by the PATCH and by the PUT."""
    watched = Watched(FilesystemDriver(tmp_path))
    uploads = Requests(watched)
    for data in (SMALL, DATA[:900_000]):
        at = await uploads.patch(await uploads.start(NAME), data[:5])
        at = await uploads.patch(at, data[5:])
        await uploads.put(at, Digest.of(data))
        assert await stored(watched, Digest.of(data)) == data
    assert watched.reads == 0
    await watched.close()


@pytest.mark.parametrize("refused", [False, True])
async def test_a_hash_that_was_kept_is_of_these_very_bytes(tmp_path: Path, refused: bool) -> None:
    """The PUT goes to the process of the first PATCH; the bytes are those of another one."""
    first, second = Watched(FilesystemDriver(tmp_path)), Watched(FilesystemDriver(tmp_path))
    here, there = Requests(first), Requests(second)
    at = await here.patch(await here.start(NAME), SMALL[:5])
    if refused:  # an operator wrote to the file: the push is refused, and no wrong bytes are published
        (tmp_path / layout.upload_home(NAME, at.uuid) / "data").write_bytes(b"other")
        with pytest.raises(DigestInvalid):
            await here.put(at, Digest.of(SMALL[:5]))
    else:
        at = await there.patch(at, SMALL[5:])
        await here.put(at, Digest.of(SMALL))
        assert await stored(first, Digest.of(SMALL)) == SMALL
    assert first.reads == 1
    for driver in (first, second):
        await driver.close()


async def test_the_last_chunk_may_come_with_the_end(watched: Watched, uploads: Requests) -> None:
    at = await uploads.patch(await uploads.start(NAME), SMALL[:5])
    await uploads.put(at, Digest.of(SMALL), SMALL[5:])
    assert await stored(watched, Digest.of(SMALL)) == SMALL
    assert await is_gone(uploads, at)


async def test_chunks_of_one_receive_are_stored_in_order(watched: Watched, uploads: Requests) -> None:
    """One call for all pieces that a receive brought; a piece out of place is a layer that no client can use."""
    at = await uploads.start(NAME)
    random_sizes = random.Random(2)
    async with uploads.extend(NAME, at.uuid, at.state) as part:
        position = 0
        while position < len(DATA):
            sizes = [random_sizes.choice((0, 1, 32 << 10, 100_000)) for _ in range(random_sizes.randrange(20))]
            pieces = []
            for size in sizes:
                pieces.append(DATA[position : position + size])
                position += size
            await part.write(pieces)
            pieces.clear()  # the list is the caller's
        await part.finish(Digest.of(DATA))
    assert await stored(watched, Digest.of(DATA)) == DATA


async def test_an_upload_of_nothing_is_the_empty_blob(watched: Watched, uploads: Requests) -> None:
    """Some clients push it as a layer."""
    await uploads.put(await uploads.start(NAME), Digest.of(b""))
    assert await stored(watched, Digest.of(b"")) == b""


async def test_content_of_another_digest_ends_the_upload(watched: Watched, uploads: Requests) -> None:
    """The client's bytes are not those of its digest; continuing would only fail again."""
    at = await uploads.patch(await uploads.start(NAME), SMALL)
    with pytest.raises(DigestInvalid, match="not sha256:"):
        await uploads.put(at, Digest.of(b"something else"))
    assert await is_gone(uploads, at)
    for digest in (Digest.of(SMALL), Digest.of(b"something else")):
        with pytest.raises(KeyMissing):
            await watched.read(layout.blob_data(digest))


async def test_a_chunk_in_the_wrong_place_is_told_where_the_upload_stands(uploads: Requests) -> None:
    """A client whose answer was lost sends its chunk again, and must not store it twice."""
    begun = await uploads.start(NAME)
    at = await uploads.patch(begun, SMALL[:5])
    for state, start in ((begun.state, None), (begun.state, 0), (at.state, 0), (at.state, 6)):
        with pytest.raises(RangeInvalid) as refused:
            async with uploads.extend(NAME, at.uuid, state, start=start):
                pytest.fail("entered")
        assert (refused.value.uuid, refused.value.offset) == (at.uuid, 5)
    at = await uploads.status(NAME, at.uuid)
    await uploads.put(at, Digest.of(SMALL), SMALL[5:])


async def test_while_one_request_writes_another_is_refused(watched: Watched, uploads: Requests) -> None:
    """Two writers would mix two halves of a layer."""
    at = await uploads.start(NAME)
    async with uploads.extend(NAME, at.uuid, at.state) as first:
        await first.write(SMALL)
        for data in (b"other bytes", b""):
            with pytest.raises(RangeInvalid, match="another request is writing"):
                await Requests(watched).patch(at, data)
        with pytest.raises(RangeInvalid, match="another request is writing"):
            await Requests(watched).put(at, Digest.of(b""))
        await first.finish(Digest.of(SMALL))
    assert await stored(watched, Digest.of(SMALL)) == SMALL


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_request_that_breaks_off_keeps_what_arrived(
    uploads: Requests, watched: Watched, error: type[BaseException]
) -> None:
    """A client on a bad line continues at its offset, not from its first byte."""
    at = await uploads.start(NAME)

    async def break_off() -> None:
        async with uploads.extend(NAME, at.uuid, at.state) as part:
            await part.write(DATA[:2_000_000])
            raise error

    with pytest.raises(error):
        await break_off()
    at = await Requests(watched).status(NAME, at.uuid)
    assert at.offset == 2_000_000
    await uploads.put(at, Digest.of(DATA), DATA[2_000_000:])
    assert await stored(watched, Digest.of(DATA)) == DATA
    assert watched.reads == 0


async def test_a_cancelled_upload_stays_gone(uploads: Requests, watched: Watched) -> None:
    """Also for the request that is just writing to it."""
    at = await uploads.start(NAME)

    async def write() -> None:
        async with uploads.extend(NAME, at.uuid, at.state) as part:
            await part.write(SMALL)
            await uploads.cancel(NAME, at.uuid, at.state)
            await part.commit()

    with pytest.raises(BlobUploadUnknown):
        await write()
    assert await is_gone(uploads, at)
    for call in (
        uploads.patch(at, SMALL),
        uploads.put(at, Digest.of(b"")),
        uploads.cancel(NAME, at.uuid, at.state),
    ):
        with pytest.raises(BlobUploadUnknown):
            await call


async def test_an_upload_cancelled_before_the_first_byte_is_gone(uploads: Requests) -> None:
    """Its stored bytes would be hashed again first; that they are missing is no failure of the storage."""
    at = await uploads.patch(await uploads.start(NAME), SMALL[:5])

    async def write() -> None:
        async with uploads.extend(NAME, at.uuid, at.state) as part:
            await uploads.cancel(NAME, at.uuid, at.state)
            await part.write(SMALL[5:])

    with capture_logs() as logs, pytest.raises(BlobUploadUnknown):
        await write()
    assert logs == []


async def test_the_token_of_another_upload_opens_none(uploads: Requests) -> None:
    at, other = await uploads.start(NAME), await uploads.start(NAME)
    for state in (other.state, "", at.state[:-4]):
        with pytest.raises(BlobUploadInvalid):
            async with uploads.extend(NAME, at.uuid, state):
                pytest.fail("entered")
        with pytest.raises(BlobUploadInvalid):
            await uploads.cancel(NAME, at.uuid, state)
    assert not await is_gone(uploads, at)


@pytest.mark.parametrize("uuid", ["", "x", "../../secret", "01a20a26-8953-77b5-b9c0-2d429fdb74f", "é" * 36])
async def test_what_is_no_upload_id_is_no_upload(uploads: Requests, uuid: str) -> None:
    """Such a text must never become a path."""
    with pytest.raises(BlobUploadUnknown):
        await uploads.status(NAME, uuid)


@pytest.mark.parametrize("place", ["append", "checkpoint", "publish", "write"])
async def test_an_upload_whose_end_failed_can_be_ended_again(
    uploads: Requests, watched: Watched, place: str
) -> None:
    """A disk that fails for a moment costs the client one more PUT, at most one more upload."""
    at = await uploads.patch(await uploads.start(NAME), SMALL[:5])
    digest = Digest.of(SMALL)
    watched.fails_at = place
    with pytest.raises(Unavailable):
        await uploads.put(at, digest, SMALL[5:])
    with pytest.raises(KeyMissing):
        await watched.read(layout.layer_link(NAME, digest))
    try:
        at = await uploads.status(NAME, at.uuid)
    except BlobUploadUnknown:
        at = await uploads.start(NAME)
    await uploads.put(at, digest, SMALL[at.offset :])
    assert await stored(watched, digest) == SMALL


async def test_an_upload_that_cannot_be_removed_fails_no_push(uploads: Requests, watched: Watched) -> None:
    """The blob is linked and durable by then; what is left of the upload is the purger's."""
    at = await uploads.start(NAME)
    watched.fails_at = "discard"
    with capture_logs() as logs:
        await uploads.put(at, Digest.of(SMALL), SMALL)
    assert [entry["event"] for entry in logs] == ["an upload was left behind"]
    assert at.uuid in logs[0]["upload"]
    assert await stored(watched, Digest.of(SMALL)) == SMALL


async def test_a_refused_digest_is_the_answer_although_the_upload_cannot_be_removed(
    uploads: Requests, watched: Watched
) -> None:
    """A 503 would make the client send the same wrong bytes again."""
    at = await uploads.start(NAME)
    watched.fails_at = "discard"
    with pytest.raises(DigestInvalid):
        await uploads.put(at, Digest.of(b"other"), SMALL)


async def test_an_upload_without_its_bytes_is_removed(uploads: Requests, watched: Watched, driver: Driver) -> None:
    """The link failed: the bytes are the blob's, no client could continue, and a directory would stay."""
    at = await uploads.start(NAME)
    watched.fails_at = "write"
    with pytest.raises(Unavailable):
        await uploads.put(at, Digest.of(SMALL), SMALL)
    assert await is_gone(uploads, at)
    assert await keys_below(driver, layout.upload_home(NAME, at.uuid)) == {}


async def test_an_upload_with_its_bytes_is_kept(uploads: Requests, watched: Watched) -> None:
    """The publication failed before it began: the client tries again and sends nothing twice."""
    at = await uploads.start(NAME)
    watched.fails_at = "publish"
    with pytest.raises(Unavailable):
        await uploads.put(at, Digest.of(SMALL), SMALL)
    await uploads.put(await uploads.status(NAME, at.uuid), Digest.of(SMALL))
    assert await stored(watched, Digest.of(SMALL)) == SMALL


async def test_a_bucket_keeps_the_upload_until_the_link_is_there() -> None:
    """Its chunks stay where they are while the store joins them: a link that fails costs no second upload."""
    bucket = Watched(ObjectDriver.with_chunk_log(MemoryObjects(Bucket())))
    uploads = Requests(bucket)
    at = await uploads.patch(await uploads.start(NAME), SMALL)
    bucket.fails_at = "write"
    with pytest.raises(Unavailable):
        await uploads.put(at, Digest.of(SMALL))
    await uploads.put(await uploads.status(NAME, at.uuid), Digest.of(SMALL))
    assert await stored(bucket, Digest.of(SMALL)) == SMALL


async def test_a_start_that_fails_halfway_leaves_no_upload(
    uploads: Requests, watched: Watched, driver: Driver
) -> None:
    """The client knows no upload to continue; the hint of the algorithm is what is written last."""
    watched.fails_at = "checkpoint"
    with pytest.raises(Unavailable):
        await uploads.start(NAME, algorithm="sha512")
    assert await keys_below(driver, "docker") == {}


async def test_one_failure_is_logged_once(uploads: Requests, watched: Watched) -> None:
    """A full disk fails the batch that is written beside the request; leaving must not report it again."""
    at = await uploads.start(NAME)
    for place in ("append", "checkpoint"):
        watched.fails_at = place
        with capture_logs() as logs, pytest.raises(Unavailable):
            await uploads.patch(at, DATA[: 1 << 20], DATA[1 << 20 : 2 << 20], DATA[2 << 20 :])
        assert [entry["log_level"] for entry in logs] == ["error"], logs
        assert (await uploads.status(NAME, at.uuid)).offset == 0


async def test_a_failure_to_leave_is_a_refusal(uploads: Requests, watched: Watched) -> None:
    """The storage may fail when the upload is given back: 503 and the log, not a traceback."""
    at = await uploads.start(NAME)
    watched.fails_at = "leave"
    with capture_logs() as logs, pytest.raises(Unavailable):
        await uploads.patch(at, SMALL)
    assert [entry["log_level"] for entry in logs] == ["error"]


async def test_a_slow_disk_holds_the_client_back(uploads: Requests, watched: Watched) -> None:
    """Memory per upload is two batches and a chunk, however fast the client is."""
    watched.gate.clear()
    at = await uploads.start(NAME)
    taken = 0

    async def send() -> None:
        nonlocal taken
        async with uploads.extend(NAME, at.uuid, at.state) as part:
            for start in range(0, len(DATA), 64 << 10):
                await part.write(DATA[start : start + (64 << 10)])
                taken += 64 << 10
            await part.finish(Digest.of(DATA))

    sending = asyncio.create_task(send())
    await watched.reached.wait()
    for _ in range(200):
        await asyncio.sleep(0)
    assert 0 < taken <= 2 * (1 << 20) + (64 << 10)
    watched.gate.set()
    await sending
    assert await stored(watched, Digest.of(DATA)) == DATA


async def test_many_requests_at_once_share_the_memory_for_batches(uploads: Requests, watched: Watched) -> None:
    """32 uploads at once with a batch of 1 MiB each, twice, would be half of what a worker may use in all."""
    watched.gate.clear()
    taken = dict.fromkeys(range(32), 0)

    async def send(number: int) -> None:
        at = await uploads.start(NAME)
        async with uploads.extend(NAME, at.uuid, at.state) as part:
            await part.write(DATA[:1])
            while len(claimed := [size for size in taken.values() if size]) < len(taken):
                taken[number] = 1
                await asyncio.sleep(0.001 if claimed else 0)
            for start in range(1, len(DATA), 64 << 10):
                await part.write(DATA[start : start + (64 << 10)])
                taken[number] += 64 << 10
            await part.finish(Digest.of(DATA))

    sending = [asyncio.create_task(send(number)) for number in taken]
    before: dict[int, int] = {}
    while before != taken or min(taken.values()) <= 1:
        before = dict(taken)
        await asyncio.sleep(0.02)
    assert max(taken.values()) <= 2 * (256 << 10) + (64 << 10)
    watched.gate.set()
    await asyncio.gather(*sending)
    assert uploads.batch_bytes == 1 << 20
    assert await stored(watched, Digest.of(DATA)) == DATA


async def test_a_long_request_leaves_checkpoints_on_its_way(watched: Watched) -> None:
    """A server that dies after an hour of one PATCH has not lost the hour."""
    now = 0.0
    uploads = StoredUploads(watched, SECRET, clock=lambda: now)
    at = await uploads.start(NAME)
    async with uploads.extend(NAME, at.uuid, at.state) as part:
        await part.write(DATA[: 1 << 20])
        await part.write(DATA[1 << 20 : 2 << 20])
        assert (await uploads.status(NAME, at.uuid)).offset == 0
        now = 16.0
        await part.write(DATA[2 << 20 :])
        assert (await uploads.status(NAME, at.uuid)).offset >= 2 << 20


async def test_a_fast_request_leaves_checkpoints_by_size(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of gigabytes within the time of one checkpoint: a crash loses a bounded part of it."""
    monkeypatch.setattr("moorage.registry.upload_part._CHECKPOINT_BYTES", 2 << 20)
    uploads = StoredUploads(watched, SECRET, clock=lambda: 0.0)
    at = await uploads.start(NAME)
    async with uploads.extend(NAME, at.uuid, at.state) as part:
        for number, offset in enumerate([0, 0, 3 << 20]):  # what is written is known one piece later
            await part.write(DATA[number << 20 : (number + 1) << 20])
            assert (await uploads.status(NAME, at.uuid)).offset == offset


async def test_a_slow_client_causes_no_checkpoint_of_nothing(watched: Watched) -> None:
    """Each costs an fsync: there is none before anything has been written since the last."""
    now = 0.0
    uploads = StoredUploads(watched, SECRET, clock=lambda: now)
    at = await uploads.start(NAME)
    async with uploads.extend(NAME, at.uuid, at.state) as part:
        now = 16.0
        await part.write(DATA[: 1 << 19])
        assert (await uploads.status(NAME, at.uuid)).offset == 0


async def test_a_lost_hash_state_costs_a_reading_and_no_more(driver: Driver) -> None:
    """Another registry without such states, or a file that a crash tore."""
    watched = Watched(driver)
    uploads = Requests(watched)
    at = await uploads.start(NAME)
    home = layout.upload_home(NAME, at.uuid)
    async with driver.uploads.append(home, await driver.uploads.state(home)) as appender:
        await appender.write([DATA[: 2 << 20]])
        await appender.checkpoint([Note(f"hashstates/sha256/{2 << 20}", b"torn")])
    at = await uploads.status(NAME, at.uuid)
    assert at.offset == 2 << 20
    await uploads.put(at, Digest.of(DATA), DATA[2 << 20 :])
    assert await stored(watched, Digest.of(DATA)) == DATA
    assert watched.reads == 1


async def test_an_upload_that_the_reference_began_is_finished_without_reading(driver: Driver) -> None:
    """It keeps its hash state where we look for one."""
    begun = hashing.new("sha256")
    begun.update([DATA[: 2 << 20]])
    state = begun.export()
    assert state is not None
    watched = Watched(driver)
    uploads = Requests(watched)
    home = layout.upload_home(NAME, new_upload_id())
    first = await driver.uploads.begin(home)
    async with driver.uploads.append(home, first) as appender:
        await appender.write([DATA[: 2 << 20]])
        await appender.checkpoint([Note(f"hashstates/sha256/{2 << 20}", state)])
    at = await uploads.status(NAME, home.rpartition("/")[2])
    await uploads.put(at, Digest.of(DATA), DATA[2 << 20 :])
    assert await stored(watched, Digest.of(DATA)) == DATA
    assert watched.reads == 0


def test_upload_ids_are_uuids_of_version_7_in_order_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by time in a listing, as the reference's since 3.1."""
    times = iter([1_000_000_000_000_000_000, 1_000_000_001_000_000_000])
    monkeypatch.setattr("time.time_ns", lambda: next(times))
    first, second = new_upload_id(), new_upload_id()
    assert first < second
    for uuid in (first, second):
        assert [len(part) for part in uuid.split("-")] == [8, 4, 4, 4, 12]
        assert uuid[14] == "7"
        assert uuid[19] in "89ab"


async def test_a_discarded_upload_is_missing_for_the_driver_too(uploads: Requests, driver: Driver) -> None:
    at = await uploads.start(NAME)
    await uploads.cancel(NAME, at.uuid, at.state)
    with pytest.raises(UploadMissing):
        await driver.uploads.state(layout.upload_home(NAME, at.uuid))
