"""A registry in memory that fails as it is instructed: for tests of everything that reads from other registries.

In the event loop of a test:

    async with FaultyRegistry() as upstream:
        digest = upstream.add_image("library/app", "1", [b"layer"])
        upstream.fail("/blobs/", cut_after=3, times=1)      # the first blob request; the next one succeeds
        client = RegistryClient(parse_endpoint(upstream.url))
        ...
        assert upstream.requests["GET", f"/v2/library/app/manifests/{digest}"] == 1

Beside a test that has no loop, or whose subject is another process (`upstream.host` is `127.0.0.1:PORT`):

    with FaultyRegistry().in_thread() as upstream:
        ...

Logins: `FaultyRegistry(basic=("user", "password"))`, or `bearer=` for a token server at `/token` of the same port;
`anonymous=True` lets the token server issue tokens without a password.  Faults are `Fault`s: the first one whose
`path` (a part of the path with its query) and `method` match, and whose `times` are not used up, applies.  A
`Gate` holds a response at an offset until the test releases it, so no test sleeps.  `redirect_blobs` sends the
GET of blobs to another root URL, which may be a second registry's.

It also accepts uploads, mounts, manifests and deletions of uploads, without checking what a manifest refers to.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.upstream.faulty_http import LIMIT_S, Fault, Gate, ReceivedRequest, Response, read_request, send_response

from moorage.types import Digest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Fault", "FaultyRegistry", "Gate", "ReceivedRequest"]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"


_HEALTHY: Final = Fault()


@dataclass
class _Repository:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class FaultyRegistry:
    """See the module docstring.  `requests` counts by method and path, `received` keeps every request."""

    def __init__(
        self,
        *,
        basic: tuple[str, str] | None = None,
        bearer: tuple[str, str] | None = None,
        anonymous: bool = False,
        realm: str | None = None,
        referrers: bool = True,
        page_size: int = 1000,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`realm` replaces the URL of the token server; without `referrers` there is only the tag scheme."""
        self.requests: Counter[tuple[str, str]] = Counter()
        self.received: list[ReceivedRequest] = []
        self.faults: list[Fault] = []
        self.redirect_blobs: str | None = None
        self.token_lifetime_s: int | None = 300
        self.tokens: dict[str, str] = {}
        self._basic = basic
        self._bearer = bearer
        self._anonymous = anonymous
        self._realm = realm
        self._referrers = referrers
        self._page_size = page_size
        self._tls = tls
        self._repositories: dict[str, _Repository] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.host}"

    # Content

    def add_blob(self, name: str, data: bytes) -> Digest:
        """Add a blob to a repository."""
        digest = Digest.of(data)
        self._repository(name).blobs[digest] = data
        return digest

    def add_manifest(
        self, name: str, data: bytes, media_type: str = OCI_MANIFEST, *, tag: str | None = None
    ) -> Digest:
        """Add any bytes as a manifest, and set the tag."""
        digest = Digest.of(data)
        repository = self._repository(name)
        repository.manifests[digest] = (media_type, data)
        if tag is not None:
            repository.tags[tag] = digest
        return digest

    def add_image(
        self, name: str, tag: str | None, layers: Sequence[bytes] = (b"layer",), **members: Any
    ) -> Digest:
        """Add an image with these layers; `members` are further ones of its manifest (subject, annotations)."""
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._described(name, config.encode(), OCI_CONFIG),
            "layers": [self._described(name, layer, OCI_LAYER) for layer in layers],
            **members,
        }
        return self.add_manifest(name, json.dumps(manifest).encode(), tag=tag)

    def add_index(self, name: str, tag: str | None, children: Mapping[str, Digest]) -> Digest:
        """Add an index; `children` are digests of manifests by platform (`linux/amd64`)."""
        entries = []
        for platform, digest in children.items():
            system, _, architecture = platform.partition("/")
            media_type, data = self._repository(name).manifests[digest]
            entries.append(
                {
                    "mediaType": media_type,
                    "digest": digest,
                    "size": len(data),
                    "platform": {"os": system, "architecture": architecture},
                }
            )
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return self.add_manifest(name, json.dumps(index).encode(), OCI_INDEX, tag=tag)

    def tags_of(self, name: str) -> dict[str, str]:
        """Return the digests of the tags of a repository."""
        return self._repository(name).tags

    def manifest_of(self, name: str, digest: str) -> bytes:
        """Return the bytes of a manifest."""
        return self._repository(name).manifests[digest][1]

    def manifests_of(self, name: str) -> dict[str, tuple[str, bytes]]:
        """Return media type and bytes of the manifests of a repository by their digests."""
        return self._repository(name).manifests

    def blobs_of(self, name: str) -> dict[str, bytes]:
        """Return the blobs of a repository by their digests."""
        return self._repository(name).blobs

    def _described(self, name: str, data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.add_blob(name, data), "size": len(data)}

    def _repository(self, name: str) -> _Repository:
        return self._repositories.setdefault(name, _Repository())

    def fail(self, path: str = "", **fault: Any) -> Fault:
        """Add a `Fault` for paths that contain `path`."""
        added = Fault(path, **fault)
        self.faults.append(added)
        return added

    def recover(self) -> None:
        """Remove all faults; responses that are being held stay."""
        self.faults.clear()

    # Running

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=1 << 20, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Run in a thread with an event loop of its own."""
        ready, failed = threading.Event(), list[BaseException]()
        stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

        async def main() -> None:
            async with self:
                stop.append((asyncio.get_running_loop(), asyncio.Event()))
                ready.set()
                await stop[0][1].wait()

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:
                failed.append(error)
                ready.set()
                raise

        thread = threading.Thread(target=run, name="faulty-registry")
        thread.start()
        try:
            assert ready.wait(LIMIT_S)
            if failed:
                raise failed[0]
            yield self
        finally:
            for loop, event in stop:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(event.set)
            thread.join(LIMIT_S)
            assert not thread.is_alive()

    # Serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await read_request(reader, writer)) is not None:
                if not await self._respond(request, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test has ended
        finally:
            self._connections.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _respond(self, request: ReceivedRequest, writer: asyncio.StreamWriter) -> bool:
        """Send the response; return whether the connection stays open."""
        self.requests[request.method, request.path] += 1
        self.received.append(request)
        fault = next(
            (one for one in self.faults if one.matches(request.method, unquote(request.target))), _HEALTHY
        )
        if fault is not _HEALTHY:
            fault.used += 1
        if fault.hold is not None and fault.hold_at is None:
            await fault.hold.wait()
        if fault.disconnect:
            return False
        response = self._faulty(fault, request)
        return await send_response(response, fault, writer, with_body=request.method != "HEAD")

    def _faulty(self, fault: Fault, request: ReceivedRequest) -> Response:
        if fault.status is None:
            response = self._answer(request)
        else:
            response = _error(fault.status, "FAULT", "as instructed")
        if fault.body is not None:
            response.body = fault.body
        if fault.corrupt_at is not None:
            corrupted = bytearray(response.body)
            corrupted[fault.corrupt_at] ^= 0xFF
            response.body = bytes(corrupted)
        response.headers |= fault.headers
        return response

    def _answer(self, request: ReceivedRequest) -> Response:
        if request.path == "/token":
            return self._token(request)
        if not self._authorized(request):
            return self._challenge(request)
        if request.path == "/v2/":
            return _json({})
        if request.path == "/v2/_catalog":
            names = sorted(name for name, found in self._repositories.items() if found.manifests)
            return self._page(request, names, {"repositories": []}, "repositories")
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs/uploads|blobs|tags|referrers)/(.*)", request.path)
        if match is None:
            return _error(404, "NOT_FOUND", "no such endpoint")
        name, kind, rest = match.groups()
        if kind == "blobs/uploads":
            return self._upload(request, name)
        if kind == "manifests":
            return self._manifest(request, name, rest)
        if kind == "blobs":
            return self._blob(request, name, rest)
        if kind == "tags":
            tags = sorted(self._repository(name).tags)
            if not self._repository(name).manifests:
                return _error(404, "NAME_UNKNOWN", "repository name not known to registry")
            return self._page(request, tags, {"name": name, "tags": []}, "tags")
        return self._list_referrers(name, rest)

    # Logins

    def _authorized(self, request: ReceivedRequest) -> bool:
        sent = request.headers.get("authorization", "")
        if self._basic is not None:
            return sent == _basic(self._basic)
        if self._bearer is not None:
            return sent.removeprefix("Bearer ") in self.tokens
        return True

    def _challenge(self, request: ReceivedRequest) -> Response:
        response = _error(401, "UNAUTHORIZED", "authentication required")
        if self._basic is not None:
            response.headers["WWW-Authenticate"] = 'Basic realm="faulty"'
            return response
        match = re.fullmatch(r"/v2/(.+?)/(?:manifests|blobs|tags|referrers)/.*", request.path)
        actions = "pull" if request.method in {"GET", "HEAD"} else "pull,push"
        scope = f',scope="repository:{match[1]}:{actions}"' if match else ""
        realm = self._realm or f"{self.url}/token"
        response.headers["WWW-Authenticate"] = f'Bearer realm="{realm}",service="faulty"{scope}'
        return response

    def _token(self, request: ReceivedRequest) -> Response:
        form = {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
        assert self._bearer is not None
        by_password = request.headers.get("authorization") == _basic(self._bearer)
        by_identity = request.method == "POST" and form.get("refresh_token") == self._bearer[1]
        without = self._anonymous and "authorization" not in request.headers and request.method == "GET"
        if not (by_password or by_identity or without):
            return _error(401, "UNAUTHORIZED", "wrong user or password")
        token = f"token-{len(self.tokens)}-of-this-test"
        self.tokens[token] = unquote(urlsplit(request.target).query)
        document: dict[str, Any] = {"access_token" if by_identity else "token": token}
        if self.token_lifetime_s is not None:
            document["expires_in"] = self.token_lifetime_s
        return _json(document)

    # Operations

    def _manifest(self, request: ReceivedRequest, name: str, reference: str) -> Response:
        repository = self._repository(name)
        if request.method == "PUT":
            media_type = request.headers.get("content-type", "")
            algorithm = reference.partition(":")[0] if ":" in reference else "sha256"
            digest = Digest.of(request.body, algorithm)
            if ":" in reference and reference != digest:
                return _error(400, "DIGEST_INVALID", "another digest")
            repository.manifests[digest] = (media_type, request.body)
            if ":" not in reference:
                repository.tags[reference] = digest
            headers = {"Docker-Content-Digest": digest, "Location": request.path}
            if self._referrers and (subject := _subject_of(request.body)) is not None:
                headers["OCI-Subject"] = subject
            return Response(201, headers)
        digest_text = reference if ":" in reference else repository.tags.get(reference, "")
        if digest_text not in repository.manifests:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        media_type, data = repository.manifests[digest_text]
        return Response(200, {"Content-Type": media_type, "Docker-Content-Digest": digest_text}, data)

    def _blob(self, request: ReceivedRequest, name: str, digest: str) -> Response:
        data = self._repository(name).blobs.get(digest)
        if data is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if self.redirect_blobs is not None and request.method == "GET":
            return Response(307, {"Location": f"{self.redirect_blobs}{request.path}?X-Amz-Signature=signed"})
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if wanted is None:
            return Response(200, headers, data)
        start = int(wanted[1])
        if start >= len(data):
            return _error(416, "RANGE_INVALID", "invalid content range")
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Response(206, headers, data[start:])

    def _upload(self, request: ReceivedRequest, name: str) -> Response:
        if request.method == "POST":
            digest, source = request.query.get("mount"), request.query.get("from", "")
            if digest is not None and digest in self._repository(source).blobs:
                self._repository(name).blobs[digest] = self._repository(source).blobs[digest]
                return Response(201, {"Location": f"/v2/{name}/blobs/{digest}"})
            location = f"/v2/{name}/blobs/uploads/1?_state=signed-state"
            return Response(202, {"Location": location})
        if request.method == "DELETE":
            return Response(204)
        digest = Digest.of(request.body)
        if request.query.get("digest") != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self._repository(name).blobs[digest] = request.body
        return Response(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _page(self, request: ReceivedRequest, names: list[str], document: dict[str, Any], key: str) -> Response:
        size = min(int(request.query.get("n", self._page_size)), self._page_size)
        names = [name for name in names if name > request.query.get("last", "")]
        response = _json({**document, key: names[:size]})
        if len(names) > size:
            response.headers["Link"] = f'<{request.path}?n={size}&last={names[size - 1]}>; rel="next"'
        return response

    def _list_referrers(self, name: str, subject: str) -> Response:
        if not self._referrers:
            return Response(404, {"Content-Type": "text/plain"}, b"404 page not found\n")
        entries = []
        for digest, (media_type, data) in self._repository(name).manifests.items():
            if _subject_of(data) == subject:
                document = json.loads(data)
                kind = document.get("artifactType") or document.get("config", {}).get("mediaType")
                entry = {"mediaType": media_type, "digest": digest, "size": len(data), "artifactType": kind}
                if annotations := document.get("annotations"):
                    entry["annotations"] = annotations
                entries.append(entry)
        response = _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        response.headers["Content-Type"] = OCI_INDEX
        return response


def _subject_of(data: bytes) -> str | None:
    """Return the digest of the subject of a manifest, or of any other bytes None."""
    try:
        digest: str = json.loads(data)["subject"]["digest"]
    except (ValueError, KeyError, TypeError):
        return None
    return digest


def _json(document: Mapping[str, Any]) -> Response:
    return Response(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


def _error(status: int, code: str, message: str) -> Response:
    response = _json({"errors": [{"code": code, "message": message}]})
    response.status = status
    return response


def _basic(pair: tuple[str, str]) -> str:
    return f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}"
