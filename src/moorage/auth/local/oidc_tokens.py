"""Tokens of other issuers: a CI system says who a job is, and the policy's rules say what such a job may do.

Only what the policy names gets in: the issuer, one of its audiences, a signature by one of its public keys, times
that are right, and claims that a rule is about.  Which claims those are is kept; the rest of the token is not.

Source: OpenID Connect Core 1.0 section 3.1.3.7; RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Final

from moorage.auth.local.jwks import PUBLIC, source_of
from moorage.auth.local.policy import Identity
from moorage.auth.local.tokens import InvalidToken
from moorage.auth.token.jose import TokenRefused, numeric_date, read_json, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.local.jwks import KeySource
    from moorage.auth.local.policy import Issuer, Policy

__all__ = ["OidcVerifier"]

_LIMIT_CHARS: Final = 16 << 10
_NAME_LIMIT_CHARS: Final = 255
_CLOCKS_APART_S: Final = 60.0
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class OidcVerifier:
    """Verifies tokens by the issuers of the policy in force."""

    def __init__(
        self,
        clock: Callable[[], float],
        make_source: Callable[[Issuer, Callable[[], float]], KeySource] = source_of,
    ) -> None:
        self._clock, self._make_source = clock, make_source
        self._sources: dict[Issuer, KeySource] = {}

    async def prove(self, token: str, policy: Policy) -> Identity:
        """Who a token is about.  Raises InvalidToken, KeysUnavailable."""
        kid, claimed = _unverified(token)
        issuer = next((each for each in policy.issuers.values() if each.url == claimed), None)
        if issuer is None:
            raise InvalidToken("is of an issuer that the policy does not name")
        keys = await (await self._source(issuer, policy)).keys(kid)
        try:
            signed = verify(token, keys, PUBLIC, self._clock())
            claims = read_json(signed.payload, "payload")
        except TokenRefused as error:
            raise InvalidToken(f"is refused: {error}") from error
        self._check(claims, issuer)
        used = policy.claims_of(issuer.name)
        kept = tuple(sorted((name, values) for name in used if (values := _texts(claims.get(name)))))
        identity = Identity("foreign", _subject(claims), issuer.name, kept)
        if not policy.knows(identity):
            raise InvalidToken("has claims that no rule is about")
        return identity

    async def close(self) -> None:
        for source in self._sources.values():
            await source.close()

    async def _source(self, issuer: Issuer, policy: Policy) -> KeySource:
        source = self._sources.get(issuer)
        if source is None:
            # What an earlier policy named differently is not asked any more.
            for gone in self._sources.keys() - set(policy.issuers.values()):
                await self._sources.pop(gone).close()
            source = self._sources[issuer] = self._make_source(issuer, self._clock)
        return source

    def _check(self, claims: dict[str, Any], issuer: Issuer) -> None:
        """Raises InvalidToken."""
        now = self._clock()
        if claims.get("iss") != issuer.url:
            raise InvalidToken("is of another issuer")
        if not set(_texts(claims.get("aud"))) & set(issuer.audience):
            raise InvalidToken("is for another audience")
        ends, begins = numeric_date(claims.get("exp")), numeric_date(claims.get("nbf", 0))
        if ends is None or begins is None:
            raise InvalidToken("has no end")
        if now >= ends + _CLOCKS_APART_S:
            raise InvalidToken("is over")
        if now < begins - _CLOCKS_APART_S:
            raise InvalidToken("is not yet good")


def _unverified(token: str) -> tuple[str, object]:
    """The key and the issuer that a token names, to find keys by; neither is believed.  Raises InvalidToken."""
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
    """`sub` as a name in logs and events: in one line, without blanks, and not too long."""
    text = claims.get("sub")
    return re.sub(r"[^\x21-\x7e]", "?", text)[:_NAME_LIMIT_CHARS] if isinstance(text, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    """A claim's values as texts: of a list each, of numbers and true and false how JSON writes them.

    Text with half a surrogate pair is no Unicode: it has no UTF-8, so no token of ours could hold it.
    """
    if isinstance(value, list):
        return tuple(text for item in value if not isinstance(item, list) for text in _texts(item))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, int) or (isinstance(value, str) and _SURROGATE.search(value) is None):
        return (str(value),)
    return ()
