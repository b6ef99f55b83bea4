"""Requests to Google Cloud Storage's JSON API: sessions, tokens, turns, retries.

gcloud-aio brings the credentials and the session; requests are made here, because its methods cannot say which
generation is read, which fields are wanted, or on which generation of each source a join depends.

Sessions are made on first use, in the process and on the event loop that use them.

Proxies are those of the environment (HTTPS_PROXY, NO_PROXY); the metadata server is asked without.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlencode

from moorage.storage.driver import ObjectTooLarge, StorageError, StorageUnavailable
from moorage.storage.gcs.credentials import endpoint_of, identity_of, require_library
from moorage.storage.gcs.errors import Failure, Place, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from aiohttp import ClientResponse, ClientSession
    from gcloud.aio.auth import Token

    from moorage.storage.gcs.options import GcsOptions

__all__ = ["Answer", "CallFailed", "GcsConnection"]

_CONNECT_S: Final = 10
_READ_S: Final = 60
_LONG_S: Final = 900
"""A rewrite of terabytes between classes answers within 30 s with a token; nothing takes longer."""
_LEAST_RATE: Final = 128 << 10
"""Bytes in a second below which sending counts as hanging."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_PIECE_BYTES: Final = 1 << 20
_TOKENLESS: Final = (
    "no access token (give storage.gcs.keyfile or credentials, or have GOOGLE_APPLICATION_CREDENTIALS or the "
    "metadata of an instance, a pod or a service): "
)


_T = TypeVar("_T")


class CallFailed(Exception):
    """A request has failed for good.  `doubtful`: an earlier attempt may have been carried out all the same."""

    def __init__(self, failure: Failure, *, doubtful: bool) -> None:
        super().__init__(failure.text)
        self.failure, self.doubtful = failure, doubtful


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    place: Place

    def json(self, *needed: str) -> dict[str, Any]:
        """Raises StorageUnavailable for what no Google sends: no JSON, or no object with the `needed` fields."""
        try:
            said: Any = json.loads(self.body)
        except ValueError as error:
            raise StorageUnavailable(f"{self.place}: the answer is not JSON; is the endpoint right?") from error
        if not isinstance(said, dict) or not said.keys() >= set(needed):
            raise StorageUnavailable(
                f"{self.place}: the answer has no {', '.join(needed)}; is the endpoint right?"
            )
        return said


