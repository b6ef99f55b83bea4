"""Shielding from cancellation: a request to a store that was sent is awaited before CancelledError is raised.

A request cannot be taken back.  If its caller did not wait, the store might still write after the caller has
cleaned up.  Rule 1 in docs/drivers.md: a call that is cancelled has either happened or not when it raises.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["run_to_completion", "run_with_thread", "wait_settled"]

_T = TypeVar("_T")


async def run_to_completion(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of `work`, which is not cancelled with the caller.

    CancelledError is raised when the work has ended, instead of its result or error.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await wait_settled(task)
        raise


async def run_with_thread(
    work: Coroutine[Any, Any, None],
    chunks: Sequence[bytes],
    in_thread: Callable[[Sequence[bytes]], None] | None,
) -> None:
    """Run `work`, which sends `chunks`, and `in_thread(chunks)` in a thread meanwhile (hashing, for example).

    The thread has ended when this returns or raises, so the caller may reuse the memory of the chunks.
    """
    if in_thread is None:
        await work
        return
    thread = asyncio.get_running_loop().run_in_executor(None, in_thread, chunks)
    try:
        await work
    finally:
        await wait_settled(thread)
    await thread


async def wait_settled(*tasks: asyncio.Future[Any]) -> None:
    """Wait until all `tasks` are done, through further cancellations; ignore their results and errors."""
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        with suppress(asyncio.CancelledError):
            _, waiting = await asyncio.wait(waiting)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # asyncio would log it as never retrieved
