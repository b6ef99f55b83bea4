"""A client in the test's own process, which holds every answer to what is promised of all answers.

`Client.send` is one request; the methods below it are the requests that many tests need, and `push` asserts that
all of it was taken.  Paths are sent unchanged, except that httpx resolves `.` and `..`: write `%2e`.

Source: docs/reference/http-api.md, sections 1.3 (the JSON of errors), 1.4 (headers), 1.6 (HEAD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from moorage.testing.builders import Built
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Body = bytes | AsyncIterator[bytes] | None
    Headers = Mapping[str, str] | Sequence[tuple[str, str]]

__all__ = ["ABSENT", "NAME", "OTHER", "Client", "codes", "detail", "links", "pieces"]

NAME: Final = "library/app"
OTHER: Final = "team/other"
ABSENT: Final = Digest.of(b"never pushed")


class Client:
    """Requests to one application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._watched = _Watched(app)
        transport = httpx.ASGITransport(self._watched)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://registry.test")
        del self._http.headers["accept"]

    async def send(
        self, method: str, target: str, body: Body = None, headers: Headers | None = None
    ) -> httpx.Response:
        """One request; `target` is a path or a Location.  A body in pieces goes without Content-Length."""
        answer = await self._http.request(method, target, content=body, headers=headers)
        if answer.url.path.startswith("/v2"):
            assert answer.headers["docker-distribution-api-version"] == "registry/2.0", (method, target)
        if method == "HEAD":
            assert self._watched.body_bytes == 0, f"HEAD {target} has a body"
        elif answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["content-length"] == str(len(answer.content))
            assert answer.json()["errors"], "at least one entry"
            for entry in answer.json()["errors"]:
                assert entry.keys() <= {"code", "message", "detail"}
                assert entry["code"].replace("_", "").isupper()
        return answer

    async def get(self, target: str, headers: Headers | None = None) -> httpx.Response:
        return await self.send("GET", target, headers=headers)

    async def start_upload(self, name: str = NAME, query: str = "", body: Body = None) -> httpx.Response:
        return await self.send("POST", f"/v2/{name}/blobs/uploads/{query}", body)

    async def location(self, name: str = NAME, query: str = "") -> str:
        """Start an upload and return its Location."""
        answer = await self.start_upload(name, query)
        assert answer.status_code == 202
        return str(answer.headers["location"])

    async def patch(self, location: str, body: Body, span: str | None = None) -> httpx.Response:
        return await self.send("PATCH", location, body, {} if span is None else {"content-range": span})

    async def finish(
        self, location: str, digest: Digest | str, body: Body = b"", span: str | None = None
    ) -> httpx.Response:
        target = f"{location}&digest={quote(str(digest), safe='')}"
        return await self.send("PUT", target, body, {} if span is None else {"content-range": span})

    async def blob(self, digest: Digest | Built | str, name: str = NAME, **headers: str) -> httpx.Response:
        """GET; underscores in the names of `headers` mean hyphens."""
        return await self.get(f"/v2/{name}/blobs/{_text(digest)}", _headers(headers))

    async def manifest(
        self, reference: Digest | Built | str, name: str = NAME, method: str = "GET", **headers: str
    ) -> httpx.Response:
        return await self.send(method, f"/v2/{name}/manifests/{_text(reference)}", None, _headers(headers))

    async def put(
        self,
        reference: Digest | Built | str,
        manifest: Built,
        name: str = NAME,
        media_type: str | None = None,
        **headers: str,
    ) -> httpx.Response:
        """PUT of a manifest; what it names must be there."""
        given = {"content-type": manifest.media_type if media_type is None else media_type, **_headers(headers)}
        return await self.send("PUT", f"/v2/{name}/manifests/{_text(reference)}", manifest.data, given)

    async def push_blob(self, blob: Built, name: str = NAME) -> Built:
        answer = await self.finish(await self.location(name), blob.digest, blob.data)
        assert answer.status_code == 201
        return blob

    async def push(self, manifest: Built, *tags: str, name: str = NAME) -> Built:
        """Everything that the manifest names, then itself by digest, then the tags."""
        for part in manifest.closure:
            if not part.is_manifest:
                await self.push_blob(part, name)
            else:
                assert (await self.put(part, part, name)).status_code == 201
        for tag in tags:
            assert (await self.put(tag, manifest, name)).status_code == 201
        return manifest


class _Watched:
    """The application, and how much it sent: httpx throws away what follows the headers of a HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.body_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body_bytes = 0

        async def counted(message: Message) -> None:
            self.body_bytes += len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, counted)


def _text(reference: Digest | Built | str) -> str:
    return str(reference.digest if isinstance(reference, Built) else reference)


def _headers(given: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in given.items()}


def codes(answer: httpx.Response) -> list[str]:
    """The error codes of a refusal."""
    return [entry["code"] for entry in answer.json()["errors"]]


def detail(answer: httpx.Response) -> Any:
    """Return the detail of the first entry of an error response."""
    return answer.json()["errors"][0].get("detail")


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for part in parts:
        yield part


def links(answer: httpx.Response) -> str | None:
    """The target of `Link: <...>; rel="next"`, taken apart as skopeo does; None if there is no further page."""
    header = answer.headers.get("link")
    if header is None:
        return None
    target, _, rest = header.partition(";")
    assert rest.strip() == 'rel="next"'
    assert target.startswith("</"), "crane and oras refuse another scheme or host"
    return str(target.strip("<>"))
