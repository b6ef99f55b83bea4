"""Robot accounts: makes and verifies their secrets, and parses their expiry.

A secret is 32 random bytes, so the policy file has a salted SHA-256 of it: slow hashes such as bcrypt protect
passwords that can be guessed; here they would cost each login a tenth of a second and protect nothing.  The prefix
lets scanners recognise leaked secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorage.auth.local.policy import Robot

__all__ = ["HASH", "digest_of", "make_secret", "matching_digest", "parse_expiry", "parse_term"]

HASH: Final = re.compile(r"sha256:([A-Za-z0-9_-]{16,64}):([0-9a-f]{64})", re.ASCII)
"""Hash of a secret in the policy file: salt and digest."""

_PREFIX: Final = "moorage_"
_NEVER: Final = "never"
_TERM: Final = re.compile(r"([1-9][0-9]{0,5})(h|d|w)", re.ASCII)
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}


def make_secret() -> str:
    """Return a new random secret."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str, salt: str | None = None) -> str:
    """Return the hash of a secret for the policy file."""
    salt = secrets.token_urlsafe(16) if salt is None else salt
    return f"sha256:{salt}:{hashlib.sha256(f'{salt}:{secret}'.encode()).hexdigest()}"


def matching_digest(robot: Robot, secret: bytes) -> str | None:
    """Return the digest that `secret` matches, None if there is none; compares all, in constant time."""
    found = None
    for known in robot.secrets:
        match = HASH.fullmatch(known)
        assert match is not None, "checked when the policy is parsed"
        given = hashlib.sha256(match[1].encode() + b":" + secret).hexdigest()
        if hmac.compare_digest(given, match[2]):
            found = known
    return found


def parse_expiry(text: str) -> datetime | None:
    """Parse `2027-01-31` (the last day, in UTC), a time with `T`, or `never` (None).  Raises ValueError."""
    if text == _NEVER:
        return None
    try:
        if "T" not in text and " " not in text:
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC) + timedelta(days=1)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a day such as 2027-01-31, a time such as 2027-01-31T12:00:00Z, or never"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def parse_term(text: str, now: datetime) -> str:
    """Return the value of `expires` for a term such as `90d`; other values stay.  Raises ValueError."""
    match = _TERM.fullmatch(text)
    if match is None:
        try:
            parse_expiry(text)
        except ValueError as error:
            raise ValueError(f"{error}; or a term such as 90d, 12h or 8w") from None
        return text
    try:
        end = now.astimezone(UTC) + timedelta(hours=int(match[1]) * _HOURS[match[2]])
    except OverflowError:
        raise ValueError("expected a term that ends before the year 10000") from None
    return end.strftime("%Y-%m-%dT%H:%M:%SZ") if match[2] == "h" else end.strftime("%Y-%m-%d")
