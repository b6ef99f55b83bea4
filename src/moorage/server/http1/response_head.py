"""Response heads: status line and headers as bytes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CONTINUE", "head", "refusal"]

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


_LINES: Final = {status: f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode() for status in range(200, 600)}


def head(status: int, headers: Iterable[tuple[bytes, bytes]], extra: bytes) -> bytes:
    """Return a response head; `extra` are further header lines, each with its CR LF.

    Raises ValueError for a name or value that contains a line end (response splitting).
    """
    lines = [name + b": " + value for name, value in headers]
    text = b"\r\n".join(lines)
    count = len(lines) - 1 if lines else 0
    if text.count(b"\n") != count or text.count(b"\r") != count:
        raise ValueError("a response header contains a line end")
    return b"".join((_LINES[status], text, b"\r\n" if lines else b"", extra, b"\r\n"))


def refusal(status: int, text: str, date: bytes) -> bytes:
    """Return the complete response to a malformed request, with `Connection: close`."""
    body = text.encode("ascii", "replace") + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return head(status, headers, date) + body
