"""The pool of threads at the limit of the host."""

from __future__ import annotations

import asyncio
import threading

import pytest

from moorage.storage.driver import StorageUnavailable
from moorage.storage.threads import Pool


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
    pool = Pool(10)
    with monkeypatch.context() as patch:
        limit_threads(patch, 0)
        with pytest.raises(StorageUnavailable, match=r"ulimit -u"):
            await pool.run(lambda: 1)
    assert await pool.run(lambda: 2) == 2
    pool.close()


async def test_with_one_thread_the_work_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is short of threads for a moment slows a registry down and fails no request."""
    pool, gate = Pool(10), threading.Event()
    limit_threads(monkeypatch, 1)
    first = asyncio.ensure_future(pool.run(gate.wait))
    second = asyncio.ensure_future(pool.run(lambda: 2))
    await asyncio.sleep(0)
    assert pool.threads == 1
    gate.set()
    assert (await first, await second) == (True, 2)
    pool.close()
