"""From a name and a password to who somebody is: people, robots, and jobs with a token of another issuer.

    robot+NAME     a robot of the policy, with its secret
    oidc           a token of one of the policy's issuers as the password
    anything else  a user of the users file

A `Login` also says how long it may be relied on: `fingerprint` changes with the stored password or secret, and
`ends` is when a robot's account or a job's session is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from moorage.auth.local.jwks import KeysUnavailable
from moorage.auth.local.policy import ROBOT_PREFIX, Identity
from moorage.auth.local.robot_secrets import knows
from moorage.auth.local.tokens import InvalidToken
from moorage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.access import Basic
    from moorage.auth.local.oidc_tokens import OidcVerifier
    from moorage.auth.local.policy import Policy
    from moorage.auth.local.signing_keys import SigningKeys
    from moorage.auth.local.tokens import RefreshToken
    from moorage.auth.rate_limit import LoginRateLimit

__all__ = ["OIDC_USER", "Login", "LoginRefused", "LoginVerifier", "Users"]

OIDC_USER: Final = "oidc"
"""The user name beside a foreign token: `docker login -u oidc`."""


class LoginRefused(Exception):
    """Wrong, over, or nobody we know; the message is for the log, the client is told nothing of it.

    `told`: the log has it already.
    """

    def __init__(self, reason: str, *, told: bool = False) -> None:
        super().__init__(reason)
        self.told = told


class Users(Protocol):
    """People and their passwords."""

    def knows(self, user: bytes, password: bytes) -> bool:
        """Whether they were found to belong together a moment ago, and still do.  Raises Unavailable."""
        ...

    async def verify(self, user: bytes, password: bytes) -> bool:
        """Whether they belong together; as slow for a user that there is not.  Raises Unavailable."""
        ...

    def stored(self, user: bytes) -> bytes | None:
        """The hash of a user's password, None for nobody.  Raises Unavailable."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Login:
    identity: Identity
    fingerprint: str = ""
    ends: float | None = None


class LoginVerifier:
    """`users` None: there are only robots and foreign tokens.

    Guessing is slowed down for what people think up; of robots' secrets and signatures there is nothing to guess.
    """

    def __init__(
        self,
        users: Users | None,
        foreign: OidcVerifier,
        slowing: LoginRateLimit,
        keys: SigningKeys,
        clock: Callable[[], float],
    ) -> None:
        self._users, self._foreign, self._slowing = users, foreign, slowing
        self._keys, self._clock = keys, clock

    async def prove(self, basic: Basic, policy: Policy, remote: str) -> Login:
        """Raises LoginRefused, TooManyRequests, and Unavailable where nobody can tell."""
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
        if not self._users.knows(basic.user, basic.password) and not await self._slowing.guess(
            remote, basic, self._users.verify
        ):
            raise LoginRefused("wrong user or password", told=True)
        stored = self._users.stored(basic.user)
        if stored is None:
            raise LoginRefused("removed in this moment")
        return Login(Identity("user", name), self._keys.fingerprint(stored))

    async def authenticate_oidc(self, token: str, policy: Policy) -> Login:
        """By a token of another issuer.  Raises LoginRefused, Unavailable."""
        try:
            identity = await self._foreign.prove(token, policy)
        except InvalidToken as error:
            raise LoginRefused(f"the token {error}") from error
        except KeysUnavailable as error:
            raise Unavailable(str(error)) from error
        return Login(identity, ends=self._clock() + policy.issuers[identity.issuer].session_s)

    async def still(self, refresh: RefreshToken, policy: Policy) -> Login:
        """Whoever a refresh token was given to, if he would still get one.  Raises LoginRefused."""
        identity = refresh.identity
        if identity.kind == "user":
            stored = None if self._users is None else self._users.stored(identity.name.encode())
            if stored is None or self._keys.fingerprint(stored) != refresh.fingerprint:
                raise LoginRefused("the user is gone, or has another password")
            return Login(identity, refresh.fingerprint, refresh.ends)
        if identity.kind == "robot":
            robot = policy.robots.get(identity.name)
            known = () if robot is None else (self._keys.fingerprint(each.encode()) for each in robot.secrets)
            if robot is None or refresh.fingerprint not in known:
                raise LoginRefused("the robot is gone, or has another secret")
            self._check_end(robot.name, policy)
            return Login(identity, refresh.fingerprint, self._end(robot.name, policy))
        if identity.issuer not in policy.issuers or not policy.knows(identity):
            raise LoginRefused("no rule is about its claims any more")
        return Login(identity, ends=refresh.ends)

    def _robot(self, name: str, secret: bytes, policy: Policy) -> Login:
        robot = policy.robots.get(name)
        known = None if robot is None else knows(robot, secret)
        if known is None:
            raise LoginRefused("no such robot, or a wrong secret")
        self._check_end(name, policy)
        fingerprint = self._keys.fingerprint(known.encode())
        return Login(Identity("robot", name), fingerprint, self._end(name, policy))

    def _check_end(self, name: str, policy: Policy) -> None:
        if policy.robots[name].is_over(datetime.fromtimestamp(self._clock(), UTC)):
            raise LoginRefused("the robot's account is over")

    def _end(self, name: str, policy: Policy) -> float | None:
        expires = policy.robots[name].expires
        return None if expires is None else expires.timestamp()
