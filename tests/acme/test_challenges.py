"""TLS-ALPN-01: any worker answers an authority from the shared directory, while it serves clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acme.certificates import Authority
from tests.acme.listening import listening
from tests.server.descriptors import links
from tests.server.serving import LIMIT_S, Served, serving

from moorage.acme import pem
from moorage.acme.store import CertificateStore, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


class Site:
    """A server with a certificate that is good for long, and the directory in which nodes leave challenges."""

    def __init__(self, served: Served, store: CertificateStore, authority: Authority) -> None:
        self.served, self.store, self.authority = served, store, authority

    def housekeeper(self) -> int:
        """Return the process that does not listen on the registry's port."""
        found = self.served.helper("housekeeper")
        assert self.served.port not in listening(found)
        return found

    def connect(self) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection("r.test", self.served.port, timeout=LIMIT_S)
        made._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
            ("127.0.0.1", self.served.port), LIMIT_S
        )
        made._context = self.authority.client()  # type: ignore[attr-defined]
        return made

    def get(self) -> dict[str, Any]:
        """Return the answer to a request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert answer.status == 200
            return dict(json.loads(answer.read()))

    def put_challenge(self, host: str = "r.test") -> bytes:
        """Place a challenge as another node does, and return its certificate in DER."""
        made = pem.challenge_certificate(host, "token.thumb", datetime.now(UTC))
        self.store.put_alpn_answer(host, made)
        text = made.decode()
        begin = text.index("-----BEGIN CERTIFICATE-----")
        return ssl.PEM_cert_to_DER_cert(text[begin : text.index("-----END CERTIFICATE-----") + 25])

    def prove(self, host: str = "r.test", piece: int = 1 << 16) -> bytes:
        """Ask as an authority does, and return the certificate; the ClientHello is sent in pieces."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname=host)
        with socket.create_connection(("127.0.0.1", self.served.port), LIMIT_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    data = outgoing.read()
                    for at in range(0, len(data), piece):
                        plain.sendall(data[at : at + piece])
                    incoming.write(plain.recv(65536))
                else:
                    plain.sendall(outgoing.read())
                    assert client.selected_alpn_protocol() == "acme-tls/1"
                    return client.getpeercert(binary_form=True) or b""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    prepare(str(tmp_path / "le"))
    store, authority = CertificateStore(str(tmp_path / "le")), Authority()
    store.put_certificate(["r.test"], authority.issue("r.test"))
    with serving(
        tmp_path / "home", module="tests.acme.odd",
        http={"tls": {"letsencrypt": {"cachefile": str(tmp_path / "le"), "hosts": ["r.test"],
                                      "directoryurl": "https://127.0.0.1:9/dir"}}},
    ) as served:  # fmt: skip
        yield Site(served, store, authority)


class Stream(threading.Thread):
    """Requests without end, each on a connection of its own."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site, self.over = site, threading.Event()
        self.answered, self.errors = 0, list[Exception]()
        self.start()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.site.get()
                self.answered += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.errors.append(error)

    def stop(self) -> None:
        self.over.set()
        self.join()
        assert not self.errors, (self.errors[:3], self.site.served.err[-2000:])
        assert self.answered


def test_requests_go_on_and_the_authority_is_answered(site: Site) -> None:
    """A renewal under load is noticed by no client; the authority's connection may arrive at any worker."""
    before = site.connect()
    before.request("GET", "/")
    first = json.loads(before.getresponse().read())
    workers = set(site.served.children())
    stream = Stream(site)
    for _ in range(3):
        challenge = site.put_challenge()
        for _ in range(6):
            assert site.prove() == challenge
        site.store.withdraw(["r.test"], [])
        before.request("GET", "/")
        assert json.loads(before.getresponse().read()) == first
    stream.stop()
    before.close()
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        site.prove()
    site.served.logged("acme-tls/1 for a host without a pending challenge")
    assert set(site.served.children()) == workers
    assert site.served.stop() == 0


def test_a_greeting_may_come_in_pieces(site: Site) -> None:
    """Authorities on slow lines would fail validation now and then."""
    challenge = site.put_challenge()
    assert site.prove(piece=7) == challenge


def test_names_of_others_are_no_names_of_files(site: Site) -> None:
    """A client could have any file of the directory read as a certificate."""
    site.put_challenge("x.test")
    for host in ("x.test", "acme_account", "r.test."):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            site.prove(host)


def test_the_housekeeper_does_not_hold_the_listeners_key(site: Site) -> None:
    """It talks to an authority, and needs the keys of the directory only."""
    assert not [link for link in links(site.housekeeper()) if "memfd:moorage" in link]
    for name in ("environ", "cmdline"):
        assert b"PRIVATE KEY" not in (Path("/proc") / str(site.housekeeper()) / name).read_bytes()


def test_a_directory_that_hangs_costs_the_authority_only(site: Site) -> None:
    """Clients are served meanwhile, and the authority gets an alert instead of a connection that hangs."""
    challenge = site.store.alpn_file("r.test")
    os.mkfifo(challenge)  # to open it blocks until there is a writer
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        site.prove()
    site.served.logged("acme-tls/1 is refused: the challenge cannot be read")
    site.get()
    assert site.served.stop() == 0


def test_a_housekeeper_that_dies_is_replaced(site: Site) -> None:
    """At once the first time, then after longer and longer pauses; clients do not notice."""
    stream = Stream(site)
    for times in (1, 2):
        os.kill(site.housekeeper(), signal.SIGKILL)
        site.served.logged("the housekeeper died", times)
    assert site.housekeeper()
    stream.stop()
    assert site.served.stop() == 0
