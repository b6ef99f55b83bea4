"""The registry over TLS: certificates exchanged under load, clients that leave, processes that hold the key."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import re
import socket
import ssl
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tests.server import certs
from tests.server.debugging import LIMIT_S, debug_port, get
from tests.server.descriptors import links
from tests.server.serving import Served, quick_polls, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.certs import Holder

pytestmark = pytest.mark.slow

PROC = Path("/proc")

SIZE = 32 << 20
"""Of a blob: more than all buffers between server and client hold."""


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(0).randbytes(SIZE)


class Registry:
    """The real registry, its certificate, and clients that trust it."""

    def __init__(self, served: Served, files: Path, ca: Holder, first: Holder) -> None:
        self.served, self.files, self.ca, self.first = served, files, ca, first
        self.trusting = ssl.create_default_context(cadata=ca.pem.decode())

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.served.port, timeout=LIMIT_S, context=self.trusting)

    def renew(self) -> Holder:
        """Put another certificate where the server looks, and return it once its exchange has begun."""
        times = self.served.err.count("certificate renewed")
        second = self.ca.issue("registry.test")
        second.write(self.files, "now")
        self.served.logged("certificate renewed", times + 1)
        return second

    def push(self, data: bytes) -> str:
        """Upload a blob, and return its path."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", body=data)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201
        return f"/v2/a/blobs/{digest}"

    def begin(self) -> str:
        """Begin an upload, and return where its bytes go."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("POST", "/v2/a/blobs/uploads/")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202
            return re.sub(r"^https://[^/]*", "", str(answer.getheader("location")))

    def serial(self) -> int:
        """Return the serial number of the certificate of a new connection."""
        with contextlib.closing(self.connect()) as connection:
            connection.connect()
            return serial_of(connection)

    def reset_after(self, request: bytes, received: bytes, body: bytes = b"") -> None:
        """Send a request, wait for `received`, send `body`, and reset the connection."""
        with socket.create_connection(("127.0.0.1", self.served.port), LIMIT_S) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with self.trusting.wrap_socket(plain, server_hostname="registry.test") as client:
                client.sendall(request)
                found = b""
                while received not in found:
                    found += client.recv(1 << 16)
                client.sendall(body)


def serial_of(connection: http.client.HTTPSConnection) -> int:
    """Return the serial number of the certificate that a connection began with."""
    assert isinstance(connection.sock, ssl.SSLSocket)
    return x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True) or b"").serial_number


@contextlib.contextmanager
def running(tmp_path: Path, workers: int) -> Iterator[Registry]:
    ca = certs.root()
    first = ca.issue("registry.test")
    files = tmp_path / "certificates"
    files.mkdir()
    debug = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
    with serving(
        tmp_path / "home", module="tests.acme.serving", log={"accesslog": {"disabled": False}},
        http={"workers": workers, "tls": first.write(files, "now"), "debug": debug},
        env=quick_polls(tmp_path / "custom"),
    ) as served:  # fmt: skip
        yield Registry(served, files, ca, first)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path, 2) as made:
        yield made


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Registry]:
    """One worker, which has everything open that it opens once."""
    with running(tmp_path, 1) as made:
        made.begin()
        made.push(b"small")
        yield made


class Stream(threading.Thread):
    """Requests without end; `keep` on one connection, else each on its own."""

    def __init__(self, registry: Registry, path: str, *, keep: bool) -> None:
        super().__init__(daemon=True)
        self.registry, self.path, self.keep = registry, path, keep
        self.over = threading.Event()
        self.answered = 0
        self.errors: list[str] = []
        self.start()

    def run(self) -> None:
        connection = self.registry.connect()
        while not self.over.is_set():
            try:
                connection.request("GET", self.path, headers={"range": "bytes=0-99999"})
                answer = connection.getresponse()
                size = len(answer.read())
                self.answered += 1
                if answer.status not in {200, 206} or size not in {2, 100_000}:
                    self.errors.append(f"{answer.status}, {size} bytes")
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
            if not self.keep:
                connection.close()
        connection.close()

    def stop(self) -> None:
        self.over.set()
        self.join(LIMIT_S)
        assert not self.is_alive()
        assert not self.errors, self.errors[:5]


def test_an_exchange_of_certificates_fails_no_request(registry: Registry, data: bytes) -> None:
    """New connections get the new certificate; a download and kept connections continue with the old one."""
    path = registry.push(data)
    processes = registry.served.children()
    kept, download = registry.connect(), registry.connect()
    kept.request("GET", "/v2/")
    assert kept.getresponse().read()
    socket_before = kept.sock
    download.request("GET", path)
    answer = download.getresponse()
    digest = hashlib.sha256(answer.read(1 << 20))
    streams = [Stream(registry, each, keep=keep) for each in ("/v2/", path) for keep in (True, False)]
    for _ in range(3):
        second = registry.renew()
        until(
            lambda serial=second.serial: {registry.serial() for _ in range(8)} == {serial},  # type: ignore[misc]
            "the new certificate",
        )
        seen = [stream.answered for stream in streams]
        until(
            lambda seen=seen: all(  # type: ignore[misc]
                stream.answered > before or stream.errors for stream, before in zip(streams, seen, strict=True)
            ),
            "requests after the exchange",
        )
        digest.update(answer.read(1 << 20))
    for stream in streams:
        stream.stop()
    kept.request("GET", "/v2/")
    assert (kept.getresponse().status, kept.sock) == (200, socket_before)
    assert serial_of(kept) == registry.first.serial
    digest.update(answer.read())
    assert path.endswith(digest.hexdigest())
    assert registry.served.children() == processes
    for connection in (kept, download):
        connection.close()
    assert registry.served.stop() == 0


# Clients that leave


def opened(registry: Registry) -> list[str]:
    """Return what the descriptors of the workers and the storage monitor refer to."""
    return sorted(re.sub(r"\d+", "N", link) for pid in registry.served.children() for link in links(pid))


def metric(registry: Registry, name: str) -> float:
    """Return the sum of a metric's samples."""
    _, body = get(debug_port(registry.served.err), "/metrics")
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", body, re.MULTILINE)))


