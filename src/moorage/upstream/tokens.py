"""Bearer tokens of token servers: one request for any number of callers, kept until shortly before they expire.

**Credentials reach a token server only if it belongs to the registry**: the same host, the same registrable
domain, or a host that the setting `realms` names.  The realm comes out of a response, so a registry that was
replaced, or one of plain HTTP, could name any server.  Another realm is refused, and not asked without credentials
either: the error would then be that of a missing permission, not the cause.

The registrable domain is taken as the last two labels of a name, or the last three below a country's usual second
level (`example.co.uk`); there is no list of public suffixes.

Above: `authorization.py`.  Below: `transport.py`.
Source: https://distribution.github.io/distribution/spec/auth/token/ and .../auth/oauth/.
"""

from __future__ import annotations

import base64
import ipaddress
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from yarl import URL

from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.upstream.answers import failure, parse_json
from moorage.upstream.errors import UpstreamDenied, UpstreamInvalid
from moorage.upstream.transport import UpstreamRequest, describe, host_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.upstream.credentials import CredentialSource, UpstreamCredentials
    from moorage.upstream.transport import UpstreamTransport

__all__ = ["BearerRealm", "TokenFetcher", "basic_header", "is_trusted_realm", "secrets_in"]

_OK: Final = 200
_LIMIT_BYTES: Final = 1 << 20
_CACHED_TOKENS: Final = 4096
_SILENT_LIFETIME_S: Final = 60
"""The lifetime of a token whose server names none (distribution: "Token Response Fields")."""

_LONGEST_LIFETIME_S: Final = 86_400
_MARGIN: Final = 0.1
_MARGIN_LIMIT_S: Final = 10
_SECOND_LEVELS: Final = frozenset(
    {"ac", "co", "com", "edu", "go", "gob", "gov", "gouv", "ltd", "mil", "ne", "net", "nom", "or", "org", "plc"}
)
_COUNTRY_CHARS: Final = 2


@dataclass(frozen=True, slots=True)
class BearerRealm:
    """A token server, and the service that it issues tokens for."""

    url: str
    service: str


