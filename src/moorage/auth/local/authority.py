"""Authority of `auth.local`: admits requests to the registry, and issues tokens.

    admit    no credentials, Basic (curl), or an access token         ──► Principal, or a 401
    issue    Basic, a refresh token, or a token of another issuer     ──► an access token

`/v2/` is 401 without credentials, even if some repositories are open to anonymous clients: Docker requests it to
find out whether to log in, and never sends a password otherwise.

A token has the permissions of the time when it was issued; a change of the policy takes effect with the next
token.

Source: distribution's token specification; RFC 6750 section 3.1 (errors).
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
    from moorage.auth.local.policy import AccessPolicy
    from moorage.auth.local.policy_source import PolicySource
    from moorage.auth.local.tokens import Tokens
    from moorage.auth.password_file import PasswordFile

__all__ = ["IssuedToken", "LocalAuthority", "TokenRealm", "TokenRequest"]

_log: Final = structlog.get_logger("moorage.auth")


@dataclass(frozen=True, slots=True)
class TokenRealm:
    """URL where clients get tokens.

    It is `realm` if set, else `/token` below `host` (the setting `http.host`) or the requested host.
    """

    service: str
    realm: str = ""
    host: str = ""
    prefix: str = "/"

    def realm_for(self, request: AccessRequest) -> str:
        """Return the URL for the challenge, "" if the host is unknown."""
        if self.realm:
            return self.realm
        if self.host:
            return urljoin(self.host, "token")
        return f"{request.scheme}://{request.host}{self.prefix}token" if request.host else ""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request for a token, with at most one of three kinds of credentials.

    `offline`: a refresh token is requested too.
    """

    basic: Basic | None = None
    refresh_token: str = field(default="", repr=False)
    oidc_token: str = field(default="", repr=False)
    scopes: Sequence[str] = ()
    offline: bool = False
    remote: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; times are seconds.  `refresh_token` is "" if none was requested or none can be issued."""

    name: str
    token: str = field(repr=False)
    issued_at: float
    expires_in_s: int
    scopes: tuple[str, ...]
    refresh_token: str = field(default="", repr=False)


class LocalAuthority:
    """See `access.Authority`.  `login_s`: longest lifetime of refresh tokens in seconds, None for no limit."""

    def __init__(
        self,
        policies: PolicySource,
        logins: LoginVerifier,
        tokens: Tokens,
        token_realm: TokenRealm,
        clock: Callable[[], float],
        *,
        login_s: float | None,
        files: Sequence[PolicySource | PasswordFile] = (),
        closing: Sequence[Users | OidcVerifier] = (),
    ) -> None:
        self._policies = policies
        self._logins = logins
        self._tokens = tokens
        self._token_realm = token_realm
        self._clock = clock
        self._login_s = login_s
        self._files = files
        self._closing = closing

    @property
    def service(self) -> str:
        """Return the service name in challenges and tokens."""
        return self._token_realm.service

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        if credentials is None and (request.has_credentials or not request.needs):
            self._refuse(request)
        principal = await self._principal(credentials, request)
        if missing(principal.grants, request):
            self._refuse(request, "" if credentials is None else "insufficient_scope")
        return principal

    async def _principal(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        if credentials is None:
            return Principal("", (await self._policies.current()).grants_of(ANONYMOUS))
        if isinstance(credentials, Basic):
            policy = await self._policies.current()
            try:
                login = await self._login(credentials, policy, request.remote)
            except LoginRefused:
                self._refuse(request)
            return Principal(login.identity.display_name, policy.grants_of(login.identity))
        try:
            access = self._tokens.read_access(credentials.token)
        except InvalidToken as error:
            if not error.ordinary:
                _log.warning("token refused", remote=request.remote, cause=f"it {error}")
            self._refuse(request, "invalid_token")
        return access.principal

    def _refuse(self, request: AccessRequest, error: str = "") -> NoReturn:
        """Raise Unauthorized; `error` only if there were credentials, since clients discard them because of it."""
        value = challenge(
            "Bearer",
            realm=self._token_realm.realm_for(request),
            service=self._token_realm.service,
            scope=" ".join(scopes(request.needs)),
            error=error,
        )
        raise Unauthorized(value, [(need.type, need.name, need.action) for need in request.needs])

    async def _login(self, basic: Basic, policy: AccessPolicy, remote: str) -> Login:
        """Authenticate a password.  Raises LoginRefused, Unavailable, TooManyRequests."""
        try:
            return await self._logins.authenticate(basic, policy, remote)
        except LoginRefused as error:
            if not error.is_logged:
                user = basic.user.decode(errors="backslashreplace")
                _log.warning("login refused", user=user, remote=remote, cause=str(error))
            raise

    async def issue(self, request: TokenRequest) -> IssuedToken:
        """Issue a token.  Raises LoginRefused, TooManyScopes, Unavailable, TooManyRequests."""
        needs = needs_of(request.scopes)
        policy = await self._policies.current()
        login = await self._authenticate(request, policy)
        access: list[Mapping[str, Any]] = granted(needs, policy.grants_of(login.identity))
        issued_at = self._clock()
        token, expires_in_s = self._tokens.access(login.identity.display_name, access, login.expires_at)
        shown = tuple(f"{each['type']}:{each['name']}:{','.join(each['actions'])}" for each in access)
        return IssuedToken(
            login.identity.display_name, token, issued_at, expires_in_s, shown, self._refresh(request, login)
        )

    async def _authenticate(self, request: TokenRequest, policy: AccessPolicy) -> Login:
        if request.basic is not None:
            return await self._login(request.basic, policy, request.remote)
        try:
            if request.oidc_token:
                return await self._logins.authenticate_oidc(request.oidc_token, policy)
            if request.refresh_token:
                return await self._logins.renew(self._tokens.read_refresh(request.refresh_token), policy)
        except (LoginRefused, InvalidToken) as error:
            _log.warning("token refused", remote=request.remote, cause=str(error))
            raise LoginRefused(str(error)) from error
        return Login(ANONYMOUS)

    def _refresh(self, request: TokenRequest, login: Login) -> str:
        if not request.offline or login.identity == ANONYMOUS:
            return ""
        if request.refresh_token:
            return request.refresh_token
        limit = None if self._login_s is None else self._clock() + self._login_s
        expires_at = min((end for end in (limit, login.expires_at) if end is not None), default=None)
        return self._tokens.refresh(login.identity, login.fingerprint, expires_at)

    async def refresh(self) -> None:
        for file in self._files:
            await file.refresh()

    async def close(self) -> None:
        for each in self._closing:
            await each.close()
