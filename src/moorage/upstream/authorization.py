"""Authorization of requests to one registry: by its challenge, which is remembered.

    first request ──► without a header ──► 401 with a challenge ──► Basic, or a token for the scope ──► again
    later ones    ──► with a header from the start; a 401 is answered once, with new credentials or a new token

A second 401 is the registry's last word.  Bearer is preferred to Basic if the registry offers both.

Above: `client.py`.  Below: `challenges.py`, `tokens.py`, `credentials.py`.
Source: https://distribution.github.io/distribution/spec/auth/token/; RFC 9110 section 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.upstream.challenges import parse_challenges
from moorage.upstream.errors import UpstreamDenied, UpstreamError
from moorage.upstream.tokens import BearerRealm, TokenFetcher, basic_header, secrets_in

if TYPE_CHECKING:
    from moorage.upstream.credentials import CredentialSource
    from moorage.upstream.transport import UpstreamResponse, UpstreamTransport

__all__ = ["CATALOG_SCOPE", "Authorizer", "repository_scope"]

CATALOG_SCOPE: Final = "registry:catalog:*"
_REMEMBERED_SCOPES: Final = 1024
_SCOPES_LIMIT: Final = 8
_BASIC: Final = "basic"
_BEARER: Final = "bearer"


def repository_scope(name: str, *, push: bool = False) -> str:
    """Return the scope of a repository: pull, or pull and push."""
    return f"repository:{name}:{'pull,push' if push else 'pull'}"


class Authorizer:
    """Authorization headers for the registry at `host`; `secure`: its token server must be reached by TLS, too."""

    def __init__(
        self,
        host: str,
        transport: UpstreamTransport,
        credentials: CredentialSource,
        *,
        allowed_realms: tuple[str, ...] = (),
        secure: bool = False,
    ) -> None:
        self._host = host
        self._credentials = credentials
        self._tokens = TokenFetcher(host, transport, credentials, allowed_realms=allowed_realms, secure=secure)
        self._scheme: BearerRealm | str | None = None
        self._wider: LRUCache[tuple[str, ...], tuple[str, ...]] = LRUCache(_REMEMBERED_SCOPES)

    @property
    def anonymous(self) -> bool:
        """Return whether the registry was last asked with a token that needed no credentials."""
        return isinstance(self._scheme, BearerRealm) and self._tokens.anonymous

    def secrets_in(self, authorization: str | None) -> list[str]:
        """Return the secrets of a header, and of the request for its token: no message may contain them."""
        return [*secrets_in(authorization), *self._tokens.secrets]

    async def header(self, scopes: tuple[str, ...]) -> str | None:
        """Return the header for a request, None before the first challenge.  Raises `UpstreamError`."""
        if self._scheme is None:
            return None
        if isinstance(self._scheme, BearerRealm):
            try:
                return await self._bearer(self._scheme, scopes)
            except UpstreamError:
                # The registry may have another token server by now: the next request asks for the challenge again.
                self._scheme = None
                raise
        credentials = await self._credentials.get(self._host)
        return None if credentials is None else basic_header(credentials)

    async def after_challenge(
        self, response: UpstreamResponse, scopes: tuple[str, ...], refused: str | None
    ) -> str | None:
        """Return another header than `refused` for the 401 `response`; None if there is none: the registry's own
        words are then the reason.

        Raises `UpstreamError` if credentials or a token cannot be obtained.
        """
        challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
        offered = {challenge.scheme: challenge.parameters for challenge in challenges}
        if "realm" in (parameters := offered.get(_BEARER, {})):
            realm = BearerRealm(parameters["realm"], parameters.get("service", ""))
            known = self._wider.get(scopes) or scopes
            if refused is not None:
                self._tokens.drop(realm, known, refused.partition(" ")[2])
            joined = _joined(known, parameters.get("scope", ""))
            if joined != known:
                self._wider.put(scopes, joined)
            header = await self._bearer(realm, scopes)
            self._scheme = realm
            return header
        if _BASIC not in offered:
            return None
        self._scheme = _BASIC
        if refused is not None:
            self._credentials.refused(self._host)
        credentials = await self._credentials.get(self._host)
        if credentials is None:
            raise UpstreamDenied(
                "it asks for a user and password, and none are configured for it",
                registry=self._host,
                status=response.status,
            )
        header = basic_header(credentials)
        return None if header == refused else header

    async def _bearer(self, realm: BearerRealm, scopes: tuple[str, ...]) -> str:
        """Return the header with a token for `scopes`, and for those that the registry wanted in addition."""
        return f"Bearer {await self._tokens.get(realm, self._wider.get(scopes) or scopes)}"

    async def close(self) -> None:
        await self._tokens.close()


def _joined(scopes: tuple[str, ...], challenged: str) -> tuple[str, ...]:
    """Return the scopes with those of a challenge that they do not cover."""
    joined = list(scopes)
    for scope in challenged.split():
        resource, _, actions = scope.rpartition(":")
        covered = any(
            resource == ours and set(actions.split(",")) <= set(granted.split(","))
            for ours, _, granted in (known.rpartition(":") for known in joined)
        )
        if not covered and len(joined) < _SCOPES_LIMIT:
            joined.append(scope)
    return tuple(joined)
