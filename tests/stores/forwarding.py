"""A WSGI application that hands every request on to a store, as it is, and its answer back.

The header Host stays that of the client's request, since it is signed.  For `tests/s3.py`, whose front counts
requests and answers some itself: behind it is moto's own application, or this where the store is another program.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["forwarding"]

_PIECE_BYTES: Final = 1 << 18
_LIMIT_S: Final = 300.0
_HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "expect"}


def forwarding(endpoint: str) -> Any:
    """Each request goes to `endpoint` on a connection of its own."""
    address = urlsplit(endpoint).netloc

    def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        connection = http.client.HTTPConnection(address, timeout=_LIMIT_S)
        connection.putrequest(
            environ["REQUEST_METHOD"], environ["REQUEST_URI"], skip_host=True, skip_accept_encoding=True
        )
        for name, value in _headers(environ):
            connection.putheader(name, value)
        connection.putheader("connection", "close")
        connection.endheaders()
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left and (piece := environ["wsgi.input"].read(min(left, _PIECE_BYTES))):
            connection.send(piece)
            left -= len(piece)
        answer = connection.getresponse()
        given = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
        start(f"{answer.status} {answer.reason or 'Answer'}", given)
        return _body(connection, answer)

    return application


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            plain = name[5:].lower().replace("_", "-")
            if plain not in _HOP_BY_HOP:
                yield plain, value
        elif name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value:
            yield name.lower().replace("_", "-"), value


def _body(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := answer.read(_PIECE_BYTES):
            yield piece
    finally:
        connection.close()
