"""Request ids, the access log's line, and what is counted as in flight."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from moorage.http.middleware import Observer, RequestLog, Traffic
from moorage.logs.access_log import AccessLogWriter
from moorage.logs.log_setup import request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.http.middleware import ASGIApp, Message, Receive, Scope, Send


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "type": "http", "method": "GET", "path": "/v2/", "query_string": b"", "http_version": "1.1",
        "headers": list(headers), "client": ("192.0.2.1", "1234"), **more,
    }  # fmt: skip


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def hello(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Client:
    """Calls the layer and keeps what it sent."""

    def __init__(
        self, app: ASGIApp, access: AccessLogWriter | None = None, observer: Observer | None = None
    ) -> None:
        self.traffic = Traffic()
        self.app = RequestLog(app, self.traffic, access, observer=observer)
        self.sent: list[Message] = []

    async def get(self, request: dict[str, Any]) -> dict[bytes, bytes]:
        self.sent.clear()

        async def send(message: Message) -> None:
            self.sent.append(message)

        await self.app(request, receive, send)
        return dict(self.sent[0]["headers"]) if self.sent else {}


@pytest.fixture
def read() -> Callable[[str], tuple[AccessLogWriter, Callable[[], str]]]:
    """An access log of a form, and what it wrote."""

    def make(formatter: str) -> tuple[AccessLogWriter, Callable[[], str]]:
        out, into = os.pipe()

        def written() -> str:
            os.close(into)
            with os.fdopen(out) as file:
                return file.read()

        return AccessLogWriter(formatter, into), written

    return make


async def test_a_sane_request_id_is_kept() -> None:
    """The logs of a proxy and of the registry can then be joined."""
    answer = await Client(hello).get(scope((b"x-request-id", b"Edge.1_2-3")))
    assert answer[b"x-request-id"] == b"Edge.1_2-3"


@pytest.mark.parametrize("value", [b"", b"a b", b'"', b"x" * 129, b"a\nb", "é".encode()])
async def test_any_other_request_id_is_replaced(value: bytes) -> None:
    """A client must not write lines into the log by a header."""
    made = (await Client(hello).get(scope((b"x-request-id", value))))[b"x-request-id"]
    assert len(made) == 32
    assert int(made, 16) >= 0


async def test_every_request_has_its_own_id() -> None:
    client = Client(hello)
    ids = {(await client.get(scope()))[b"x-request-id"] for _ in range(50)}
    assert len(ids) == 50


async def test_what_is_logged_meanwhile_has_the_id_even_in_parallel() -> None:
    """Lines of two requests at once must not swap their ids."""
    both = asyncio.Barrier(2)
    seen: dict[str, str] = {}

    async def app(requested: Scope, _: Receive, send: Send) -> None:
        await both.wait()
        seen[requested["path"]] = request_id.get()
        await hello(requested, receive, send)

    client = Client(app)
    requests = [scope((b"x-request-id", name), path=f"/{name.decode()}") for name in (b"one", b"two")]
    await asyncio.gather(*(asyncio.create_task(client.get(request)) for request in requests))
    assert seen == {"/one": "one", "/two": "two"}


async def test_a_failure_is_a_500_with_id_and_in_the_log() -> None:
    async def broken(_: Scope, __: Receive, ___: Send) -> None:
        raise RuntimeError("a bug")

    client = Client(broken)
    with structlog.testing.capture_logs() as logs:
        answer = await client.get(scope())
    assert client.sent[0]["status"] == 500
    assert b"x-request-id" in answer
    assert json.loads(client.sent[1]["body"])["errors"][0]["code"] == "UNKNOWN"
    assert [line["event"] for line in logs] == ["unexpected error"]


async def test_a_failure_within_an_answer_sends_no_second_one() -> None:
    """The client notices the failure by the missing rest."""

    async def broken(requested: Scope, _: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        raise RuntimeError("a bug")

    client = Client(broken)
    with structlog.testing.capture_logs():
        await client.get(scope())
    assert [message["type"] for message in client.sent] == ["http.response.start"]


async def test_what_is_in_flight_is_counted() -> None:
    """The end of a server waits for these."""
    client: Client

    async def app(requested: Scope, _: Receive, send: Send) -> None:
        assert client.traffic.in_flight == 1
        await hello(requested, receive, send)

    client = Client(app)
    await client.get(scope())
    assert client.traffic.in_flight == 0


class End:
    """The server's end of a request, which is distinguishable from any other."""

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"piece", "more_body": True}

    async def send(self, message: Message) -> None:
        """Taken."""


