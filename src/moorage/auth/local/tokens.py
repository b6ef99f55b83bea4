"""Tokens of `auth.local`: signs and verifies access tokens and refresh tokens.

Access tokens are JWTs of the token protocol: permissions for some minutes.  The registry accepts them without
consulting the policy again; that is why they are short-lived.  Refresh tokens ("identity token" in `docker login`)
only name an identity: its permissions are looked up each time, and a changed password or secret revokes them,
because they contain a fingerprint of its hash.

Both are signed with HMAC: issuer and verifier are the same, and it is thirty times as fast as the cheapest
public-key signature.

Source: distribution's token specification, "JWT" (https://distribution.github.io/distribution/spec/auth/jwt/).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joserfc import jwt
from joserfc.errors import JoseError

from moorage.auth.access import ListedGrants, Principal
from moorage.auth.local.policy import Identity
from moorage.caches import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from joserfc.jwk import GuestProtocol, OctKey

    from moorage.auth.local.signing_keys import SigningKeys

__all__ = ["AccessToken", "InvalidToken", "RefreshToken", "Tokens"]

_ALGORITHMS: Final = ("HS256",)
_ACCESS: Final = "access"
_REFRESH: Final = "refresh"
_LIMIT_CHARS: Final = 64 << 10
_CACHED_TOKENS: Final = 1024
_GRACE_S: Final = 30
"""A token is valid this much longer than its `expires_in`, so that one sent in its last second is accepted."""
_NOT_BEFORE_S: Final = 60
"""`nbf` is this long before the time of issue, for nodes whose clocks are behind."""


class InvalidToken(Exception):
    """A token that is malformed, expired, or not signed by a trusted key; the message is for the log.

    `ordinary`: happens to well-behaved clients every day.
    """

    def __init__(self, reason: str, *, ordinary: bool = False) -> None:
        super().__init__(reason)
        self.ordinary = ordinary


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A verified access token; `expires_at` is in seconds since the epoch."""

    principal: Principal
    expires_at: float


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A verified refresh token; `expires_at` is in seconds since the epoch, None for never."""

    identity: Identity
    fingerprint: str
    expires_at: float | None


class Tokens:
    """Signs and verifies tokens.  `service` is both issuer and audience; `lifetime_s` is that of access tokens."""

    def __init__(self, keys: SigningKeys, service: str, lifetime_s: float, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._service = service
        self._clock = clock
        self.lifetime_s = int(lifetime_s)
        self._read: LRUCache[str, AccessToken] = LRUCache(_CACHED_TOKENS)

    def access(self, name: str, granted: Sequence[Mapping[str, Any]], expires_at: float | None) -> tuple[str, int]:
        """Return an access token and its lifetime in seconds, which never exceeds `expires_at`."""
        now = self._clock()
        lifetime_s: float = self.lifetime_s
        exp = now + lifetime_s + _GRACE_S
        if expires_at is not None:
            exp, lifetime_s = min(exp, expires_at), min(lifetime_s, expires_at - now)
        claims = {"sub": name, "exp": int(exp), "nbf": int(now) - _NOT_BEFORE_S, "access": list(granted)}
        return self._sign(_ACCESS, "JWT", claims), max(0, int(lifetime_s))

    def read_access(self, token: str) -> AccessToken:
        """Verify an access token.  Raises InvalidToken."""
        found = self._read.get(token)
        if found is None:
            claims = self._verify(_ACCESS, token, self.lifetime_s + _GRACE_S)
            if self._clock() < claims["nbf"]:
                raise InvalidToken("is not yet good: the clocks of the nodes are apart")
            principal = Principal(claims["sub"], _listed(claims["access"]))
            found = AccessToken(principal, float(claims["exp"]))
            self._read.put(token, found)
        if self._clock() >= found.expires_at:
            self._read.drop(token)
            raise InvalidToken("is over", ordinary=True)
        return found

    def refresh(self, identity: Identity, fingerprint: str, expires_at: float | None) -> str:
        """Return a refresh token."""
        claims: dict[str, Any] = {"sub": identity.display_name, "kind": identity.kind, "name": identity.name}
        claims |= {"fingerprint": fingerprint, "issuer": identity.issuer, "claims": dict(identity.claims)}
        if expires_at is not None:
            claims["exp"] = int(expires_at)
        return self._sign(_REFRESH, "refresh+jwt", claims)

    def read_refresh(self, token: str) -> RefreshToken:
        """Verify a refresh token.  Raises InvalidToken; the caller has to check the fingerprint."""
        claims = self._verify(_REFRESH, token, None)
        expires_at = float(claims["exp"]) if "exp" in claims else None
        if expires_at is not None and self._clock() >= expires_at:
            raise InvalidToken("is over", ordinary=True)
        foreign = tuple(sorted((claim, tuple(values)) for claim, values in claims["claims"].items()))
        identity = Identity(claims["kind"], claims["name"], claims["issuer"], foreign)
        return RefreshToken(identity, claims["fingerprint"], expires_at)

    def _sign(self, purpose: str, kind: str, claims: Mapping[str, Any]) -> str:
        key = self._keys.current(purpose)
        whole = {
            "iss": self._service,
            "aud": self._service,
            "iat": int(self._clock()),
            "jti": secrets.token_urlsafe(16),
            **claims,
        }
        return jwt.encode({"alg": "HS256", "typ": kind, "kid": key.kid}, whole, key, list(_ALGORITHMS))

    def _verify(self, purpose: str, token: str, lifetime_s: float | None) -> dict[str, Any]:
        """Return the claims of a token signed for this purpose and service; its times are not checked."""
        if len(token) > _LIMIT_CHARS:
            raise InvalidToken("is too long")

        def find(signed: GuestProtocol) -> OctKey:
            key = self._keys.find(purpose, signed.headers().get("kid"), lifetime_s=lifetime_s)
            if key is None:
                raise InvalidToken("is signed with a key that is not in use")
            return key

        try:
            claims = jwt.decode(token, find, algorithms=list(_ALGORITHMS)).claims
        except (JoseError, ValueError, TypeError, json.JSONDecodeError) as error:
            raise InvalidToken(f"cannot be verified: {type(error).__name__}") from error
        # Tokens signed with these keys are well-formed; only issuer and audience are not bound to the key.
        if claims.get("iss") != self._service or claims.get("aud") != self._service:
            raise InvalidToken("is for another service")
        return claims


def _listed(access: Sequence[Mapping[str, Any]]) -> ListedGrants:
    """Return grants without classes of content, which tokens of `auth.local` do not have."""
    return ListedGrants(ListedGrants.of_claim(access).actions)
