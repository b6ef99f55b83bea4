"""Guessing slowed down: whoever is wrong too often has to wait, by address, never by name.

    wrong pairs of an address within a window < limit     nothing happens
    as many, and each one after them                      wait 1, 2, 4 ... seconds, at most `longest_s`
    ten windows after the last wait                       forgotten

While an address waits, its credentials are not looked at (429), and afterwards one pair at a time; before, `limit`
pairs at once, or else hundreds would be checked before the first of them counts.  No name is ever locked, so that
no stranger can keep its owner out.  What counts is different pairs: a machine that asks every minute with
yesterday's password guesses nothing, and must not slow down its neighbours behind the same address.

In memory, of one process: with N workers an address has N times as many tries.  An unknown address (a Unix socket
without a proxy that tells) is never slowed: everybody would share it.

Used by: `basic.py`, and whoever else takes passwords.  Source: docs/reference/auth.md, section 7.
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

from moorage.caches import LRUCache
from moorage.errors import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.auth.access import Basic

__all__ = ["LoginRateLimit"]

_ADDRESSES: Final = 10_000
_FORGOTTEN_WINDOWS: Final = 10
_IPV6_BITS: Final = 64
"""What one customer of a provider has: a single machine in it may take any address."""

_log: Final = structlog.get_logger("moorage.auth")


@dataclass(slots=True)
class _Address:
    """`wrong`: fingerprints of what was wrong since `begun`, `limit` at most; `until`: when its last wait ends."""

    begun: float
    wrong: set[bytes] = field(default_factory=set)
    waits: int = 0
    until: float = 0.0


class LoginRateLimit:
    """Counts the wrong credentials of addresses; with a `limit` of 0 it only logs them.  Of one event loop."""

    def __init__(
        self, *, limit: int, window_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._window_s, self._longest_s, self._clock = limit, window_s, longest_s, clock
        self._key = secrets.token_bytes(32)
        self._addresses: LRUCache[str, _Address] = LRUCache(_ADDRESSES)
        self._checking: dict[str, Counter[bytes]] = {}  # by address: how many requests wait for which pair

    async def guess(
        self, remote: str, credentials: Basic, check: Callable[[bytes, bytes], Awaitable[bool]]
    ) -> bool:
        """What `check(user, password)` returns; wrong ones are logged, and count for `remote`.

        Raises TooManyRequests, without checking anything, while `remote` has to wait.
        """
        network, pair = _network(remote), self._fingerprint(credentials)
        if self._limit == 0 or not network:
            right = await check(credentials.user, credentials.password)
        else:
            self._hold_back(network, pair)
            checking = self._checking.setdefault(network, Counter())
            checking[pair] += 1
            try:
                right = await check(credentials.user, credentials.password)
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
        return state.waits > 0 and self._clock() < state.until + _FORGOTTEN_WINDOWS * self._window_s

    def _hold_back(self, network: str, pair: bytes) -> None:
        state = self._addresses.get(network)
        left_s, at_once = 0.0, self._limit
        if state is not None and self._is_suspect(state):
            left_s, at_once = state.until - self._clock(), 1
        checking = self._checking.get(network, ())
        if left_s <= 0 and (pair in checking or len(checking) < at_once):
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
        if pair in state.wrong:
            return
        if len(state.wrong) < self._limit:
            state.wrong.add(pair)
        if len(state.wrong) < self._limit:
            return
        wait_s = min(self._longest_s, 2.0**state.waits)
        # Beyond what doubles to a year there is nothing to count.
        state.waits = min(state.waits + 1, 25)
        state.until = now + wait_s
        _log.warning("too many wrong credentials; the next ones have to wait", remote=network, seconds=wait_s)

    def _fingerprint(self, credentials: Basic) -> bytes:
        parts = b"%d %b%b" % (len(credentials.user), credentials.user, credentials.password)
        return hashlib.blake2b(parts, key=self._key, digest_size=16).digest()


def _network(remote: str) -> str:
    """What counts as one address; "" if it is unknown."""
    try:
        address = ipaddress.ip_address(remote)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return remote
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, _IPV6_BITS), strict=False))
