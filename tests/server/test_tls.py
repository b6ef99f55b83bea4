"""HTTPS as clients meet it: every kind of key, versions, suites, ALPN; and what ends the start."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Literal

import httpx
import pytest
from tests.server import certs
from tests.server.certs import DAY, NOW, Holder
from tests.server.serving import Served, serving

from moorage.config.cipher_suites import OFFERED
from moorage.config.sections.http import Tls
from moorage.server.tls.validation import check, files
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENSSL_NAMES = {
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
}


@pytest.fixture(scope="module")
def holder(ca: Holder) -> Holder:
    return ca.issue("intermediate", authority=True).issue("registry.test")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, holder: Holder) -> Iterator[Served]:
    """Its own certificate, an intermediate; TLS 1.2 and later, HTTP/2 and 1.1."""
    folder = tmp_path_factory.mktemp("tls")
    with serving(folder / "home", http={"tls": holder.write(folder, "now")}) as served:
        yield served


@pytest.fixture
def trusting(ca: Holder) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.pem.decode())


def shaken(served: Served, context: ssl.SSLContext, host: str | None = "registry.test") -> ssl.SSLSocket:
    """A connection after its handshake.  Raises SSLError."""
    return context.wrap_socket(served.connect(), server_hostname=host)


# Before anything starts


def configured(
    paths: dict[str, str],
    *,
    clientcas: tuple[str, ...] = (),
    ciphersuites: tuple[str, ...] = (),
    minimumtls: Literal["tls1.2", "tls1.3"] = "tls1.2",
) -> Tls:
    return Tls(
        certificate=paths["certificate"],
        key=paths["key"],
        clientcas=clientcas,
        ciphersuites=ciphersuites,
        minimumtls=minimumtls,
    )


def test_a_certificate_and_its_key_are_taken(tmp_path: Path, holder: Holder) -> None:
    paths = holder.write(tmp_path, "one")
    tls, warnings = check(configured(paths))
    assert tls is not None
    with open(tls.certificate.path, "rb") as chain, open(tls.key.path, "rb") as key:  # noqa: PTH123  of /proc
        assert (chain.read(), key.read()) == (holder.chain, holder.key_pem())
    assert (tls.minimum, tls.clients) == ("tls1.2", None)
    assert warnings == []


def test_what_was_checked_is_served_whatever_becomes_of_the_files(tmp_path: Path, holder: Holder) -> None:
    """A worker that starts in the middle of a renewal would die of a pair that does not match."""
    settings = configured(holder.write(tmp_path, "one"))
    tls, _ = check(settings)
    again, _ = check(settings)
    assert tls is not None
    assert tls == again
    certs.self_signed().write(tmp_path, "one")
    with open(tls.key.path, "rb") as key:  # noqa: PTH123  of /proc
        assert key.read() == holder.key_pem()
    assert check(settings)[0] != tls


def test_without_certificate_there_is_no_tls() -> None:
    assert check(Tls()) == (None, [])
    assert files(Tls(clientcas=("/nowhere",))) == ()


def test_every_file_is_watched() -> None:
    assert files(Tls(certificate="c", key="k", clientcas=("a", "b"))) == ("c", "k", "a", "b")


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(StartupError, match=r"http\.tls.key is missing"):
        check(Tls(certificate="c"))
    with pytest.raises(StartupError, match=r"http\.tls.certificate is missing"):
        check(Tls(key="k"))


def test_warnings_of_certificates_and_authorities_are_told_together(tmp_path: Path, ca: Holder) -> None:
    old = certs.root("old", end=NOW)
    (tmp_path / "cas").write_bytes(ca.pem + old.pem)
    tls, warnings = check(
        configured(certs.self_signed(end=NOW).write(tmp_path, "one"), clientcas=(str(tmp_path / "cas"),)),
        NOW + DAY,
    )
    assert tls is not None
    assert tls.clients is not None
    assert tls.clients.required
    assert ["has expired" in warning for warning in warnings] == [True, True]


def test_a_list_of_suites_must_name_those_of_the_key(tmp_path: Path) -> None:
    """Without one no client of TLS 1.2 could connect, and the log would show failed handshakes only."""
    paths = certs.self_signed(kind="RSA-2048").write(tmp_path, "rsa")
    tls, _ = check(configured(paths, ciphersuites=OFFERED["RSA"]))
    assert tls is not None
    with pytest.raises(
        StartupError, match=r"ciphersuites names no suite that a server with an RSA key can use.*tls1\.3"
    ):
        check(configured(paths, ciphersuites=OFFERED["ECDSA"]))
    check(configured(paths, ciphersuites=OFFERED["ECDSA"], minimumtls="tls1.3"))


def test_a_server_with_the_wrong_key_ends_with_a_message(tmp_path: Path, holder: Holder) -> None:
    tls = {**holder.write(tmp_path, "one"), "key": certs.self_signed().write(tmp_path, "two")["key"]}
    with serving(tmp_path / "home", wait=False, http={"tls": tls}) as served:
        assert served.ended() == 1
        assert "does not belong" in served.err
        assert "panicked" not in served.err


def test_a_certificate_that_clients_refuse_is_served_and_told(tmp_path: Path) -> None:
    tls = certs.self_signed(end=NOW).write(tmp_path, "old")
    with serving(tmp_path / "home", http={"tls": tls}) as served:
        assert "level=warning" in served.err
        assert "has expired on" in served.err
        with shaken(served, ssl._create_unverified_context()) as connection:
            assert connection.version() == "TLSv1.3"


def test_paths_may_come_from_variables(tmp_path: Path, holder: Holder) -> None:
    """As in compose files, with secrets below /run/secrets."""
    paths = holder.write(tmp_path, "secret")
    env = {"REGISTRY_HTTP_TLS_CERTIFICATE": paths["certificate"], "REGISTRY_HTTP_TLS_KEY": paths["key"]}
    with serving(tmp_path / "home", env=env) as served:
        assert "listening on https://" in served.err


# Handshakes


@pytest.mark.parametrize("kind", ["P-384", "Ed25519", "RSA-2048", "RSA-3072"])
def test_each_kind_of_key_is_served(tmp_path: Path, kind: str) -> None:
    """P-256 is what the other tests use."""
    holder = certs.self_signed(kind=kind)
    trusting = ssl.create_default_context(cadata=holder.pem.decode())
    with serving(tmp_path / "home", http={"tls": holder.write(tmp_path, "one"), "workers": 1}) as served:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            trusting.minimum_version = trusting.maximum_version = version
            with shaken(served, trusting) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        if kind == "RSA-2048":
            _offers(served, holder, "RSA")


def test_the_suites_for_tls_1_2_are_those_of_the_table(server: Served, ca: Holder) -> None:
    """A list of suites is accepted or refused by this table; it would be wrong if OpenSSL offered another one."""
    _offers(server, ca, "ECDSA")


def _offers(served: Served, authority: Holder, kind: str) -> None:
    for name, of_openssl in OPENSSL_NAMES.items():
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(of_openssl)
        if name in OFFERED[kind]:
            with shaken(served, context) as connection:
                assert (connection.cipher() or [""])[0] == of_openssl
        else:
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                shaken(served, context)


def test_the_chain_is_sent_with_its_intermediate(server: Served, ca: Holder, tmp_path: Path) -> None:
    """Clients know the root alone; openssl and curl say so where a browser would help itself."""
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    address = f"127.0.0.1:{server.port}"
    verify = ["-CAfile", str(tmp_path / "ca.crt"), "-verify_return_error", "-verify_hostname", "registry.test"]
    for version in ("-tls1_2", "-tls1_3"):
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", address, version, *verify],
            input=b"", capture_output=True, check=True,
        ).stdout.decode()  # fmt: skip
        assert "Verify return code: 0 (ok)" in shown
        assert shown.count("s:CN") == 2
    curl = ["curl", "-sS", "--cacert", str(tmp_path / "ca.crt"), "-w", "\n%{http_version}"]
    reached = ["--resolve", f"registry.test:{server.port}:127.0.0.1", f"https://registry.test:{server.port}/"]
    for option, version in (("--http1.1", "1.1"), ("--http2", "1.1")):
        body, _, spoken = subprocess.run(
            [*curl, option, *reached], capture_output=True, check=True
        ).stdout.decode().rpartition("\n")  # fmt: skip
        assert spoken == version
        assert json.loads(body)["scheme"] == "https"


def test_a_client_chooses_its_protocol_by_alpn(server: Served, trusting: ssl.SSLContext) -> None:
    """Docker offers HTTP/2 as well, old clients nothing; others are refused as RFC 7301 requires."""
    with shaken(server, trusting) as connection:
        assert connection.selected_alpn_protocol() is None
    for offered in (["h2", "http/1.1"], ["http/1.1"], ["http/1.0"]):
        trusting.set_alpn_protocols(offered)
        with shaken(server, trusting) as connection:
            assert connection.selected_alpn_protocol() == offered[-1]
    for refused in (["h2"], ["acme-tls/1"]):
        trusting.set_alpn_protocols(refused)
        with pytest.raises(ssl.SSLError, match="alert no application protocol"):
            shaken(server, trusting)


def test_the_name_that_a_client_asks_for_does_not_matter(server: Served, trusting: ssl.SSLContext) -> None:
    """There is one certificate; health checks and old clients send no name or that of the machine."""
    with shaken(server, trusting, host="127.0.0.1"):
        pass
    trusting.check_hostname = False
    for name in (None, "another.example"):
        with shaken(server, trusting, host=name) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
def test_old_versions_are_refused_with_an_alert(server: Served, version: str) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", f"-{version}"]
    tried = subprocess.run(
        [*command, "-cipher", "DEFAULT@SECLEVEL=0"], input=b"", capture_output=True, check=False
    )  # fmt: skip
    assert tried.returncode != 0
    assert b"SSL alert number" in tried.stderr


def test_clients_that_say_nothing_hold_nobody_up(server: Served, trusting: ssl.SSLContext) -> None:
    """Port scanners and health checks that only connect."""
    silent = [server.connect() for _ in range(40)]
    half = [server.connect() for _ in range(10)]
    for connection in half:
        connection.sendall(b"\x16\x03\x01\x02\x00")
    with shaken(server, trusting) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in [*silent, *half]:
        connection.close()


def test_plain_http_gets_a_readable_answer(server: Served, trusting: ssl.SSLContext) -> None:
    """A URL with the wrong scheme is a frequent mistake; other clients do not notice."""
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"use https://" in answer
    shaken(server, trusting).close()


def test_https_is_spoken_to_clients_that_would_rather_speak_http2(
    tmp_path: Path, holder: Holder, trusting: ssl.SSLContext
) -> None:
    with (
        serving(tmp_path / "home", http={"tls": holder.write(tmp_path, "one")}) as served,
        httpx.Client(http2=True, verify=trusting) as client,
    ):
        assert "listening on https://127.0.0.1" in served.err
        answer = client.get(served.url)
        assert (answer.http_version, answer.json()["scheme"]) == ("HTTP/1.1", "https")
        size = 3 << 20
        assert client.put(f"{served.url}/echo", content=bytes(size)).text == str(size)
        with httpx.Client(verify=trusting) as older:
            assert older.get(served.url).http_version == "HTTP/1.1"
        assert served.stop() == 0


def test_http2_and_old_tls_can_be_switched_off(tmp_path: Path, holder: Holder, trusting: ssl.SSLContext) -> None:
    tls = {**holder.write(tmp_path, "one"), "minimumtls": "tls1.3"}
    with serving(tmp_path / "home", http={"tls": tls, "http2": {"disabled": True}}) as served:
        with httpx.Client(http2=True, verify=trusting) as client:
            answer = client.get(served.url)
        assert answer.http_version == "HTTP/1.1"
        assert json.loads(answer.content)["scheme"] == "https"
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            shaken(served, trusting)


def test_tls_is_spoken_on_a_unix_socket(tmp_path: Path, holder: Holder, trusting: ssl.SSLContext) -> None:
    home = tmp_path / "home"
    http = {"net": "unix", "addr": f"{tmp_path}/s", "tls": holder.write(tmp_path, "one")}
    with serving(home, http=http), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{tmp_path}/s")
        with trusting.wrap_socket(connection, server_hostname="registry.test") as secure:
            secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert secure.recv(65536).startswith(b"HTTP/1.1 200 ")
