"""Requests to one registry with the right Authorization, whose unexpected statuses are errors.

A 401 is answered once (`authorization.py`), and the request is sent again.  A streamed body cannot be sent twice:
an upload is started by a request without a body, which settles its authorization.

Above: `client.py`, `uploads.py`, `listings.py`.  Below: `transport.py`, `authorization.py`, `answers.py`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from yarl import URL

from moorage.upstream.answers import failure
from moorage.upstream.authorization import Authorizer
from moorage.upstream.errors import UpstreamInvalid
from moorage.upstream.transport import UpstreamRequest, UpstreamTransport, host_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping

    from moorage.upstream.credentials import CredentialSource
    from moorage.upstream.reference import RegistryEndpoint
    from moorage.upstream.transport import ClientOptions, UpstreamResponse

__all__ = ["RegistrySession"]

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_CHALLENGE_LIMIT_BYTES: Final = 1 << 16


class RegistrySession:
    """Authorized requests to the registry at `endpoint`."""

    def __init__(self, endpoint: RegistryEndpoint, credentials: CredentialSource, options: ClientOptions) -> None:
        self.host: Final = endpoint.host
        self._root = URL(endpoint.url)
        self._transport = UpstreamTransport(endpoint.host, options)
        self._authorizer = Authorizer(
            endpoint.host,
            self._transport,
            credentials,
            allowed_realms=options.allowed_realms,
            secure=self._root.scheme == "https",
        )

    def url(self, path: str, query: str = "") -> URL:
        """Return the URL of a path below the root; both are as they are sent."""
        return URL(f"{self._root}{path}{'?' if query else ''}{query}", encoded=True)

    def location(self, response: UpstreamResponse, operation: str) -> URL:
        """Return the absolute Location of a response; https does not become http.  Raises `UpstreamInvalid`."""
        target = response.location
        if target is None:
            raise UpstreamInvalid(
                f"{operation}: {response.status} without a usable Location",
                registry=self.host,
                status=response.status,
            )
        if response.url.scheme == "https" and target.scheme == "http":
            raise UpstreamInvalid(
                f"{operation}: its Location is http://{host_of(target)} on a connection of https; a registry"
                " behind a proxy has to know its own address (X-Forwarded-Proto, http.host, http.relativeurls)",
                registry=self.host,
                status=response.status,
            )
        return target

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        *,
        expected: Collection[int],
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[UpstreamResponse]:
        """Send a request, and yield its response if the status is among `expected`.  Raises `UpstreamError`.

        Another host than the registry's gets no Authorization.
        """
        ours = url.origin() == self._root.origin()
        header = await self._authorizer.header(scopes) if ours else None
        request = UpstreamRequest(method, url, headers or {}, header, data)
        repeatable = data is None or isinstance(data, bytes)
        async with self._transport.send(request) as response:
            challenged = response.status == _UNAUTHORIZED and ours and repeatable
            answer = None
            if challenged and response.url.origin() == self._root.origin():
                # To its end, so that its connection is free for the request for a token.
                await response.read(_CHALLENGE_LIMIT_BYTES)
                answer = await self._authorizer.after_challenge(response, scopes, header)
            if answer is None:
                await self._check(response, request, expected)
                yield response
                return
        again = UpstreamRequest(method, url, headers or {}, answer, data)
        async with self._transport.send(again) as response:
            await self._check(response, again, expected)
            yield response

    async def _check(
        self, response: UpstreamResponse, request: UpstreamRequest, expected: Collection[int]
    ) -> None:
        """Raise the error for an unexpected status."""
        if response.status in expected:
            return
        secrets = self._authorizer.secrets_in(request.authorization)
        hint = ""
        if response.status in {_UNAUTHORIZED, _FORBIDDEN} and self._authorizer.anonymous:
            hint = "no credentials are configured for this registry"
        raise await failure(response, response.place, registry=self.host, secrets=secrets, hint=hint)

    async def close(self) -> None:
        """Close all connections."""
        await self._authorizer.close()
        await self._transport.close()
