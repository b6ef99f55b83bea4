"""Client certificates: accepted and refused clients, and the responses to each."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from tests.server import certs
from tests.server.certs import DAY, NOW, Holder
from tests.server.serving import Served, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, ca: Holder, client_ca: Holder) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    ca.issue("registry.test").write(folder, "server")
    between = client_ca.issue("client intermediate", authority=True)
    for name, holder in {
        "alice": client_ca.issue("alice", usage=certs.CLIENT),
        "below": between.issue("bob", usage=certs.CLIENT),
        "plain": client_ca.issue("no usage"),
        "stranger": certs.root("other CA").issue("eve", usage=certs.CLIENT),
        "expired": client_ca.issue("old", usage=certs.CLIENT, end=NOW - DAY / 2),
        "server-only": client_ca.issue("a server", usage=certs.SERVER),
        "ed25519": client_ca.issue("carol", usage=certs.CLIENT, kind="Ed25519"),
        "rsa": client_ca.issue("dave", usage=certs.CLIENT, kind="RSA-2048"),
        "own": certs.self_signed("self-signed"),
    }.items():
        holder.write(folder, name)
    (folder / "cas").write_bytes(client_ca.pem)
    return folder


def started(home: Path, name: str, **tls: str) -> Iterator[Served]:
    settings = {
        "certificate": f"{home}/server.crt", "key": f"{home}/server.key",
        "clientcas": [f"{home}/cas", f"{home}/own.crt"], **tls,
    }  # fmt: skip
    with serving(home / name, http={"tls": settings, "workers": 1}) as served:
        yield served


@pytest.fixture(scope="module")
def required(home: Path) -> Iterator[Served]:
    """As in the reference, this is what clientcas means by itself."""
    yield from started(home, "required")


@pytest.fixture(scope="module")
def optional(home: Path) -> Iterator[Served]:
    yield from started(home, "optional", clientauth="verify-client-cert-if-given")


def ask(served: Served, ca: Holder, home: Path, name: str | None, version: ssl.TLSVersion) -> str:
    """The status line that a client with this certificate gets.  Raises SSLError."""
    context = ssl.create_default_context(cadata=ca.pem.decode())
    context.minimum_version = context.maximum_version = version
    if name is not None:
        context.load_cert_chain(home / f"{name}.crt", home / f"{name}.key")
    with context.wrap_socket(served.connect(), server_hostname="registry.test") as connection:
        # With TLS 1.3 a client learns only when it reads that its certificate is not taken.
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(65536).decode().partition("\r\n")[0]


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("name", ["alice", "below", "plain", "ed25519", "rsa", "own"])
def test_whoever_an_authority_has_signed_is_let_in(
    required: Served, optional: Served, ca: Holder, home: Path, name: str, version: ssl.TLSVersion
) -> None:
    assert ask(required, ca, home, name, version) == "HTTP/1.1 200 OK"
    assert ask(optional, ca, home, name, version) == "HTTP/1.1 200 OK"


@VERSIONS
@pytest.mark.parametrize(
    ("name", "alert"),
    [("stranger", "UNKNOWN_CA"), ("expired", "CERTIFICATE_EXPIRED"), ("server-only", "ALERT_")],
)
def test_a_certificate_that_does_not_hold_is_refused_by_both_modes(
    required: Served, optional: Served, ca: Holder, home: Path, name: str, alert: str, version: ssl.TLSVersion
) -> None:
    for served in (required, optional):
        with pytest.raises(ssl.SSLError, match=alert):
            ask(served, ca, home, name, version)


@VERSIONS
def test_a_client_without_certificate_is_refused_where_one_is_required(
    required: Served, optional: Served, ca: Holder, home: Path, version: ssl.TLSVersion
) -> None:
    # TLS 1.2 has no alert of that name.
    alert = "CERTIFICATE_REQUIRED" if version is ssl.TLSVersion.TLSv1_3 else "HANDSHAKE_FAILURE"
    with pytest.raises(ssl.SSLError, match=alert):
        ask(required, ca, home, None, version)
    assert ask(optional, ca, home, None, version) == "HTTP/1.1 200 OK"


def test_a_file_of_authorities_without_any_ends_the_start(tmp_path: Path, home: Path) -> None:
    (tmp_path / "empty").write_text("")
    tls = {"certificate": f"{home}/server.crt", "key": f"{home}/server.key", "clientcas": [f"{tmp_path}/empty"]}
    with serving(tmp_path / "home", wait=False, http={"tls": tls}) as served:
        assert served.ended() == 1
        assert "http.tls.clientcas[0]" in served.err
        assert "holds no PEM block" in served.err
