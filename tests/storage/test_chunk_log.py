"""The log of chunks, step by step: it dies at every call to the store, and two writers take every possible turn.

On an object store in memory (`moorage.testing.memory_objects`) that can stop or fail each call.  Chunks are four
bytes and tails two, so that a few bytes cross every edge.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from moorage.storage.driver import (
    ALWAYS,
    Key,
    Note,
    StorageUnavailable,
    UploadChanged,
    UploadMissing,
    UploadState,
    Version,
)
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.chunk_state import LogState
from moorage.testing.memory_objects import Bucket, MemoryObjects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from moorage.storage.driver import When

HOME = Key("repositories/name/_uploads/0199a3c4-0000-7000-8000-000000000001")
TO = Key("blobs/sha256/ab/abcd/data")
CHUNK, TAIL = 4, 2
PIECES = (b"ab", b"cdefghij", b"k", b"lmnopqrstuv", b"", b"wxyz")
"""Cut so that checkpoints leave tails in the state, short chunks, and nothing."""


class Died(BaseException):
    """The process is gone: not even its cleanups run to their end."""


def node(bucket: Bucket, *, any_length: bool = False, **hooks: Callable[..., Awaitable[None]]) -> ChunkLog:
    return ChunkLog(MemoryObjects(bucket, chunk=CHUNK, any_length=any_length, **hooks), tail_bytes=TAIL)


async def stored(log: ChunkLog, state: UploadState) -> bytes:
    async with log.read(HOME, state) as reader:
        return b"".join([piece async for piece in reader])


def note(offset: int) -> Note:
    return Note(f"hashstates/sha256/{offset}", str(offset).encode())


class Client:
    """Pushes PIECES, a request for each, to any node, and records acknowledged offsets."""

    def __init__(self) -> None:
        self.acknowledged = -1  # the offset of the last answer; -1: it has not heard of an upload
        self.at = 0

    async def push(self, log: ChunkLog) -> None:
        """Push from the upload's offset to the end."""
        if self.acknowledged < 0:
            await log.begin(HOME)
            self.acknowledged = 0
        whole = b"".join(PIECES)
        edges = [0, *itertools.accumulate(map(len, PIECES))]
        while True:
            state = await log.state(HOME)
            assert state.offset in edges, "an upload stands where a request ended"
            assert state.offset >= self.acknowledged, "what was acknowledged is there"
            assert await stored(log, state) == whole[: state.offset]
            assert state.notes in {(), (note(state.offset),)}
            self.acknowledged = state.offset
            if state.offset == len(whole):
                break
            piece = next(
                piece for piece, edge in zip(PIECES, edges, strict=False) if edge == state.offset and piece
            )
            async with log.append(HOME, state) as appender:
                await appender.write([piece[:3], piece[3:]])
                self.acknowledged = (await appender.checkpoint([note(state.offset + len(piece))])).offset
        await log.publish(HOME, state, TO)
        self.at = 1
        await log.discard(HOME)


def dying_at(step: int, *, done: bool) -> tuple[dict[str, Callable[..., Awaitable[None]]], list[str]]:
    """Hooks of a process that dies at its `step`-th call, when the store has, or has not, done it."""
    calls: list[str] = []

    async def before(name: str, keys: Sequence[Key]) -> None:
        calls.append(name)
        if len(calls) > step or (len(calls) == step and not done):
            raise Died

    async def after(name: str, keys: Sequence[Key]) -> None:
        if len(calls) >= step:
            raise Died

    return {"before": before, "after": after}, calls


def steps(any_length: bool) -> Iterator[tuple[int, bool]]:
    calls: list[str] = []

    async def before(name: str, keys: Sequence[Key]) -> None:
        calls.append(name)

    asyncio.run(Client().push(node(Bucket(), any_length=any_length, before=before)))
    for step in range(1, len(calls) + 1):
        yield step, False
        yield step, True


