"""Who asks, by the token he brings; and what he is told when it is missing, wrong or not enough.

`error` stands in the challenge exactly when a token was sent and refused: containerd then drops it and asks for a
new one, containers/image asks for a wider one, Docker says "denied" instead of "unauthorized".  The log has the
reason of every refusal; the client has only that.

Verifying runs on the event loop: 20 us for RSA of 2048 bits, 70 us for P-256, 0.6 ms for P-384 and P-521, and 0.1
to 0.4 ms more for a chain (measured).  A thread would cost 40 us and gain nothing, since cryptography keeps the
interpreter's lock meanwhile.  It happens once for each token, which is remembered until it ends.

Source: docs/reference/auth.md, sections 4.2, 4.3; RFC 6750 section 3.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.auth.access import Bearer, Principal, challenge, missing, scopes
from moorage.auth.token.claims import read
from moorage.auth.token.jose import TokenRefused, verify
from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.access import AccessRequest, Credentials, Need
    from moorage.auth.token.files import KeyFiles

__all__ = ["TokenAuthority", "TokenRules"]

RELOAD_EVERY_S: Final = 1.0
REMEMBERED_BYTES: Final = 8 << 20
"""Of tokens; a principal takes about as much memory as the token it came from."""

_SHOWN_CHARS: Final = 200
_REASON_CHARS: Final = 500
_log: Final = structlog.get_logger("moorage.auth")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What the configuration says of tokens.  `redirect_path` None: the realm is always `realm`."""

    realm: str
    service: str
    issuer: str
    algorithms: frozenset[str]
    redirect_path: str | None = None


class TokenAuthority:
    """See `access.Authority`.  `files` are loaded; `clock` gives seconds since the epoch."""

    def __init__(self, rules: TokenRules, files: KeyFiles, clock: Callable[[], float] = time.time) -> None:
        self._rules, self._files, self._clock = rules, files, clock
        self._remembered: TTLCache[bytes, Principal] = TTLCache(
            REMEMBERED_BYTES, clock=clock
        )  # by digest of the token
        self._reloaded = clock()
        self._reloads: SingleFlight[None, None] = SingleFlight("reload of the keys for tokens")

    @property
    def warnings(self) -> list[str]:
        """What an operator should know of the keys."""
        return self._files.warnings

    async def admit(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        if not isinstance(credentials, Bearer):
            raise self._without_token(asked)
        now = self._clock()
        if not 0 <= now - self._reloaded < RELOAD_EVERY_S:
            await self._reload_keys()
        # The digest, so that what is remembered has one size; the token itself is nowhere kept.
        digest = hashlib.sha256(credentials.token.encode(errors="replace")).digest()
        principal = self._remembered.get(digest)
        if principal is None:
            principal = await self._prove(credentials.token, digest, asked)
        if missing(principal.grants, asked):
            reason = "the token does not allow it"
            raise self._refusal(asked, "insufficient_scope", reason, subject=principal.name, ordinary=True)
        return principal

    async def refresh(self) -> None:
        await self._reload_keys()

    async def close(self) -> None:
        await self._reloads.close()

    async def _prove(self, token: str, digest: bytes, asked: AccessRequest) -> Principal:
        """Verify a token that is not remembered, with keys as new as can be.  Raises Unauthorized."""
        keys = self._files.keys
        try:
            try:
                return self._verify(token, digest)
            except TokenRefused as refused:
                if not refused.keys:
                    raise
                # The token server may have begun to use another key a moment ago.
                await self._reload_keys()
                if self._files.keys is keys:
                    raise
                return self._verify(token, digest)
        except TokenRefused as refused:
            raise self._refusal(
                asked,
                "invalid_token",
                str(refused),
                subject=refused.subject,
                key_id=refused.key_id,
                ordinary=refused.ordinary,
            ) from None

    def _verify(self, token: str, digest: bytes) -> Principal:
        now, rules = self._clock(), self._rules
        signed = verify(token, self._files.keys, rules.algorithms, now)
        try:
            claims = read(signed.payload, issuer=rules.issuer, service=rules.service, now=now)
        except TokenRefused as refused:
            refused.key_id = signed.key_id
            raise
        principal = Principal(claims.subject, claims.grants)
        self._remembered.put(digest, principal, len(token), expires_at=min(claims.until, signed.until))
        return principal

    async def _reload_keys(self) -> None:
        """Read the key files again if they changed, in a thread, once for all requests that wait for it."""
        await self._reloads.run(None, self._reload)

    async def _reload(self) -> None:
        try:
            if await asyncio.to_thread(self._files.reload):
                # Tokens are verified again, because their keys may have been removed.
                self._remembered.clear()
        finally:
            self._reloaded = self._clock()

    def _without_token(self, asked: AccessRequest) -> Unauthorized:
        reason = "the Authorization header holds no bearer token" if asked.given else "no token"
        return self._refusal(asked, "", reason, ordinary=True)

    def _refusal(
        self,
        asked: AccessRequest,
        error: str,
        reason: str,
        *,
        subject: str = "",
        key_id: str = "",
        ordinary: bool = False,
    ) -> Unauthorized:
        wanted = " ".join(scopes(asked.needs))
        told = {
            "asked": wanted,
            "auth.user.name": subject[:_SHOWN_CHARS],
            "key": key_id[:_SHOWN_CHARS],
            "http.request.remoteaddr": asked.remote,
        }
        level = logging.INFO if ordinary else logging.WARNING
        _log.log(
            level,
            f"not authorized: {reason[:_REASON_CHARS]}",
            **{name: text for name, text in told.items() if text},
        )
        parameters = {"realm": self._realm(asked), "service": self._rules.service, "scope": wanted, "error": error}
        return Unauthorized(challenge("Bearer", **parameters), [_record(need) for need in asked.needs])

    def _realm(self, asked: AccessRequest) -> str:
        path = self._rules.redirect_path
        if path is None or not asked.host:
            return self._rules.realm
        # The client is going to send a password there.  `http` is believed only where a proxy says that the client
        # used it, or where nothing leaves the machine: behind a proxy that ends TLS and says nothing, the request
        # looks like plain HTTP, and a wrong `https` fails where a wrong `http` would give the password away.
        # The reference says https even on loopback, where nothing answers to that.
        plain = asked.scheme == "http" and (asked.forwarded or _is_loopback(asked.host))
        return f"{'http' if plain else 'https'}://{asked.host}{path}"


def _record(need: Need) -> tuple[str, str, str]:
    return need.type, need.name, need.action


def _is_loopback(host: str) -> bool:
    """Whether a Host header, with or without port, names this machine itself."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
