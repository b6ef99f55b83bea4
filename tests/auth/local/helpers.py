"""A policy in a file, a clock moved by hand, and an issuer whose tokens we sign ourselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import bcrypt
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from moorage.auth.access import Need
from moorage.auth.local.authority import LocalAuthority, TokenRealm
from moorage.auth.local.build import LocalOptions, make
from moorage.auth.local.policy import ACTIONS, AccessPolicy
from moorage.auth.local.policy_file import read
from moorage.auth.rate_limit import LoginRateLimit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage.auth.access import Grants

NOW: Final = 1_800_000_000.0
SECRET: Final = b"shared by all workers"
ISSUER: Final = "https://ci.example"
AUDIENCE: Final = "registry.example"


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeIssuer:
    """A CI system: signs tokens, and has a key set."""

    def __init__(self, url: str = ISSUER, kid: str = "key-1") -> None:
        self.url = url
        self.clock: Callable[[], float] = Clock()
        self.key = ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})

    def jwks(self) -> bytes:
        return json.dumps(KeySet([self.key]).as_dict(private=False)).encode()

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(self.clock())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "job-1", "iat": now, "nbf": now, "exp": now + 300}
        whole = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(
            {"alg": "ES256", **({"kid": self.key.kid} if header is None else header)}, whole, self.key
        )


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def users_file(folder: Path, **passwords: str) -> Path:
    """A password file; an editor that takes care replaces it."""
    new = folder / "users.new"
    new.write_text("".join(f"{user}:{hashed(password)}\n" for user, password in passwords.items()))
    return new.replace(folder / "users")


def policy_file(folder: Path, text: str) -> Path:
    new = folder / "policy.new"
    new.write_text(text)
    return new.replace(folder / "policy.yml")


def policy(folder: Path, text: str) -> AccessPolicy:
    found = read(str(policy_file(folder, text)))
    assert found.policy is not None, [str(problem) for problem in found.problems]
    return found.policy


def may(grants: Grants, name: str) -> str:
    """What is granted on a repository, in one word: "pull push"."""
    return " ".join(action for action in ACTIONS if grants.allows(Need("repository", name, action)))


def authority(
    folder: Path, clock: Clock | None = None, secret: bytes = SECRET, *, failures: int = 0, **options: Any
) -> LocalAuthority:
    """Over `policy.yml` and, if it is there, `users` in `folder`."""
    users = folder / "users"
    usual: dict[str, Any] = {
        "policy": str(folder / "policy.yml"),
        "users": str(users) if users.exists() else "",
        "place": TokenRealm("moorage"),
        "token_s": 300.0,
        "login_s": 0.0,
        "rotation_s": 86400.0,
    }
    # The clock does not advance: a second may pass between two logins on a busy machine.
    slowing = LoginRateLimit(limit=failures, window_s=60, longest_s=60, clock=lambda: 1000.0)
    return make(LocalOptions(**{**usual, **options}), secret, slowing, clock or Clock())