@pytest.mark.parametrize("raised", [True, False])
async def test_the_servers_end_is_let_go_of_whoever_remembers_the_request(*, raised: bool) -> None:
    """The server closes what a client still sends after its answer when it can no longer be received."""
    held: list[tuple[Receive, Send]] = []
    failures: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        held.append((receive, send))
        try:
            raise OSError("no space left")
        except OSError as error:
            failures.append(error)
            if raised:
                raise

    end = End()
    gone = weakref.ref(end)
    await RequestLog(app, Traffic(), None)(scope(), end.receive, end.send)
    del end
    assert gone() is None, "without the help of the garbage collector"
    ((receive, send),) = held
    assert (await receive())["type"] == "http.disconnect"
    await send({"type": "http.response.body", "body": b"too late"})


async def test_other_kinds_of_scope_pass() -> None:
    seen = []

    async def app(requested: Scope, _: Receive, __: Send) -> None:
        seen.append(requested["type"])

    await Client(app).get({"type": "lifespan"})
    assert seen == ["lifespan"]


async def test_the_combined_line_tells_who_asked_what(read: Any) -> None:
    access, written = read("text")

    async def app(requested: Scope, _: Receive, send: Send) -> None:
        requested["moorage.user"] = "alice"
        await hello(requested, receive, send)

    headers = ((b"referer", b"http://r/"), (b"user-agent", b'docker/1 "x"'), (b"x-request-id", b"me"))
    await Client(app, access).get(scope(*headers, path="/a b", raw_path=b"/a%20b", query_string=b"n=1"))
    line = written()
    assert line.startswith("192.0.2.1 - alice [")
    assert '] "GET /a%20b?n=1 HTTP/1.1" 200 5 "http://r/" "docker/1 \\"x\\"" 0.' in line
    assert line.endswith(" me\n")


async def test_a_file_counts_with_its_length(read: Any) -> None:
    access, written = read("json")

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"777")]})
        await send({"type": "http.response.zerocopysend", "file": 9, "offset": 3, "count": 777})

    await Client(app, access).get(scope())
    assert json.loads(written())["http.response.written"] == 777


async def test_a_client_that_left_before_the_answer_is_a_499(read: Any) -> None:
    access, written = read("json")

    async def app(_: Scope, __: Receive, ___: Send) -> None:
        return

    await Client(app, access).get(scope())
    assert json.loads(written())["http.response.status"] == 499


@dataclass
class Transfer:
    """What the server knows of a response and its connection."""

    body_sent: int = 0
    tls_subject: str = ""


async def large(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"777")]})
    await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
    await send({"type": "http.response.zerocopysend", "file": 9, "offset": 0, "count": 677})


@pytest.mark.parametrize("transfer", [Transfer(body_sent=111), None])
async def test_an_abandoned_answer_is_logged_with_what_was_sent(read: Any, transfer: Transfer | None) -> None:
    """Traffic is paid for; and the line of a whole download that never happened misleads the operator."""
    access, written = read("json")
    observer = Counting()
    request = scope() | ({} if transfer is None else {"moorage.transfer": transfer})

    async def send(message: Message) -> None:
        if message["type"] == "http.response.zerocopysend":
            raise BrokenPipeError

    with structlog.testing.capture_logs() as logs:
        await RequestLog(large, Traffic(), access, observer=observer)(request, receive, send)
    line = json.loads(written())
    assert (line["http.response.status"], line["http.response.written"]) == (200, 111 if transfer else 100)
    assert observer.ended == [(200, 0, 0, line["http.response.written"])]
    assert request["moorage.aborted"] is True
    assert not logs, "clients leave all the time"


