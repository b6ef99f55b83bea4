"""HTTP requests to another registry: one aiohttp session, redirects, time limits, and errors by their cause.

**The Authorization header goes to the origin that it is meant for, and to no other**: a redirect to another
scheme, host or port is followed without it, and one from https to http is refused.  So redirects are followed here
and not by aiohttp.  What it would do besides is switched off: logging in by ~/.netrc, cookies, and decompressing
bodies, which must keep their digest.

Statuses are not judged here, except redirects: `client.py` and `tokens.py` know what they expect.

Above: `client.py`, `tokens.py`.  Below: aiohttp (extra `mirror`).
Source: RFC 9110 section 15.4 (redirects); https://docs.aiohttp.org/en/stable/client_reference.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from moorage.caches import LRUCache
from moorage.redaction import in_text
from moorage.startup import StartupError
from moorage.upstream.errors import UpstreamInvalid, UpstreamUnreachable
from moorage.via import RECEIVED_VIA

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterable, AsyncIterator, Mapping
    from pathlib import Path

    from aiohttp.abc import ResolveResult
    from multidict import CIMultiDictProxy

    from moorage.upstream.errors import UpstreamError

__all__ = ["ClientOptions", "UpstreamRequest", "UpstreamResponse", "UpstreamTransport", "describe", "host_of"]

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REDIRECT_LIMIT: Final = 5
_DRAIN_LIMIT_BYTES: Final = 1 << 16
"""Bodies of redirects and errors up to this size are read, so that the connection can be used again."""

_FAILURES: Final = (aiohttp.ClientError, OSError, ValueError)
"""Errors of aiohttp and of the libraries below it."""

_READ_BUFFER_BYTES: Final = 1 << 18
_REMEMBERED_PROXIES: Final = 256
_HEADER_LIMIT_BYTES: Final = 1 << 15
"""Signed URLs of object stores, in Location, may be longer than the 8 KiB that aiohttp allows."""

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Options of a client; see the settings of `proxy` and `sync` for their meaning to operators.

    `connect_timeout_s` limits each of DNS, TCP with TLS; `read_timeout_s` the wait for the head of a response and
    for each next piece of a body, and for a peer that reads no further piece of an upload.  `ca_file` is trusted
    in addition to the system's authorities; `insecure` turns the verification of certificates off.
    `allowed_realms` are hosts of token servers that get the credentials although they belong to another domain.
    `via` is the name of a mirror in the header `Via` of its requests (RFC 9110 section 7.6.3), by which it detects
    a loop.
    """

    connect_timeout_s: float = 10
    read_timeout_s: float = 60
    ca_file: Path | None = None
    insecure: bool = False
    allowed_realms: tuple[str, ...] = ()
    user_agent: str = "moorage"
    via: str = ""
    connections: int = 64


