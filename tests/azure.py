"""An Azure Blob Storage for tests: azurite, Microsoft's emulator, on loopback, started once for each test process.

Its requests go through a proxy, which counts them and may answer some itself (`Azurite.trouble`), or drop
the answer of some (`Azurite.lost`): that is how failures of the service are made, and what azurite is too lenient
about.  Installed by tools/install_test_programs.py; where it is missing a test is skipped, or fails in CI.
"""

from __future__ import annotations

import atexit
import base64
import hmac
import http.client
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from moorage.storage.azure.connection import AzureConnection
from moorage.storage.azure.options import AzureOptions
from moorage.storage.azure.requests import AzureRequests
from moorage.storage.azure.store import AzureStore
from moorage.storage.azure.uploads import AzureUploads
from moorage.storage.object_store.driver import ObjectDriver
from tests.live import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from azure.storage.blob import ContainerClient

__all__ = ["ACCOUNT", "ACCOUNT_KEY", "NAMED_ACCOUNT", "Azurite", "Container", "Request", "a_container", "azurite"]
__all__ += ["start_azurite"]

ACCOUNT: Final = "devstoreaccount1"
ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""azurite's published key."""

NAMED_ACCOUNT: Final = "moorage"
"""Of an azurite that answers to names: CNCF Distribution 2.8 looks for azurite's own account on a fixed port."""

_START_LIMIT_S: Final = 60.0
_IDLE_S: Final = 2.0  # azurite closes connections after five


@dataclass(frozen=True)
class Request:
    """One request that azurite got; `blob` is the name in its container, with a leading slash if it has one."""

    method: str
    path: str
    query: str
    headers: dict[str, str]

    @property
    def blob(self) -> str:
        return unquote(self.path).split("/", 3)[3] if self.path.count("/") > 2 else ""

    def __str__(self) -> str:
        operation = re.search(r"comp=(\w+)", self.query)
        copying = " from" if "x-ms-copy-source" in self.headers else ""
        return f"{self.method}{copying} {operation[1] if operation else ''} {self.blob}".replace("  ", " ").strip()


@dataclass
class Azurite:
    """`trouble` may answer a request with (status, code) in place of azurite; `lost` selects requests whose
    response is lost.
    """

    port: int = 0
    account: str = ACCOUNT
    requests: list[Request] = field(default_factory=list)
    trouble: Callable[[Request], tuple[int, str] | None] | None = None
    lost: Callable[[Request], bool] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.account}"


def start_azurite(
    folder: Path, *options: str, trust: str = "", by_name: bool = False
) -> tuple[subprocess.Popen[bytes], int]:
    """A server, and its port of the kernel's choice.  It is the caller's to end.

    `by_name`: it also answers to `ACCOUNT.blob.REALM`, as the service does, with the account in the host's name.
    """
    program = require("azurite-blob")
    log_path = folder / "azurite.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                program, "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence",
                *([] if by_name else ["--disableProductStyleUrl"]),
                "--blobHost", "127.0.0.1", "--blobPort", "0", *options,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            env={
                **os.environ,
                "NODE_EXTRA_CA_CERTS": trust,  # to fetch from itself what it copies
                "AZURITE_ACCOUNTS": f"{NAMED_ACCOUNT if by_name else ACCOUNT}:{ACCOUNT_KEY}",
            },
        )  # fmt: skip
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"successfully listens on https?://127\.0\.0\.1:(\d+)", log_path.read_text())
        if found:
            return process, int(found[1])
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"azurite did not start: {log_path.read_text()[-2000:]}")


@cache
def azurite(*, by_name: bool = False) -> Azurite:
    """Started once for all tests of this process, and ended with it."""
    require("azurite-blob")  # else a skipped test would leave the folder behind
    folder = tempfile.TemporaryDirectory(prefix="moorage-azurite-")
    process, inner = start_azurite(Path(folder.name), by_name=by_name)

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        folder.cleanup()

    atexit.register(end)
    found = Azurite(account=NAMED_ACCOUNT if by_name else ACCOUNT)
    server = _Server(("127.0.0.1", 0), _handler(found, inner))
    server.daemon_threads = True
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, name="azurite", daemon=True).start()
    return found


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Of a connection that its client has closed: what the client thinks of it is what is tested."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it came


