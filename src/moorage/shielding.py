"""A request to a store cannot be taken back: whoever is cancelled waits for its end.

Otherwise the store might still do, after we have gone on, what we have just cleaned up after.  Rule 1 in
docs/drivers.md: a call that is cancelled has either happened or not when it raises.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["beside", "finished", "settled"]

_T = TypeVar("_T")


async def finished(work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` returns.  A cancellation is raised when the work has ended, however it ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await settled(task)
        raise


async def beside(
    work: Coroutine[Any, Any, None], chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None
) -> None:
    """Do `work`, which sends `chunks`, and `also` with the same chunks in a thread meanwhile.

    However it ends, the thread has ended by then: it reads the chunks, and they are the caller's again.
    """
    if also is None:
        await work
        return
    hashing = asyncio.get_running_loop().run_in_executor(None, also, chunks)
    try:
        await work
    finally:
        await settled(hashing)
    await hashing


async def settled(*tasks: asyncio.Future[Any]) -> None:
    """Wait until all of `tasks` are done, through further cancellations; their failures interest nobody."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        with suppress(asyncio.CancelledError):
            _, waiting = await asyncio.wait(waiting)
    for task in tasks:
        if not task.cancelled():
            task.exception()