@pytest.mark.slow
@pytest.mark.parametrize("any_length", [False, True], ids=["equal-parts", "any-length"])
def test_a_crash_at_any_call_loses_and_tears_nothing(any_length: bool) -> None:
    """Another node continues, nothing is readable before it is whole, and the purger leaves an empty bucket."""
    count = 0
    for step, done in steps(any_length):
        asyncio.run(die_and_go_on(step, done, any_length))
        count += 1
    assert count > 60


async def die_and_go_on(step: int, done: bool, any_length: bool) -> None:
    bucket, client, whole = Bucket(), Client(), b"".join(PIECES)
    hooks, _ = dying_at(step, done=done)
    with pytest.raises(Died):
        await client.push(node(bucket, any_length=any_length, **hooks))
    blob = bucket.objects.get(TO)
    assert blob is None or blob.data == whole
    other = node(bucket, any_length=any_length)
    try:
        await client.push(other)
    except UploadMissing:  # the client had its answer, or never got the upload's address
        assert client.at == 1 or client.acknowledged <= 0
    if client.at:
        assert bucket.objects[TO].data == whole
    for home in [home async for home in other.abandoned(Key("repositories"), later())]:
        await other.discard(home)
    await other.sweep(Key("repositories"), later())
    assert set(bucket.objects) <= {TO}
    assert bucket.unfinished == {}


def later() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=5)


@pytest.mark.parametrize("fails", range(1, 12))
async def test_a_failing_store_leaves_the_last_checkpoint(fails: int) -> None:
    """A 503 in the middle of a layer costs the client that request and nothing else."""
    bucket, calls = Bucket(), 0

    async def before(name: str, keys: Sequence[Key]) -> None:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise StorageUnavailable("made by a test")

    log, good = node(bucket, before=before), node(bucket)
    try:
        state = await log.begin(HOME)
        async with log.append(HOME, state) as appender:
            await appender.write([b"abcdefgh"])
            state = await appender.checkpoint([note(8)])
            await appender.write([b"ijklmno"])
            state = await appender.checkpoint([note(15)])
    except StorageUnavailable:
        pass
    if fails == 1:
        with pytest.raises(UploadMissing):
            await good.state(HOME)
        return
    seen = await good.state(HOME)
    assert seen.offset in {0, 8, 15}
    assert await stored(good, seen) == b"abcdefghijklmno"[: seen.offset]
    await good.publish(HOME, seen, TO)
    assert bucket.objects[TO].data == b"abcdefghijklmno"[: seen.offset]


async def test_a_write_that_failed_halfway_is_never_acknowledged() -> None:
    """A hole in a layer would be hashed as if it were whole."""
    bucket, broken = Bucket(), True

    async def before(name: str, keys: Sequence[Key]) -> None:
        if broken and any("/parts/" in key for key in keys):
            raise StorageUnavailable("made by a test")

    log = node(bucket, before=before)
    state = await log.begin(HOME)
    async with log.append(HOME, state) as appender:
        with pytest.raises(StorageUnavailable):
            await appender.write([b"abcdefgh", b"ijkl"])
        broken = False
        with pytest.raises(StorageUnavailable):
            await appender.checkpoint()
        with pytest.raises(StorageUnavailable):
            await appender.seal()
    assert (await log.state(HOME)).offset == 0
    assert set(bucket.objects) == {f"{HOME}/state"}


