"""Builds the authority of `auth.local` from plain values, and checks its files before the start.

Called by `wiring/authentication.py` and by `cli/`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.auth.local.authority import LocalAuthority, TokenRealm
from moorage.auth.local.identities import OIDC_USER, LoginVerifier
from moorage.auth.local.oidc_tokens import OidcVerifier
from moorage.auth.local.policy import ROBOT_PREFIX
from moorage.auth.local.policy_file import read
from moorage.auth.local.policy_source import PolicySource
from moorage.auth.local.signing_keys import SigningKeys
from moorage.auth.local.tokens import Tokens
from moorage.auth.password_file import SIZE_LIMIT_BYTES, PasswordFile, parse
from moorage.config.problems import Origin, Problem, nearest
from moorage.reloading import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.rate_limit import LoginRateLimit

__all__ = ["LocalOptions", "make", "names_in", "problems_of"]


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """`users` "": no users file; `login_s` 0: logins last until they are revoked."""

    policy: str
    users: str
    place: TokenRealm
    token_s: float
    login_s: float
    rotation_s: float


def make(
    options: LocalOptions,
    secret: bytes,
    rate_limit: LoginRateLimit,
    clock: Callable[[], float] = time.time,
    *,
    reports: bool = True,
) -> LocalAuthority:
    """Return the authority.  Raises StartupError if a file cannot be used.

    `reports`: this process logs problems of the files, which every worker finds.
    """
    users = PasswordFile(Path(options.users), reports=reports) if options.users else None
    policies = PolicySource(options.policy, reports=reports)
    keys = SigningKeys(secret, options.rotation_s, clock)
    foreign = OidcVerifier(clock)
    return LocalAuthority(
        policies,
        LoginVerifier(users, foreign, rate_limit, keys, clock),
        Tokens(keys, options.place.service, options.token_s, clock),
        options.place,
        clock,
        login_s=options.login_s or None,
        files=(policies,) if users is None else (policies, users),
        closing=(foreign,) if users is None else (foreign, users),
    )


def problems_of(policy: str, users: str) -> list[Problem]:
    """Return the problems of the two files, with file and line."""
    found = read(policy)
    problems = list(found.problems)
    known, trouble = _users(users)
    problems += trouble
    if known is None:
        return problems
    for name, (key, origin) in found.users.items():
        if name not in known:
            where = f"in {users}" if users else "because auth.local.users is not set"
            meant = nearest(name, known)
            problems.append(Problem(f"there is no user {name!r} {where}", key, origin, "warning", meant))
    return problems


def names_in(users: str) -> set[str] | None:
    """Return the names in a users file, none without one; None if it cannot be read."""
    return _users(users)[0]


def _users(path: str) -> tuple[set[str] | None, list[Problem]]:
    """Return the names in the users file, None if it cannot be read, and its problems."""
    if not path:
        return set(), []
    try:
        passwords = parse(read_regular(path, SIZE_LIMIT_BYTES))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return None, [Problem(f"cannot be used: {reason}", origin=Origin(path))]
    problems = [Problem(text, origin=Origin(path), kind="warning") for text in passwords.warnings]
    names = {user.decode(errors="replace") for user in passwords.hashes}
    for name in sorted(names):
        if name == OIDC_USER or name.startswith(ROBOT_PREFIX):
            message = f"the user {name!r} cannot log in: the name is taken for robots and foreign tokens"
            problems.append(Problem(message, origin=Origin(path), kind="warning"))
    return names, problems
