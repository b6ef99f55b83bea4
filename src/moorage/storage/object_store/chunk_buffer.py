"""Bytes that come in any sizes and go to a store in pieces of one size, one on its way while the next fills.

    add ──► held, fewer than `size` bytes ──full──► sent ──► landed
                                              ▲                 │
                                              └── not before ───┘

The promise of every upload to an object store is here: two pieces in memory at most, however large the layer.
What is held at the end is the caller's to keep, to send or to write elsewhere.

Above: `chunk_log.py`, `storage/azure/appender.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from moorage.shielding import wait_settled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

__all__ = ["Pieces"]


class Pieces:
    """`length` is how many bytes are held; `held` are those to begin with.

    `send` sends one piece, whose list is its own.  What it raises comes out of the call after.
    """

    __slots__ = ("_flight", "_held", "_send", "_size", "length")

    def __init__(
        self,
        size: int,
        send: Callable[[list[bytes]], Coroutine[Any, Any, None]],
        held: Iterable[bytes] = (),
    ) -> None:
        self._size, self._send = size, send
        self._flight: asyncio.Task[None] | None = None
        self.hold(held)

    async def add(self, chunks: Sequence[bytes]) -> None:
        """Returns when all of it is held or on its way."""
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
        """What is held goes out when the piece before it has landed; `keep`: and is held on to all the same."""
        await self.landed()
        piece = self._held
        self.hold(piece if keep else ())
        self._flight = asyncio.ensure_future(self._send(piece))

    async def landed(self) -> None:
        """Nothing is on its way any more.  Raises what `send` did, each time."""
        if (flight := self._flight) is not None:
            await asyncio.shield(flight)
            self._flight = None

    def hold(self, held: Iterable[bytes]) -> None:
        """Instead of what is held now."""
        self._held = list(held)
        self.length = sum(map(len, self._held))

    def joined(self) -> bytes:
        """What is held."""
        return b"".join(self._held)

    async def close(self) -> None:
        """Nothing is on its way any more, and nothing held; how the last piece fared interests nobody."""
        if self._flight is not None:
            await wait_settled(self._flight)
        self.hold(())
