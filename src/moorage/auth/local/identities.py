"""Authenticates logins: users, robots, and CI jobs with a token of another issuer.

    user name      password
    robot+NAME     the secret of a robot of the policy
    oidc           a token of one of the policy's issuers
    other          the password of a user of the users file

A `Login` is valid as long as its `fingerprint` matches the stored password or secret, and until `expires_at`, when
a robot's account or a job's session ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from moorage.auth.local.jwks import KeysUnavailable
from moorage.auth.local.policy import ROBOT_PREFIX, Identity
from moorage.auth.local.robot_secrets import matching_digest
from moorage.auth.local.tokens import InvalidToken
from moorage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.access import Basic
    from moorage.auth.local.oidc_tokens import OidcVerifier
    from moorage.auth.local.policy import AccessPolicy
    from moorage.auth.local.signing_keys import SigningKeys
    from moorage.auth.local.tokens import RefreshToken
    from moorage.auth.rate_limit import LoginRateLimit

__all__ = ["OIDC_USER", "Login", "LoginRefused", "LoginVerifier", "Users"]

OIDC_USER: Final = "oidc"
"""User name for a login with a token of another issuer: `docker login -u oidc`."""


class LoginRefused(Exception):
    """Wrong, expired or unknown credentials; the message is for the log, and not sent to the client.

    `is_logged`: the log has it already.
    """

    def __init__(self, reason: str, *, is_logged: bool = False) -> None:
        super().__init__(reason)
        self.is_logged = is_logged


class Users(Protocol):
    """Users and their passwords; see `PasswordFile`."""

    def is_verified(self, user: bytes, password: bytes) -> bool:
        """Return whether the pair was verified in the last minutes and is still valid.  Raises Unavailable."""
        ...

    async def verify(self, user: bytes, password: bytes) -> bool:
        """Return whether the password is the user's; takes as long for an unknown user.  Raises Unavailable."""
        ...

    def hash_of(self, user: bytes) -> bytes | None:
        """Return the hash of a user's password, None for an unknown user.  Raises Unavailable."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Login:
    """An authenticated identity; `expires_at` is in seconds since the epoch, None for never."""

    identity: Identity
    fingerprint: str = ""
    expires_at: float | None = None


class LoginVerifier:
    """Authenticates logins.  `users` None: only robots and tokens of other issuers can log in.

    Failed logins are rate-limited for passwords only; robots' secrets and signatures cannot be guessed.
    """

    def __init__(
        self,
        users: Users | None,
        oidc: OidcVerifier,
        rate_limit: LoginRateLimit,
        keys: SigningKeys,
        clock: Callable[[], float],
    ) -> None:
        self._users = users
        self._oidc = oidc
        self._rate_limit = rate_limit
        self._keys = keys
        self._clock = clock

    async def authenticate(self, basic: Basic, policy: AccessPolicy, remote: str) -> Login:
        """Authenticate a user name and password.  Raises LoginRefused, TooManyRequests, Unavailable."""
        try:
            name = basic.user.decode()
        except UnicodeDecodeError:
            raise LoginRefused("its name is not UTF-8") from None
        if name.startswith(ROBOT_PREFIX):
            return self._robot(name.removeprefix(ROBOT_PREFIX), basic.password, policy)
        if name == OIDC_USER:
            return await self.authenticate_oidc(basic.password.decode("latin-1"), policy)
        if self._users is None:
            raise LoginRefused("there is no users file")
        if not self._users.is_verified(basic.user, basic.password) and not await self._rate_limit.check(
            remote, basic, self._users.verify
        ):
            raise LoginRefused("wrong user or password", is_logged=True)
        stored = self._users.hash_of(basic.user)
        if stored is None:
            raise LoginRefused("removed in this moment")
        return Login(Identity("user", name), self._keys.fingerprint(stored))

    async def authenticate_oidc(self, token: str, policy: AccessPolicy) -> Login:
        """Authenticate a token of another issuer.  Raises LoginRefused, Unavailable."""
        try:
            identity = await self._oidc.verify(token, policy)
        except InvalidToken as error:
            raise LoginRefused(f"the token {error}") from error
        except KeysUnavailable as error:
            raise Unavailable(str(error)) from error
        return Login(identity, expires_at=self._clock() + policy.issuers[identity.issuer].session_s)

    async def renew(self, refresh: RefreshToken, policy: AccessPolicy) -> Login:
        """Return the login of a refresh token if it is still valid.  Raises LoginRefused."""
        identity = refresh.identity
        if identity.kind == "user":
            stored = None if self._users is None else self._users.hash_of(identity.name.encode())
            if stored is None or self._keys.fingerprint(stored) != refresh.fingerprint:
                raise LoginRefused("the user is gone, or has another password")
            return Login(identity, refresh.fingerprint, refresh.expires_at)
        if identity.kind == "robot":
            robot = policy.robots.get(identity.name)
            known = () if robot is None else (self._keys.fingerprint(each.encode()) for each in robot.secrets)
            if robot is None or refresh.fingerprint not in known:
                raise LoginRefused("the robot is gone, or has another secret")
            self._check_expiry(robot.name, policy)
            return Login(identity, refresh.fingerprint, self._expiry(robot.name, policy))
        if identity.issuer not in policy.issuers or not policy.has_rule_for(identity):
            raise LoginRefused("no rule is about its claims any more")
        return Login(identity, expires_at=refresh.expires_at)

    def _robot(self, name: str, secret: bytes, policy: AccessPolicy) -> Login:
        robot = policy.robots.get(name)
        known = None if robot is None else matching_digest(robot, secret)
        if known is None:
            raise LoginRefused("no such robot, or a wrong secret")
        self._check_expiry(name, policy)
        fingerprint = self._keys.fingerprint(known.encode())
        return Login(Identity("robot", name), fingerprint, self._expiry(name, policy))

    def _check_expiry(self, name: str, policy: AccessPolicy) -> None:
        if policy.robots[name].is_expired(datetime.fromtimestamp(self._clock(), UTC)):
            raise LoginRefused("the robot's account is over")

    def _expiry(self, name: str, policy: AccessPolicy) -> float | None:
        expires = policy.robots[name].expires
        return None if expires is None else expires.timestamp()