async def test_two_chunks_are_in_memory_at_most() -> None:
    """A slow store slows the client down; a hundred uploads of 10 GB are not a matter of memory."""
    bucket, sending, most, gate = Bucket(), 0, 0, asyncio.Event()

    class Slow(MemoryObjects):
        async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
            nonlocal sending
            size = sum(map(len, data)) if "/parts/" in key else 0
            sending += size
            await gate.wait()
            version = await super().put(key, data, when)
            sending -= size
            return version

    log = ChunkLog(Slow(bucket, chunk=CHUNK), tail_bytes=TAIL)
    gate.set()
    state = await log.begin(HOME)
    gate.clear()
    taken = 0

    async def client() -> None:
        nonlocal taken
        async with log.append(HOME, state) as appender:
            for _ in range(40):
                await appender.write([b"x"])
                taken += 1
            await appender.checkpoint()

    task = asyncio.ensure_future(client())
    for _ in range(10):
        for _ in range(50):
            await asyncio.sleep(0)
        stored_bytes = sum(len(item.data) for key, item in bucket.objects.items() if "/parts/" in key)
        most = max(most, taken - stored_bytes, sending)
        gate.set()
        await asyncio.sleep(0)
        gate.clear()
    gate.set()
    await task
    assert most <= 2 * CHUNK
    assert (await log.state(HOME)).offset == 40


async def test_a_checkpoint_whose_answer_was_lost_keeps_its_chunks() -> None:
    """Removing them would leave a state that names what is gone."""
    bucket = Bucket()

    async def after(name: str, keys: Sequence[Key]) -> None:
        if name == "put" and keys == (f"{HOME}/state",) and len(bucket.objects) > 1:
            raise StorageUnavailable("the answer was lost")

    good, state = node(bucket), await node(bucket).begin(HOME)
    async with node(bucket, after=after).append(HOME, state) as appender:
        await appender.write([b"abcdefghi"])
        with pytest.raises(StorageUnavailable):
            await appender.checkpoint()
    seen = await good.state(HOME)
    assert await stored(good, seen) == b"abcdefghi"


class Turns:
    """Lets two writers call the store in a given order: whose turn it is goes, the other waits."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = list(order)
        self._moved = asyncio.Condition()
        self.done: set[int] = set()

    def hook(self, writer: int) -> Callable[..., Awaitable[None]]:
        async def before(name: str, keys: Sequence[Key]) -> None:
            async with self._moved:
                await self._moved.wait_for(lambda: self._turn() in {writer, None})
                if self._order:
                    self._order.pop(0)
                self._moved.notify_all()

        return before

    def _turn(self) -> int | None:
        while self._order and self._order[0] in self.done:
            self._order.pop(0)
        return self._order[0] if self._order else None

    async def end(self, writer: int) -> None:
        async with self._moved:
            self.done.add(writer)
            self._moved.notify_all()


async def race(order: Sequence[int], *, exact: bool) -> tuple[list[bytes], bytes, list[str]]:
    """Two requests extend one upload; the texts that were acknowledged, what is published, and what is left."""
    bucket, turns = Bucket(exact=exact), Turns(order)
    good = node(bucket)
    begun = await good.begin(HOME)
    async with good.append(HOME, begun) as appender:
        await appender.write([b"=="])
        state = await appender.checkpoint()

    async def write(writer: int, text: bytes) -> bytes | None:
        try:
            log = node(bucket, before=turns.hook(writer))
            async with log.append(HOME, state) as appender:
                await appender.write([text])
                await appender.checkpoint()
        except (UploadChanged, UploadMissing):
            return None
        finally:
            await turns.end(writer)
        return text

    texts = (b"aaaaaaaaa", b"bbbbbbbbb")
    results = await asyncio.gather(write(0, texts[0]), write(1, texts[1]))
    seen = await good.state(HOME)
    await good.publish(HOME, seen, TO)
    left = [key for key in bucket.objects if "/parts/" in key]
    assert isinstance(seen.held, LogState)
    named = {f"{HOME}/{chunk.name}" for chunk in seen.held.chunks}
    return [text for text in results if text is not None], bucket.objects[TO].data, sorted(set(left) - named)


def orders() -> Iterator[tuple[int, ...]]:
    """Every way in which two writers can take ten turns, five each; the rest is done by either."""
    for places in itertools.combinations(range(10), 5):
        yield tuple(int(place in places) for place in range(10))


@pytest.mark.slow
def test_two_writers_in_every_order_never_mix() -> None:
    """In every order of two requests' calls, one is acknowledged and the blob is exactly its bytes."""
    for order in orders():
        won, published, orphans = asyncio.run(race(order, exact=True))
        assert len(won) == 1, order
        assert published == b"==" + won[0], order
        assert orphans == [], order