def _via(own: str) -> dict[str, str]:
    """Return the header that names this registry behind those that have sent the request on."""
    received = RECEIVED_VIA.get()
    return {"Via": f"{received}, 1.1 {own}" if received else f"1.1 {own}"} if own else {}


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request.  `authorization` is sent to the origin of `url` only; `server` names a token server in messages.

    Its representation contains no secret: queries may be signed.
    """

    method: str
    url: URL = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    data: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    server: str = ""


class UpstreamTransport:
    """Requests to a registry and to the hosts that it refers to; `registry` is its name in errors."""

    def __init__(self, registry: str, options: ClientOptions) -> None:
        """Raise `StartupError` if the file of authorities cannot be read."""
        self._registry = registry
        self._options = options
        self._tls = _tls_of(options)
        self._session: aiohttp.ClientSession | None = None
        self._proxies: LRUCache[URL, tuple[URL | None]] = LRUCache(_REMEMBERED_PROXIES)

    @contextlib.asynccontextmanager
    async def send(self, request: UpstreamRequest) -> AsyncIterator[UpstreamResponse]:
        """Send a request, follow redirects of GET and HEAD, and yield the response once its head is there.

        Leaving the context returns the connection to the pool if the body has been read, else closes it.
        Raises `UpstreamUnreachable`, `UpstreamInvalid`.
        """
        url = request.url
        authorized = True
        for _ in range(_REDIRECT_LIMIT + 1):
            # Another host that leads back chooses the path; it chooses none that is requested with credentials.
            authorized = authorized and url.origin() == request.url.origin()
            response = await self._send_once(request, url, authorized=authorized)
            try:
                if response.status not in _REDIRECTS or request.method not in {"GET", "HEAD"}:
                    yield response
                    return
                url = self._target(request, response)
                await response.read(_DRAIN_LIMIT_BYTES)
            finally:
                response.release()
        raise UpstreamInvalid(
            f"{describe(request)}: more than {_REDIRECT_LIMIT} redirects, the last one to {host_of(url)}",
            registry=self._registry,
        )

    async def _send_once(self, request: UpstreamRequest, url: URL, *, authorized: bool) -> UpstreamResponse:
        headers = {"Accept-Encoding": "identity", **_via(self._options.via), **request.headers}
        if request.authorization is not None and authorized:
            headers["Authorization"] = request.authorization
        streamed = request.data is not None and not isinstance(request.data, bytes)
        read_timeout_s = None if streamed else self._options.read_timeout_s
        timeout = aiohttp.ClientTimeout(
            total=None,
            # A free place of the pool included, which a caller that holds the others must not wait for long.
            connect=self._options.connect_timeout_s + self._options.read_timeout_s,
            sock_connect=self._options.connect_timeout_s,
            sock_read=read_timeout_s,
        )
        redirected = f" (redirected to {host_of(url)})" if url.origin() != request.url.origin() else ""
        errors = _Translation(self._registry, f"{describe(request)}{redirected}", self._options)
        session, proxy = self._opened(), self._proxy_of(url.origin())
        try:
            response = await session.request(
                request.method,
                url,
                headers=headers,
                data=request.data,
                allow_redirects=False,
                proxy=proxy,
                timeout=timeout,
            )
        except _FAILURES as error:
            raise errors.translated(error) from None  # theirs shows the whole URL in a traceback
        return UpstreamResponse(response, errors)

    def _proxy_of(self, origin: URL) -> URL | None:
        """Return the proxy for a host, looked up once: that takes as long as the rest of a request.

        Raises `UpstreamUnreachable` if the environment names one that cannot be used.
        """
        known = self._proxies.get(origin)
        if known is None:
            try:
                known = (_proxy_of(origin),)
            except ValueError as error:
                raise UpstreamUnreachable(
                    f"the HTTP proxy of the environment cannot be used: {error}", registry=self._registry
                ) from None
            self._proxies.put(origin, known)
        return known[0]

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session, which belongs to the event loop of the first request."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._options.connections,
                ssl=self._tls,
                resolver=_BoundedResolver(self._options.connect_timeout_s),
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_READ_BUFFER_BYTES,
                max_line_size=_HEADER_LIMIT_BYTES,
                max_field_size=_HEADER_LIMIT_BYTES,
                headers={"User-Agent": self._options.user_agent},
            )
        return self._session

    def _target(self, request: UpstreamRequest, response: UpstreamResponse) -> URL:
        """Return where a redirect leads.  Raises `UpstreamInvalid`."""
        target = response.location
        if target is None:
            raise UpstreamInvalid(
                f"{describe(request)}: {response.status} without a usable Location",
                registry=self._registry,
                status=response.status,
            )
        if response.url.scheme == "https" and target.scheme == "http":
            raise UpstreamInvalid(
                f"{describe(request)}: redirect from https to http (to {host_of(target)}); such a redirect is not"
                " followed, since its content could be replaced on the way",
                registry=self._registry,
                status=response.status,
            )
        return target

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class UpstreamResponse:
    """A response whose body has not been read; of aiohttp's, without its errors."""

    __slots__ = ("_body", "_errors", "_response", "status")

    def __init__(self, response: aiohttp.ClientResponse, errors: _Translation) -> None:
        self.status: Final = response.status
        self._response = response
        self._errors = errors
        self._body: bytes | None = None

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    @property
    def url(self) -> URL:
        """Return the URL that answered, after redirects."""
        return self._response.url

    @property
    def method(self) -> str:
        return self._response.method

    @property
    def path(self) -> str:
        """Return the path that answered, for messages: the query may be signed."""
        return self._response.url.raw_path

    @property
    def place(self) -> str:
        """Return the request for messages, and the host that it was redirected to."""
        return self._errors.place

    @property
    def content_length(self) -> int | None:
        return self._response.content_length

    @property
    def location(self) -> URL | None:
        """Return the absolute URL of Location, without a user in it; None if there is none that can be used."""
        text = self.headers.get("Location", "")
        try:
            target = self.url.join(URL(text, encoded=True)).with_user(None).with_fragment(None)
        except ValueError:
            return None
        return target if text and target.scheme in _PORTS and target.host else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it is received.  Raises `UpstreamUnreachable`, `UpstreamInvalid`.

        The pieces are those of the socket: readany(), which joins them, costs a third more (0.8 instead of 0.6 CPU
        seconds per GiB with uvloop, aiohttp 3.14, Python 3.11).
        """
        content = self._response.content
        try:
            while not content.at_eof():
                chunk, _ = await content.readchunk()
                if chunk:  # else the end of a chunk of the transfer coding, or of the body
                    yield chunk
        except _FAILURES as error:
            raise self._errors.translated(error, self.status) from None

    async def read(self, limit_bytes: int) -> bytes | None:
        """Read a body of at most `limit_bytes`; None if it is longer, of which little more is read.

        A body that has been read is returned again.
        """
        if self._body is not None:
            return self._body
        if self.content_length is not None and self.content_length > limit_bytes and self.method != "HEAD":
            return None
        pieces: list[bytes] = []
        size = 0
        async for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                return None
        self._body = b"".join(pieces)
        return self._body

    def release(self) -> None:
        self._response.release()


@dataclass(frozen=True, slots=True)
class _Translation:
    """Translates errors of aiohttp, whose own texts may contain the query of a signed URL."""

    registry: str
    place: str
    options: ClientOptions

    def translated(self, error: Exception, status: int | None = None) -> UpstreamError:
        http = isinstance(error, aiohttp.ClientResponseError) and not isinstance(
            error, aiohttp.ClientHttpProxyError
        )
        if http or (isinstance(error, ValueError) and not isinstance(error, OSError)):
            reason = error.message if isinstance(error, aiohttp.ClientResponseError) else type(error).__name__
            return UpstreamInvalid(
                f"{self.place}: the response is not valid HTTP: {_first_line(reason)}", registry=self.registry
            )
        return UpstreamUnreachable(
            f"{self.place}: {_cause(error, self.options)}", registry=self.registry, status=status
        )


class _BoundedResolver(ThreadedResolver):
    """DNS of the system, with a time limit: getaddrinfo(3) has none of its own."""

    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self._limit_s = limit_s

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily | int = 0
    ) -> list[ResolveResult]:
        try:
            async with asyncio.timeout(self._limit_s):
                return await super().resolve(host, port, family)  # type: ignore[arg-type]
        except TimeoutError:
            raise OSError(None, f"no answer from DNS within {self._limit_s:g} s") from None


def describe(request: UpstreamRequest) -> str:
    """Return method and path of a request, without its query: uploads carry signed state there."""
    return f"{request.server}{': ' if request.server else ''}{request.method} {request.url.raw_path}"


def host_of(url: URL) -> str:
    """Return the host of a URL, with its port unless it is that of the scheme."""
    host = url.host_subcomponent or ""
    port = url.explicit_port
    return host if port is None or port == _PORTS.get(url.scheme) else f"{host}:{port}"


def _tls_of(options: ClientOptions) -> ssl.SSLContext | bool:
    """Return the context of a file of authorities; True for aiohttp's own one, False for no verification."""
    if options.insecure or options.ca_file is None:
        return not options.insecure
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(options.ca_file)
    except OSError as error:  # ssl.SSLError included
        reason = error.strerror or str(error)
        raise StartupError(f"{options.ca_file} is not a readable file of certificates: {reason}") from error
    return context