async def test_a_client_that_left_before_the_answer_aborts_none(read: Any) -> None:
    """It is counted by its status, 499."""
    access, written = read("json")

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 499, "headers": []})

    async def send(_: Message) -> None:
        raise ConnectionResetError

    request = scope()
    with structlog.testing.capture_logs() as logs:
        await RequestLog(app, Traffic(), access)(request, receive, send)
    assert json.loads(written())["http.response.status"] == 499
    assert "moorage.aborted" not in request
    assert not logs


@pytest.mark.parametrize(("formatter", "expected"), [("text", '"CN=ci,O=a \\"b\\""'), ("json", 'CN=ci,O=a "b"')])
async def test_the_subject_of_a_clients_certificate_is_in_the_access_log(
    read: Any, formatter: str, expected: str
) -> None:
    """With clientauth and no other authentication it is all that distinguishes clients."""
    access, written = read(formatter)
    await Client(hello, access).get(scope(**{"moorage.transfer": Transfer(tls_subject='CN=ci,O=a "b"')}))
    line = written()
    found = line.rstrip().partition(" 0.")[2].partition(" ")[2].partition(" ")[2]
    assert (found if formatter == "text" else json.loads(line)["tls.client.subject"]) == expected


class Counting:
    """An observer that records its calls."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[tuple[int, int, int, int]] = []

    def begin(self, scope: Scope) -> None:
        self.begun += 1

    def end(self, scope: Scope, status: int, seconds: float, requested: int, received: int, sent: int) -> None:
        assert 0 < seconds < 60
        self.ended.append((status, requested, received, sent))


async def test_an_observer_is_told_what_came_and_went() -> None:
    """Bytes of bodies are counted as they come, independent of Content-Length."""

    async def app(requested: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await hello(requested, receive, send)

    observer = Counting()
    await Client(app, observer=observer).get(scope((b"host", b"x")))
    assert observer.ended == [(200, 5, 0, 5)]

    bodies = [b"abc", b"de"]

    async def piece() -> Message:
        return {"type": "http.request", "body": bodies.pop(0), "more_body": bool(bodies)}

    async def pieces() -> Message:
        return {"type": "http.request", "body": b"", "pieces": [b"ab", b"c"], "more_body": True}

    async def send(_: Message) -> None:
        """Discard it."""

    await RequestLog(app, Traffic(), None, observer=observer)(scope((b"host", b"x")), piece, send)
    assert observer.ended[1] == (200, 10, 5, 5)
    await RequestLog(app, Traffic(), None, observer=observer)(scope((b"host", b"x")), pieces, send)
    assert observer.ended[2] == (200, 11, 6, 5)
    assert observer.begun == 3


@pytest.mark.parametrize(("raised", "status"), [(RuntimeError("a bug"), 500), (None, 499)])
async def test_an_observer_is_told_the_end_however_it_ends(raised: Exception | None, status: int) -> None:
    """Else requests in flight would only ever grow."""

    async def app(_: Scope, __: Receive, ___: Send) -> None:
        if raised is not None:
            raise raised

    observer = Counting()
    with structlog.testing.capture_logs():
        await Client(app, observer=observer).get(scope())
    assert [end[0] for end in observer.ended] == [status]


async def test_an_observer_is_told_of_a_request_that_was_cancelled() -> None:
    started = asyncio.Event()

    async def app(_: Scope, __: Receive, ___: Send) -> None:
        started.set()
        await asyncio.Event().wait()

    observer = Counting()
    task = asyncio.create_task(Client(app, observer=observer).get(scope()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [end[0] for end in observer.ended] == [499]