def _handler(found: Azurite, inner: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        upstream: http.client.HTTPConnection | None = None
        used = 0.0

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, parts.query, headers)
            found.requests.append(request)
            refusal = found.trouble(request) if found.trouble is not None else None
            if refusal is not None:
                status, code = refusal
                text = (
                    f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>by a test</Message></Error>".encode()
                )
                output = {"x-ms-error-code": code, "Content-Type": "application/xml"}
                self.reply(status, output, text)
                return
            status, output, text = self.forward(body)
            if found.lost is not None and found.lost(request):
                self.close_connection = True
                return
            self.reply(status, output, text)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = answer  # noqa: N815  names of the base class

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            if self.upstream is None or time.monotonic() - self.used > _IDLE_S:
                if self.upstream is not None:
                    self.upstream.close()
                self.upstream = http.client.HTTPConnection("127.0.0.1", inner, timeout=60)
            self.used = time.monotonic()
            self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in _understood(self.command, self.path, list(self.headers.items()), found.account):
                self.upstream.putheader(name, value)
            self.upstream.endheaders(body or None)
            answer = self.upstream.getresponse()
            text = answer.read()
            hop = {"transfer-encoding", "connection", "keep-alive"}
            if self.command != "HEAD":
                hop.add("content-length")
            output = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
            if answer.will_close:
                self.upstream.close()
                self.upstream = None
            return answer.status, output, text

        def reply(self, status: int, output: dict[str, str], text: bytes) -> None:
            self.send_response_only(status)
            for name, value in output.items():
                self.send_header(name, value)
            if self.command != "HEAD" and status not in {204, 304}:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def finish(self) -> None:
            if self.upstream is not None:
                self.upstream.close()
            super().finish()

        def log_message(self, *_: object) -> None:
            """Discard the line."""

    return Handler


def _understood(method: str, target: str, headers: list[tuple[str, str]], account: str) -> list[tuple[str, str]]:
    """Return headers that azurite interprets as Azure does: it makes a new blob of an Append Block that names the
    blob's kind, as CNCF Distribution 2.8 does.  Without that header, which was signed, it must be signed again.
    """
    url = urlsplit(target)
    query = dict(parse_qsl(url.query))
    output = {name.lower(): value for name, value in headers}
    if query.get("comp") != "appendblock" or "x-ms-blob-type" not in output:
        return headers
    output = {name: value for name, value in output.items() if name != "x-ms-blob-type"}
    signed = ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"]
    signed += ["if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"]
    lines = [method, *(output.get(name, "") for name in signed)]
    lines += [f"{name}:{value}" for name, value in sorted(output.items()) if name.startswith("x-ms-")]
    lines += [f"/{account}{url.path}", *(f"{name}:{value}" for name, value in sorted(query.items()))]
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join(lines).encode(), "sha256")
    output["authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
    return list(output.items())


class _Decided(AzureStore):
    def __init__(self, connection: AzureConnection, prefixes: tuple[str, ...]) -> None:
        super().__init__(connection)
        self._found = tuple(AzureRequests(connection, prefix) for prefix in prefixes)


@dataclass(frozen=True)
class Container:
    """One test's container."""

    server: Azurite
    name: str

    def options(self, **other: Any) -> AzureOptions:
        usual: dict[str, Any] = {
            "accountname": self.server.account,
            "accountkey": ACCOUNT_KEY,
            "container": self.name,
            "serviceurl": self.server.endpoint,
            "retry_delay": 0.001,
        }
        return AzureOptions(**{**usual, **other})

    def driver(self, prefixes: tuple[str, ...] = (), **other: Any) -> ObjectDriver:
        """`prefixes` of the keys, as if the container had them."""
        connection = AzureConnection(self.options(**other))
        layouts = _Decided(connection, prefixes) if prefixes else AzureStore(connection)
        return ObjectDriver(layouts, AzureUploads(layouts))

    def settings(self, **other: Any) -> dict[str, Any]:
        """The section `storage.azure`."""
        usual = {
            "accountname": self.server.account,
            "accountkey": ACCOUNT_KEY,
            "container": self.name,
            "serviceurl": self.server.endpoint,
        }
        return {**usual, **other}

    @property
    def client(self) -> ContainerClient:
        """For looking behind the driver's back."""
        from azure.storage.blob import BlobServiceClient

        credential = {"account_name": self.server.account, "account_key": ACCOUNT_KEY}
        service = BlobServiceClient(self.server.endpoint, credential)
        return service.get_container_client(self.name)

    def blobs(self, *, begun: bool = False) -> dict[str, int]:
        """Every blob and its size; `begun` also those of which only uncommitted blocks are there."""
        with self.client as client:
            found = client.list_blobs(include=["uncommittedblobs"] if begun else [])
            return {blob.name: blob.size for blob in found}


@contextmanager
def a_container(*, by_name: bool = False) -> Iterator[Container]:
    """A new container, removed with all it holds."""
    server = azurite(by_name=by_name)
    container = Container(server, f"moorage-{secrets.token_hex(8)}")
    server.trouble = server.lost = None
    with container.client as client:
        client.create_container()
        server.requests.clear()
        try:
            yield container
        finally:
            server.trouble = server.lost = None
            client.delete_container()
