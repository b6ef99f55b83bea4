"""Authority of `auth.token`: authenticates clients by their tokens, and makes the challenges.

The challenge has an `error` exactly if a token was sent and refused: containerd then discards it and requests a
new one, containers/image requests one with more scopes, Docker prints "denied" instead of "unauthorized".  The
reason of a refusal is only logged.

Tokens are verified on the event loop: 20 us for RSA of 2048 bits, 70 us for P-256, 0.6 ms for P-384 and P-521,
and 0.1 to 0.4 ms more for a chain (measured).  A thread would cost 40 us and gain nothing, since cryptography
holds the interpreter's lock.  Each token is verified once, and cached until it expires.

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
from moorage.auth.token.claims import read_claims
from moorage.auth.token.jose import TokenRefused, verify_signature
from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.access import AccessRequest, Credentials, Need
    from moorage.auth.token.files import KeyFiles

__all__ = ["TokenAuthority", "TokenRules"]

RELOAD_EVERY_S: Final = 1.0
CACHED_BYTES: Final = 8 << 20
"""Limit of the cache, in bytes of tokens; a principal takes about as much memory as its token."""

_SHOWN_CHARS: Final = 200
_REASON_CHARS: Final = 500
_log: Final = structlog.get_logger("moorage.auth")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Configuration of tokens.  `redirect_path` None: the realm is always `realm`."""

    realm: str
    service: str
    issuer: str
    algorithms: frozenset[str]
    redirect_path: str | None = None


class TokenAuthority:
    """See `access.Authority`.  `files` are loaded; `clock` returns seconds since the epoch."""

    def __init__(self, rules: TokenRules, files: KeyFiles, clock: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._files = files
        self._clock = clock
        self._principals: TTLCache[bytes, Principal] = TTLCache(
            CACHED_BYTES, clock=clock
        )  # by digest of the token
        self._reloaded = clock()
        self._reloads: SingleFlight[None, None] = SingleFlight("reload of the keys for tokens")

    @property
    def warnings(self) -> list[str]:
        """Return warnings about the keys, for the operator."""
        return self._files.warnings

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        if not isinstance(credentials, Bearer):
            raise self._without_token(request)
        now = self._clock()
        if not 0 <= now - self._reloaded < RELOAD_EVERY_S:
            await self._reload_keys()
        # Cached by digest, so that all keys have one size; the token itself is not kept.
        digest = hashlib.sha256(credentials.token.encode("utf-8", "replace")).digest()
        principal = self._principals.get(digest)
        if principal is None:
            principal = await self._authenticate(credentials.token, digest, request)
        if missing(principal.grants, request):
            reason = "the token does not allow it"
            raise self._refusal(request, "insufficient_scope", reason, subject=principal.name, ordinary=True)
        return principal

    async def refresh(self) -> None:
        await self._reload_keys()

    async def close(self) -> None:
        await self._reloads.close()

    async def _authenticate(self, token: str, digest: bytes, request: AccessRequest) -> Principal:
        """Verify a token that is not cached, with the newest keys.  Raises Unauthorized."""
        keys = self._files.keys
        try:
            try:
                return self._verify(token, digest)
            except TokenRefused as refused:
                if not refused.needs_keys:
                    raise
                # The token server may have changed its key just now.
                await self._reload_keys()
                if self._files.keys is keys:
                    raise
                return self._verify(token, digest)
        except TokenRefused as refused:
            raise self._refusal(
                request,
                "invalid_token",
                str(refused),
                subject=refused.subject,
                key_id=refused.key_id,
                ordinary=refused.ordinary,
            ) from None

    def _verify(self, token: str, digest: bytes) -> Principal:
        now = self._clock()
        rules = self._rules
        signed = verify_signature(token, self._files.keys, rules.algorithms, now)
        try:
            claims = read_claims(signed.payload, issuer=rules.issuer, service=rules.service, now=now)
        except TokenRefused as refused:
            refused.key_id = signed.key_id
            raise
        principal = Principal(claims.subject, claims.grants)
        self._principals.put(digest, principal, len(token), expires_at=min(claims.expires_at, signed.expires_at))
        return principal

    async def _reload_keys(self) -> None:
        """Read the key files again if they changed, in a thread, once for all requests that wait for it."""
        await self._reloads.run(None, self._reload)

    async def _reload(self) -> None:
        try:
            if await asyncio.to_thread(self._files.reload):
                # Tokens are verified again, because their keys may have been removed.
                self._principals.clear()
        finally:
            self._reloaded = self._clock()

    def _without_token(self, request: AccessRequest) -> Unauthorized:
        reason = "the Authorization header holds no bearer token" if request.has_credentials else "no token"
        return self._refusal(request, "", reason, ordinary=True)

    def _refusal(
        self,
        request: AccessRequest,
        error: str,
        reason: str,
        *,
        subject: str = "",
        key_id: str = "",
        ordinary: bool = False,
    ) -> Unauthorized:
        scope = " ".join(scopes(request.needs))
        facts = {
            "asked": scope,
            "auth.user.name": subject[:_SHOWN_CHARS],
            "key": key_id[:_SHOWN_CHARS],
            "http.request.remoteaddr": request.remote,
        }
        level = logging.INFO if ordinary else logging.WARNING
        _log.log(
            level,
            f"not authorized: {reason[:_REASON_CHARS]}",
            **{name: text for name, text in facts.items() if text},
        )
        parameters = {
            "realm": self._realm(request),
            "service": self._rules.service,
            "scope": scope,
            "error": error,
        }
        return Unauthorized(challenge("Bearer", **parameters), [_record(need) for need in request.needs])

    def _realm(self, request: AccessRequest) -> str:
        path = self._rules.redirect_path
        if path is None or not request.host:
            return self._rules.realm
        # The client will send a password there.  `http` is used only if a proxy reports that the client used it,
        # or on loopback: behind a proxy that terminates TLS and reports nothing, the request looks like plain
        # HTTP, and a wrong `https` fails, while a wrong `http` would disclose the password.  CNCF Distribution
        # uses https on loopback too, where no server answers to it.
        plain = request.scheme == "http" and (request.forwarded or _is_loopback(request.host))
        return f"{'http' if plain else 'https'}://{request.host}{path}"


def _record(need: Need) -> tuple[str, str, str]:
    return need.type, need.name, need.action


def _is_loopback(host: str) -> bool:
    """Return whether a Host header, with or without port, is of the loopback interface."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
