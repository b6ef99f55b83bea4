"""An S3 store for tests: moto in a thread of this process, or the one that the environment names.

    MOORAGE_S3_ENDPOINT       http://127.0.0.1:8000: a server with its own truth (Ceph radosgw, Swift's s3api, ...)
    MOORAGE_S3_ACCESS_KEY, MOORAGE_S3_SECRET_KEY, MOORAGE_S3_REGION     the account to use there
    MOORAGE_S3_EXACT=0        its conditional writes are not exact: racing ones may all win
    MOORAGE_S3_STORE          its name, for the reasons of tests that cannot hold there

`python3 dev.py stores` starts such servers and sets these.  Every test gets a bucket of its own, which is emptied
afterwards.

`front()` is a proxy in front of the store: it counts requests, and a test may answer some of them itself
(`Front.trouble`), which makes failures of the store.  moto has nothing else; another store is reached through
it by buckets made with `watched=True`, and without it directly.
"""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from moorage.storage.object_store.driver import ObjectDriver
from moorage.storage.s3.options import S3Options
from moorage.storage.s3.store import S3Store
from tests.stores.forwarding import forwarding

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Bucket", "Front", "Request", "Trouble", "a_bucket", "cannot_hold", "front", "is_moto"]

_AT_ONCE: Final = 8
_DELETED: Final = 1000
"""Keys that one request may delete."""


@dataclass(frozen=True)
class Request:
    """One request that the store got."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' + self.query if self.query else ''}"


@dataclass(frozen=True)
class Trouble:
    """An answer that the store does not give.  `done`: it has done what was asked, and its answer is lost."""

    status: int
    code: str
    done: bool = False


@dataclass
class Front:
    """The server before the store.  `trouble` may answer a request in its place; None lets it through, without the
    headers in `ignored`; `edit` may change the body of the answer.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    trouble: Callable[[Request], Trouble | None] | None = None
    ignored: set[str] = field(default_factory=set)
    edit: Callable[[Request, bytes], bytes] | None = None
    app: Any = None

    @contextmanager
    def over_tls(self, context: ssl.SSLContext) -> Iterator[str]:
        """The same server, also with TLS; its address."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class KeepAlive(WSGIRequestHandler):
            """Connections stay open for the client to close.

            aiohttp does not wait for the end of TLS on a connection that the server closes: under load it is still
            open when the test's event loop ends.
            """

            protocol_version = "HTTP/1.1"

            def send_header(self, keyword: str, value: str) -> None:
                if keyword.lower() != "connection":
                    super().send_header(keyword, value)

        server = make_server(
            "127.0.0.1", 0, self.app, threaded=True, request_handler=KeepAlive, ssl_context=context
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def reset(self) -> None:
        self.requests.clear()
        self.ignored.clear()
        self.trouble = self.edit = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def application(self, inner: Any) -> Any:
        """WSGI around the store's."""

        def answer(environ: dict[str, Any], start: Any) -> Any:
            headers = {
                name[5:].lower().replace("_", "-"): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            request = Request(
                environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", ""), headers
            )
            self.requests.append(request)
            refusal = self.trouble(request) if self.trouble is not None else None
            for name in self.ignored:
                environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
            if refusal is None:
                return inner(environ, start) if self.edit is None else self._edited(inner, environ, start, request)
            if refusal.done:
                list(inner(environ, lambda *_: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{refusal.code}</Code><Message>made by a test</Message></Error>".encode()
            headers_out = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start(f"{refusal.status} Trouble", headers_out)
            return [b"" if request.method == "HEAD" else body]

        return answer

    def _edited(self, inner: Any, environ: dict[str, Any], start: Any, request: Request) -> Any:
        reported: list[Any] = []
        body = b"".join(inner(environ, lambda *arguments: reported.extend(arguments)))
        assert self.edit is not None
        body = self.edit(request, body)
        headers = [(name, value) for name, value in reported[1] if name.lower() != "content-length"]
        start(reported[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]


@cache
def front() -> Front:
    """Started once for all tests of this process, and gone with it."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Discard the line."""

    found = Front()
    found.app = found.application(_behind())
    server = make_server("127.0.0.1", 0, found.app, threaded=True, request_handler=Quiet)
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, name="front of the store", daemon=True).start()
    return found


def _behind() -> Any:
    if not is_moto():
        return forwarding(os.environ["MOORAGE_S3_ENDPOINT"])
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


def cannot_hold(reason: str) -> NoReturn:
    """The store has no such feature: report the reason, and count the test as excused."""
    pytest.skip(f"cannot hold on {os.environ.get('MOORAGE_S3_STORE', 'moto' if is_moto() else 'it')}: {reason}")


def is_moto() -> bool:
    """False where the environment names another server; some of moto's habits are its own."""
    return "MOORAGE_S3_ENDPOINT" not in os.environ


@dataclass(frozen=True)
class Bucket:
    """One test's bucket."""

    endpoint: str
    name: str
    access_key: str
    secret_key: str
    region: str

    def options(self, **other: Any) -> S3Options:
        usual: dict[str, Any] = {
            "bucket": self.name,
            "regionendpoint": self.endpoint,
            "accesskey": self.access_key,
            "secretkey": self.secret_key,
            "region": self.region,
        }
        return S3Options(**{**usual, **other})

    def driver(self, **other: Any) -> ObjectDriver:
        return ObjectDriver.with_chunk_log(S3Store(self.options(**other)))

    def settings(self, **other: Any) -> dict[str, Any]:
        """The section `storage.s3`."""
        usual = {
            "bucket": self.name,
            "regionendpoint": self.endpoint,
            "accesskey": self.access_key,
            "secretkey": self.secret_key,
            "region": self.region,
        }
        return {**usual, **other}

    @property
    def client(self) -> Any:
        """boto3's, for looking behind the driver's back."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def keys(self) -> dict[str, int]:
        """Every object and its size."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", ())}

    def in_progress(self) -> list[str]:
        """The keys of multipart uploads that are neither completed nor aborted."""
        return [entry["Key"] for entry in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


def _delete(client: Any, name: str, keys: Sequence[str]) -> None:
    if is_moto():
        for start in range(0, len(keys), _DELETED):
            entries = [{"Key": key} for key in keys[start : start + _DELETED]]
            answer = client.delete_objects(Bucket=name, Delete={"Objects": entries})
            assert not answer.get("Errors"), answer
        return
    # One by one, since not all take a list; a few at once, since some take their time.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda key: client.delete_object(Bucket=name, Key=key), keys))


@contextmanager
def a_bucket(*, watched: bool = False) -> Iterator[Bucket]:
    """A new bucket, removed with all it holds.  `watched`: reached through `front()`."""
    name = f"moorage-{secrets.token_hex(8)}"
    watched = watched or is_moto()
    endpoint = front().endpoint if watched else os.environ["MOORAGE_S3_ENDPOINT"]
    bucket = Bucket(
        endpoint,
        name,
        os.environ.get("MOORAGE_S3_ACCESS_KEY", "AK"),
        os.environ.get("MOORAGE_S3_SECRET_KEY", "SK"),
        os.environ.get("MOORAGE_S3_REGION", "us-east-1"),
    )
    client = bucket.client
    client.create_bucket(Bucket=name)
    if watched:
        front().reset()
    try:
        yield bucket
    finally:
        if watched:
            front().reset()
        for entry in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=name, Key=entry["Key"], UploadId=entry["UploadId"])
        _delete(client, name, [*bucket.keys()])
        client.delete_bucket(Bucket=name)
        client.close()
