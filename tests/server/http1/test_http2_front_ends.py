"""Request smuggling by HTTP/2 requests that nginx, HAProxy and Apache write anew as HTTP/1.1.

HTTP/2 frames carry lengths of their own: a header that would frame the message in HTTP/1.1, or end a line there,
must not reach the server as such.  `front_checks.py` has the criterion.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from tests.server.http1.front_checks import HIDDEN, HIDDEN_TARGET, check
from tests.server.http1.peer import LIMIT_S, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.server.http1.fronts import Front
    from tests.server.http1.harness import Running

    Headers = Sequence[tuple[bytes, bytes]]

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_RAW: Final = H2Configuration(
    client_side=True,
    header_encoding=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
)
LAST_CHUNK: Final = b"0\r\n\r\n"
INJECTED: Final = b"\r\n\r\n" + HIDDEN


def head(*headers: tuple[bytes, bytes], method: bytes = b"POST", **pseudo: bytes) -> Headers:
    """Return a header section; `pseudo` replaces pseudo-headers."""
    fields = {b":method": method, b":scheme": b"http", b":path": b"/x", b":authority": b"h"}
    fields |= {b":" + name.encode(): value for name, value in pseudo.items()}
    return [*fields.items(), *headers]


CASES: Final[dict[str, tuple[Headers, bytes, Headers]]] = {
    # Lengths
    "body without a length": (head(), HIDDEN, ()),
    "body of a GET without a length": (head(method=b"GET"), HIDDEN, ()),
    "body of a HEAD": (head(method=b"HEAD", path=b"/status/200"), HIDDEN, ()),
    "body of an OPTIONS": (head(method=b"OPTIONS"), HIDDEN, ()),
    "no body": (head(), b"", ()),
    "body that is not read": (head(path=b"/refuse"), HIDDEN, ()),
    "body that is not read, of some length": (
        head((b"content-length", b"%d" % len(HIDDEN)), path=b"/refuse"), HIDDEN, ()
    ),
    **{
        f"Content-Length {value.decode('latin-1')!r}": (head((b"content-length", value)), HIDDEN, ())
        for value in (
            b"0", b"5", b"500", b"+38", b"-1", b"38, 38", b"38 ", b" 38", b"0x26", b"", b"3\x008", b"38\r\nX: y",
        )
    },
    "Content-Length 0 of a GET": (head((b"content-length", b"0"), method=b"GET"), HIDDEN, ()),
    "two Content-Lengths": (head((b"content-length", b"0"), (b"content-length", b"38")), HIDDEN, ()),
    "Content-Length in upper case": (head((b"Content-Length", b"0")), HIDDEN, ()),
    # Transfer codings
    **{
        f"Transfer-Encoding {value.decode('latin-1')!r}": (
            head((b"transfer-encoding", value)), LAST_CHUNK + HIDDEN, ()
        )
        for value in (
            b"chunked", b"CHUNKED", b"identity", b"gzip, chunked", b"xchunked", b"chunked\x0b", b"", b" chunked",
        )
    },
    "Transfer-Encoding with Content-Length": (
        head((b"transfer-encoding", b"chunked"), (b"content-length", b"%d" % len(LAST_CHUNK + HIDDEN))),
        LAST_CHUNK + HIDDEN,
        (),
    ),
    "Transfer-Encoding in upper case": (head((b"Transfer-Encoding", b"chunked")), LAST_CHUNK + HIDDEN, ()),
    "space behind Transfer-Encoding": (head((b"transfer-encoding ", b"chunked")), LAST_CHUNK + HIDDEN, ()),
    "Transfer_Encoding": (head((b"transfer_encoding", b"chunked")), LAST_CHUNK + HIDDEN, ()),
    "TE": (head((b"te", b"chunked")), LAST_CHUNK + HIDDEN, ()),
    # Line ends and colons
    **{
        f"{end!r} in a value": (
            head((b"x-y", b"1" + end + b"Transfer-Encoding: chunked")), LAST_CHUNK + HIDDEN, ()
        )
        for end in (b"\r\n", b"\n", b"\r", b"\x00", b"\r\n ")
    },
    "request in a value": (head((b"x-y", b"1" + INJECTED), method=b"GET"), b"", ()),
    "request in a name": (head((b"x-y: 1" + INJECTED, b"1"), method=b"GET"), b"", ()),
    "colon in a name": (head((b"transfer-encoding: chunked", b"1")), LAST_CHUNK + HIDDEN, ()),
    "line in a name": (head((b"x: y\r\ntransfer-encoding", b"chunked")), LAST_CHUNK + HIDDEN, ()),
    "empty name": (head((b"", b"1")), HIDDEN, ()),
    # Pseudo-headers
    "request in the path": (head(method=b"GET", path=b"/x HTTP/1.1\r\nHost: h" + INJECTED), b"", ()),
    "space in the path": (head(method=b"GET", path=b"/x HTTP/1.1 y"), b"", ()),
    "empty path": (head(method=b"GET", path=b""), b"", ()),
    "relative path": (head(method=b"GET", path=b"x"), b"", ()),
    "absolute path": (head(method=b"GET", path=b"http://other/x"), b"", ()),
    "fragment in the path": (head(method=b"GET", path=b"/x#y"), b"", ()),
    "request in the method": (head(method=b"GET /x HTTP/1.1\r\nHost: h" + INJECTED + b"GET"), b"", ()),
    "space in the method": (head(method=b"GET /hidden HTTP/1.1"), b"", ()),
    "unknown method": (head(method=b"FOO"), HIDDEN, ()),
    "request in the authority": (head(method=b"GET", authority=b"h" + INJECTED), b"", ()),
    "malformed authority": (head(method=b"GET", authority=b"h/y"), b"", ()),
    "request in the scheme": (head(method=b"GET", scheme=b"http://h/x HTTP/1.1" + INJECTED), b"", ()),
    "other Host": (head((b"host", b"other"), method=b"GET"), b"", ()),
    "two Hosts": (head((b"host", b"h"), (b"host", b"other"), method=b"GET"), b"", ()),
    "request in the Host": (head((b"host", b"h" + INJECTED), method=b"GET"), b"", ()),
    "two paths": (head((b":path", b"/hidden"), method=b"GET"), b"", ()),
    "two methods": (head((b":method", b"POST"), method=b"GET"), b"", ()),
    "unknown pseudo-header": (head((b":x", b"y"), method=b"GET"), b"", ()),
    "path behind a header": ([*head((b"x", b"y"), method=b"GET"), (b":path", b"/hidden")], b"", ()),
    "no path": (head(method=b"GET")[:2], b"", ()),
    # Headers of a connection
    **{
        f"{name.decode()}: {value.decode()}": (head((name, value)), HIDDEN, ())
        for name, value in (
            (b"connection", b"close"), (b"connection", b"keep-alive"), (b"connection", b"content-length"),
            (b"connection", b"transfer-encoding"), (b"keep-alive", b"timeout=1"), (b"proxy-connection", b"close"),
            (b"upgrade", b"h2c"), (b"expect", b"100-continue"), (b"expect", b"x"), (b"trailer", b"content-length"),
        )
    },
    # Trailers
    "trailer": (head(), HIDDEN, [(b"x", b"y")]),
    "trailer Content-Length": (head(), HIDDEN, [(b"content-length", b"0")]),
    "trailer Transfer-Encoding": (head(), HIDDEN, [(b"transfer-encoding", b"chunked")]),
    "request in a trailer": (head(), b"hello", [(b"x", b"y" + INJECTED)]),
    "request in the name of a trailer": (head(), b"hello", [(b"x: y" + INJECTED, b"y")]),
    "pseudo-header in the trailers": (head(), b"hello", [(b":path", b"/hidden")]),
}  # fmt: skip
"""Header section, body, trailers."""


async def through(front: Front, headers: Headers, body: bytes, trailers: Headers) -> bytes:
    """Send one request on a connection of its own; return the bodies that came."""
    connection = H2Connection(_RAW)
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not body and not trailers)
    if body:
        connection.send_data(1, body, end_stream=not trailers)
    if trailers:
        connection.send_headers(1, trailers, end_stream=True)
    received = b""
    async with await Peer.connect(front.http2_port) as peer, asyncio.timeout(LIMIT_S):
        await peer.send(connection.data_to_send())
        while data := await peer.receive():
            try:
                events = connection.receive_data(data)
            except ProtocolError:
                break
            received += b"".join(event.data for event in events if isinstance(event, DataReceived))
            if any(isinstance(event, (StreamEnded, StreamReset, ConnectionTerminated)) for event in events):
                break
            await peer.send(connection.data_to_send())
    return received


async def test_an_ordinary_request_arrives(front: Front, served: Running) -> None:
    """Otherwise the front end would refuse all cases for another reason."""
    handled = await check(front, served, through(front, head(method=b"GET"), b"", ()))
    assert handled.executed == [b"/x"]


@pytest.mark.parametrize("case", CASES)
async def test_no_http2_request_becomes_two(case: str, front: Front, served: Running) -> None:
    """The second would be executed with the rights of the next client."""
    # nginx sends a head on before it has seen that the body is longer than its Content-Length.
    handled = await check(front, served, through(front, *CASES[case]), refusals=1)
    assert HIDDEN_TARGET not in handled.begun
    assert len(handled.begun) <= 1
