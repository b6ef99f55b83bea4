"""JWS in compact form: finds the key that must have signed a token, and verifies the signature.

    x5c in the header          a chain to the bundle; no fallback if it is invalid
    else jwk in the header     its own x5c as above; else the *configured* key of its kid, or of its own thumbprint
    else kid                   the configured key of that id
    else                       refused

The order is that of CNCF Distribution.  The input is untrusted: every step refuses with a reason for the log, and
raises nothing else.

Source: docs/reference/auth.md, section 4.4; RFC 7515 sections 4.1 and 5.2, RFC 7638.
"""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import thumbprint
from joserfc.jws import JWSRegistry

from moorage.auth.token.chains import ChainInvalid, verify_chain
from moorage.auth.token.trusted_keys import ALGORITHMS, trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.auth.token.trusted_keys import TrustedKey, TrustedKeys

__all__ = ["TokenRefused", "VerifiedPayload", "numeric_date", "read_json", "verify_signature"]

_PART: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_EMBEDDED: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_FOR_EVER: Final = math.inf


class TokenRefused(Exception):
    """The token is not accepted; the message is for the log only.

    `key_id` and `subject` are known parts of the token.  `needs_keys`: newer keys might change the result.
    `ordinary`: happens to well-behaved clients every day.
    """

    def __init__(
        self, reason: str, *, key_id: str = "", subject: str = "", needs_keys: bool = False, ordinary: bool = False
    ) -> None:
        super().__init__(reason)
        self.key_id = key_id
        self.subject = subject
        self.needs_keys = needs_keys
        self.ordinary = ordinary


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """Payload signed by a trusted key; `expires_at` (seconds since the epoch) is the expiry of the key."""

    payload: bytes
    key_id: str
    expires_at: float


def verify_signature(token: str, keys: TrustedKeys, allowed: frozenset[str], now: float) -> VerifiedPayload:
    """Return the payload of a token in compact form.  Raises TokenRefused."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004  RFC 7515 section 7.1
        raise TokenRefused(f"malformed: {len(parts)} parts instead of 3")
    head, payload, signature = (_decoded(part) for part in parts)
    header = read_json(head, "header")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused(f"the algorithm {str(algorithm)[:20]!r} is not known")
    if "crit" in header or "b64" in header:
        raise TokenRefused("its header asks for an extension (crit, b64) that is not known")
    key_id, candidates, expires_at = _candidates(header, keys, allowed, now)
    fitting = [candidate for candidate in candidates if algorithm in candidate.algorithms]
    if not fitting:
        raise TokenRefused(f"{algorithm} is not allowed with this key", key_id=key_id, needs_keys=True)
    signing_input = f"{parts[0]}.{parts[1]}".encode()
    if not any(_signed(candidate, algorithm, signing_input, signature) for candidate in fitting):
        raise TokenRefused("the signature is wrong", key_id=key_id, needs_keys=True)
    return VerifiedPayload(payload, key_id, expires_at)


def read_json(data: bytes, part: str) -> dict[str, Any]:
    """Parse a JSON object in UTF-8 without duplicate names.  Raises TokenRefused."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TokenRefused(f"malformed: its {part} is no JSON") from error
    if not isinstance(found, dict):
        raise TokenRefused(f"malformed: its {part} is no JSON object")
    return found


def numeric_date(value: object) -> float | None:
    """Return seconds since the epoch (RFC 7519 "NumericDate"); None for other values than a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return seconds if math.isfinite(seconds) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _decoded(part: str) -> bytes:
    if _PART.fullmatch(part) is None or len(part) % 4 == 1:
        raise TokenRefused("malformed: a part is no base64url")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _candidates(
    header: Mapping[str, Any], keys: TrustedKeys, allowed: frozenset[str], now: float
) -> tuple[str, tuple[TrustedKey, ...], float]:
    """Return the id by which the key was found, the trusted keys of that id, and their expiry."""
    kid = _text(header, "kid")
    if x5c := _list(header, "x5c"):
        return _by_chain(x5c, kid, keys, allowed, now)
    if "jwk" in header:
        jwk = header["jwk"]
        if not isinstance(jwk, dict):
            raise TokenRefused("malformed: the jwk in its header is no JSON object")
        kid = _text(jwk, "kid") or kid
        if x5c := _list(jwk, "x5c"):
            return _by_chain(x5c, kid, keys, allowed, now)
        kid = kid or _embedded_id(jwk)
    if not kid:
        raise TokenRefused("its header names no key (x5c, jwk, kid)")
    found = keys.by_id.get(kid)
    if found is None:
        raise TokenRefused("signed by an unknown key", key_id=kid, needs_keys=True)
    return kid, found, _FOR_EVER


def _by_chain(
    x5c: list[object], kid: str, keys: TrustedKeys, allowed: frozenset[str], now: float
) -> tuple[str, tuple[TrustedKey, ...], float]:
    try:
        chain = verify_chain(x5c, keys.roots, now)
    except ChainInvalid as error:
        raise TokenRefused(str(error), key_id=kid, needs_keys=True) from error
    trusted = trust(chain.public, allowed)
    if isinstance(trusted, str):
        raise TokenRefused(f"the key of its certificate cannot serve: {trusted}", key_id=kid)
    return kid or chain.name, (trusted,), chain.expires_at


def _embedded_id(jwk: Mapping[str, Any]) -> str:
    """Return the thumbprint of a key in the header, which finds its configured copy (older token servers)."""
    names = _EMBEDDED.get(str(jwk.get("kty")), ())
    members = {name: jwk.get(name) for name in names}
    if not members or not all(isinstance(value, str) for value in members.values()):
        raise TokenRefused("malformed: the jwk in its header is no public key")
    return thumbprint(members)


def _signed(candidate: TrustedKey, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
    model = JWSRegistry.algorithms[algorithm]
    try:
        model.check_key(candidate.key)
        return model.verify(signing_input, signature, candidate.key)
    except (JoseError, ValueError):
        return False  # a signature of an impossible form


def _text(header: Mapping[str, Any], name: str) -> str:
    value = header.get(name, "")
    if not isinstance(value, str):
        raise TokenRefused(f"malformed: the {name} in its header is not text")
    return value


def _list(header: Mapping[str, Any], name: str) -> list[object]:
    value = header.get(name, [])
    if not isinstance(value, list):
        raise TokenRefused(f"malformed: the {name} in its header is no list")
    return value