def come_back(registry: Registry, before: list[str]) -> None:
    """Wait until no more is open than before."""
    until(
        lambda: not Counter(opened(registry)) - Counter(before),
        "the descriptors to be closed",
        lambda: str(Counter(opened(registry)) - Counter(before)),
    )


def test_a_client_that_resets_a_download_is_counted_and_logged(single: Registry, data: bytes) -> None:
    """With the bytes that were sent, for comparison with what the client reports."""
    path = single.push(data)
    before = opened(single)
    for times in range(1, 6):
        single.reset_after(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), b"\r\n\r\n")
        logged(single, f'"GET {path} HTTP/1.1" 200 ', times)
    found = re.findall(rf'"GET {path} HTTP/1.1" 200 (\d+) ', single.served.out)
    assert all(0 < int(sent) < SIZE for sent in found), found
    assert metric(single, "moorage_http_aborted_responses_total") == 5
    come_back(single, before)
    assert "Traceback" not in single.served.err


def test_a_client_that_resets_an_upload_is_logged(single: Registry) -> None:
    """499, as nginx has it; what has come of the body is kept."""
    before = opened(single)
    for times in range(1, 6):
        head = f"PATCH {single.begin()} HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n"
        single.reset_after(f"{head}Expect: 100-continue\r\n\r\n".encode(), b"\r\n\r\n", os.urandom(1 << 20))
        logged(single, ' HTTP/1.1" 499 ', times)
    assert metric(single, "moorage_http_received_bytes_total") > 0
    come_back(single, before)
    assert "Traceback" not in single.served.err


def logged(registry: Registry, text: str, times: int) -> None:
    """Wait for lines of the access log."""
    until(lambda: registry.served.out.count(text) == times, f"{times} lines {text!r}", lambda: registry.served.out)


# The key


def test_the_key_is_in_the_processes_that_serve_only(registry: Registry) -> None:
    """No process shows it in its environment or arguments; none but the master holds its bytes open."""
    renewed = registry.renew()
    pem = registry.first.key_pem() + renewed.key_pem()
    secret = [line for line in pem.split() if len(line) > 20]
    assert len(secret) >= 4
    until(lambda: {registry.serial() for _ in range(8)} == {renewed.serial}, "the new certificate")
    children = registry.served.all_children()
    assert len(children) == 4, "two workers, the storage monitor and the housekeeper"
    for pid in (registry.served.process.pid, *children):
        for name in ("environ", "cmdline"):
            shown = (PROC / str(pid) / name).read_bytes()
            assert not [line for line in secret if line in shown], (pid, name)
        private = [link for link in links(pid) if "memfd:moorage" in link]
        master = ["/memfd:moorage certificate (deleted)", "/memfd:moorage key (deleted)"]
        assert sorted(private) == (master if pid == registry.served.process.pid else []), pid
    assert registry.served.stop() == 0
    for text in (registry.served.err, registry.served.out):
        assert not [line for line in secret if line.decode() in text]
