"""The tokens we give out, and what they say when they come back.

Access tokens are the token protocol's JWTs
(docs/reference/auth.md, section 5.4): what a user may do, for some minutes.  The
registry believes them without asking the policy again; that is why they are short.  Refresh tokens say only who
somebody is ("identity token" in `docker login`): what he may do is looked up each time, and a changed password or
secret ends them, because the fingerprint of its hash is inside.

Both are signed with HMAC: the one who reads them is the one who made them, and it is thirty times as fast as the
cheapest public-key signature.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joserfc import jwt
from joserfc.errors import JoseError

from moorage.auth.access import ListedGrants
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
_REMEMBERED: Final = 1024
_GRACE_S: Final = 30
"""A token lives this much longer than its client is told, so that one sent in its last second is good."""
_EARLIER_S: Final = 60
"""`nbf` lies so far back, for nodes whose clocks are behind."""


class InvalidToken(Exception):
    """Not ours, over, or garbled; the message is for the log.

    `ordinary`: it happens to honest clients every day.
    """

    def __init__(self, reason: str, *, ordinary: bool = False) -> None:
        super().__init__(reason)
        self.ordinary = ordinary


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What an access token says."""

    name: str
    grants: ListedGrants
    ends: float


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """What a refresh token says.  `ends`: when, None for never."""

    identity: Identity
    fingerprint: str
    ends: float | None


class Tokens:
    """`service` is both issuer and audience; `lifetime_s` that of access tokens."""

    def __init__(self, keys: SigningKeys, service: str, lifetime_s: float, clock: Callable[[], float]) -> None:
        self._keys, self._service, self._clock = keys, service, clock
        self.lifetime_s = int(lifetime_s)
        self._read: LRUCache[str, AccessToken] = LRUCache(_REMEMBERED)

    def access(self, name: str, granted: Sequence[Mapping[str, Any]], ends: float | None) -> tuple[str, int]:
        """A token, and the seconds its client may count on; never beyond `ends`."""
        now = self._clock()
        lasts_s: float = self.lifetime_s
        exp = now + lasts_s + _GRACE_S
        if ends is not None:
            exp, lasts_s = min(exp, ends), min(lasts_s, ends - now)
        claims = {"sub": name, "exp": int(exp), "nbf": int(now) - _EARLIER_S, "access": list(granted)}
        return self._sign(_ACCESS, "JWT", claims), max(0, int(lasts_s))

    def read_access(self, token: str) -> AccessToken:
        """Raises InvalidToken."""
        found = self._read.get(token)
        if found is None:
            claims = self._verify(_ACCESS, token, self.lifetime_s + _GRACE_S)
            if self._clock() < claims["nbf"]:
                raise InvalidToken("is not yet good: the clocks of the nodes are apart")
            found = AccessToken(claims["sub"], _listed(claims["access"]), float(claims["exp"]))
            self._read.put(token, found)
        if self._clock() >= found.ends:
            self._read.drop(token)
            raise InvalidToken("is over", ordinary=True)
        return found

    def refresh(self, identity: Identity, fingerprint: str, ends: float | None) -> str:
        claims: dict[str, Any] = {"sub": identity.shown, "kind": identity.kind, "name": identity.name}
        claims |= {"fingerprint": fingerprint, "issuer": identity.issuer, "claims": dict(identity.claims)}
        if ends is not None:
            claims["exp"] = int(ends)
        return self._sign(_REFRESH, "refresh+jwt", claims)

    def read_refresh(self, token: str) -> RefreshToken:
        """Raises InvalidToken; whether the fingerprint is still right is for the caller to see."""
        claims = self._verify(_REFRESH, token, None)
        ends = float(claims["exp"]) if "exp" in claims else None
        if ends is not None and self._clock() >= ends:
            raise InvalidToken("is over", ordinary=True)
        foreign = tuple(sorted((claim, tuple(values)) for claim, values in claims["claims"].items()))
        identity = Identity(claims["kind"], claims["name"], claims["issuer"], foreign)
        return RefreshToken(identity, claims["fingerprint"], ends)

    def _sign(self, purpose: str, kind: str, claims: Mapping[str, Any]) -> str:
        key = self._keys.signing(purpose)
        whole = {
            "iss": self._service,
            "aud": self._service,
            "iat": int(self._clock()),
            "jti": secrets.token_urlsafe(16),
            **claims,
        }
        return jwt.encode({"alg": "HS256", "typ": kind, "kid": key.kid}, whole, key, list(_ALGORITHMS))

    def _verify(self, purpose: str, token: str, lasts_s: float | None) -> dict[str, Any]:
        """The claims of a token that we signed for this purpose and service, whatever its times."""
        if len(token) > _LIMIT_CHARS:
            raise InvalidToken("is too long")

        def find(signed: GuestProtocol) -> OctKey:
            key = self._keys.named(purpose, signed.headers().get("kid"), lasts_s=lasts_s)
            if key is None:
                raise InvalidToken("is signed with a key that is not in use")
            return key

        try:
            claims = jwt.decode(token, find, algorithms=list(_ALGORITHMS)).claims
        except (JoseError, ValueError, TypeError, json.JSONDecodeError) as error:
            raise InvalidToken(f"cannot be verified: {type(error).__name__}") from error
        # What is signed with our key has the shape that we gave it; only for whom is not in the key.
        if claims.get("iss") != self._service or claims.get("aud") != self._service:
            raise InvalidToken("is for another service")
        return claims


def _listed(access: Sequence[Mapping[str, Any]]) -> ListedGrants:
    """The rights alone: our tokens say nothing of classes of content, so they are not held to one."""
    return ListedGrants(ListedGrants.of_claim(access).actions)
