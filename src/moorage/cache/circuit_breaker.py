"""A server that may be dead, slow or out of its mind, and must cost nobody an answer.

    up ──► away     a connection that failed, or `_SLOW_ANSWERS` calls in a row that took longer than `patience_s`
    away ──► up     a ping every `pause_s`, beside the requests, that is answered

Who is away again within a minute (one node of a cluster is dead, the others answer) is left alone twice as long
each time, up to a minute.  A ping may take `ping_s`, since it also has to connect.

While it is away nobody waits for it.  A refusal (no permission, no memory left, a key of another kind) comes
from a server that is up: it ends the one call and is told in the log once per kind.

Each change is one line in the log, however many requests saw it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["CircuitBreaker", "CircuitOpen"]

_T = TypeVar("_T")
_SLOW_ANSWERS: Final = 3
_LONGEST_PAUSE_S: Final = 60.0
_log: Final = structlog.get_logger("moorage.cache")


class CircuitOpen(Exception):
    """No answer; says why."""


class CircuitBreaker:
    """Every call goes through `ask`, at most `at_once` at the same time.

    `refusals` are the errors by which the server itself says no.  `returned` is awaited when it answers again.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[object]],
        *,
        what: str,
        refusals: type[Exception],
        at_once: int = 10,
        patience_s: float = 0.2,
        pause_s: float = 5.0,
        ping_s: float = 5.0,
        returned: Callable[[], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ping, self._what, self._refusals = ping, what, refusals
        self._patience_s, self._pause_s, self._sleep = patience_s, pause_s, sleep
        self._ping_s, self._returned, self._clock = ping_s, returned, clock
        self._next_pause_s = pause_s
        self._back_since: float | None = None
        self._slots = asyncio.Semaphore(at_once)
        self._slow = 0
        self._told: set[str] = set()
        self._away = self._closed = False
        self._watching: asyncio.Task[None] | None = None

    @property
    def away(self) -> bool:
        return self._away

    async def ask(self, call: Callable[[], Awaitable[_T]], *, patience_s: float | None = None) -> _T:
        """What `call` returns.  Raises Away: at once while the server is away, else after `patience_s` at most."""
        if self._away or self._closed:
            raise CircuitOpen(f"{self._what} is away")
        limit = self._patience_s if patience_s is None else patience_s
        try:
            # A wait for a free slot counts: where all wait for the server, one more has no better prospects.
            async with asyncio.timeout(limit), self._slots:
                found = await call()
        except TimeoutError as error:
            self._slow += 1
            if self._slow >= _SLOW_ANSWERS:
                self._leave(f"no answer within {limit:g} s, {self._slow} times in a row")
            raise CircuitOpen(f"{self._what} gave no answer within {limit:g} s") from error
        except self._refusals as error:
            self._refused(error)
            raise CircuitOpen(f"{self._what} refused: {error}") from error
        except Exception as error:
            # Whatever the library raises for a server in an odd state: it must not become a client's error.
            self._leave(f"{type(error).__name__}: {error}")
            raise CircuitOpen(f"{self._what} failed: {error}") from error
        self._slow = 0
        return found

    def _refused(self, error: Exception) -> None:
        kind = str(error).partition(" ")[0]
        if kind not in self._told:
            self._told.add(kind)
            _log.warning(
                "Redis refuses what is asked of it; that part of the cache does nothing", error=str(error)
            )

    def _leave(self, why: str) -> None:
        if not self._away and not self._closed:
            self._away = True
            again = self._back_since is not None and self._clock() - self._back_since < _LONGEST_PAUSE_S
            doubled = min(2 * self._next_pause_s, max(_LONGEST_PAUSE_S, self._pause_s))
            self._next_pause_s = doubled if again else self._pause_s
            _log.warning("Redis does not answer; going on without it", server=self._what, error=why)
            self._watching = asyncio.create_task(self._watch(), name="waiting for Redis")

    async def _watch(self) -> None:
        answered = False
        while not answered:
            await self._sleep(self._next_pause_s)
            answered = await self._answers()
        self._slow, self._away, self._back_since = 0, False, self._clock()
        self._told.clear()
        _log.info("Redis answers again", server=self._what)
        if self._returned is not None:
            await self._returned()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._ping_s):
                await self._ping()
        except Exception as error:  # noqa: BLE001  see `ask`
            _log.debug("Redis still does not answer", server=self._what, error=f"{type(error).__name__}: {error}")
            return False
        return True

    async def close(self) -> None:
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
