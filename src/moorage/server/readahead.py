"""Bodies that come in small pieces, gathered before the application is woken.

Clients written in Go (Docker, skopeo, podman) send a layer as HTTP chunks of 32 KiB.  Granian hands over each
chunk by itself: from its runtime to a thread that may hold the GIL, from there to the event loop, and back to
ask for the next; three threads are woken for each.  A push of skopeo cost 9 CPU seconds per GiB that way, once
and a half what it costs at CNCF Distribution, and took twice as long.

So once an upload is seen to come in small pieces, the next piece is asked for where the last one was delivered,
in Granian's thread, and the event loop is woken for half a MiB:

    Granian's thread:   piece ─► gathered ─► ask for the next ─► ... ─► enough, or the end: wake the event loop
    event loop:         receive ◄─ all that is gathered; ask again if nobody has

At any time at most one piece has been asked for, so they come in order.  At most `_ENOUGH_BYTES` and a piece wait.

This rests on how Granian 2.8 completes what its `receive` returned: in one thread of its own, by
`loop.call_soon_threadsafe(callback, future)`.  `WorkerLoop` calls ours there and then.  Under any other loop
everything works as well, and costs more.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.http.middleware import Message

__all__ = ["Body", "WorkerLoop"]

_PLAIN_BYTES: Final = 256 << 10
"""What comes first is handed over as it comes: few requests have more."""

_SMALL_BYTES: Final = 128 << 10
_ENOUGH_BYTES: Final = 512 << 10
_PATIENCE_S: Final = 0.005
"""How long the first gathered piece may wait for others."""


_call_soon_threadsafe: Final[Callable[..., Any]] = uvloop.Loop.call_soon_threadsafe
"""Looked up once: it is called for every request."""


class WorkerLoop(uvloop.Loop):
    """uvloop's, except that a `_Gathering` is called in the thread that has something for it."""

    # The arguments that uvloop's stub types one by one are passed on as they are.
    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        if type(callback) is _Gathering:
            return callback(*args)
        return _call_soon_threadsafe(self, callback, *args, context=context)


class Body:
    """ASGI's `receive` of one request; `ask` is Granian's own."""

    __slots__ = ("_ask", "_gathering", "_plain_bytes")

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._plain_bytes = 0
        self._gathering: _Gathering | None = None

    async def __call__(self) -> Message:
        if self._gathering is not None:
            gathered = await self._gathering.next()
            if _is_last(gathered):
                self._gathering = None  # whoever asks again waits for the client to leave
            return gathered
        message: Message = await self._ask()
        size = len(message.get("body", b""))
        self._plain_bytes += size
        if size < _SMALL_BYTES and self._plain_bytes >= _PLAIN_BYTES and not _is_last(message):
            self._gathering = _Gathering(self._ask)
        return message


def _is_last(message: Message) -> bool:
    """The end of the body, or `http.disconnect`."""
    return not message.get("more_body")


class _Gathering:
    """Asks for one piece after another, from the moment it is made, until there are enough."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        # Both threads change what follows; each holds the lock for less than a microsecond.
        self._lock = threading.Lock()
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._last: Message | None = None
        self._asking = True
        self._eager = False
        self._waiter: asyncio.Future[None] | None = None
        self._ask_on()

    def _ask_on(self) -> None:
        self._ask().add_done_callback(self)

    def __call__(self, future: Any) -> None:
        """A piece is there.  Called in Granian's thread; in ours if it was there before the callback was added."""
        message: Message = future.result()
        with self._lock:
            if _is_last(message):
                self._last = message
            else:
                self._pieces.append(message["body"])
                self._bytes += len(message["body"])
            asking = self._asking = self._last is None and self._bytes < _ENOUGH_BYTES
            wake = self._waiter is not None and (self._eager or not asking)
        if asking:
            self._ask_on()
        if wake:
            self._loop.call_soon_threadsafe(self._wake)

    async def next(self) -> Message:
        """All that is gathered as one message; the last message of the body comes alone."""
        while self._asking:
            await self._woken()
            if self._pieces:  # else the wake was meant for the one who waited before
                break
        return self._take()

    async def _woken(self) -> None:
        with self._lock:
            if not self._asking:
                return
            waiter = self._waiter = self._loop.create_future()
            self._eager = False
        timer = self._loop.call_later(_PATIENCE_S, self._lose_patience)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _lose_patience(self) -> None:
        with self._lock:
            self._eager = True
            wake = bool(self._pieces)
        if wake:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Message:
        with self._lock:
            pieces, self._pieces, self._bytes = self._pieces, [], 0
            ask = self._last is None and not self._asking
            self._asking = self._asking or ask
        if ask:
            self._ask_on()
        if pieces:
            return {"type": "http.request", "body": b"".join(pieces), "more_body": True}
        assert self._last is not None, "neither asking, nor a piece, nor the end"
        return self._last
