"""A token's outside: its three parts, which key has to have signed it, and whether that key did.

    x5c in the header          a chain to the bundle; one that fails is final
    else jwk in the header     its own x5c as above; else the *configured* key of its kid, or of its own thumbprint
    else kid                   the configured key of that id
    else                       nothing can be known

The order is the reference's.  Anybody can send anything here: every step refuses with a reason for the log, and
none raises anything else.

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

__all__ = ["TokenRefused", "VerifiedPayload", "numeric_date", "read_json", "verify"]

_PART: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_EMBEDDED: Final = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_FOR_EVER: Final = math.inf


class TokenRefused(Exception):
    """The token proves nothing; the message says why and is for the log alone.

    `key_id` and `subject` are what is known of it by then.  `keys` says that other keys might change the verdict,
    `ordinary` that it happens to honest clients every day.
    """

    def __init__(
        self, reason: str, *, key_id: str = "", subject: str = "", keys: bool = False, ordinary: bool = False
    ) -> None:
        super().__init__(reason)
        self.key_id, self.subject, self.keys, self.ordinary = key_id, subject, keys, ordinary


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """What a trusted key has signed; `until` (seconds since the epoch) is how long the key itself is trusted."""

    payload: bytes
    key_id: str
    until: float


def verify(token: str, keys: TrustedKeys, allowed: frozenset[str], now: float) -> VerifiedPayload:
    """The payload of a token in compact form.  Raises TokenRefused."""
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
    key_id, candidates, until = _candidates(header, keys, allowed, now)
    fitting = [candidate for candidate in candidates if algorithm in candidate.algorithms]
    if not fitting:
        raise TokenRefused(f"{algorithm} is not allowed with this key", key_id=key_id, keys=True)
    signing_input = f"{parts[0]}.{parts[1]}".encode()
    if not any(_signed(candidate, algorithm, signing_input, signature) for candidate in fitting):
        raise TokenRefused("the signature is wrong", key_id=key_id, keys=True)
    return VerifiedPayload(payload, key_id, until)


def read_json(data: bytes, part: str) -> dict[str, Any]:
    """A JSON object in UTF-8, each name once.  Raises TokenRefused."""
    try:
        found = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TokenRefused(f"malformed: its {part} is no JSON") from error
    if not isinstance(found, dict):
        raise TokenRefused(f"malformed: its {part} is no JSON object")
    return found


def numeric_date(value: object) -> float | None:
    """Seconds since the epoch, whole or not (RFC 7519 "NumericDate"); None for anything but a finite number."""
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
    """The id by which the key was found, the trusted keys of that id, and until when they are."""
    kid = _text(header, "kid")
    if chain := _list(header, "x5c"):
        return _by_chain(chain, kid, keys, allowed, now)
    if "jwk" in header:
        jwk = header["jwk"]
        if not isinstance(jwk, dict):
            raise TokenRefused("malformed: the jwk in its header is no JSON object")
        kid = _text(jwk, "kid") or kid
        if chain := _list(jwk, "x5c"):
            return _by_chain(chain, kid, keys, allowed, now)
        kid = kid or _embedded_id(jwk)
    if not kid:
        raise TokenRefused("its header names no key (x5c, jwk, kid)")
    found = keys.by_id.get(kid)
    if found is None:
        raise TokenRefused("signed by an unknown key", key_id=kid, keys=True)
    return kid, found, _FOR_EVER


def _by_chain(
    chain: list[object], kid: str, keys: TrustedKeys, allowed: frozenset[str], now: float
) -> tuple[str, tuple[TrustedKey, ...], float]:
    try:
        vouched = verify_chain(chain, keys.roots, now)
    except ChainInvalid as error:
        raise TokenRefused(str(error), key_id=kid, keys=True) from error
    trusted = trust(vouched.public, allowed)
    if isinstance(trusted, str):
        raise TokenRefused(f"the key of its certificate cannot serve: {trusted}", key_id=kid)
    return kid or vouched.name, (trusted,), vouched.until


def _embedded_id(jwk: Mapping[str, Any]) -> str:
    """The thumbprint of a key that a token for the second generation carries whole; our own copy of it is used."""
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
