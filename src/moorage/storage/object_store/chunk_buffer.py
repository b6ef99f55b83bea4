"""Buffer that turns bytes of any sizes into pieces of one size; one piece is sent while the next one fills.

    add ──► held, fewer than `size` bytes ──full──► sent ──► landed
                                              ▲                 │
                                              └── not before ───┘

It bounds the memory of every upload to an object store: two pieces at most, however large the layer.  The caller
sends, keeps or drops the bytes that are held at the end.

Above: `appender.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from moorage.shielding import wait_settled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

__all__ = ["ChunkBuffer"]


class ChunkBuffer:
    """`length` bytes are held; `held` are the first ones.

    `send` sends one piece, and owns the list.  Its errors are raised by the next call.
    """

    __slots__ = ("_flight", "_held", "_send", "_size", "length")

    def __init__(
        self,
        size: int,
        send: Callable[[list[bytes]], Coroutine[Any, Any, None]],
        held: Iterable[bytes] = (),
    ) -> None:
        self._size = size
        self._send = send
        self._flight: asyncio.Task[None] | None = None
        self.hold(held)

    async def add(self, chunks: Sequence[bytes]) -> None:
        """Return when all chunks are held or on their way."""
        for chunk in chunks:
            rest = chunk
            while rest:
                room = self._size - self.length
                part = rest if len(rest) <= room else rest[:room]
                self._held.append(part)
                self.length += len(part)
                rest = rest[room:]
                if self.length == self._size:
                    await self.send()

    async def send(self, *, keep: bool = False) -> None:
        """Send the held bytes when the piece before has been stored; `keep` also holds them further."""
        await self.landed()
        piece = self._held
        self.hold(piece if keep else ())
        self._flight = asyncio.ensure_future(self._send(piece))

    async def landed(self) -> None:
        """Wait for the piece on its way.  Raises the error of `send`, each time."""
        if self._flight is not None:
            await asyncio.shield(self._flight)
            self._flight = None

    def hold(self, held: Iterable[bytes]) -> None:
        """Replace the held bytes."""
        self._held = list(held)
        self.length = sum(map(len, self._held))

    def joined(self) -> bytes:
        """Return the held bytes."""
        return b"".join(self._held)

    async def close(self) -> None:
        """Wait for the piece on its way, ignore its error, and drop the held bytes."""
        if self._flight is not None:
            await wait_settled(self._flight)
        self.hold(())
