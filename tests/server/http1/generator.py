"""Byte streams from a seed: requests that are nearly right, and cases of the table with a few bytes changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.server.http1.cases import CASES, MARKER

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["fragments", "mutated", "request", "stream"]

_METHODS: Final = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
_ODD_METHODS: Final = (b"get", b"FOO", b"PROPFIND", b"G(T", b"", b"GET ", b"CONNECT", b"PRI", b"M-SEARCH")
_TARGETS: Final = (b"/", b"/x", b"/x/y?z=1", b"/%41%2f", b"/a;b=c", b"/v2/a/b:c@d", b"http://h/x", b"//x")
_ODD_TARGETS: Final = (
    b"*", b"x", b"h:80", b"http://other/x", b"/x#y", b"/\xff", b"/x y", b"", b"/x\t", b'/"<>', b"http://h", b"?q", b"/x\x00", b"/x\x7f",
)  # fmt: skip
_VERSIONS: Final = (b"HTTP/1.1",) * 6 + (b"HTTP/1.0",)
_ODD_VERSIONS: Final = (
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"",
    b"HTTP/1.10",
    b"HTTP/11",
)
_HEADERS: Final = (
    b"X-Y: 1", b"Accept: */*", b"Cookie: a=b; c=d", b"Connection: keep-alive", b"Connection: close", b"X:", b"X: \xe9", b"Upgrade: h2c",
    b"Connection: upgrade", b"Expect: 100-continue", b"TE: trailers", b"Trailer: X", b"Keep-Alive: timeout=1", b"X: a\tb", b"Via: 1.1 p",
)  # fmt: skip
_ODD_HEADERS: Final = (
    b"Content-Length: 3", b"Content-Length: 0", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length:", b"Content-Length : 3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: CHUNKED ",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\r\n chunked", b"Host: h", b"Host: other", b" X: 1", b"\tX: 1", b"X", b": 1",
    b"X\x00: 1", b"X: \x00", b"X: \x01", b"X: a\rb", b"X: a\nb", b"X: a\n\nGET /smuggled HTTP/1.1", b"Expect: x", b"X\xe9: 1", b"",
)  # fmt: skip
_EXTENSIONS: Final = (b"", b"", b"", b";a", b";a=b", b';a="b"')
_ODD_SIZES: Final = (b"+", b"-", b" ", b"0x", b"", b"g", b"\x00", b"_")
_ENDS: Final = (b"\n", b"\r", b"\r\r\n", b"", b"\n\n", b"\r\n\r\n", b" \r\n")
_BYTES: Final = b"\r\n \t\x00:;,+-/0159afFx\x7f\x80\xff\x0b\x0cHGT"


def request(source: random.Random, oddness: float) -> bytes:
    """Return one request; each of its parts is odd with the probability `oddness`."""

    def pick(usual: Sequence[bytes], odd: Sequence[bytes]) -> bytes:
        return source.choice(odd if source.random() < oddness else usual)

    def end() -> bytes:
        return pick((b"\r\n",), _ENDS) if source.random() < 0.3 else b"\r\n"

    line = b"%s %s %s" % (
        pick(_METHODS, _ODD_METHODS),
        pick(_TARGETS, _ODD_TARGETS),
        pick(_VERSIONS, _ODD_VERSIONS),
    )
    headers = [pick((b"Host: h", b"Host: h", b"Host: h:80"), (b"", b"Host:", b"Host: a b", b"Host: h\r\nHost: h"))]
    headers += [source.choice(_HEADERS) for _ in range(source.randrange(3))]
    if source.random() < oddness:
        headers.append(source.choice(_ODD_HEADERS))
    body = bytes(source.choices(b"abc\r\n0", k=source.randrange(12)))
    framing = source.randrange(4)
    if framing == 1:
        size = len(body) + (source.randrange(-2, 3) if source.random() < oddness else 0)
        headers.append(b"Content-Length: %d" % size)
    elif framing == 2:
        headers.append(b"Transfer-Encoding: chunked")
        body = _chunks(source, body, oddness)
    else:
        body = b""
    source.shuffle(headers)
    lines = [text + end() for text in headers if text or source.random() < oddness / 4]
    return line + end() + b"".join(lines) + end() + body


def _chunks(source: random.Random, body: bytes, oddness: float) -> bytes:
    out = b""
    while body:
        size = source.randrange(1, len(body) + 1)
        piece, body = body[:size], body[size:]
        shown = b"%x" % size if source.random() < 0.8 else b"%04X" % size
        if source.random() < oddness:
            odd = source.choice(_ODD_SIZES)
            shown = odd + shown if source.random() < 0.5 else shown + odd
        out += shown + source.choice(_EXTENSIONS)
        out += _line_end(source, oddness) + piece + _line_end(source, oddness)
    out += b"0" + _line_end(source, oddness)
    for _ in range(source.choice((0, 0, 0, 1, 2))):
        out += source.choice((b"X-T: 1", b"Content-Length: 5", b"X")[: 3 if source.random() < oddness else 2])
        out += _line_end(source, oddness)
    return out + _line_end(source, oddness)


def _line_end(source: random.Random, oddness: float) -> bytes:
    return source.choice(_ENDS) if source.random() < oddness / 2 else b"\r\n"


def stream(source: random.Random, oddness: float = 0.05) -> bytes:
    """Return one to three requests and the marker."""
    return b"".join(request(source, oddness) for _ in range(source.randrange(1, 4))) + MARKER


def mutated(source: random.Random, most: int = 4) -> bytes:
    """Return one or two cases of the table and the marker, with some bytes changed, dropped, added or moved."""
    small = [case.data for case in CASES if not case.large]
    data = bytearray(b"".join(source.choices(small, k=source.randrange(1, 3))) + MARKER)
    for _ in range(source.randrange(most + 1)):
        at = source.randrange(len(data))
        kind = source.randrange(5)
        if kind == 0:
            data[at] = source.choice(_BYTES) if source.random() < 0.7 else source.randrange(256)
        elif kind == 1:
            del data[at : at + source.randrange(1, 4)]
        elif kind == 2:
            data[at:at] = bytes(source.choices(_BYTES, k=source.randrange(1, 4)))
        elif kind == 3:
            length = source.randrange(1, 30)
            other = source.randrange(len(data))
            data[at:at] = data[other : other + length]
        else:
            data[at:at] = source.choice((*_ODD_HEADERS, *_ENDS, *_HEADERS)) + b"\r\n"
    return bytes(data)


def fragments(source: random.Random, data: bytes, most: int = 6) -> list[bytes]:
    """Cut at up to `most` places; several cuts may be next to each other."""
    places = sorted({source.randrange(len(data) + 1) for _ in range(source.randrange(1, most + 1))})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]
