"""The pool of threads at the limit of the host."""

from __future__ import annotations

import asyncio
import threading

import pytest

from moorage.storage.driver import StorageUnavailable
from moorage.storage.filesystem.threads import ThreadPool


def limit_threads(patch: pytest.MonkeyPatch, most: int) -> None:
    """Let `threading.Thread.start` fail once `most` threads have been started, as it does at `ulimit -u`."""
    real, started = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        if len(started) >= most:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    patch.setattr(threading.Thread, "start", start)


async def test_without_any_thread_the_storage_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the limit in the log, not a traceback; and it works as soon as there is a thread again."""
    pool = ThreadPool(10)
    with monkeypatch.context() as patch:
        limit_threads(patch, 0)
        with pytest.raises(StorageUnavailable, match=r"ulimit -u"):
            await pool.run(lambda: 1)
    assert await pool.run(lambda: 2) == 2
    pool.close()


async def test_with_one_thread_the_work_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is short of threads for a moment slows a registry down and fails no request."""
    pool, gate = ThreadPool(10), threading.Event()
    limit_threads(monkeypatch, 1)
    first = asyncio.ensure_future(pool.run(gate.wait))
    second = asyncio.ensure_future(pool.run(lambda: 2))
    await asyncio.sleep(0)
    assert pool.threads == 1
    gate.set()
    assert (await first, await second) == (True, 2)
    pool.close()


async def test_work_beside_runs_in_another_thread_at_the_same_time() -> None:
    """Hashing and writing of one upload take two processors: in one thread a single push is a third slower."""
    pool, meeting = ThreadPool(10, 4), threading.Barrier(2)
    threads = []

    def meet() -> int:
        threads.append(threading.get_ident())
        meeting.wait(5)
        return 7

    assert pool.has_idle_processor
    assert await pool.run_both(meet, meet) == 7
    assert len(set(threads)) == 2
    pool.close()


async def test_work_beside_needs_no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If every thread waited for work in the queue, all uploads would stop for good."""
    pool = ThreadPool(10, 4)
    limit_threads(monkeypatch, 1)
    done: list[int] = []

    async def one(number: int) -> None:
        await pool.run_both(lambda: done.append(number), lambda: done.append(-number))

    await asyncio.wait_for(asyncio.gather(*map(one, range(1, 9))), 10)
    assert sorted(map(abs, done)) == sorted([*range(1, 9)] * 2)
    assert pool.threads == 1
    pool.close()


@pytest.mark.parametrize("failing", ["work", "beside"])
async def test_a_failure_of_either_is_raised_when_both_have_ended(failing: str) -> None:
    """A thread that still hashes chunks of a request that was answered already would spoil a later one's state."""
    pool, gate = ThreadPool(10, 4), threading.Event()
    ended = []

    def work(name: str) -> None:
        if name == failing:
            gate.set()
            raise OSError(name)
        gate.wait(5)
        ended.append(name)

    with pytest.raises(OSError, match=failing):
        await pool.run_both(lambda: work("work"), lambda: work("beside"))
    assert len(ended) == 1
    assert await pool.run(lambda: 1) == 1
    pool.close()


async def test_a_cancelled_caller_waits_for_both() -> None:
    """The descriptor is closed afterwards: a thread that still wrote to it could write to another file."""
    pool, gate, begun, ended = ThreadPool(10, 4), threading.Event(), threading.Event(), list[str]()

    def beside() -> None:
        begun.set()
        gate.wait(5)
        ended.append("beside")

    task = asyncio.ensure_future(pool.run_both(lambda: None, beside))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["beside"]
    assert pool.has_idle_processor
    pool.close()


async def test_where_all_processors_are_busy_work_is_not_split() -> None:
    """With as many uploads as processors a second thread for each is only two switches more."""
    pool, gate = ThreadPool(10, 2), threading.Event()
    before = pool.has_idle_processor
    busy = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    assert (before, pool.has_idle_processor) == (True, False)
    gate.set()
    await busy
    assert not ThreadPool(10, 1).has_idle_processor
    pool.close()