@pytest.mark.slow
def test_two_writers_on_a_store_whose_conditions_do_not_hold_never_mix() -> None:
    """Both may be acknowledged there; what is published is the whole text of one, with its own hash."""
    both = 0
    for order in orders():
        won, published, _ = asyncio.run(race(order, exact=False))
        assert won, order
        assert published in {b"==" + text for text in won}, order
        both += len(won) == 2
    assert both, "or this tests nothing"


async def test_the_references_upload_is_taken_over() -> None:
    """The day of the move interrupts no push: bytes, offset and hash state are found and continued."""
    bucket = Bucket()
    objects = MemoryObjects(bucket, chunk=CHUNK)
    bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    bucket.store(f"{HOME}/hashstates/sha256/7", b"theirs")
    objects.begin_foreign(Key(f"{HOME}/data"), b"abcdefg")
    log = node(bucket)
    state = await log.state(HOME)
    assert (state.offset, state.notes) == (7, (Note("hashstates/sha256/7", b"theirs"),))
    assert state.started == datetime(2026, 11, 24, 15, 18, 3, tzinfo=UTC)
    assert f"{HOME}/state" not in bucket.objects, "asking changes nothing"
    async with log.append(HOME, state) as appender:
        await appender.write([b"hi"])
        state = await appender.checkpoint()
    assert await stored(node(bucket), state) == b"abcdefghi"
    await node(bucket).publish(HOME, await node(bucket).state(HOME), TO)
    assert bucket.objects[TO].data == b"abcdefghi"
    await node(bucket).discard(HOME)
    assert list(bucket.objects) == [TO]
    assert bucket.unfinished == {}


@pytest.mark.parametrize("noted", [True, False])
async def test_a_cancelled_upload_of_the_reference_is_aborted(noted: bool) -> None:
    """Its bytes are an unfinished object, which no listing shows and each bucket charges for."""
    bucket = Bucket()
    if noted:
        bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    MemoryObjects(bucket, chunk=CHUNK).begin_foreign(Key(f"{HOME}/data"), b"abc")
    await node(bucket).discard(HOME)
    assert (bucket.objects, bucket.unfinished) == ({}, {})


async def test_cancelling_an_upload_of_ours_costs_no_search_for_unfinished_objects() -> None:
    """An upload begun by Moorage has none, and a look costs a request."""
    bucket, requests = Bucket(), list[str]()

    async def before(name: str, keys: Sequence[Key]) -> None:
        del keys
        requests.append(name)

    log = node(bucket, before=before)
    await log.begin(HOME)
    requests.clear()
    await log.discard(HOME)
    assert bucket.objects == {}
    assert "abort" not in requests


@pytest.mark.parametrize("begun", [b"abcdefg", b""], ids=["some", "none"])
async def test_nothing_is_left_of_the_references_upload_by_the_node_that_published_it(begun: bytes) -> None:
    """A node removes by name what it published; no state has the names of CNCF Distribution's hash states."""
    bucket = Bucket()
    bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    for size in sorted({0, len(begun)}):
        bucket.store(f"{HOME}/hashstates/sha256/{size}", b"theirs")
    MemoryObjects(bucket, chunk=CHUNK).begin_foreign(Key(f"{HOME}/data"), begun)
    log = node(bucket)
    async with log.append(HOME, await log.state(HOME)) as appender:
        await appender.write([b"hi"])
        await appender.checkpoint()
    await log.publish(HOME, await log.state(HOME), TO)
    await log.discard(HOME)
    assert {key: item.data for key, item in bucket.objects.items()} == {TO: begun + b"hi"}


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8])
async def test_a_foreign_beginning_of_any_length_is_joined_as_the_store_wants_it(size: int) -> None:
    """Shorter than a chunk it is read and superseded; a longer one stays as the first part."""
    bucket, begun = Bucket(), b"12345678"[:size]
    bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    MemoryObjects(bucket).begin_foreign(Key(f"{HOME}/data"), begun)
    log = node(bucket)
    async with log.append(HOME, await log.state(HOME)) as appender:
        await appender.write([b"abcdefghi"])
        await appender.checkpoint()
    await log.publish(HOME, await log.state(HOME), TO)
    assert bucket.objects[TO].data == begun + b"abcdefghi"


