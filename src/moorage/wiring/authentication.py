"""Authentication: settings become the `Authority` that the `auth` section names.

    settings ──► provider ──► check()   the problems of its files, for the start and for `moorage config check`
                         └──► build()   the authority of one worker

The modules of a provider are imported on its first use: a registry without it starts faster and is smaller.

Beside: `http.py`, which has the endpoint for tokens of `auth.local`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from moorage.config.problems import Problem
from moorage.startup import StartupError
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.auth.access import Authority
    from moorage.auth.local.authority import LocalAuthority
    from moorage.auth.password_file import PasswordFile
    from moorage.auth.rate_limit import LoginRateLimit
    from moorage.auth.token.authority import TokenAuthority
    from moorage.config.model import Settings

__all__ = ["Provider", "check_authority", "login_rate_limit", "make_authority", "make_password_file"]


class Provider(Protocol):
    """One authentication method, configured."""

    def check(self) -> list[Problem]:
        """Return what keeps `build` from working, and what is unusual; changes nothing.

        Raises `StartupError` for a problem that it does not list.
        """
        ...

    def build(self, *, reports: bool) -> Authority:
        """Return the authority of one process.  Raises `StartupError` if it cannot work.

        `reports`: this process logs what every worker of the node finds in changed files.
        """
        ...


def make_authority(settings: Settings, secret: bytes, *, reports: bool = True) -> Authority | None:
    """Return the authority of the configured provider; None without authentication.  See `Provider.build`."""
    provider = _provider(settings, secret)
    return None if provider is None else provider.build(reports=reports)


def check_authority(settings: Settings, secret: bytes) -> list[Problem]:
    """Return the problems of the configured provider.  See `Provider.check`."""
    provider = _provider(settings, secret)
    return [] if provider is None else provider.check()


def make_password_file(settings: Settings) -> list[str]:
    """Create the file of `auth.htpasswd` if it is missing; return warnings for the log.

    Called once, before any worker starts.  Raises `StartupError`.
    """
    if settings.auth.htpasswd is None:
        return []
    from moorage.auth.htpasswd_write import provide

    return provide(Path(settings.auth.htpasswd.path))


def login_rate_limit(settings: Settings) -> LoginRateLimit:
    """Return the rate limit for failed logins."""
    from moorage.auth.rate_limit import LoginRateLimit

    guessing = settings.guessing
    return LoginRateLimit(limit=guessing.failures, window_s=guessing.window, longest_s=guessing.longestwait)


def _provider(settings: Settings, secret: bytes) -> Provider | None:
    name = settings.auth.provider
    if name == "none":
        return None
    if name not in _PROVIDERS:
        raise StartupError(f"auth.{name} is not offered")
    return _PROVIDERS[name](settings, secret)


@dataclass(frozen=True, slots=True)
class _Silly:
    """`auth.silly`: every client with an Authorization header has all rights, for tests of clients."""

    settings: Settings
    secret: bytes

    def check(self) -> list[Problem]:
        from moorage.auth.silly import WARNING

        return [Problem(WARNING, kind="warning")]

    def build(self, *, reports: bool) -> Authority:
        del reports  # it reads no file
        from moorage.auth.silly import SillyAuthority

        silly = self.settings.auth.silly
        assert silly is not None
        return SillyAuthority(silly.realm, silly.service)


@dataclass(frozen=True, slots=True)
class _Htpasswd:
    """`auth.htpasswd`: user names and bcrypt hashes in a file."""

    settings: Settings
    secret: bytes

    @property
    def _path(self) -> Path:
        assert self.settings.auth.htpasswd is not None
        return Path(self.settings.auth.htpasswd.path)

    def check(self) -> list[Problem]:
        path = self._path
        if not os.path.lexists(path):
            from moorage.auth.htpasswd_write import check_provision

            return [Problem(check_provision(path), "auth.htpasswd.path", kind="warning")]
        problems = [Problem(text, kind="warning") for text in self._users(reports=True).warnings]
        if path.is_dir():
            message = (
                f"{path} is a directory, so no user can log in; create a file with `moorage htpasswd -Bc "
                f"{path / 'htpasswd'} USER` and name it here"
            )
            problems.append(Problem(message, "auth.htpasswd.path", kind="fault"))
        return problems

    def build(self, *, reports: bool) -> Authority:
        from moorage.auth.basic import HtpasswdAuthority

        htpasswd = self.settings.auth.htpasswd
        assert htpasswd is not None
        return HtpasswdAuthority(htpasswd.realm, self._users(reports=reports), login_rate_limit(self.settings))

    def _users(self, *, reports: bool) -> PasswordFile:
        from moorage.auth.password_file import PasswordFile

        return PasswordFile(self._path, reports=reports)


@dataclass(frozen=True, slots=True)
class _Token:
    """`auth.token`: tokens of another server, verified with its public keys."""

    settings: Settings
    secret: bytes

    def check(self) -> list[Problem]:
        return [Problem(text, kind="warning") for text in self.build(reports=True).warnings]

    def build(self, *, reports: bool) -> TokenAuthority:
        from moorage.auth.token.build import TokenOptions, make

        token = self.settings.auth.token
        assert token is not None
        options = TokenOptions(
            realm=token.realm,
            service=token.service,
            issuer=token.issuer,
            rootcertbundle=token.rootcertbundle,
            jwks=token.jwks,
            redirect_path=token.autoredirectpath if token.autoredirect else None,
            algorithms=token.signingalgorithms,
        )
        return make(options, reports=reports)


@dataclass(frozen=True, slots=True)
class _Local:
    """`auth.local`: a policy file, and tokens that this registry issues itself."""

    settings: Settings
    secret: bytes

    def check(self) -> list[Problem]:
        from moorage.auth.local.build import problems_of

        local = self.settings.auth.local
        assert local is not None
        problems = problems_of(local.policy, local.users)
        if not self.settings.http.secret:
            message = "auth.local without http.secret: tokens and logins end at a restart; set http.secret"
            problems.append(Problem(message, kind="warning"))
        try:
            self.build(reports=True)
        except StartupError as error:
            if all(problem.kind != "error" for problem in problems):
                problems.append(Problem(error.reason, error.setting))
        return problems

    def build(self, *, reports: bool) -> LocalAuthority:
        from moorage.auth.local.authority import TokenRealm
        from moorage.auth.local.build import LocalOptions, make

        local = self.settings.auth.local
        assert local is not None
        options = LocalOptions(
            policy=local.policy,
            users=local.users,
            place=TokenRealm(
                local.service, local.realm, self.settings.http.host, http_options(self.settings).prefix
            ),
            token_s=local.tokenlifetime,
            login_s=local.loginlifetime,
            rotation_s=local.keyrotation,
        )
        return make(options, self.secret, login_rate_limit(self.settings), reports=reports)


_PROVIDERS: Final[Mapping[str, Callable[[Settings, bytes], Provider]]] = {
    "silly": _Silly,
    "htpasswd": _Htpasswd,
    "token": _Token,
    "local": _Local,
}
"""By the key below `auth`."""
