"""Claims of a token: checks issuer, audience and times, and reads the access.

The signature has been verified; still, every type is checked.  The order of the checks is that of CNCF
Distribution.

Source: docs/reference/auth.md, section 4.4 "Claims"; RFC 7519 section 4.1; distribution's token specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.auth.access import ListedGrants
from moorage.auth.token.jose import TokenRefused, numeric_date, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEEWAY_S", "Claims", "read_claims"]

LEEWAY_S: Final = 60
"""Largest difference between the clocks of token server and registry, as in CNCF Distribution."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Verified claims; `expires_at` is in seconds since the epoch, leeway included."""

    subject: str
    grants: ListedGrants
    expires_at: float


def read_claims(payload: bytes, *, issuer: str, service: str, now: float) -> Claims:
    """Check and return the claims.  Raises TokenRefused."""
    claims = read_json(payload, "payload")
    # Characters that have no UTF-8 (half a surrogate pair) are logged as "?".
    subject = _text(claims, "sub").encode(errors="replace").decode()
    try:
        _check_parties(claims, issuer, service)
        expires_at = _check_times(claims, now)
        return Claims(subject, ListedGrants.of_claim(_access(claims)), expires_at)
    except TokenRefused as refused:
        refused.subject = subject
        raise


def _check_parties(claims: Mapping[str, Any], issuer: str, service: str) -> None:
    found = _text(claims, "iss")
    if found != issuer:
        raise TokenRefused(f"issued by {found[:100]!r}, not by {issuer!r}")
    audience = claims.get("aud", [])
    if isinstance(audience, str):
        audience = [audience]
    if not isinstance(audience, list) or not all(isinstance(name, str) for name in audience):
        raise TokenRefused("malformed: its aud is neither text nor a list of text")
    if service not in audience:
        raise TokenRefused(f"meant for {', '.join(audience)[:100]!r}, not for {service!r}")


def _check_times(claims: Mapping[str, Any], now: float) -> float:
    end, begin = _time(claims, "exp"), _time(claims, "nbf")
    if end is None:
        raise TokenRefused("it has no exp")
    if now > end + LEEWAY_S:
        raise TokenRefused(f"expired {now - end:.0f} s ago", ordinary=True)
    if begin is not None and now < begin - LEEWAY_S:
        raise TokenRefused(f"not valid before {begin - now:.0f} s from now; do the clocks agree?")
    return end + LEEWAY_S


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in seconds since the epoch; None if there is none."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused(f"malformed: its {name} is no number")
    seconds = numeric_date(value)
    if seconds is None:
        raise TokenRefused(f"malformed: its {name} is no time")
    return seconds


def _access(claims: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the access entries for `ListedGrants.of_claim`; null and missing values are empty, as in Go."""
    entries = claims.get("access")
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise TokenRefused("malformed: its access is no list")
    return [_entry(entry) for entry in entries]


def _entry(entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise TokenRefused("malformed: an entry of its access is no JSON object")
    actions = entry.get("actions")
    if actions is None:
        actions = []
    if not isinstance(actions, list) or not all(isinstance(action, str) for action in actions):
        raise TokenRefused("malformed: the actions of an entry of its access are no list of text")
    texts = {name: _text(entry, name) for name in ("type", "name", "class")}
    return {**texts, "actions": actions}


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TokenRefused(f"malformed: its {name} is not text")
    return value