async def test_two_requests_that_take_over_one_upload_do_not_both() -> None:
    """The second learns that the first was faster."""
    bucket = Bucket()
    bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    MemoryObjects(bucket).begin_foreign(Key(f"{HOME}/data"), b"abc")
    one, two = node(bucket), node(bucket)
    state = await one.state(HOME)
    results = await asyncio.gather(one.log(HOME, state), two.log(HOME, state), return_exceptions=True)
    assert sum(isinstance(result, UploadChanged) for result in results) == 1


async def test_an_empty_foreign_upload_is_an_upload_of_nothing() -> None:
    """A POST to the old registry and the PATCH to Moorage."""
    bucket = Bucket()
    bucket.store(f"{HOME}/startedat", b"2026-11-24T15:18:03Z")
    MemoryObjects(bucket).begin_foreign(Key(f"{HOME}/data"), b"")
    log = node(bucket)
    async with log.append(HOME, await log.state(HOME)) as appender:
        await appender.write([b"abcdefghi"])
        await appender.checkpoint()
    assert await stored(log, await log.state(HOME)) == b"abcdefghi"


async def test_a_chunk_that_was_replaced_stops_the_publication() -> None:
    """Bytes that were never hashed become no blob."""
    bucket = Bucket()
    log = node(bucket)
    state = await log.begin(HOME)
    async with log.append(HOME, state) as appender:
        await appender.write([b"abcdefgh"])
        state = await appender.checkpoint()
    part = next(key for key in bucket.objects if "/parts/" in key)
    bucket.store(part, b"evil")
    with pytest.raises(UploadChanged):
        await log.publish(HOME, state, TO)
    assert TO not in bucket.objects
    del bucket.objects[part]
    with pytest.raises(UploadMissing):
        await log.publish(HOME, state, TO)
    with pytest.raises(UploadMissing):
        await stored(log, state)


async def test_a_state_of_a_later_version_is_not_guessed_at() -> None:
    """After a downgrade an upload in flight fails; it is not cut or mixed."""
    bucket = Bucket()
    log = node(bucket)
    await log.begin(HOME)
    for text in (b'{"moorage":2}\n', b"", b"{", b'{"moorage":1}\n', b"[]\n"):
        bucket.store(f"{HOME}/state", text)
        with pytest.raises(StorageUnavailable):
            await log.state(HOME)


async def test_finishing_costs_what_it_must() -> None:
    """Requests to the store are what a push waits for: a small blob is seven, one of a chunk eight."""
    for size, expected in ((TAIL, 7), (CHUNK, 8)):
        calls: list[str] = []

        async def before(name: str, keys: Sequence[Key], calls: list[str] = calls) -> None:
            calls.append(name)

        bucket = Bucket()
        log = node(bucket, before=before)
        await log.begin(HOME)
        async with log.append(HOME, await log.state(HOME)) as appender:
            await appender.write([b"x" * size])
            await appender.checkpoint()
        await log.publish(HOME, await log.state(HOME), TO)
        await log.discard(HOME)
        assert len(calls) == expected, calls
        assert set(bucket.objects) == {TO}
