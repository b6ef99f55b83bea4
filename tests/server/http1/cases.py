"""Raw requests and what the server has to do with them: the one table behind all tests of strictness.

Each case is sent on a connection of its own, with `MARKER` right behind it.

    accepted    the requests, in order, and the marker's answer, unless the case ends the connection
    refused     one of the statuses, and the end of the connection
    either      one of both; where a front end and a server may differ nothing is gained by prescribing one
    swallowed   the marker belongs to the body of the case, which never becomes complete

In the last three the marker is never executed: a server that takes bytes behind a refused request, or inside of a
body, for a request lets a client speak with the voice of the next client of the same proxy (request smuggling).

Sources: RFC 9112 sections 2 to 7 and 11, RFC 9110 sections 4.2, 5, 7, 8.6 and 10.1.1; published smuggling vectors
(CL.TE, TE.CL, TE.TE, CL.0, 0.CL, TERM.EXT, EXT.TERM, TERM.SPILL, SPILL.TERM, bare LF and CR, obs-fold).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CASES", "MARKER", "MARKER_TARGET", "Case", "Request"]

MARKER_TARGET: Final = b"/marker"
MARKER: Final = b"GET /marker HTTP/1.1\r\nHost: marker\r\nConnection: close\r\n\r\n"

Request = tuple[str, bytes, bytes]
"""Method, request target in origin form, body."""


@dataclass(frozen=True)
class Case:
    """`requests` are executed if the case is accepted; `statuses` are those of a refusal, () for none."""

    name: str
    data: bytes
    requests: tuple[Request, ...] = ()
    statuses: tuple[int, ...] = ()
    may_accept: bool = False
    ends: bool = False
    swallows: bool = False
    large: bool = False


CASES: Final[list[Case]] = []

GET: Final = ("GET", b"/x", b"")
HELLO: Final = ("POST", b"/x", b"hello")


def _add(name: str, data: bytes | str, case: dict[str, object]) -> None:
    raw = data.encode("latin-1") if isinstance(data, str) else data
    CASES.append(Case(name, raw, **case))  # type: ignore[arg-type]


def accepted(name: str, data: bytes | str, *requests: Request, ends: bool = False, large: bool = False) -> None:
    _add(name, data, {"requests": requests, "may_accept": True, "ends": ends, "large": large})


def refused(name: str, data: bytes | str, *statuses: int, large: bool = False) -> None:
    _add(name, data, {"statuses": statuses or (400,), "large": large})


def either(name: str, data: bytes | str, *requests: Request, statuses: tuple[int, ...] = (400,)) -> None:
    _add(name, data, {"requests": requests, "statuses": statuses, "may_accept": True})


def swallowed(name: str, data: bytes | str) -> None:
    _add(name, data, {"swallows": True, "statuses": (400, 408)})


def _lines(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\r\n" for line in lines)


def get(*lines: str, line: str = "GET /x HTTP/1.1", host: str = "Host: h\r\n") -> str:
    """A GET with these header lines behind Host."""
    return f"{line}\r\n{host}{_lines(lines)}\r\n"


def post(body: str, *lines: str, version: str = "1.1") -> str:
    return f"POST /x HTTP/{version}\r\nHost: h\r\n{_lines(lines)}\r\n{body}"


def chunked(body: str, *lines: str) -> str:
    return post(body, "Transfer-Encoding: chunked", *lines)


# Plain requests, and the body's framing

accepted("get", get(), GET)
accepted("two requests", get() + get(line="GET /y HTTP/1.1"), GET, ("GET", b"/y", b""))
accepted("sized body", post("hello", "Content-Length: 5"), HELLO)
accepted("empty sized body", post("", "Content-Length: 0"), ("POST", b"/x", b""))
accepted("no body", post(""), ("POST", b"/x", b""))
accepted("leading zeroes in Content-Length", post("hello", "Content-Length: 005"), HELLO)
accepted("no space after the colon", post("hello", "Content-Length:5"), HELLO)
accepted("white space around a value", post("hello", "Content-Length: \t 5 \t "), HELLO)
accepted("header names in any case", post("hello", "cOnTeNt-LeNgTh: 5"), HELLO)
accepted("tab inside a value", get("X-Y: a\tb"), GET)
accepted("empty value", get("X-Y:"), GET)
accepted("obs-text in a value", get("X-Y: caf\xe9"), GET)
accepted("body of a GET", "GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", ("GET", b"/x", b"hello"))
accepted(
    "body of a DELETE", "DELETE /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab", ("DELETE", b"/x", b"ab")
)
accepted(
    "body that looks like a request", post(get(), f"Content-Length: {len(get())}"), ("POST", b"/x", get().encode())
)
accepted(
    "body longer than Content-Length is the next request",
    post("hello" + get(), "Content-Length: 5"),
    HELLO,
    GET,
)
refused("body longer than Content-Length, and no request", post("hello!!\r\n\r\n", "Content-Length: 5"), 400, 501)
swallowed("body shorter than Content-Length", post("hello", "Content-Length: 500"))
swallowed("body shorter than a huge Content-Length", post("hello", "Content-Length: 9223372036854775806"))

accepted("chunked", chunked("5\r\nhello\r\n0\r\n\r\n"), HELLO)
accepted("two chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), HELLO)
accepted("empty chunked body", chunked("0\r\n\r\n"), ("POST", b"/x", b""))
accepted(
    "chunked GET",
    "GET /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    ("GET", b"/x", b"ab"),
)
accepted(
    "hexadecimal digits in both cases",
    chunked("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    ("POST", b"/x", b"0123456789" * 2),
)
accepted("leading zeroes of a chunk size", chunked("0005\r\nhello\r\n000\r\n\r\n"), HELLO)
accepted(
    "chunk that holds a request",
    chunked(f"{len(get()):x}\r\n{get()}\r\n0\r\n\r\n"),
    ("POST", b"/x", get().encode()),
)
accepted(
    "Transfer-Encoding in another case", post("0\r\n\r\n", "transfer-encoding: CHUNKED"), ("POST", b"/x", b"")
)
either("white space around chunked", post("0\r\n\r\n", "Transfer-Encoding: \tchunked \t"), ("POST", b"/x", b""))
accepted("chunk extension", chunked("5;a=b\r\nhello\r\n0;c\r\n\r\n"), HELLO)
accepted("quoted chunk extension", chunked('5;a="b c"\r\nhello\r\n0\r\n\r\n'), HELLO)
accepted("trailers are ignored", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"), HELLO)
swallowed("chunked body without its end", chunked("5\r\nhello\r\n"))
swallowed("chunk larger than what comes", chunked("fff\r\nhello"))

# Two lengths

for first, second in (
    ("Content-Length: 5", "Transfer-Encoding: chunked"),
    ("Transfer-Encoding: chunked", "Content-Length: 5"),
):
    refused(f"{first.split(':')[0]} before {second.split(':')[0]}", post("0\r\n\r\n", first, second))
refused("Content-Length 0 with Transfer-Encoding", chunked("5\r\nhello\r\n0\r\n\r\n", "Content-Length: 0"))
refused("two different Content-Lengths", post("hello", "Content-Length: 5", "Content-Length: 6"))
either("two equal Content-Lengths", post("hello", "Content-Length: 5", "Content-Length: 5"), HELLO)
refused("Content-Lengths 0 and 5", post("hello", "Content-Length: 0", "Content-Length: 5"))
for value in (
    "5, 5", "5,5", "5, 6", "5,", ",5", "+5", "-5", "-0", "0x5", "5.0", "5e0", "5 5", "five", "5;", "'5'", '"5"', "5_0", "\u00b5", "",
    "5\x00", "5\x0b", "\x0b5", "5\x0c", "\xa05", "5\x7f",
):  # fmt: skip
    refused(f"Content-Length {value!r}", post("hello", f"Content-Length: {value}"))
for size in (1 << 63, 1 << 64, (1 << 64) + 5, 10**30):
    refused(f"Content-Length {size}", post("hello", f"Content-Length: {size}"), 400, 413)
refused("Content-Length of 5,000 digits", post("hello", "Content-Length: " + "0" * 4999 + "5"), 400, 413, 431)

# Transfer codings

for value in (
    "gzip, chunked", "chunked, gzip", "gzip", "identity", "chunked, identity", "identity, chunked", "chunked, chunked",
    "xchunked", "chunkedx", "x chunked", "chunked x", "chunked,", ",chunked", "chunked;q=1", '"chunked"', "'chunked'", "chunk",
    "cow", "", "\x0bchunked", "chunked\x0b", "chunked\x0c", "chunked\x00", "\x00chunked", "chun\x00ked", "chu\u00f1ked",
    "\xa0chunked", "chunked\xff", "\x85chunked",
):  # fmt: skip
    refused(
        f"Transfer-Encoding {value!r}", post("5\r\nhello\r\n0\r\n\r\n", f"Transfer-Encoding: {value}"), 400, 501
    )
refused("Transfer-Encoding twice", chunked("0\r\n\r\n", "Transfer-Encoding: chunked"), 400, 501)
refused("Transfer-Encoding twice, gzip last", chunked("0\r\n\r\n", "Transfer-Encoding: gzip"), 400, 501)
refused(
    "Transfer-Encoding twice, gzip first",
    post("0\r\n\r\n", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"),
    400,
    501,
)
refused(
    "Transfer-Encoding of HTTP/1.0",
    post("0\r\n\r\n", "Transfer-Encoding: chunked", "Connection: keep-alive", version="1.0"),
    400,
    501,
)
refused("space before the colon of Transfer-Encoding", post("0\r\n\r\n", "Transfer-Encoding : chunked"))
refused("tab before the colon of Transfer-Encoding", post("0\r\n\r\n", "Transfer-Encoding\t: chunked"))
refused("space before Transfer-Encoding", post("0\r\n\r\n", " Transfer-Encoding: chunked"))
refused("folded Transfer-Encoding", post("0\r\n\r\n", "Transfer-Encoding:\r\n chunked"))
accepted(
    "Transfer_Encoding is another header",
    post("", "Transfer_Encoding: chunked", "Content-Length: 0"),
    ("POST", b"/x", b""),
)

# Chunks

for text in (
    "+5",
    "-5",
    " 5",
    "5 ",
    "5\t",
    "0x5",
    "5h",
    "",
    "5,5",
    "5 5",
    "5\x00",
    "\x0b5",
    "5\x0b",
    "5_0",
    "0 ",
    "-0",
):
    refused(f"chunk size {text!r}", chunked(f"{text}\r\nhello\r\n0\r\n\r\n"))
for text in ("F" * 16, "1" + "0" * 15 + "5", "1" + "0" * 16 + "5", "F" * 40):
    refused(f"chunk size {text}", chunked(f"{text}\r\nhello\r\n0\r\n\r\n"), 400, 413)
either("chunk size of 20 zeroes and 5", chunked("0" * 20 + "5\r\nhello\r\n0\r\n\r\n"), HELLO)
refused("no line end after a chunk", chunked("5\r\nhello0\r\n\r\n"))
refused("chunk longer than its size", chunked("5\r\nhelloXX\r\n0\r\n\r\n"))
refused("LF alone after a chunk", chunked("5\r\nhello\n0\r\n\r\n"))
refused("CR alone after a chunk", chunked("5\r\nhello\r0\r\n\r\n"))
refused("LF alone after a chunk size", chunked("5\nhello\r\n0\r\n\r\n"))
refused("CR alone after a chunk size", chunked("5\rhello\r\n0\r\n\r\n"))
refused("CR CR LF after a chunk size", chunked("5\r\r\nhello\r\n0\r\n\r\n"))
refused("LF inside a chunk extension", chunked("5;\nhello\r\n0\r\n\r\n"))
refused("CR inside a chunk extension", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"))
refused("NUL inside a chunk extension", chunked("5;a\x00b\r\nhello\r\n0\r\n\r\n"))
refused("chunk extension without a semicolon", chunked("5 a=b\r\nhello\r\n0\r\n\r\n"))
either("white space before a chunk extension", chunked("5 ;a=b\r\nhello\r\n0\r\n\r\n"), HELLO)
refused("LF alone ends the last chunk", chunked("5\r\nhello\r\n0\n\r\n"))
refused("LF alone ends the body", chunked("5\r\nhello\r\n0\r\n\n"))
refused(
    "chunk extension of 64 KiB", chunked(f"5;{'a' * (64 << 10)}\r\nhello\r\n0\r\n\r\n"), 400, 413, 431, large=True
)
refused(
    "1,000 chunk extensions of 100 bytes",
    chunked(f"1;{'a' * 100}\r\nx\r\n" * 1000 + "0\r\n\r\n"),
    400,
    413,
    431,
    large=True,
)

# Trailers

for name, value in (
    ("Content-Length", "5"),
    ("Transfer-Encoding", "chunked"),
    ("Host", "other"),
    ("Connection", "close"),
):
    either(f"trailer {name}", chunked(f"5\r\nhello\r\n0\r\n{name}: {value}\r\n\r\n"), HELLO)
refused("trailer without a colon", chunked("5\r\nhello\r\n0\r\nX\r\n\r\n"))
refused("trailer with a space before the colon", chunked("5\r\nhello\r\n0\r\nX : 1\r\n\r\n"))
refused("folded trailer", chunked("5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n"))
refused("NUL in a trailer", chunked("5\r\nhello\r\n0\r\nX: \x00\r\n\r\n"))
refused("LF alone after a trailer", chunked("5\r\nhello\r\n0\r\nX: 1\n\r\n"))
refused("request in the place of trailers", chunked("5\r\nhello\r\n0\r\nGET /y HTTP/1.1\r\nHost: h\r\n\r\n"))
refused("too many trailers", chunked("0\r\n" + "X: 1\r\n" * 10_000 + "\r\n"), 400, 431, large=True)
refused("trailer of 64 KiB", chunked(f"0\r\nX: {'a' * (64 << 10)}\r\n\r\n"), 400, 431, large=True)

# Request lines

refused("HTTP/0.9", "GET /x\r\n\r\n", 400, 505)
refused("HTTP/0.9 with a version", get(line="GET /x HTTP/0.9"), 400, 505)
refused("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 405, 501, 505)
for version in ("HTTP/2.0", "HTTP/3.0", "HTTP/9.9"):
    refused(version, get(line=f"GET /x {version}"), 400, 505)
for version in (
    "HTTP/1.10", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/11", "HTTP/01.1", "HTTP/1.1 ", "HTTP/1,1", "http/1.1", "Http/1.1", "HTTPS/1.1",
    "HTTP/ 1.1", "HTTP /1.1", "HTTP/-1.1", "HTTP/1.1x", "ICE/1.0", "RTSP/1.0", "HTTP/1.1\x00", "HTTP/1.1\t", "HTTP/1.\xb9", "",
):  # fmt: skip
    refused(f"version {version!r}", get(line=f"GET /x {version}"), 400, 505)
either("HTTP/1.2", get(line="GET /x HTTP/1.2"), GET, statuses=(400, 505))
refused("two spaces before the target", get(line="GET  /x HTTP/1.1"))
refused("two spaces before the version", get(line="GET /x  HTTP/1.1"))
refused("tab before the target", get(line="GET\t/x HTTP/1.1"))
refused("tab before the version", get(line="GET /x\tHTTP/1.1"))
refused("space in front of the method", get(line=" GET /x HTTP/1.1"))
refused("three words as the target", get(line="GET /x y HTTP/1.1"))
refused("no target", get(line="GET HTTP/1.1"))
refused("empty target", get(line="GET  HTTP/1.1"))
refused("no method", get(line="/x HTTP/1.1"))
refused("CR in the request line", get(line="GET /x\r HTTP/1.1"))
refused("CR before CR LF", get(line="GET /x HTTP/1.1\r"))
refused("LF ends the request line", "GET /x HTTP/1.1\nHost: h\r\n\r\n")
refused("CR ends the request line", "GET /x HTTP/1.1\rHost: h\r\n\r\n")
for method in ("get", "Get", "G ET", "GET:", "G\x00ET", "GE(T", "G\xcbT", "FOO", "X" * 100, '"GET"', "{GET}"):
    refused(f"method {method!r}", get(line=f"{method} /x HTTP/1.1"), 400, 405, 501)
refused("CONNECT", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 400, 405, 501)
refused("CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", 400, 405, 501)
refused("TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")

# Empty lines before a request

accepted("empty line before a request", "\r\n" + get(), GET)
accepted("empty line after a body", post("hello\r\n", "Content-Length: 5") + get(), HELLO, GET)
either("two empty lines before a request", "\r\n\r\n" + get(), GET)
refused("LF before a request", "\n" + get())
refused("CR before a request", "\r" + get())
refused("CR CR LF before a request", "\r\r\n" + get())
refused("LF CR LF before a request", "\n\r\n" + get())
refused("space line before a request", " \r\n" + get())
refused("NUL before a request", "\x00" + get())

# Request targets

accepted("query", get(line="GET /x?a=1&b=%20 HTTP/1.1"), ("GET", b"/x?a=1&b=%20", b""))
accepted("two slashes", get(line="GET //x//y HTTP/1.1"), ("GET", b"//x//y", b""))
accepted("colon, at and percent in the path", get(line="GET /x:y@z%2F HTTP/1.1"), ("GET", b"/x:y@z%2F", b""))
accepted("absolute form", get(line="GET http://h/x?q HTTP/1.1"), ("GET", b"/x?q", b""))
either("absolute form with https", get(line="GET https://h/x HTTP/1.1"), GET)
either("absolute form without a path", get(line="GET http://h HTTP/1.1"), ("GET", b"/", b""))
refused("absolute form with another host", get(line="GET http://other/x HTTP/1.1"))
refused("absolute form without a host", get(line="GET http:///x HTTP/1.1"))
refused("absolute form with a user", get(line="GET http://u@h/x HTTP/1.1"))
refused("absolute form of another scheme", get(line="GET ftp://h/x HTTP/1.1"))
refused("absolute form with a malformed host", get(line="GET http://h<>/x HTTP/1.1"))
refused("authority form", get(line="GET h:80 HTTP/1.1"))
refused("relative target", get(line="GET x HTTP/1.1"))
refused("asterisk form of GET", get(line="GET * HTTP/1.1"))
accepted("asterisk form of OPTIONS", get(line="OPTIONS * HTTP/1.1"), ("OPTIONS", b"*", b""))
refused("asterisk and more", get(line="OPTIONS *x HTTP/1.1"))
refused("query without a path", get(line="GET ?q HTTP/1.1"))
refused("fragment", get(line="GET /x#y HTTP/1.1"))
for char in ("\x00", "\x01", "\x07", "\x0b", "\x0c", "\x1b", "\x7f", "\x80", "\xa0", "\xe9", "\xff", "\u00b5"):
    refused(f"{char!r} in the target", get(line=f"GET /x{char}y HTTP/1.1"))
for char in '"<>\\^`{|}':
    either(f"{char} in the target", get(line=f"GET /x{char}y HTTP/1.1"), ("GET", f"/x{char}y".encode(), b""))
either("percent and no digits", get(line="GET /%zz HTTP/1.1"), ("GET", b"/%zz", b""))
accepted("encoded NUL", get(line="GET /x%00y HTTP/1.1"), ("GET", b"/x%00y", b""))

# Host

refused("no Host", get(host=""))
refused("two Hosts", get("Host: other"))
refused("two equal Hosts", get("Host: h"))
for value in (
    "a b", "a/b", "a@b", "a?b", "a#b", "a\\b", "h:x", "h:80:80", "h:+80", "h:-1", "[::1", "::1", "[::1]x", "a\x00b", "h\xe9", "http://h", "a\tb",
    '"h"', "a<b", "h%zz/", "[h]",
):  # fmt: skip
    refused(f"Host {value!r}", get(host=f"Host: {value}\r\n"))
# A sub-delimiter is allowed in a registered name (RFC 3986 section 3.2.2).
either("Host with a comma", get(host="Host: a,b\r\n"), GET)
accepted("Host with a port", get(host="Host: h.example.com:5000\r\n"), GET)
accepted("Host with an IPv6 address", get(host="Host: [::1]:5000\r\n"), GET)
either("empty Host", get(host="Host:\r\n"), GET)
either("Host with an empty port", get(host="Host: h:\r\n"), GET)
refused("space before the colon of Host", get(host="Host : h\r\n"))
refused("Host in a folded line", get(host="X: y\r\n Host: h\r\n"))

# Header lines

refused("space before a colon", get("X-Y : 1"))
refused("tab before a colon", get("X-Y\t: 1"))
refused("no colon", get("X-Y"))
refused("no name", get(": 1"))
refused("folded line", get("X-Y: 1", " 2"))
refused("line folded by a tab", get("X-Y: 1", "\t2"))
refused("white space before the first header", "GET /x HTTP/1.1\r\n Host: h\r\n\r\n")
refused("line of white space only", get(" "))
refused("LF inside a value", get("X-Y: 1\nZ: 2"))
refused("LF ends a line", "GET /x HTTP/1.1\r\nHost: h\nX: y\r\n\r\n")
refused("LF LF ends the head", "GET /x HTTP/1.1\r\nHost: h\n\n")
refused("CR LF LF ends the head", "GET /x HTTP/1.1\r\nHost: h\r\n\n")
refused("LF CR LF ends the head", "GET /x HTTP/1.1\r\nHost: h\n\r\n")
refused("CR inside a value", get("X-Y: 1\rZ: 2"))
refused("CR inside a value, and a request", get("X-Y: 1\rContent-Length: 5"))
refused("CR CR LF ends a line", get("X-Y: 1\r"))
refused("CR inside a name", get("X\rY: 1"))
for code in (*range(1, 9), 11, 12, *range(14, 32), 127, 0):
    refused(f"control character {code} in a value", get(f"X-Y: a{chr(code)}b"))
for char in '\x00\x01\x1f\x7f\x80\xe9 \t"(),/;<=>?@[\\]{}':
    refused(f"{char!r} in a name", get(f"X{char}Y: 1"))

# Limits

LONG: Final = "a" * (1 << 20)
refused("request line of 1 MiB", get(line=f"GET /{LONG} HTTP/1.1"), 414, large=True)
refused("request line of 17 KiB", get(line=f"GET /{LONG[: 17 << 10]} HTTP/1.1"), 414, large=True)
accepted(
    "request line of 8 KiB",
    get(line=f"GET /{LONG[: 8 << 10]} HTTP/1.1"),
    ("GET", b"/" + LONG[: 8 << 10].encode(), b""),
    large=True,
)
refused("request line that never ends", f"GET /{LONG}", 414, large=True)
refused("method that never ends", LONG, 400, 414, 501, large=True)
refused("header of 1 MiB", get(f"X: {LONG}"), 431, large=True)
refused("header name of 1 MiB", get(f"{LONG}: x"), 431, 400, large=True)
refused("header that never ends", f"GET /x HTTP/1.1\r\nHost: h\r\nX: {LONG}", 431, large=True)
refused("65 KiB of headers", get(*[f"X{n}: {LONG[:1000]}" for n in range(66)]), 431, large=True)
accepted("60 KiB in one header", get(f"Authorization: Bearer {LONG[: 60 << 10]}"), GET, large=True)
refused("1,000 headers", get(*[f"X{n}: 1" for n in range(1000)]), 431, large=True)
refused("129 headers", get(*[f"X{n}: 1" for n in range(128)]), 431)
accepted("100 headers", get(*[f"X{n}: 1" for n in range(99)]), GET)
refused("200,000 empty headers", get(*["X:"] * 200_000), 431, large=True)

# Connection

for value in (
    "close",
    "Close",
    "CLOSE",
    "foo, close",
    "close, foo",
    "foo,Close ,bar",
    "keep-alive, close",
    "close, keep-alive",
):
    accepted(f"Connection {value}", get(f"Connection: {value}"), GET, ends=True)
accepted("Connection close in the second line", get("Connection: keep-alive", "Connection: close"), GET, ends=True)
accepted("Connection close in the first line", get("Connection: close", "Connection: keep-alive"), GET, ends=True)
for value in ("keep-alive", "Keep-Alive", "foo", "closed", "unclose", "", ",", "Upgrade"):
    accepted(f"Connection {value!r}", get(f"Connection: {value}"), GET)
accepted("HTTP/1.0", get(line="GET /x HTTP/1.0"), GET, ends=True)
accepted("HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n", GET, ends=True)
accepted("HTTP/1.0 with keep-alive", get("Connection: Keep-Alive", line="GET /x HTTP/1.0"), GET)
accepted("HTTP/1.0 with keep-alive in a list", get("Connection: foo, KEEP-ALIVE", line="GET /x HTTP/1.0"), GET)
accepted("HTTP/1.0 with both", get("Connection: keep-alive, close", line="GET /x HTTP/1.0"), GET, ends=True)
accepted(
    "HTTP/1.0 with both in two lines",
    get("Connection: close", "Connection: keep-alive", line="GET /x HTTP/1.0"),
    GET,
    ends=True,
)
accepted("HTTP/1.0 with a body", post("hello", "Content-Length: 5", version="1.0"), HELLO, ends=True)
accepted(
    "Connection close names the body's length",
    post("hello", "Content-Length: 5", "Connection: close, Content-Length"),
    HELLO,
    ends=True,
)
accepted(
    "Connection names Content-Length", post("hello", "Content-Length: 5", "Connection: Content-Length"), HELLO
)
accepted("Keep-Alive with parameters", get("Keep-Alive: timeout=5, max=1"), GET)

# Upgrades are ignored (RFC 9110 section 7.8), and what follows is HTTP/1.1

accepted(
    "Upgrade h2c",
    get("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    GET,
)
accepted(
    "Upgrade websocket",
    get("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13"),
    GET,
)
accepted(
    "Upgrade with a sized body", post("hello", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5"), HELLO
)
accepted(
    "Upgrade with a chunked body", chunked("5\r\nhello\r\n0\r\n\r\n", "Connection: Upgrade", "Upgrade: h2c"), HELLO
)
accepted("Upgrade without Connection", get("Upgrade: h2c"), GET)
accepted("Upgrade with close", get("Connection: Upgrade, close", "Upgrade: h2c"), GET, ends=True)

# Expect

accepted("Expect", post("hello", "Content-Length: 5", "Expect: 100-continue"), HELLO)
accepted("Expect in another case", post("hello", "Content-Length: 5", "EXPECT: 100-Continue"), HELLO)
accepted("Expect without a body", get("Expect: 100-continue"), GET)
accepted(
    "Expect of HTTP/1.0",
    post("hello", "Content-Length: 5", "Expect: 100-continue", version="1.0"),
    HELLO,
    ends=True,
)
refused("unknown expectation", post("hello", "Content-Length: 5", "Expect: 200-maybe"), 417, 400)
refused("two expectations", post("hello", "Content-Length: 5", "Expect: 100-continue, x=y"), 417, 400)
