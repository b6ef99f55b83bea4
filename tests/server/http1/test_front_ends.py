"""Request smuggling through real front ends: the table of cases, sent through nginx, HAProxy and Apache httpd.

A front end and a server that read the same bytes as different requests let one client speak with another one's
voice, or give one client another one's answer.  `front_checks.py` has the criterion.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.cases import CASES, MARKER, MARKER_TARGET
from tests.server.http1.front_checks import HIDDEN, HIDDEN_TARGET, check, probe, through
from tests.server.http1.harness import until
from tests.server.http1.peer import Peer

from moorage.server.http1 import connection, request_head

if TYPE_CHECKING:
    from tests.server.http1.cases import Case
    from tests.server.http1.fronts import Front
    from tests.server.http1.harness import Running

    from moorage.server.http1.options import Http1Options
    from moorage.server.http1.request_head import RequestHead

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

LARGE: Final = bytes(300 << 10)


async def test_connections_to_the_back_end_are_reused(front: Front, served: Running) -> None:
    """With a connection for each client there would be nothing to find."""
    clients = served.app.clients
    start = len(clients)
    for _ in range(3):
        await probe(front, served)
    before = len(clients)
    await probe(front, served)
    assert set(clients[start:before]) & set(clients[before:])


async def test_a_server_that_ignores_lengths_is_noticed(
    front: Front, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot fail protects from nothing."""

    def parse_head(data: bytes, options: Http1Options, previous: RequestHead | None = None) -> RequestHead:
        return dataclasses.replace(request_head.parse_head(data, options, previous), content_length=None)

    with monkeypatch.context() as patch:
        patch.setattr(connection, "parse_head", parse_head)
        with pytest.raises(AssertionError):
            await check(front, served, through(front, post("/x", sized(HIDDEN)) + MARKER))
        assert HIDDEN_TARGET in served.app.begun
    for one in list(served.server.connections):
        one.abort()
    await until(lambda: not served.server.connections and not served.app.running, "the end of the connections")
    served.app.begun.remove(HIDDEN_TARGET)
    # The answer does not matter: with it the front end has noticed that its connections are gone.
    await through(front, MARKER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_case_reaches_another_client(case: Case, front: Front, served: Running) -> None:
    """A request that only the server sees is executed with the rights of the next client."""
    handled = await check(front, served, through(front, case.data + MARKER, half_close=case.swallows))
    assert sorted(handled.begun) == sorted([*handled.executed, *handled.left])
    assert not (case.swallows and MARKER_TARGET in handled.begun), "a part of a body was executed"


def post(target: str, body: bytes, line: str = "") -> bytes:
    """A POST; `body` begins with the header that frames it."""
    return f"POST {target} HTTP/1.1\r\nHost: h\r\n{line}".encode() + body


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def chunked(body: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


BODIES: Final = {
    "sized": sized(HIDDEN),
    "chunked": chunked(HIDDEN),
    # Of these the server reads no more than a part when the application has answered.
    "large sized": sized(LARGE + HIDDEN),
    "large chunked": chunked(LARGE + HIDDEN),
}
EARLY: Final = ("/refuse", "/first", "/status/204", "/short", "/half", "/silent")


@pytest.mark.parametrize("expects", [False, True], ids=["", "Expect"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("target", EARLY)
async def test_a_body_that_is_not_read_is_no_request(
    target: str, body: str, expects: bool, front: Front, served: Running
) -> None:
    """An answer before the end of the body leaves the rest of it in the connection."""
    data = post(target, BODIES[body], "Expect: 100-continue\r\n" if expects else "")
    handled = await check(front, served, through(front, data + MARKER))
    assert handled.begun in ([target.encode()], [target.encode(), MARKER_TARGET])


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "target",
    ["/size/70000", "/stream/3", "/file/70000", "/status/200", "/status/204", "/status/304", "/short", "/half",
     "/silent"],
)  # fmt: skip
async def test_the_end_of_an_answer_is_where_the_front_end_sees_it(
    target: str, method: str, front: Front, served: Running
) -> None:
    """The rest of a response would be the beginning of the next client's."""
    data = f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode() + MARKER
    handled = await check(front, served, through(front, data))
    # Without an answer on a connection that was used before, nginx sends a GET again.
    begun = [begun for begun, _ in itertools.groupby(handled.begun)]
    assert begun in ([target.encode()], [target.encode(), MARKER_TARGET])


@pytest.mark.parametrize("target", ["/wait", "/hold", "/size/50000000", "/file/50000000"])
async def test_the_answer_of_a_client_that_left_is_dropped(target: str, front: Front, served: Running) -> None:
    """The front end may use the connection again, or close it."""
    app, begun = served.app, len(served.app.begun)
    app.gate.clear()
    async with await Peer.connect(front.port) as peer:
        await peer.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await until(lambda: len(app.begun) > begun, "the request")
        peer.abort()
    app.gate.set()
    for _ in range(2):
        await probe(front, served)
    await until(lambda: not app.running, "the application to return")
