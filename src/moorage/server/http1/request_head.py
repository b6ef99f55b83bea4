"""Request heads: the request line and the header section, parsed by llhttp with a stricter grammar on top.

llhttp (httptools) parses one head at a time and never sees a body: `connection.py` finds the end of the head, and
`request_body.py` decodes the body.  So the parser cannot run ahead into pipelined requests, and nothing depends
on the position at which its callbacks stop.

Beyond llhttp's strict mode this refuses requests that proxies and servers are known to interpret differently
(request smuggling): more than one Host, a Transfer-Encoding other than `chunked`, chunked bodies of HTTP/1.0,
white space around the request target, targets with control characters, fragments or another authority than Host.

Source: RFC 9112 sections 2 to 6, RFC 9110 sections 4.2, 7.2 and 10.1.1; docs/decisions/0011-http-server.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import httptools

if TYPE_CHECKING:
    from moorage.server.http1.options import Http1Options

__all__ = ["HeadRefused", "RequestHead", "early_refusal", "parse_head"]

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
_ABSOLUTE: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)([/?].*)?")
_BARE_LF: Final = re.compile(rb"(?:^|[^\r])\n")
_CR: Final = 0x0D
_TLS_HANDSHAKE: Final = 0x16
_LENGTH_LIMIT: Final = 1 << 63
_LENGTH_DIGITS: Final = 100
_SPACE: Final = b" \t"
_SLASH: Final = 0x2F
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HeadRefused(Exception):
    """The head is refused; `status` and `text` are sent to the client, and the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(slots=True)
class RequestHead:
    """One parsed head.  `headers` have lower-case names; `content_length` is None without such a header.

    `section` are the bytes of the header section.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    section: bytes = b""
    content_length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False


class _Collector:
    """Collects headers from llhttp's callbacks."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def parse_head(data: bytes, options: Http1Options, previous: RequestHead | None = None) -> RequestHead:
    """Parse a complete head, its terminating empty line included.  Raises `HeadRefused`.

    `previous` is the preceding head on the same connection: clients repeat their headers, and an identical header
    section is not parsed again.
    """
    method, target, version, end = _request_line(data, options)
    section = data[end:]
    if (
        previous is not None
        and section == previous.section
        and version == previous.version
        and method in _METHODS
        and target[0] == _SLASH
    ):
        path, raw_path, query, _ = _target(method, target)
        return _with_target(previous, method, path, raw_path, query)
    if data.count(b"\n") - 2 > options.header_limit_count:
        raise HeadRefused(431, f"more than {options.header_limit_count} header lines")
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # another protocol is offered; RFC 9110 section 7.8 allows a server to keep HTTP/1.1
    except httptools.HttpParserInvalidMethodError as error:
        raise HeadRefused(501, f"unknown method {method}") from error
    except httptools.HttpParserError as error:
        raise HeadRefused(400, f"malformed request: {error}") from error
    path, raw_path, query, authority = _target(method, target)
    head = RequestHead(
        method, path, raw_path, query, version, collector.headers, section, keep_alive=version == "1.1"
    )
    _read_headers(head, authority)
    return head


def _with_target(previous: RequestHead, method: str, path: str, raw_path: bytes, query: bytes) -> RequestHead:
    """Return a head with the headers of `previous`."""
    return RequestHead(
        method,
        path,
        raw_path,
        query,
        previous.version,
        previous.headers.copy(),
        previous.section,
        previous.content_length,
        previous.chunked,
        previous.keep_alive,
        previous.expects_continue,
    )


def early_refusal(partial: bytes | bytearray, options: Http1Options) -> HeadRefused | None:
    """Return the refusal of an incomplete head that cannot become valid; None if it still may."""
    if partial[0] == _TLS_HANDSHAKE:
        return HeadRefused(400, "a TLS handshake was sent to a port that serves plain HTTP")
    if partial[0] == _CR and len(partial) > 1:
        return HeadRefused(400, "malformed request line")
    line_end = partial.find(b"\n")
    if line_end < 0 and len(partial) > options.request_line_limit_bytes:
        return HeadRefused(414, f"the request line is longer than {options.request_line_limit_bytes} bytes")
    if len(partial) > options.header_limit_bytes + options.request_line_limit_bytes:
        return HeadRefused(431, f"the header section is longer than {options.header_limit_bytes} bytes")
    if line_end >= 0 and _BARE_LF.search(partial):
        return HeadRefused(400, "malformed request: a line ends without CR")
    return None


