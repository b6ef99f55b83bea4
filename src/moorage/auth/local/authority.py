"""Who asks, and may he?  For requests to the registry, and for those that want a token.

    admit    no credentials, Basic (what curl sends), or a token of ours ──► Principal, or a 401
    issue    Basic, a refresh token, or a token of another issuer        ──► an access token

`/v2/` itself is 401 without credentials, although some repositories may be open to everybody: Docker asks there
whether it has to log in, and would never send a password if it had not.

A token holds the rights of the moment it was given out; rights that change, change with the next token.
Source: docs/reference/auth.md, sections 4.2, 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urljoin

import structlog

from moorage.auth.access import Basic, Principal, challenge, missing, scopes
from moorage.auth.local.identities import Login, LoginRefused
from moorage.auth.local.policy import ANONYMOUS
from moorage.auth.local.scopes import granted, needs_of
from moorage.auth.local.tokens import InvalidToken
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moorage.auth.access import AccessRequest, Credentials
    from moorage.auth.local.identities import LoginVerifier, Users
    from moorage.auth.local.oidc_tokens import OidcVerifier
    from moorage.auth.local.policy import Policy
    from moorage.auth.local.policy_source import PolicySource
    from moorage.auth.local.tokens import Tokens
    from moorage.auth.password_file import PasswordFile

__all__ = ["IssuedToken", "LocalAuthority", "TokenRealm", "TokenRequest"]

_log: Final = structlog.get_logger("moorage.auth")


@dataclass(frozen=True, slots=True)
class TokenRealm:
    """Where clients get tokens: `realm` if set, else `/token` below `host` (`http.host`) or where they are."""

    service: str
    realm: str = ""
    host: str = ""
    prefix: str = "/"

    def realm_for(self, asked: AccessRequest) -> str:
        if self.realm:
            return self.realm
        if self.host:
            return urljoin(self.host, "token")
        return f"{asked.scheme}://{asked.host}{self.prefix}token" if asked.host else ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What somebody who wants a token shows and asks for; at most one of the three ways to prove who he is."""

    basic: Basic | None = None
    refresh_token: str = field(default="", repr=False)
    oidc_token: str = field(default="", repr=False)
    scopes: Sequence[str] = ()
    offline: bool = False
    remote: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """`refresh_token` is "" where none was asked for, or none can be had."""

    name: str
    token: str = field(repr=False)
    issued_at: float
    expires_in_s: int
    scopes: tuple[str, ...]
    refresh_token: str = field(default="", repr=False)


class LocalAuthority:
    """See `access.Authority`.  `login_s`: how long refresh tokens last at most, None for no limit of their own."""

    def __init__(
        self,
        policies: PolicySource,
        logins: LoginVerifier,
        tokens: Tokens,
        place: TokenRealm,
        clock: Callable[[], float],
        *,
        login_s: float | None,
        files: Sequence[PolicySource | PasswordFile] = (),
        closing: Sequence[Users | OidcVerifier] = (),
    ) -> None:
        self._policies, self._logins, self._tokens, self._place = policies, logins, tokens, place
        self._clock, self._login_s, self._files, self._closing = clock, login_s, files, closing

    @property
    def service(self) -> str:
        return self._place.service

    async def admit(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        if credentials is None and (asked.given or not asked.needs):
            self._refuse(asked)
        principal = await self._principal(credentials, asked)
        if missing(principal.grants, asked):
            self._refuse(asked, "" if credentials is None else "insufficient_scope")
        return principal

    async def _principal(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        if credentials is None:
            return Principal("", (await self._policies.current()).grants_of(ANONYMOUS))
        if isinstance(credentials, Basic):
            policy = await self._policies.current()
            try:
                login = await self._login(credentials, policy, asked.remote)
            except LoginRefused:
                self._refuse(asked)
            return Principal(login.identity.shown, policy.grants_of(login.identity))
        try:
            access = self._tokens.read_access(credentials.token)
        except InvalidToken as error:
            if not error.ordinary:
                _log.warning("token refused", remote=asked.remote, cause=f"it {error}")
            self._refuse(asked, "invalid_token")
        return Principal(access.name, access.grants)

    def _refuse(self, asked: AccessRequest, error: str = "") -> NoReturn:
        """`error` only for those who showed something: it makes clients throw away what they have."""
        value = challenge(
            "Bearer",
            realm=self._place.realm_for(asked),
            service=self._place.service,
            scope=" ".join(scopes(asked.needs)),
            error=error,
        )
        raise Unauthorized(value, [(need.type, need.name, need.action) for need in asked.needs])

    async def _login(self, basic: Basic, policy: Policy, remote: str) -> Login:
        """Raises LoginRefused, Unavailable, TooManyRequests."""
        try:
            return await self._logins.prove(basic, policy, remote)
        except LoginRefused as error:
            if not error.told:
                user = basic.user.decode(errors="backslashreplace")
                _log.warning("login refused", user=user, remote=remote, cause=str(error))
            raise

    async def issue(self, wish: TokenRequest) -> IssuedToken:
        """A token.  Raises LoginRefused, TooManyScopes, Unavailable, TooManyRequests."""
        needs = needs_of(wish.scopes)
        policy = await self._policies.current()
        login = await self._prove(wish, policy)
        access: list[Mapping[str, Any]] = granted(needs, policy.grants_of(login.identity))
        issued_at = self._clock()
        token, expires_in_s = self._tokens.access(login.identity.shown, access, login.ends)
        shown = tuple(f"{each['type']}:{each['name']}:{','.join(each['actions'])}" for each in access)
        return IssuedToken(login.identity.shown, token, issued_at, expires_in_s, shown, self._refresh(wish, login))

    async def _prove(self, wish: TokenRequest, policy: Policy) -> Login:
        if wish.basic is not None:
            return await self._login(wish.basic, policy, wish.remote)
        try:
            if wish.oidc_token:
                return await self._logins.authenticate_oidc(wish.oidc_token, policy)
            if wish.refresh_token:
                return await self._logins.still(self._tokens.read_refresh(wish.refresh_token), policy)
        except (LoginRefused, InvalidToken) as error:
            _log.warning("token refused", remote=wish.remote, cause=str(error))
            raise LoginRefused(str(error)) from error
        return Login(ANONYMOUS)

    def _refresh(self, wish: TokenRequest, login: Login) -> str:
        if not wish.offline or login.identity == ANONYMOUS:
            return ""
        if wish.refresh_token:
            return wish.refresh_token
        limit = None if self._login_s is None else self._clock() + self._login_s
        ends = min((end for end in (limit, login.ends) if end is not None), default=None)
        return self._tokens.refresh(login.identity, login.fingerprint, ends)

    async def refresh(self) -> None:
        for file in self._files:
            await file.refresh()

    async def close(self) -> None:
        for each in self._closing:
            await each.close()