class TokenFetcher:
    """Tokens for the registry `registry`, by realm and scopes.

    `anonymous`: the last one was requested without credentials; `secrets` are those of its request.
    """

    def __init__(
        self,
        registry: str,
        transport: UpstreamTransport,
        credentials: CredentialSource,
        *,
        allowed_realms: tuple[str, ...] = (),
        secure: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._transport = transport
        self._credentials = credentials
        self._allowed = frozenset(allowed_realms)
        self._secure = secure
        self._clock = clock
        self.anonymous = False
        self.secrets: list[str] = []
        self._cache: TTLCache[tuple[BearerRealm, tuple[str, ...]], str] = TTLCache(_CACHED_TOKENS, clock=clock)
        self._flight: SingleFlight[tuple[BearerRealm, tuple[str, ...]], str] = SingleFlight("upstream-token")

    async def get(self, realm: BearerRealm, scopes: tuple[str, ...]) -> str:
        """Return a token.  Raises `UpstreamError`."""
        key = (realm, scopes)
        token = self._cache.get(key)
        if token is None:
            token = await self._flight.run(key, lambda: self._fetch(realm, scopes))
        return token

    def drop(self, realm: BearerRealm, scopes: tuple[str, ...], refused: str) -> None:
        """Forget the token `refused` by the registry; a newer one, of another request, is kept."""
        if self._cache.get((realm, scopes)) == refused:
            self._cache.drop((realm, scopes))

    async def close(self) -> None:
        await self._flight.close()

    async def _fetch(self, realm: BearerRealm, scopes: tuple[str, ...]) -> str:
        """Request a token and keep it.  Refused credentials are obtained anew, and tried if they have changed."""
        url = self._checked(realm)
        began = self._clock()
        credentials = await self._credentials.get(self._registry)
        self.anonymous = credentials is None
        try:
            token, lifetime_s = await self._request_token(url, realm.service, scopes, credentials)
        except UpstreamDenied:
            self._credentials.refused(self._registry)
            renewed = await self._credentials.get(self._registry)
            if renewed is None or renewed == credentials:
                raise
            token, lifetime_s = await self._request_token(url, realm.service, scopes, renewed)
        margin_s = min(_MARGIN_LIMIT_S, lifetime_s * _MARGIN)
        self._cache.put((realm, scopes), token, expires_at=began + lifetime_s - margin_s)
        return token

    async def _request_token(
        self, url: URL, service: str, scopes: tuple[str, ...], credentials: UpstreamCredentials | None
    ) -> tuple[str, float]:
        """Return a token and its lifetime in seconds."""
        request = _request(url, service, scopes, credentials)
        operation = describe(request)
        self.secrets = _secrets(request, credentials)
        async with self._transport.send(request) as response:
            if response.status != _OK:
                raise await failure(response, response.place, registry=self._registry, secrets=self.secrets)
            body = await response.read(_LIMIT_BYTES)
        try:
            return _read(body)
        except ValueError as error:
            raise UpstreamInvalid(f"{operation}: not a token response: {error}", registry=self._registry) from None

    def _checked(self, realm: BearerRealm) -> URL:
        """Return the URL of a realm.  Raises `UpstreamDenied` if it must not get the credentials."""
        try:
            url = URL(realm.url).with_user(None).with_fragment(None)
        except ValueError:
            url = URL()
        if url.scheme not in {"http", "https"} or not url.host:
            raise UpstreamInvalid("the realm of its challenge is not a URL", registry=self._registry, status=401)
        if self._secure and url.scheme != "https":
            raise UpstreamDenied(
                f"its token server {host_of(url)} would get the credentials without TLS, so it gets none",
                registry=self._registry,
                status=401,
            )
        if not is_trusted_realm(host_of(url), self._registry, self._allowed):
            raise UpstreamDenied(
                f"its token server {host_of(url)} belongs to another domain, so it gets no credentials;"
                f" add {host_of(url)} to the setting realms of this registry, if it is the right one",
                registry=self._registry,
                status=401,
            )
        return url


def is_trusted_realm(host: str, registry: str, allowed: frozenset[str]) -> bool:
    """Return whether the token server `host` may get credentials for `registry`; both with their ports."""
    if host == registry or host in allowed:
        return True
    ours, theirs = _without_port(registry), _without_port(host)
    return theirs in allowed or ours == theirs or (_domain(ours) is not None and _domain(ours) == _domain(theirs))


def _without_port(host: str) -> str:
    return host.rpartition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _domain(host: str) -> str | None:
    """Return the registrable domain; None for an address, or a name that has none."""
    labels = host.lower().rstrip(".").split(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return None
    if host.startswith("[") or len(labels) < 2:  # noqa: PLR2004
        return None
    below_country = len(labels[-1]) == _COUNTRY_CHARS and labels[-2] in _SECOND_LEVELS
    count = 3 if below_country else 2
    return ".".join(labels[-count:]) if len(labels) >= count else None


def basic_header(credentials: UpstreamCredentials) -> str:
    """Return the Authorization header of a user and password."""
    pair = f"{credentials.user}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _request(
    url: URL, service: str, scopes: tuple[str, ...], credentials: UpstreamCredentials | None
) -> UpstreamRequest:
    """Return the request: GET with Basic, or POST of OAuth 2.0 for an identity token."""
    server = f"token server {host_of(url)}"
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": "moorage",
            "scope": " ".join(scopes),
            "refresh_token": credentials.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return UpstreamRequest("POST", url, headers, data=urlencode(form).encode(), server=server)
    query = [("service", service)] if service else []
    query += [("scope", scope) for scope in scopes]
    authorization = None
    if credentials is not None:
        query.append(("account", credentials.user))
        authorization = basic_header(credentials)
    return UpstreamRequest("GET", url.extend_query(query), authorization=authorization, server=server)


def _read(body: bytes | None) -> tuple[str, float]:
    """Return the token and its lifetime in seconds.  Raises `ValueError`, which contains nothing of the body."""
    if body is None:
        raise ValueError(f"over {_LIMIT_BYTES} bytes")
    try:
        document = parse_json(body)
    except ValueError:
        raise ValueError("not a JSON object") from None
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token:
        raise ValueError("it has no token")
    if not token.isascii() or not token.isprintable():
        raise ValueError("its token cannot be sent in a header")
    lifetime = document.get("expires_in")
    if isinstance(lifetime, int | float) and not isinstance(lifetime, bool) and lifetime > 0:
        return token, min(lifetime, _LONGEST_LIFETIME_S)
    return token, _SILENT_LIFETIME_S


def secrets_in(authorization: str | None) -> list[str]:
    """Return the secrets of an Authorization header: a token, or a password and its encoded form."""
    scheme, _, sent = (authorization or "").partition(" ")
    if scheme != "Basic":
        return [sent] if sent else []
    password = base64.b64decode(sent).decode().partition(":")[2]
    return [sent, password]


def _secrets(request: UpstreamRequest, credentials: UpstreamCredentials | None) -> list[str]:
    identity_token = credentials.identity_token if credentials is not None else ""
    return [*secrets_in(request.authorization), *([identity_token] if identity_token else [])]
