"""Circuit breaker: a dead or slow Redis never delays or fails a client request.

    closed ──► open     a connection that failed, or `_SLOW_CALLS` calls in a row that exceeded their timeout
    open ──► closed     a ping that is answered; it is sent every `pause_s`, independently of requests

While the circuit is open, calls fail at once.  If it opens again within a minute (one node of a cluster is dead,
the others answer), the pause doubles each time, up to a minute.  A ping may take `ping_s`, since it also
connects.

A refusal (no permission, out of memory, a key of another type) comes from a server that is up: it fails the one
call, and is logged once per kind.  Each change of state is one log line, however many requests saw it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from moorage.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["CircuitBreaker", "CircuitOpen"]

_T = TypeVar("_T")
_SLOW_CALLS: Final = 3
_LONGEST_PAUSE_S: Final = 60.0
_log: Final = structlog.get_logger("moorage.cache")


class CircuitOpen(Exception):
    """The call failed or was not made; the message has the reason."""


class CircuitBreaker:
    """Every call goes through `call`, at most `concurrency` at the same time.

    `server` names the server in the log.  `refusals` are the errors by which the server itself refuses a call.
    `timeout_s` limits a call, in seconds.  `on_close` is awaited when the server answers again.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[object]],
        *,
        server: str,
        refusals: type[Exception],
        concurrency: int = 10,
        timeout_s: float = 0.2,
        pause_s: float = 5.0,
        ping_s: float = 5.0,
        on_close: Callable[[], Awaitable[None]] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ping = ping
        self._server = server
        self._refusals = refusals
        self._timeout_s = timeout_s
        self._ping_s = ping_s
        self._on_close = on_close
        self._sleep = sleep
        self._clock = clock
        self._backoff = Backoff.exponential(pause_s, max(_LONGEST_PAUSE_S, pause_s))
        self._openings = 0  # in a row, each within a minute of the last recovery
        self._recovered_at: float | None = None
        self._slots = asyncio.Semaphore(concurrency)
        self._slow_calls = 0
        self._logged_refusals: set[str] = set()
        self._is_open = False
        self._is_closing = False
        self._recovery: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Return whether calls fail at once, because the server is down or slow."""
        return self._is_open

    async def call(self, work: Callable[[], Awaitable[_T]], *, timeout_s: float | None = None) -> _T:
        """Return the result of `work`.  Raises CircuitOpen, after `timeout_s` seconds at most."""
        if self._is_open or self._is_closing:
            raise CircuitOpen(f"{self._server} is down")
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            # The wait for a free slot counts: where all wait for the server, one more call would not be faster.
            async with asyncio.timeout(limit_s), self._slots:
                result = await work()
        except TimeoutError as error:
            self._slow_calls += 1
            if self._slow_calls >= _SLOW_CALLS:
                self._open(f"no answer within {limit_s:g} s, {self._slow_calls} times in a row")
            raise CircuitOpen(f"{self._server} gave no answer within {limit_s:g} s") from error
        except self._refusals as error:
            self._log_refusal(error)
            raise CircuitOpen(f"{self._server} refused: {error}") from error
        except Exception as error:
            # Any error of the library for a server in an unexpected state: it must not become a client's error.
            self._open(f"{type(error).__name__}: {error}")
            raise CircuitOpen(f"{self._server} failed: {error}") from error
        self._slow_calls = 0
        return result

    def _log_refusal(self, error: Exception) -> None:
        kind = str(error).partition(" ")[0]
        if kind not in self._logged_refusals:
            self._logged_refusals.add(kind)
            _log.warning("Redis refuses a command; that part of the cache is not used", error=str(error))

    def _open(self, reason: str) -> None:
        if self._is_open or self._is_closing:
            return
        self._is_open = True
        recovered_at = self._recovered_at
        again = recovered_at is not None and self._clock() - recovered_at < _LONGEST_PAUSE_S
        self._openings = self._openings + 1 if again else 1
        _log.warning("Redis does not answer; continuing without it", server=self._server, error=reason)
        self._recovery = asyncio.create_task(self._recover(), name="waiting for Redis")

    async def _recover(self) -> None:
        answered = False
        while not answered:
            await self._sleep(self._backoff.delay_s(self._openings))
            answered = await self._answers()
        self._slow_calls = 0
        self._is_open = False
        self._recovered_at = self._clock()
        self._logged_refusals.clear()
        _log.info("Redis answers again", server=self._server)
        if self._on_close is not None:
            await self._on_close()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(self._ping_s):
                await self._ping()
        except Exception as error:  # noqa: BLE001  see `call`
            reason = f"{type(error).__name__}: {error}"
            _log.debug("Redis still does not answer", server=self._server, error=reason)
            return False
        return True

    async def close(self) -> None:
        """Stop the pings; later calls fail."""
        self._is_closing = True
        if self._recovery is not None:
            self._recovery.cancel()
            with suppress(asyncio.CancelledError):
                await self._recovery