def _proxy_of(url: URL) -> URL | None:
    """Return the proxy of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`); none for loopback.

    Raises `ValueError`, without the address in it: that may contain a password.
    """
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    host = url.host or ""
    if not proxy or _is_loopback(host) or proxy_bypass(f"{host}:{url.port}") or proxy_bypass(host):
        return None
    try:
        found = URL(proxy if "://" in proxy else f"http://{proxy}")
        usable = bool(found.host) and found.port is not None
    except ValueError:
        raise ValueError("its address is not a URL") from None
    if found.scheme not in _PORTS or not usable:
        raise ValueError("its address must be http://HOST:PORT or https://HOST:PORT")
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _cause(error: Exception, options: ClientOptions) -> str:
    """Return the cause of a failed request and, where there is one, the remedy."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return _tls_cause(error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host name cannot be resolved: {_first_line(error.strerror or 'unknown')}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the HTTP proxy {error.host}:{error.port} cannot be reached: {_reason(error)}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the HTTP proxy refused the connection: {error.status}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {options.connect_timeout_s:g} s"
    if isinstance(error, TimeoutError):
        return f"nothing received for {options.read_timeout_s:g} s"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before a response came"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was closed in the middle of the body"
    if isinstance(error, OSError) and (error.errno or error.strerror):
        return _reason(error)
    return f"the connection failed: {type(error).__name__}"


def _tls_cause(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
        return (
            f"the certificate is not trusted: {_first_line(reason)}; name the file of its authority (ca), if it is"
            " the right registry"
        )
    reason = getattr(error.os_error, "reason", None) or error.strerror or "unknown"
    return f"no TLS connection: {_first_line(str(reason))}; is it a registry of plain HTTP (http://)?"


def _reason(error: OSError) -> str:
    """Return the system's text for an error: those of asyncio repeat the address."""
    return os.strerror(error.errno) if error.errno else _first_line(str(error.strerror))


def _first_line(text: str) -> str:
    return in_text(ascii(text.strip().partition("\n")[0][:200])[1:-1])
