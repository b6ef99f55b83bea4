"""Google's service as the libraries of CNCF Distribution ask it, over the same buckets as `storage/gcs/server.py`.

Those use calls that Moorage does not make: objects in one request with their metadata (`multipart`),
`copyTo`, the XML API with a token in place of a signature, and sessions with one.  Moorage is not let near it, so
that its own server stays as strict as it is.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from aiohttp import web
from tests.storage.gcs.model import Stored, resource
from tests.storage.gcs.server import GcsServer, serve_in_a_thread, server

if TYPE_CHECKING:
    from aiohttp.web import Request

__all__ = ["google"]


class _Google(GcsServer):
    @property
    def endpoint(self) -> str:
        """Sessions are the strict one's, so that Moorage finds them at the address that it was given."""
        return server().endpoint

    def _route(self, method: str, path: str, query: dict[str, str]) -> tuple[Any, list[str], str]:
        if method == "POST" and path == "/o/oauth2/token":
            return self._token, [], "token"
        copied = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)/copyTo/b/([^/]+)/o/([^/]+)", path)
        if method == "POST" and copied is not None:
            return self._rewrite_at_once, [unquote(part) for part in copied.groups()], "copy"
        read = re.fullmatch(r"/((?!storage/|upload/|session/)[^/]+)/(.+)", path)
        if method in {"GET", "HEAD"} and read is not None and "X-Goog-Signature" not in query:
            return self._media, [unquote(part) for part in read.groups()], "xml"
        return super()._route(method, path, query)

    def _insert(self, request: Request, body: bytes, bucket: str) -> web.Response:
        query = dict(request.query)
        if query["uploadType"] != "multipart":
            return super()._insert(request, body, bucket)
        (_, about), (headers, data) = _parts(request.headers["Content-Type"], body)
        output: dict[str, Any] = json.loads(about)
        name = output.get("name", query.get("name"))
        assert name
        self._condition(bucket, name, query)
        kind = re.search(r"(?im)^content-type: *([^\r\n]+)", headers)
        output.setdefault("contentType", kind[1] if kind is not None else "")
        stored = Stored(data, output["contentType"], output.get("metadata", {}))
        return web.json_response(resource(name, self._store(bucket, name, stored)))

    def _rewrite_at_once(
        self, request: Request, body: bytes, bucket: str, source: str, target: str, name: str
    ) -> web.Response:
        found, output = self._object(bucket, source), json.loads(body or b"{}") or {}
        stored = Stored(found.data, output.get("contentType", found.kind), output.get("metadata", found.metadata))
        return web.json_response(resource(name, self._store(target, name, stored)))


def _parts(kind: str, body: bytes) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """The two parts of a `multipart/related` body: headers and content of each, with any bytes."""
    boundary = re.search(r'boundary="?([^";]+)', kind)
    assert boundary is not None, kind
    _, first, second, _ = (b"\r\n" + body).split(f"\r\n--{boundary[1]}".encode())
    about, content = (part.removeprefix(b"\r\n").partition(b"\r\n\r\n") for part in (first, second))
    return (about[0].decode(), about[2]), (content[0].decode(), content[2])


@cache
def google() -> GcsServer:
    """Started once for all tests of this process; what it holds is what `server()` holds."""
    strict = server()
    found = _Google(
        buckets=strict.buckets,
        sessions=strict.sessions,
        tokens=strict.tokens,
        audiences=("https://accounts.google.com/o/oauth2/token",),
    )
    serve_in_a_thread(found)
    return found
