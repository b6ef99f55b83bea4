"""Outermost layer of every request: request id, access log, metrics, and the count of requests in flight.

`X-Request-Id` is the client's if it is well formed, else a new one; it is in every response, also after a failure
inside, in the access log and on every line that the application logs meanwhile (`logs.request_id`).

The application sets `scope["moorage.user"]`, and for metrics and traces `scope["moorage.route"]` (a
`routes.Route`), `scope["moorage.refusal"]` (the error code) and `scope["moorage.challenge"]` (of a 401).

`send` raises OSError when the client has left or has stopped reading.  Such an answer is aborted: it is counted
(`scope["moorage.aborted"]`), and its size is the number of bytes that the server passed to the kernel, where the
server counts them (`scope["moorage.transfer"]`).
"""

from __future__ import annotations

import re
import time
from itertools import chain
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from moorage.http.clients import DEFAULT_CLIENTS, Clients
from moorage.http.headers import headers_of
from moorage.logs.access_log import AccessLogWriter, Entry
from moorage.logs.log_setup import request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, MutableMapping, MutableSequence

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Observer", "RequestLog", "Traffic"]

_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_OK: Final = 200
_CLIENT_CLOSED_REQUEST: Final = 499
"""The client left before there was an answer: nginx's status for its access log, never sent."""
_READS: Final = frozenset({"GET", "HEAD"})
_FAILED: Final = b'{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}\n'
_log: Final = structlog.get_logger("moorage.http")


class Traffic:
    """Requests in flight, and the phase of a server that ends.

    `draining`: this worker accepts no more; `stopping`: the whole server ends, not only this worker in favour of
    another.  `count`, of one element, holds `in_flight`: in memory shared with another process, or not.
    """

    __slots__ = ("_count", "draining", "stopping")

    def __init__(self, count: MutableSequence[int] | memoryview | None = None) -> None:
        self.draining = False
        self.stopping = False
        self._count = [0] if count is None else count

    @property
    def in_flight(self) -> int:
        return self._count[0]

    def begin(self) -> None:
        self._count[0] += 1

    def end(self) -> None:
        self._count[0] -= 1


class Observer(Protocol):
    """Counts requests: `end` is called once for every `begin`, when the scope is complete."""

    def begin(self, scope: Scope) -> None: ...

    def end(self, scope: Scope, status: int, seconds: float, request_size: int, received: int, sent: int) -> None:
        """`received` and `sent` are bytes of the bodies, `request_size` those of the headers and `received`."""


class RequestLog:
    """Request ids, access log and metrics; without `access` no access log, without `observer` no metrics.

    `clients` finds the address of the client.  A GET or HEAD of one of the paths `unlogged` that is answered 200
    has no line in the access log: orchestrators and load balancers probe these every few seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        traffic: Traffic,
        access: AccessLogWriter | None,
        clients: Clients = DEFAULT_CLIENTS,
        observer: Observer | None = None,
        unlogged: Collection[str] = (),
    ) -> None:
        self._app = app
        self._traffic = traffic
        self._access = access
        self._unlogged = unlogged
        self._clients = clients
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        del receive, send  # see `_Exchange.leave`
        if (observer := self._observer) is not None:
            observer.begin(scope)
        request_id.set(exchange.id.decode())
        self._traffic.begin()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:  # noqa: BLE001  the outermost layer: logged with its traceback, not shown to the client
            if not exchange.aborted:
                _log.exception("unexpected error", method=scope["method"], path=scope["path"])
                await exchange.fail()
        finally:
            self._traffic.end()
            exchange.leave()
            seconds, status = time.perf_counter() - exchange.begun, exchange.status or _CLIENT_CLOSED_REQUEST
            if observer is not None:
                request_size = sum(map(len, chain.from_iterable(scope["headers"]))) + exchange.received
                observer.end(scope, status, seconds, request_size, exchange.received, exchange.sent)
            if self._access is not None and not (
                scope["path"] in self._unlogged and status == _OK and scope["method"] in _READS
            ):
                remote = self._clients.remote_address(scope)
                self._access.write(exchange.entry(remote, status, seconds))


class _Exchange:
    """One request and its answer, as far as the logs and metrics are concerned; `status` 0: there is none yet."""

    __slots__ = (
        "_receive", "_scope", "_send", "_sent", "aborted", "begun", "id", "received", "status",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = time.perf_counter()
        self._scope = scope
        self._receive = receive
        self._send = send
        self.status = 0
        self.received = 0
        self._sent = 0
        self.aborted = False
        given = headers_of(scope).get(b"x-request-id")
        if given is None or _ID.fullmatch(given) is None:
            given = b"%032x" % getrandbits(128)
        self.id = given

    @property
    def sent(self) -> int:
        """Bytes of the body: all that was passed to the server, or what it passed on of an aborted answer."""
        if self.aborted and (transfer := self._scope.get("moorage.transfer")) is not None:
            sent: int = transfer.body_sent
            return sent
        return self._sent

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        if pieces := message.get("pieces"):
            self.received += sum(map(len, pieces))
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        size = 0
        if kind == "http.response.body":
            size = len(message.get("body", b""))
        elif kind == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self.id)]
        elif kind == "http.response.zerocopysend":
            size = message["count"]
        try:
            await self._send(message)
        except OSError:
            self._abort()
            raise
        self._sent += size

    def _abort(self) -> None:
        self.aborted = True
        if self.status != _CLIENT_CLOSED_REQUEST:
            self._scope["moorage.aborted"] = True

    def leave(self) -> None:
        """Drop the references to the server's `receive` and `send`, even if an object still refers to this one.

        A stored exception refers to every frame that it passed, and these to the request: the server's objects of
        the connection would be freed by the next garbage collection only.
        """
        self._receive = _receive_disconnect
        self._send = _discard_message

    async def fail(self) -> None:
        """500 if nothing was sent yet; else the missing rest makes the server cut the connection."""
        if self.status == 0:
            length = (b"content-length", b"%d" % len(_FAILED))
            headers = [length, (b"content-type", b"application/json")]
            await self.send({"type": "http.response.start", "status": 500, "headers": headers})
            body = b"" if self._scope["method"] == "HEAD" else _FAILED
            await self.send({"type": "http.response.body", "body": body})

    def entry(self, remote: str, status: int, seconds: float) -> Entry:
        scope, headers = self._scope, headers_of(self._scope)
        query: bytes = scope["query_string"]
        # As it was sent, which `path` is not: that is percent-decoded.
        raw = scope.get("raw_path")
        path = raw.decode("latin-1") if raw else scope["path"]
        return Entry(
            when=time.time() - seconds,
            remote=remote,
            user=scope.get("moorage.user") or "",
            method=scope["method"],
            target=f"{path}?{query.decode('latin-1')}" if query else path,
            protocol=scope["http_version"],
            status=status,
            sent=self.sent,
            seconds=seconds,
            referer=headers.get(b"referer", b"").decode("latin-1"),
            agent=headers.get(b"user-agent", b"").decode("latin-1"),
            request=self.id.decode(),
            subject=_subject(scope),
        )


def _subject(scope: Scope) -> str:
    """Subject of the client's certificate; "" without one."""
    transfer = scope.get("moorage.transfer")
    return "" if transfer is None else str(transfer.tls_subject)


async def _receive_disconnect() -> Message:
    return {"type": "http.disconnect"}


async def _discard_message(message: Message) -> None:
    """Do nothing: the response has ended."""
