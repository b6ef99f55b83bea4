"""A second opinion: h11 reads the same bytes, and where the two differ there must be a known reason.

h11 is a parser in pure Python that shares no code with this server.  Rules, for each stream of bytes:

    what we execute, h11 reads as the same requests: method, target, headers, body, and where each of them ends
    what h11 refuses, we refuse, except for `WE_ACCEPT`
    what we refuse, h11 refuses, except for `WE_REFUSE`: there we are stricter on purpose
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import h11

if TYPE_CHECKING:
    from tests.server.http1.harness import Outcome

__all__ = ["WE_ACCEPT", "WE_REFUSE", "Difference", "Reading", "compare", "read"]

_ABSOLUTE: Final = re.compile(rb"https?://[^/?]*", re.IGNORECASE)

WE_REFUSE: Final[dict[str, re.Pattern[bytes]]] = {
    # RFC 9112 section 2.2 allows a server to take LF as the end of a line; front ends differ about it.
    "LF without CR": re.compile(rb"(?<!\r)\n"),
    "CR without LF": re.compile(rb"\r(?!\n)"),
    # RFC 9112 section 5.2: a server must refuse it or replace it by spaces.
    "obs-fold": re.compile(rb"\r\n[ \t]"),
    # Section 6.3, rule 3: "ought to be handled as an error"; h11 lets Transfer-Encoding win.
    "Content-Length with Transfer-Encoding": re.compile(
        rb"(?is)content-length.*transfer-encoding|transfer-encoding.*content-length"
    ),
    # Section 6.3, rule 5 allows either.
    "Content-Length as a list, or twice": re.compile(
        rb"(?is)content-length:[^\r\n]*,|content-length:.*content-length:"
    ),
    # RFC 9110 section 5.5: h11 accepts control characters in values.
    "control characters": re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    # h11 does not look at the grammar of targets and hosts.
    "request target": re.compile(rb"(?m)^[^\r\n ]+ (?!/[!-\"$-~]*\ )[^\r\n]* HTTP/"),
    "Host": re.compile(rb"(?i)host:[ \t]*[^\r\n]*[^\r\n0-9a-z:.\[\]-]"),
    "unknown method": re.compile(rb"(?m)^(?!(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) )[^\r\n: ]+ [^\r\n]* HTTP/1"),
    "CONNECT": re.compile(rb"CONNECT "),
    "HTTP/1.2 and later": re.compile(rb"HTTP/1\.[2-9]"),
    # RFC 9110 section 10.1.1 allows 417.
    "unknown expectation": re.compile(rb"(?i)expect:[ \t]*(?!100-continue[ \t]*\r\n)"),
    # h11 ignores what it does not know in HTTP/1.0.
    "Transfer-Encoding in HTTP/1.0": re.compile(rb"(?is)HTTP/1\.0.*transfer-encoding"),
    "Transfer-Encoding with white space": re.compile(
        rb"(?i)transfer-encoding:[^\r\n]*[ \t]\r\n|transfer-encoding:[ \t]*\t"
    ),
    # h11 limits a chunk's size to 20 digits, we to 15.
    "chunk size": re.compile(rb"[0-9A-Fa-f]{16}"),
    "chunk extension with white space": re.compile(rb"[0-9A-Fa-f][ \t]+(;|\r\n)"),
    "too many headers": re.compile(rb"(?s)(\r\n[^\r\n]+){128}"),
}
"""Reasons to refuse a stream that h11 accepts, each with a pattern that the stream contains."""

WE_ACCEPT: Final[dict[str, re.Pattern[bytes]]] = {
    # RFC 9112 section 7.1.2: trailers are discarded, with any content; h11 validates their values.
    "framing in trailers": re.compile(
        rb"(?is)\r\n0+[^\r\n]*\r\n(?:[^\r\n]+\r\n)*?(?:content-length|transfer-encoding|host):"
    ),
}
"""Reasons to accept a stream that h11 refuses."""


class Difference(Exception):
    """Both read the same bytes as different requests."""


@dataclass
class Reading:
    """Requests in order; `refused` if what follows them is malformed for h11."""

    requests: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)
    refused: str = ""


def read(data: bytes) -> Reading:
    """Read a stream as h11 does: one of its connections for each request.

    Two things that h11 never does are done for it: it skips no empty lines, and it keeps no connection of HTTP/1.0.
    """
    reading = Reading()
    rest = data
    try:
        while rest:
            while rest.startswith(b"\r\n"):
                rest = rest[2:]
            found = _read_one(rest, reading)
            if found is None:
                break
            rest = found
    except h11.RemoteProtocolError as error:
        reading.refused = str(error)
    return reading


def _read_one(data: bytes, reading: Reading) -> bytes | None:
    """Read one request; return what follows, None at the end of the connection.  Raises RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    if not isinstance(request, h11.Request):
        return None
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    if not isinstance(event, h11.EndOfMessage):
        return None
    headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    reading.requests.append((request.method, _origin(request.target), headers, body))
    tokens = [
        part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")
    ]
    keeps = request.http_version != b"1.0" or b"keep-alive" in tokens
    return connection.trailing_data[0] if keeps and b"close" not in tokens else None


def _origin(target: bytes) -> bytes:
    """The origin form of an absolute target."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def compare(data: bytes, outcome: Outcome) -> str:
    """Return the reason for a known difference, "" if there is none.  Raises Difference."""
    theirs = read(data)
    executed = [(one.method.encode(), one.target, list(one.headers), one.body) for one in outcome.seen]
    for number, (mine, other) in enumerate(zip(executed, theirs.requests, strict=False)):
        if _without_case(mine) != _without_case(other):
            raise Difference(f"request {number}: {mine} is {other} for h11")
    if len(executed) > len(theirs.requests):
        return _known(
            WE_ACCEPT, data, f"we accept what h11 refuses: {theirs.refused}: {executed[len(theirs.requests)]}"
        )
    if len(executed) < len(theirs.requests):
        text = f"refused ({outcome.statuses}) what h11 accepts: {theirs.requests[len(executed)]}"
        return _known(WE_REFUSE, data, text)
    return ""


def _without_case(request: tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]) -> object:
    """h11 writes the transfer coding in lower case."""
    method, target, headers, body = request
    headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]
    return method, target, headers, body


def _known(reasons: dict[str, re.Pattern[bytes]], data: bytes, text: str) -> str:
    for reason, pattern in reasons.items():
        if pattern.search(data):
            return reason
    raise Difference(text)
