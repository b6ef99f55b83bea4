"""Rate limit of failed logins, per client address (never per user name).

    failed pairs of an address within a window < limit    no limit
    the limit is reached, and each failure after that     wait 1, 2, 4 ... seconds, at most `longest_s`
    ten windows after the last wait                       reset

During a wait credentials of the address are not checked (429), and afterwards one pair at a time; before, `limit`
pairs concurrently, or hundreds would be checked before the first of them counts.  No user name is ever locked, so
an attacker cannot lock out its owner.  Distinct pairs are counted: a machine that sends yesterday's password every
minute does not guess, and must not slow down others behind the same address.

State is kept in memory per process: with N workers an address has N times as many attempts.  An unknown address (a
Unix socket without a proxy that reports addresses) is never limited, because all clients would share it.

Used by: `basic.py`, and `local/identities.py`.  Source: docs/reference/auth.md, section 7.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from moorage.backoff import Backoff
from moorage.caches import LRUCache
from moorage.errors import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.auth.access import Basic

__all__ = ["LoginRateLimit"]

_ADDRESSES: Final = 10_000
_RESET_WINDOWS: Final = 10
_IPV6_BITS: Final = 64
"""The prefix of one customer of a provider: a single machine may use any address in it."""

_log: Final = structlog.get_logger("moorage.auth")


@dataclass(slots=True)
class _Address:
    """`failed`: fingerprints of failed pairs since `begun`, `limit` at most; `until`: end of the last wait."""

    begun: float
    failed: set[bytes] = field(default_factory=set)
    waits: int = 0
    until: float = 0.0


class LoginRateLimit:
    """Counts failed logins per address; with a `limit` of 0 it only logs them.

    Times are seconds.  Of one event loop.
    """

    def __init__(
        self, *, limit: int, window_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._backoff = Backoff.exponential(1.0, longest_s)
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._addresses: LRUCache[str, _Address] = LRUCache(_ADDRESSES)
        self._checking: dict[str, Counter[bytes]] = {}  # by address: number of requests that wait for a pair

    async def check(
        self, remote: str, credentials: Basic, verify: Callable[[bytes, bytes], Awaitable[bool]]
    ) -> bool:
        """Return the result of `verify(user, password)`; log a failed login and count it for `remote`.

        Raises TooManyRequests, without a check, while `remote` has to wait.
        """
        network = _network(remote)
        pair = self._fingerprint(credentials)
        if self._limit == 0 or not network:
            right = await verify(credentials.user, credentials.password)
        else:
            self._hold_back(network, pair)
            checking = self._checking.setdefault(network, Counter())
            checking[pair] += 1
            try:
                right = await verify(credentials.user, credentials.password)
            finally:
                checking[pair] -= 1
                if checking[pair] == 0:
                    del checking[pair]
                if not checking:
                    self._checking.pop(network, None)
        if not right:
            user = credentials.user.decode(errors="backslashreplace")
            _log.warning("wrong user or password", user=user, remote=remote)
            if self._limit and network:
                self._count(network, pair)
        return right

    def _is_suspect(self, state: _Address) -> bool:
        return state.waits > 0 and self._clock() < state.until + _RESET_WINDOWS * self._window_s

    def _hold_back(self, network: str, pair: bytes) -> None:
        state = self._addresses.get(network)
        left_s = 0.0
        concurrency = self._limit
        if state is not None and self._is_suspect(state):
            left_s = state.until - self._clock()
            concurrency = 1
        checking = self._checking.get(network, ())
        if left_s <= 0 and (pair in checking or len(checking) < concurrency):
            return
        seconds = max(1, math.ceil(left_s))
        raise TooManyRequests(
            f"too many wrong credentials came from this address; try again in {seconds} s", retry_after_s=seconds
        )

    def _count(self, network: str, pair: bytes) -> None:
        now = self._clock()
        state = self._addresses.get(network)
        if state is None or not (self._is_suspect(state) or now < state.begun + self._window_s):
            state = _Address(now)
            self._addresses.put(network, state)
        if pair in state.failed:
            return
        if len(state.failed) < self._limit:
            state.failed.add(pair)
        if len(state.failed) < self._limit:
            return
        state.waits += 1
        wait_s = self._backoff.delay_s(state.waits)
        state.until = now + wait_s
        _log.warning("too many wrong credentials; the next ones have to wait", remote=network, seconds=wait_s)

    def _fingerprint(self, credentials: Basic) -> bytes:
        parts = b"%d %b%b" % (len(credentials.user), credentials.user, credentials.password)
        return hashlib.blake2b(parts, key=self._key, digest_size=16).digest()


def _network(remote: str) -> str:
    """Return the address or network that counts as one client; "" if it is unknown."""
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return remote
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _IPV6_BITS), strict=False))