def _request_line(data: bytes, options: Http1Options) -> tuple[str, bytes, str, int]:
    """Return method, request target, HTTP version and the offset after the line.  Raises `HeadRefused`."""
    end = data.find(b"\r\n") + 2
    if end > options.request_line_limit_bytes:
        raise HeadRefused(414, f"the request line is longer than {options.request_line_limit_bytes} bytes")
    if len(data) - end > options.header_limit_bytes:
        raise HeadRefused(431, f"the header section is longer than {options.header_limit_bytes} bytes")
    match = _REQUEST_LINE.match(data)
    if match is None or match.end() != end:
        raise HeadRefused(400, "malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise HeadRefused(505, f"HTTP/{major.decode()} is not supported on this connection; use HTTP/1.1")
    return method.decode("ascii"), target, "1.0" if minor == b"0" else "1.1", end


def _target(method: str, target: bytes) -> tuple[str, bytes, bytes, bytes | None]:
    """Return the decoded path, the raw path, the query and the authority of an absolute target.

    Raises `HeadRefused`.
    """
    authority = None
    if method == "CONNECT":
        raise HeadRefused(405, "CONNECT is not supported: this is no proxy")
    if b"#" in target:
        raise HeadRefused(400, "malformed request target: fragments are not sent to servers")
    if target == b"*":
        if method != "OPTIONS":
            raise HeadRefused(400, "malformed request target: * is for OPTIONS only")
        return "*", b"*", b"", None
    if not target.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(target)
        if match is None or b"@" in match[1]:
            raise HeadRefused(400, "malformed request target")
        authority = match[1]
        target = match[2] or b"/"
        if not target.startswith(b"/"):
            target = b"/" + target
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    return (unquote(path) if "%" in path else path), raw_path, query, authority


def _read_headers(head: RequestHead, authority: bytes | None) -> None:
    """Evaluate the headers for message framing, Host, Expect and connection persistence.

    Raises `HeadRefused`.
    """
    host: bytes | None = None
    for index, (name, value) in enumerate(head.headers):
        if value[-1:] in _SPACE and value:
            value = value.rstrip(_SPACE)  # noqa: PLW2901  llhttp leaves trailing white space
            head.headers[index] = (name, value)
        if name == b"host":
            if host is not None:
                raise HeadRefused(400, "more than one Host header")
            host = value
        elif name == b"connection":
            _connection(head, value)
        elif name == b"content-length":
            # llhttp has refused signs, lists, repetitions and the combination with Transfer-Encoding.
            if len(value) > _LENGTH_DIGITS:
                raise HeadRefused(400, "Content-Length is too long")
            head.content_length = int(value)
        elif name == b"transfer-encoding":
            _transfer_encoding(head, value)
        elif name == b"expect":
            _expect(head, value)
    if (head.content_length or 0) >= _LENGTH_LIMIT:
        raise HeadRefused(400, "Content-Length is too large")
    if host is None:
        if head.version == "1.1":
            raise HeadRefused(400, "a request of HTTP/1.1 needs a Host header")
    elif not _HOST.fullmatch(host):
        raise HeadRefused(400, "malformed Host header")
    if authority is not None and host is not None and authority.lower() != host.lower():
        raise HeadRefused(400, "the request target names another host than the Host header")


def _connection(head: RequestHead, value: bytes) -> None:
    tokens = [token.strip() for token in value.lower().split(b",")]
    if b"close" in tokens:
        head.keep_alive = False
    elif b"keep-alive" in tokens and head.version == "1.0" and not _has_close(head):
        head.keep_alive = True


def _has_close(head: RequestHead) -> bool:
    """Return whether any Connection header has `close`, which takes precedence over `keep-alive`."""
    return any(name == b"connection" and b"close" in value.lower() for name, value in head.headers)


def _transfer_encoding(head: RequestHead, value: bytes) -> None:
    """Evaluate Transfer-Encoding.  Raises `HeadRefused`."""
    if head.version == "1.0":
        raise HeadRefused(400, "Transfer-Encoding in a request of HTTP/1.0")
    if head.chunked or value.lower() != b"chunked":
        raise HeadRefused(501, "only the transfer coding `chunked` is supported, once")
    head.chunked = True


def _expect(head: RequestHead, value: bytes) -> None:
    """Evaluate Expect.  Raises `HeadRefused`."""
    if head.version == "1.0":
        return
    if value.lower() != b"100-continue":
        raise HeadRefused(417, "only the expectation 100-continue is supported")
    head.expects_continue = True