class GcsConnection:
    """Sessions, credentials and turns of one driver in one process."""

    def __init__(self, options: GcsOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        require_library()
        self.options = options
        self.endpoint = endpoint_of(options)
        self.place = Place(self.endpoint, options.bucket)
        self.identity = identity_of(options)
        self._turns = asyncio.Semaphore(options.concurrency)
        self._sleep = sleep
        self._outward: ClientSession | None = None
        self._inward: ClientSession | None = None
        self._closed = False

    def path(self, key: str = "", suffix: str = "") -> str:
        """Of the JSON API, below the endpoint; `key` is the bucket's name for the object, "" for all of them."""
        name = f"/{quote(key, safe='')}{suffix}" if key else ""
        return f"/storage/v1/b/{quote(self.options.bucket, safe='')}/o{name}"

    @property
    def upload_path(self) -> str:
        return f"/upload/storage/v1/b/{quote(self.options.bucket, safe='')}/o"

    def session(self) -> ClientSession:
        """For everything but the metadata server."""
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
            raise StorageUnavailable(f"{self.endpoint}, bucket {self.options.bucket}: closed")
        import ssl

        import aiohttp

        context = ssl.create_default_context()
        if self.options.ca_bundle:
            context.load_verify_locations(cafile=self.options.ca_bundle)
        headers = {"User-Agent": self.options.user_agent} if self.options.user_agent else {}
        # Streams to slow clients hold connections for hours: their number is bounded by clients, calls by turns.
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        return aiohttp.ClientSession(connector=connector, trust_env=proxies, headers=headers)

    def token(self) -> Token | None:
        """The library's; None for nobody."""
        if self.identity.anonymous:
            return None
        return self.identity.token(self.session(), self.inward)

    async def ask(
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
    ) -> Answer:
        """One request and its whole answer, as often as its failures are passing ones.

        `path` may be a whole URL: then no token is sent.  `limit` bounds the body: ObjectTooLarge.  `attempts`
        0: as configured.  Raises CallFailed.
        """
        size = sum(map(len, data))
        total_s = _LONG_S if long else _READ_S + size / _LEAST_RATE
        url = f"{path}?{urlencode(params)}" if params else path

        async def once(fresh: bool) -> Answer:  # noqa: FBT001  `_often` calls it
            async with await self._send(method, url, headers or {}, data, total_s, fresh=fresh) as response:
                return Answer(response.status, response.headers, await _whole(response, limit), self.place)

        async with self._turns:
            return await self._often(attempts or self.options.attempts, once)

    async def open(
        self, path: str, *, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> ClientResponse:
        """A GET whose body the caller reads, and closes.  Raises CallFailed."""
        url = f"{path}?{urlencode(params)}"

        async def once(fresh: bool) -> ClientResponse:  # noqa: FBT001  `_often` calls it
            return await self._send("GET", url, headers or {}, (), None, fresh=fresh)

        async with self._turns:
            return await self._often(self.options.attempts, once)

    async def _often(self, attempts: int, once: Callable[[bool], Awaitable[_T]]) -> _T:
        """`once(fresh)` until it ends, or fails for good; `fresh` when the token was not taken."""
        fresh = doubtful = False
        for attempt in range(1, attempts + 1):
            try:
                return await once(fresh)
            except StorageError:
                raise
            except _NoToken as error:
                raise CallFailed(error.failure, doubtful=doubtful) from error
            except Exception as error:
                failure = failure_of(error)
                if failure.unauthorized and not fresh and attempt < attempts:
                    fresh = True
                    continue
                if not failure.transient or attempt == attempts:
                    raise CallFailed(failure, doubtful=doubtful) from error
                doubtful, fresh = True, False
                await self.pause(attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Sequence[bytes],
        total_s: float | None,
        *,
        fresh: bool,
    ) -> ClientResponse:
        """One attempt.  Raises aiohttp's errors."""
        import aiohttp
        from gcloud.aio.auth import AioSession

        wanted = dict(headers)
        if method != "GET":
            wanted["Content-Length"] = str(sum(map(len, data)))
        if url.startswith("/"):
            if (bearer := await self._bearer(fresh=fresh)) is not None:
                wanted["Authorization"] = f"Bearer {bearer}"
            url = f"{self.endpoint}{url}"
        # What stands still is cut off, whatever the total; only joins are silent while the store works.
        silent_s = _READ_S if total_s != _LONG_S else None
        session: Any = self.session()  # the library's types tell another kind than it takes
        return await AioSession(session).request(
            method,
            url,
            headers=wanted,
            data=_Body(data) if data else None,
            timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S, sock_read=silent_s),
            allow_redirects=False,  # 308 is Google's "go on", not a redirect
        )

    async def _bearer(self, *, fresh: bool) -> str | None:
        token = self.token()
        if token is None:
            return None
        try:
            return await self.identity.bearer(token, fresh=fresh)
        except Exception as error:
            failure = failure_of(error)
            told = Failure(failure.status, failure.reason, f"{_TOKENLESS}{failure.text}")
            raise _NoToken(told) from error

    async def pause(self, attempt: int) -> None:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
        await self._sleep(random.uniform(longest / 2, longest))  # noqa: S311  no secret

    async def close(self) -> None:
        """Close every session.  Requests that are still running fail; later ones are refused."""
        self._closed = True
        sessions, self._outward, self._inward = (self._outward, self._inward), None, None
        async with AsyncExitStack() as closing:  # each also when closing the other one fails or is cancelled
            for session in sessions:
                if session is not None:
                    closing.push_async_callback(session.close)


class _NoToken(Exception):
    """The library has tried for long enough: not to be repeated."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class _Body:
    """What is sent, never joined: a chunk of an upload is in memory once.  It can be sent again from its start,
    which aiohttp does by itself when a connection that was kept turns out to be closed.
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
