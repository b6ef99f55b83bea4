"""Verifies tokens of other issuers: a CI system identifies a job, and the policy's rules grant its permissions.

A token is accepted if the policy has its issuer and one of its audiences, the signature is by one of the issuer's
public keys, the times are valid, and a rule matches its claims.  Only claims that rules use are kept.

Source: OpenID Connect Core 1.0 section 3.1.3.7; RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final

from moorage.auth.local.jwks import PUBLIC, key_source
from moorage.auth.local.policy import Identity
from moorage.auth.local.tokens import InvalidToken
from moorage.auth.token.jose import TokenRefused, numeric_date, read_json, verify_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.local.jwks import KeySource
    from moorage.auth.local.policy import AccessPolicy, Issuer

__all__ = ["OidcVerifier"]

_LIMIT_CHARS: Final = 16 << 10
_NAME_LIMIT_CHARS: Final = 255
_CLOCK_SKEW_S: Final = 60.0
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class OidcVerifier:
    """Verifies tokens of the issuers in the policy."""

    def __init__(
        self,
        clock: Callable[[], float],
        make_source: Callable[[Issuer, Callable[[], float]], KeySource] = key_source,
    ) -> None:
        self._clock = clock
        self._make_source = make_source
        self._sources: dict[Issuer, KeySource] = {}

    async def verify(self, token: str, policy: AccessPolicy) -> Identity:
        """Return the identity of a token.  Raises InvalidToken, KeysUnavailable."""
        kid, claimed = _unverified(token)
        issuer = next((each for each in policy.issuers.values() if each.url == claimed), None)
        if issuer is None:
            raise InvalidToken("is of an issuer that the policy does not name")
        keys = await (await self._source(issuer, policy)).keys(kid)
        try:
            signed = verify_signature(token, keys, PUBLIC, self._clock())
            claims = read_json(signed.payload, "payload")
        except TokenRefused as error:
            raise InvalidToken(f"is refused: {error}") from error
        self._check(claims, issuer)
        used = policy.claims_of(issuer.name)
        kept = tuple(sorted((name, values) for name in used if (values := _texts(claims.get(name)))))
        identity = Identity("foreign", _subject(claims), issuer.name, kept)
        if not policy.has_rule_for(identity):
            raise InvalidToken("has claims that no rule is about")
        return identity

    async def close(self) -> None:
        for source in self._sources.values():
            await source.close()

    async def _source(self, issuer: Issuer, policy: AccessPolicy) -> KeySource:
        source = self._sources.get(issuer)
        if source is None:
            # Issuers that the policy changed or removed are not used any more.
            for unused in self._sources.keys() - set(policy.issuers.values()):
                await self._sources.pop(unused).close()
            source = self._sources[issuer] = self._make_source(issuer, self._clock)
        return source

    def _check(self, claims: dict[str, Any], issuer: Issuer) -> None:
        """Check issuer, audience and times.  Raises InvalidToken."""
        now = self._clock()
        if claims.get("iss") != issuer.url:
            raise InvalidToken("is of another issuer")
        if not set(_texts(claims.get("aud"))) & set(issuer.audience):
            raise InvalidToken("is for another audience")
        ends, begins = numeric_date(claims.get("exp")), numeric_date(claims.get("nbf", 0))
        if ends is None or begins is None:
            raise InvalidToken("has no end")
        if now >= ends + _CLOCK_SKEW_S:
            raise InvalidToken("is over")
        if now < begins - _CLOCK_SKEW_S:
            raise InvalidToken("is not yet good")


def _unverified(token: str) -> tuple[str, object]:
    """Return key id and issuer of a token, unverified, to find the keys.  Raises InvalidToken."""
    parts = token.split(".")
    if len(token) > _LIMIT_CHARS or len(parts) != 3:  # noqa: PLR2004  header, claims, signature
        raise InvalidToken("is no JWT")
    try:
        header, claims = (
            read_json(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True), "text")
            for part in parts[:2]
        )
    except (TokenRefused, ValueError) as error:
        raise InvalidToken("is no JWT") from error
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise InvalidToken("names no key of its issuer")
    return kid, claims.get("iss")


def _subject(claims: dict[str, Any]) -> str:
    """Return `sub` as a name for logs and events: one line, without blanks, of limited length."""
    text = claims.get("sub")
    return re.sub(r"[^\x21-\x7e]", "?", text)[:_NAME_LIMIT_CHARS] if isinstance(text, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    """Return the values of a claim as text: each of a list; numbers and booleans as in JSON.

    Text with half a surrogate pair is left out: it has no UTF-8, so no token could contain it.
    """
    if isinstance(value, list):
        return tuple(text for item in value if not isinstance(item, list) for text in _texts(item))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, int) or (isinstance(value, str) and _SURROGATE.search(value) is None):
        return (str(value),)
    return ()
