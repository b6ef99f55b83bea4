"""Signing keys of `auth.local`: derived from `http.secret`, rotated every period, not stored.

Any process that knows the secret derives the same keys, so each worker and node accepts the tokens of all others
without a shared file.  The name of a key (`kid`) is the time at which its period began, so a verifier needs no
list either.  A key has one purpose: a refresh token is never accepted as an access token, nor the other way
round.

The derivation is HKDF with SHA-256 (RFC 5869), of which one block is needed.  A leaked key reveals neither the
secret nor other keys; a leaked secret reveals all keys and must be changed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from joserfc.jwk import OctKey

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLOCK_SKEW_S", "SigningKeys"]

CLOCK_SKEW_S: Final = 60.0
"""Largest difference between the clocks of nodes."""

_SALT: Final = b"moorage auth.local 1"
_KID: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class SigningKeys:
    """Derives keys.  Each signs for `period_s` seconds; `clock` returns seconds since the epoch."""

    def __init__(self, secret: bytes, period_s: float, clock: Callable[[], float]) -> None:
        self._root = hmac.digest(_SALT, secret, hashlib.sha256)
        self._period_s = max(1, int(period_s))
        self._clock = clock
        self._derived = lru_cache(maxsize=64)(self._derive)

    def current(self, purpose: str) -> OctKey:
        """Return the key of the present period."""
        now = int(self._clock())
        return self._derived(purpose, now - now % self._period_s)

    def find(self, purpose: str, kid: object, *, lifetime_s: float | None) -> OctKey | None:
        """Return the key of that name; None if it is too old for tokens of `lifetime_s` (None: unlimited)."""
        if not isinstance(kid, str) or _KID.fullmatch(kid) is None:
            return None
        begun, now = int(kid), self._clock()
        if begun > now + CLOCK_SKEW_S:
            return None
        if lifetime_s is not None and begun + self._period_s + lifetime_s + CLOCK_SKEW_S < now:
            return None
        return self._derived(purpose, begun)

    def fingerprint(self, stored: bytes) -> str:
        """Return a fingerprint of a stored hash, which changes with it and reveals nothing about it."""
        key = self._derived_bytes("fingerprint", 0)
        return hmac.digest(key, stored, hashlib.sha256).hex()[:32]

    def _derive(self, purpose: str, begun: int) -> OctKey:
        return OctKey.import_key(self._derived_bytes(purpose, begun), {"kid": str(begun), "alg": "HS256"})

    def _derived_bytes(self, purpose: str, begun: int) -> bytes:
        info = f"{purpose} {begun}".encode()
        return hmac.digest(self._root, info + b"\x01", hashlib.sha256)
