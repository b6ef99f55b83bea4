"""The keys that sign our tokens: derived from `http.secret`, another one in every period, stored nowhere.

Any process that knows the secret derives the same keys, so every worker and every node issues what all of them
take, without a file between them.  The key's name (`kid`) is the second its period began in, so a verifier needs
no list either.  A key serves one purpose: a refresh token can never pass for an access token, nor the other way.

The derivation is HKDF with SHA-256 (RFC 5869), where one block is all that is needed.  What a key leaks says
nothing about the secret or another key; whoever has the secret has them all, so a leaked secret must be changed.
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
"""How far the clocks of nodes may be apart."""

_SALT: Final = b"moorage auth.local 1"
_KID: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


class SigningKeys:
    """`period_s`: how long each key signs; `clock`: seconds since 1970."""

    def __init__(self, secret: bytes, period_s: float, clock: Callable[[], float]) -> None:
        self._root = hmac.digest(_SALT, secret, hashlib.sha256)
        self._period_s = max(1, int(period_s))
        self._clock = clock
        self._derived = lru_cache(maxsize=64)(self._derive)

    def signing(self, purpose: str) -> OctKey:
        """Today's key."""
        now = int(self._clock())
        return self._derived(purpose, now - now % self._period_s)

    def named(self, purpose: str, kid: object, *, lasts_s: float | None) -> OctKey | None:
        """The key of that name; None if nothing that lasts `lasts_s` (None: for ever) can be signed with it."""
        if not isinstance(kid, str) or _KID.fullmatch(kid) is None:
            return None
        begun, now = int(kid), self._clock()
        if begun > now + CLOCK_SKEW_S:
            return None
        if lasts_s is not None and begun + self._period_s + lasts_s + CLOCK_SKEW_S < now:
            return None
        return self._derived(purpose, begun)

    def fingerprint(self, of: bytes) -> str:
        """Tells whether `of`, a stored hash, is still the one it was, and nothing about it."""
        key = self._derived_bytes("fingerprint", 0)
        return hmac.digest(key, of, hashlib.sha256).hex()[:32]

    def _derive(self, purpose: str, begun: int) -> OctKey:
        return OctKey.import_key(self._derived_bytes(purpose, begun), {"kid": str(begun), "alg": "HS256"})

    def _derived_bytes(self, purpose: str, begun: int) -> bytes:
        info = f"{purpose} {begun}".encode()
        return hmac.digest(self._root, info + b"\x01", hashlib.sha256)
