"""Bytes of any sizes become pieces of one size, and two are in memory at most."""

from __future__ import annotations

import asyncio

import pytest

from moorage.storage.object_store.chunk_buffer import ChunkBuffer


class Store:
    """Takes pieces; while `open` is not set, none of them arrives."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.arrived: list[bytes] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def send(self, piece: list[bytes]) -> None:
        self.begun.append(b"".join(piece))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.arrived.append(b"".join(piece))


async def test_pieces_are_of_one_size_however_the_bytes_come() -> None:
    """A chunk of another size could not be joined by every store."""
    store = Store()
    pieces = ChunkBuffer(4, store.send, [b"0"])
    await pieces.add([b"1", b"", b"23456789ab", b"cd"])
    await pieces.landed()
    assert store.arrived == [b"0123", b"4567", b"89ab"]
    assert (pieces.length, pieces.joined()) == (2, b"cd")


async def test_a_third_piece_waits_for_the_first() -> None:
    """Else a fast client and a slow store would fill the memory."""
    store = Store()
    store.open.clear()
    pieces = ChunkBuffer(4, store.send)
    await pieces.add([b"aaaa", b"bbb"])
    adding = asyncio.create_task(pieces.add([b"bcccc"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (store.begun, adding.done()) == ([b"aaaa"], False)
    store.open.set()
    await adding
    await pieces.landed()
    assert store.arrived == [b"aaaa", b"bbbb", b"cccc"]


async def test_what_could_not_be_sent_is_told_until_the_end() -> None:
    """An upload with a hole would be taken for whole."""
    store = Store()
    store.failure = OSError("away")
    pieces = ChunkBuffer(4, store.send)
    await pieces.add([b"aaaa"])
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await pieces.landed()
    with pytest.raises(OSError, match="away"):
        await pieces.add([b"bbbb"])
    await pieces.close()
    assert store.begun == [b"aaaa"]


async def test_what_is_sent_may_be_held_on_to() -> None:
    """For stores where a short piece is superseded by one that begins with it."""
    store = Store()
    pieces = ChunkBuffer(4, store.send)
    await pieces.add([b"ab"])
    await pieces.send(keep=True)
    await pieces.add([b"c"])
    await pieces.landed()
    assert (store.arrived, pieces.joined()) == ([b"ab"], b"abc")
    await pieces.send()
    await pieces.landed()
    assert (store.arrived, pieces.length) == ([b"ab", b"abc"], 0)


async def test_a_request_that_is_cancelled_leaves_its_piece_on_its_way_and_waits_at_the_end() -> None:
    """The store might still write it after the cleanup."""
    store = Store()
    store.open.clear()
    pieces = ChunkBuffer(4, store.send)
    await pieces.add([b"aaaab"])
    waiting = asyncio.create_task(pieces.landed())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    closing = asyncio.create_task(pieces.close())
    await asyncio.sleep(0)
    assert not closing.done()
    store.open.set()
    await closing
    assert (store.arrived, pieces.length) == ([b"aaaa"], 0)
