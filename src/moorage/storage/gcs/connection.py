"""Requests to Google Cloud Storage's JSON API: sessions, tokens, turns, retries.

gcloud-aio-auth provides the access tokens and the session; requests are made here, because methods of
gcloud-aio-storage take neither the generation to read, nor the fields to return, nor the generations of a join's
sources.

Sessions are made on first use, in the process and on the event loop that use them.

Proxies are those of the environment (HTTPS_PROXY, NO_PROXY); requests to the metadata server use none.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from moorage.storage.driver import ObjectTooLarge, StorageUnavailable
from moorage.storage.gcs.credentials import endpoint_of, identity_of, require_library
from moorage.storage.gcs.errors import failure_of
from moorage.storage.object_store.errors import FailureKind, Location, RequestFailed
from moorage.storage.object_store.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from aiohttp import ClientResponse, ClientSession
    from gcloud.aio.auth import Token

    from moorage.storage.gcs.options import GcsOptions

__all__ = ["GcsConnection", "Response"]

_CONNECT_S: Final = 10
_READ_S: Final = 60
_LONG_S: Final = 900
"""A rewrite of terabytes between classes answers within 30 s with a token; nothing takes longer."""
_LEAST_RATE: Final = 128 << 10
"""Bytes in a second below which sending counts as hanging."""
_PIECE_BYTES: Final = 1 << 20
_TOKENLESS: Final = (
    "no access token (give storage.gcs.keyfile or credentials, or have GOOGLE_APPLICATION_CREDENTIALS or the "
    "metadata of an instance, a pod or a service): "
)


@dataclass(frozen=True, slots=True)
class Response:
    """Response that was read to its end; the names of `headers` are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    location: Location

    def json(self, *needed: str) -> dict[str, Any]:
        """Return the JSON object.  Raises StorageUnavailable for other content, or without the `needed` fields."""
        try:
            content: Any = json.loads(self.body)
        except ValueError as error:
            raise StorageUnavailable(f"{self.location}: the answer is not JSON; is the endpoint right?") from error
        if not isinstance(content, dict) or not content.keys() >= set(needed):
            raise StorageUnavailable(
                f"{self.location}: the answer has no {', '.join(needed)}; is the endpoint right?"
            )
        return content


