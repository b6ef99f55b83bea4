"""An S3 store for tests: moto in a thread of this process, or the one that the environment names.

    MOORAGE_S3_ENDPOINT       http://127.0.0.1:8000: a server with its own truth (Ceph radosgw, Swift's s3api, ...)
    MOORAGE_S3_ACCESS_KEY, MOORAGE_S3_SECRET_KEY, MOORAGE_S3_REGION     the account to use there
    MOORAGE_S3_EXACT=0        its conditional writes are not exact: racing ones may all win

Every test gets a bucket of its own, which is emptied afterwards.  moto's requests are counted, and a test may
answer some of them itself (`Moto.trouble`): that is how failures of the store are made.
"""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from moorage.storage.object_driver import ObjectDriver
from moorage.storage.s3.objects import S3Objects
from moorage.storage.s3.options import S3Options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

__all__ = ["Bucket", "Moto", "Request", "Trouble", "a_bucket", "is_moto", "moto"]


@dataclass(frozen=True)
class Request:
    """One request that moto got."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}{'?' + self.query if self.query else ''}"


@dataclass(frozen=True)
class Trouble:
    """An answer that moto does not give.  `done`: moto has done what was asked, and its answer is lost."""

    status: int
    code: str
    done: bool = False


@dataclass
class Moto:
    """The server.  `trouble` may answer a request in its place; None lets it through, without the headers in
    `ignored`.
    """

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    trouble: Callable[[Request], Trouble | None] | None = None
    ignored: set[str] = field(default_factory=set)
    app: Any = None

    @contextmanager
    def over_tls(self, context: ssl.SSLContext) -> Iterator[str]:
        """The same server, also with TLS; its address."""
        from werkzeug.serving import make_server

        server = make_server("127.0.0.1", 0, self.app, threaded=True, ssl_context=context)
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
        self.trouble = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def application(self, inner: Any) -> Any:
        """WSGI around moto's."""

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
                return inner(environ, start)
            if refusal.done:
                list(inner(environ, lambda *_: None))
            else:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<Error><Code>{refusal.code}</Code><Message>made by a test</Message></Error>".encode()
            headers_out = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            start(f"{refusal.status} Trouble", headers_out)
            return [b"" if request.method == "HEAD" else body]

        return answer


@cache
def moto() -> Moto:
    """Started once for all tests of this process, and gone with it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nobody reads it."""

    found = Moto()
    found.app = found.application(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, found.app, threaded=True, request_handler=Quiet)
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, name="moto", daemon=True).start()
    return found


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
            "endpoint": self.endpoint,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "region": self.region,
        }
        return S3Options(**{**usual, **other})

    def driver(self, **other: Any) -> ObjectDriver:
        return ObjectDriver(S3Objects(self.options(**other)))

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


@contextmanager
def a_bucket() -> Iterator[Bucket]:
    """A new bucket, removed with all it holds."""
    name = f"moorage-{secrets.token_hex(8)}"
    if is_moto():
        bucket = Bucket(moto().endpoint, name, "AK", "SK", "us-east-1")
    else:
        bucket = Bucket(
            os.environ["MOORAGE_S3_ENDPOINT"],
            name,
            os.environ.get("MOORAGE_S3_ACCESS_KEY", "AK"),
            os.environ.get("MOORAGE_S3_SECRET_KEY", "SK"),
            os.environ.get("MOORAGE_S3_REGION", "us-east-1"),
        )
    client = bucket.client
    client.create_bucket(Bucket=name)
    if is_moto():
        moto().reset()
    try:
        yield bucket
    finally:
        if is_moto():
            moto().reset()
        for entry in client.list_multipart_uploads(Bucket=name).get("Uploads", ()):
            client.abort_multipart_upload(Bucket=name, Key=entry["Key"], UploadId=entry["UploadId"])
        for key in list(bucket.keys()):
            client.delete_object(Bucket=name, Key=key)
        client.delete_bucket(Bucket=name)
        client.close()
