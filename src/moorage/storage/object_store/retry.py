"""Retries of requests to an object store, with back-off.

A request without a response may have been carried out.  So each error records whether an earlier attempt is in
doubt (`RequestFailed.doubtful`); a conditional write is then compared with what is stored (`helpers.refused_put`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from moorage.backoff import Backoff, equal_jitter
from moorage.storage.driver import StorageError
from moorage.storage.object_store.errors import RequestFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.storage.object_store.errors import Failure

__all__ = ["RetryPolicy", "jittered_backoff"]

_BACKOFF: Final = Backoff.exponential(0.2, 5.0)

_T = TypeVar("_T")


def jittered_backoff(failures: int) -> float:
    """Return 0.1 to 0.2 s after the first failure, at most 5 s after several."""
    return equal_jitter(_BACKOFF.delay_s(failures))


class RetryPolicy:
    """Makes a request up to `attempts` times, as long as its failures are transient.

    `delay_s` returns the pause in seconds after a number of failures; `failure_of` classifies the exceptions of
    the store's libraries.  `resent` counts the attempts after a failed one.
    """

    def __init__(
        self,
        failure_of: Callable[[Exception], Failure],
        attempts: int,
        *,
        delay_s: Callable[[int], float] = jittered_backoff,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.attempts = attempts
        self.sleep = sleep
        self.resent = 0
        self._failure_of = failure_of
        self._delay_s = delay_s

    async def run(self, request: Callable[[], Awaitable[_T]], *, attempts: int = 0) -> _T:
        """Return the result of `request`; `attempts` 0 is the configured number.

        A StorageError, or a RequestFailed of the request itself, is not retried.  Raises RequestFailed.
        """
        last = attempts or self.attempts
        doubtful = False
        for attempt in range(1, last + 1):
            try:
                return await request()
            except StorageError:
                raise
            except RequestFailed as error:
                error.doubtful |= doubtful
                raise
            except Exception as error:
                failure = self._failure_of(error)
                if not failure.transient or attempt == last:
                    raise RequestFailed(failure, doubtful=doubtful) from error
            doubtful = True
            self.resent += 1
            await self.pause(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def pause(self, failures: int) -> None:
        """Wait after that many failures in a row."""
        await self.sleep(self._delay_s(failures))
