"""Reads that are asked for at the same time: few, none older than its question, none cancelled by a stranger."""

from __future__ import annotations

import asyncio

import pytest

from moorage.coalescing import Coalescer


class Source:
    """A store of one number, which counts up; each read takes its value when it begins."""

    def __init__(self) -> None:
        self.reads = 0
        self.turns: list[asyncio.Event] = []

    async def read(self) -> int:
        self.reads += 1
        mine, turn = self.reads, asyncio.Event()
        self.turns.append(turn)
        await turn.wait()
        return mine

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_a_crowd_is_two_reads() -> None:
    """A tag that a thousand nodes pull at once must not be a thousand requests to a bucket."""
    source, joined = Source(), Coalescer[str, int](limit=1)
    first = asyncio.create_task(joined.read("tag", source.read))
    await source.settle()
    crowd = [asyncio.create_task(joined.read("tag", source.read)) for _ in range(50)]
    await source.settle()
    assert source.reads == 1, "the crowd waits"
    source.turns[0].set()
    await source.settle()
    assert await first == 1
    assert source.reads == 2
    source.turns[1].set()
    assert set(await asyncio.gather(*crowd)) == {2}, "of a read that began after they asked, not of the first"
    assert source.reads == 2


async def test_no_answer_is_older_than_its_question() -> None:
    """Or a push that was acknowledged is not seen by who pulls after it."""
    source, joined = Source(), Coalescer[str, int](limit=2)
    requested: list[tuple[int, asyncio.Task[int]]] = []
    for _ in range(40):
        requested.append((source.reads, asyncio.create_task(joined.read("tag", source.read))))
        await source.settle()
        if len(requested) % 3 == 0:
            # The oldest that runs is answered, in the order in which a store may well answer.
            next(turn for turn in source.turns if not turn.is_set()).set()
            await source.settle()
    while not all(task.done() for _, task in requested):
        next(turn for turn in source.turns if not turn.is_set()).set()
        await source.settle()
    for before, task in requested:
        assert task.result() > before, "began when it was asked, or later"
    assert source.reads < 40


async def test_a_few_run_beside_one_another() -> None:
    """The second of two does not wait for the first: it would take twice as long for no gain."""
    source, joined = Source(), Coalescer[str, int](limit=4)
    tasks = [asyncio.create_task(joined.read("tag", source.read)) for _ in range(4)]
    await source.settle()
    assert source.reads == 4
    for turn in source.turns:
        turn.set()
    assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3, 4]


async def test_other_keys_do_not_wait() -> None:
    source, joined = Source(), Coalescer[str, int](limit=1)
    tasks = [asyncio.create_task(joined.read(key, source.read)) for key in "abc"]
    await source.settle()
    assert source.reads == 3
    for turn in source.turns:
        turn.set()
    await asyncio.gather(*tasks)


async def test_a_cancelled_caller_cancels_no_other() -> None:
    """A client that hangs up costs no other one its answer: whether its read runs or it waits."""
    source, joined = Source(), Coalescer[str, int](limit=1)
    first = asyncio.create_task(joined.read("tag", source.read))
    await source.settle()
    leaving, staying = (asyncio.create_task(joined.read("tag", source.read)) for _ in range(2))
    await source.settle()
    leaving.cancel()
    first.cancel()
    await source.settle()
    assert source.reads == 2, "the place of the cancelled one is free for the next"
    source.turns[1].set()
    assert await staying == 2
    for task in (first, leaving):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_error_is_everybodys_and_not_remembered(caplog: pytest.LogCaptureFixture) -> None:
    joined = Coalescer[str, int](limit=1)
    turn = asyncio.Event()

    async def slow() -> int:
        await turn.wait()
        return 1

    async def broken() -> int:
        raise ConnectionError("the store is away")

    first = asyncio.create_task(joined.read("tag", slow))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(joined.read("tag", broken)) for _ in range(3)]
    leaving = asyncio.create_task(joined.read("other", slow)), asyncio.create_task(joined.read("other", broken))
    await asyncio.sleep(0)
    leaving[1].cancel()  # no caller is left for the error
    turn.set()
    assert await first == 1
    for task in waiting:
        with pytest.raises(ConnectionError, match="the store is away"):
            await task
    assert await joined.read("tag", slow) == 1
    await leaving[0]
    await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text