class GcsConnection:
    """Sessions, credentials and turns of one driver in one process."""

    def __init__(self, options: GcsOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        require_library()
        self.options = options
        self.endpoint = endpoint_of(options)
        self.location = Location(self.endpoint, options.bucket, options.prefix)
        self.identity = identity_of(options)
        self._turns = asyncio.Semaphore(options.maxconcurrency)
        self.retry = RetryPolicy(failure_of, options.attempts, sleep=sleep)
        self._outward: ClientSession | None = None
        self._inward: ClientSession | None = None
        self._closed = False

    def path(self, key: str = "", suffix: str = "") -> str:
        """Return the path of an object in the JSON API, by its name in the bucket; "" is the collection of all."""
        name = f"/{quote(key, safe='')}{suffix}" if key else ""
        return f"/storage/v1/b/{quote(self.options.bucket, safe='')}/o{name}"

    @property
    def upload_path(self) -> str:
        return f"/upload/storage/v1/b/{quote(self.options.bucket, safe='')}/o"

    def session(self) -> ClientSession:
        """Return the session for all requests but those to the metadata server."""
        if self._outward is None:
            self._outward = self._make_session(proxies=True)
        return self._outward

    def inward(self) -> ClientSession:
        if self._inward is None:
            self._inward = self._make_session(proxies=False)
        return self._inward

    def _make_session(self, *, proxies: bool) -> ClientSession:
        """Raises StorageUnavailable after `close`: nothing would close a session that is opened then."""
        if self._closed:
            raise self.location.closed()
        import ssl

        import aiohttp

        context = ssl.create_default_context()
        if self.options.cabundle:
            context.load_verify_locations(cafile=self.options.cabundle)
        headers = {"User-Agent": self.options.useragent} if self.options.useragent else {}
        # Streams to slow clients hold connections for hours: their number is bounded by clients, calls by turns.
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        return aiohttp.ClientSession(connector=connector, trust_env=proxies, headers=headers)

    def token(self) -> Token | None:
        """Return the library's source of access tokens; None for anonymous access."""
        if self.identity.anonymous:
            return None
        return self.identity.token(self.session(), self.inward)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: Sequence[bytes] = (),
        limit: int | None = None,
        long: bool = False,
        attempts: int = 0,
    ) -> Response:
        """Make a request, repeated while its failures are transient, and return the whole response.

        `path` may be a whole URL; then no token is sent.  `limit` bounds the body: ObjectTooLarge.  `attempts`
        0: as configured.  Raises RequestFailed.
        """
        size = sum(map(len, data))
        total_s = _LONG_S if long else _READ_S + size / _LEAST_RATE
        url = f"{path}?{urlencode(params)}" if params else path

        async def request() -> Response:
            async with await self._send(method, url, headers or {}, data, total_s) as response:
                return Response(response.status, response.headers, await _whole(response, limit), self.location)

        async with self._turns:
            return await self.retry.run(request, attempts=attempts)

    async def open(
        self, path: str, *, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> ClientResponse:
        """Make a GET request whose response the caller reads and closes.  Raises RequestFailed."""
        url = f"{path}?{urlencode(params)}"

        async def request() -> ClientResponse:
            return await self._send("GET", url, headers or {}, (), None)

        async with self._turns:
            return await self.retry.run(request)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: Sequence[bytes], total_s: float | None
    ) -> ClientResponse:
        """Make one attempt; a second one at once, with a new token, if the first was refused.

        Raises RequestFailed without a token, else aiohttp's errors.
        """
        if not url.startswith("/"):
            return await self._send_once(method, url, headers, data, total_s)
        url = f"{self.endpoint}{url}"
        try:
            return await self._send_once(method, url, await self._authorized(headers), data, total_s)
        except Exception as error:
            if self.identity.anonymous or not failure_of(error).unauthorized:
                raise
        return await self._send_once(method, url, await self._authorized(headers, fresh=True), data, total_s)

    async def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], data: Sequence[bytes], total_s: float | None
    ) -> ClientResponse:
        import aiohttp
        from gcloud.aio.auth import AioSession

        length = {} if method == "GET" else {"Content-Length": str(sum(map(len, data)))}
        # A silent connection is closed, whatever the total; only joins are silent while the store works.
        silent_s = _READ_S if total_s != _LONG_S else None
        session: Any = self.session()  # the library's types name another class than it accepts
        return await AioSession(session).request(
            method,
            url,
            headers={**headers, **length},
            data=_Body(data) if data else None,
            timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S, sock_read=silent_s),
            allow_redirects=False,  # 308 is Google's "Resume Incomplete", not a redirect
        )

    async def _authorized(self, headers: Mapping[str, str], *, fresh: bool = False) -> Mapping[str, str]:
        """Add the access token.  Raises RequestFailed: the library has retried long enough."""
        token = self.token()
        if token is None:
            return headers
        try:
            bearer = await self.identity.bearer(token, fresh=fresh)
        except Exception as error:
            failure = failure_of(error)
            text = f"{_TOKENLESS}{failure.text}"
            raise RequestFailed(replace(failure, text=text, kind=FailureKind.PERMANENT)) from error
        return {**headers, "Authorization": f"Bearer {bearer}"}

    async def close(self) -> None:
        """Close every session.  Requests that are still running fail; later ones are refused."""
        self._closed = True
        sessions, self._outward, self._inward = (self._outward, self._inward), None, None
        async with AsyncExitStack() as closing:  # each also when closing the other one fails or is cancelled
            for session in sessions:
                if session is not None:
                    closing.push_async_callback(session.close)


class _Body:
    """Request body in pieces, not joined: a chunk of an upload is in memory once.  It can be sent again from its
    start, which aiohttp does by itself when a kept connection turns out to be closed.
    """

    def __init__(self, data: Sequence[bytes]) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        for piece in self._data:
            if len(piece) <= _PIECE_BYTES:
                yield piece
                continue
            view = memoryview(piece)
            for start in range(0, len(piece), _PIECE_BYTES):
                yield view[start : start + _PIECE_BYTES]


async def _whole(response: ClientResponse, limit: int | None) -> bytes:
    """Raises ObjectTooLarge; then the connection is closed rather than read to its end."""
    if limit is None:
        return await response.read()
    if (response.content_length or 0) > limit:
        response.close()
        raise ObjectTooLarge(f"{response.content_length} bytes, at most {limit}")
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > limit:
            response.close()
            raise ObjectTooLarge(f"more than {limit} bytes")
    return bytes(found)
