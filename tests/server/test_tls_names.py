"""Several certificates: what is judged of them before the start, and a registry that serves and renews them."""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from tests.server import certs
from tests.server.certs import DAY, NOW, Holder
from tests.server.serving import Served, quick_polls, serving, until

from moorage.config.sections.http import CertificatePair, Tls
from moorage.server.tls.provider import Certificates
from moorage.server.tls.validation import check, files
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

MOORAGE = (str(Path(sys.executable).with_name("moorage")), "serve")


def section(folder: Path, *holders: Holder) -> Tls:
    first, *more = (holder.write(folder, f"{number}") for number, holder in enumerate(holders))
    pairs = tuple(CertificatePair(certificate=one["certificate"], key=one["key"]) for one in more)
    return Tls(certificate=first["certificate"], key=first["key"], certificates=pairs)


# Before the start


@pytest.mark.parametrize(
    ("hosts", "warned"),
    [
        ([("a.test",), ("b.test",)], []),
        ([("a.test",), ("a.test", "b.test")], []),
        ([("a.test", "b.test"), ("b.test",)], [(0, "its names are those of certificates before it")]),
        ([("a.test",), ("B.test",), ("a.test", "b.TEST")], [(1, "its names are those of certificates before it")]),
        ([("a.test",), ("10.0.0.1",)], [(0, "it has no host names")]),
        ([("*.a.test",), ("x.a.test",)], []),
        ([("x.a.test",), ("*.a.test",)], []),
    ],
)
def test_a_certificate_that_is_never_served_is_named(
    tmp_path: Path, ca: Holder, hosts: list[tuple[str, ...]], warned: list[tuple[int, str]]
) -> None:
    """An exact name is served before a wildcard that covers it, in any order."""
    _, warnings = check(section(tmp_path, *(ca.issue("x", hosts=names) for names in hosts)))
    expected = [f"http.tls.certificates[{index}] is never served: {reason}" for index, reason in warned]
    assert [warning for warning in warnings if "never served" in warning] == expected


def test_the_expiry_that_is_reported_is_that_of_the_subject(tmp_path: Path, ca: Holder) -> None:
    """The first one that expires, in any position."""
    holders = [ca.issue(f"{days} days", hosts=(f"{days}.test",), end=NOW + days * DAY) for days in (60, 40, 50)]
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1]):
        tls, _ = check(section(tmp_path, *(holders[number] for number in order)))
        assert tls is not None
        assert (tls.subject, tls.until) == ("CN=40 days", NOW + 40 * DAY)
        certificates = Certificates(tls, None)
        assert certificates.until == NOW + 40 * DAY


def test_warnings_are_those_of_all_certificates(tmp_path: Path, ca: Holder) -> None:
    old = ca.issue("old", hosts=("old.test",), end=NOW)
    _, warnings = check(section(tmp_path, ca.issue("new"), old))
    (warning,) = warnings
    assert "1.crt has expired on" in warning


def test_a_wrong_key_of_the_list_is_refused_with_its_place(tmp_path: Path, ca: Holder) -> None:
    settings = section(tmp_path, ca.issue("a"), ca.issue("b"), ca.issue("c"))
    certs.self_signed().write(tmp_path, "other")
    Path(settings.certificates[1].key).write_bytes((tmp_path / "other.key").read_bytes())
    with pytest.raises(StartupError, match=r"http\.tls\.certificates\[1\]"):
        check(settings)


def test_every_file_of_the_list_is_watched(tmp_path: Path, ca: Holder) -> None:
    settings = section(tmp_path, ca.issue("a"), ca.issue("b"))
    assert files(settings) == tuple(f"{tmp_path}/{name}" for name in ("0.crt", "0.key", "1.crt", "1.key"))


# A registry


def serial(served: Served, ca: Holder, host: str | None) -> int:
    """Of the certificate that a new connection gets."""
    context = ssl.create_default_context(cadata=ca.pem.decode())
    context.check_hostname = False
    with context.wrap_socket(served.connect(), server_hostname=host) as connection:
        certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    return certificate.serial_number


def by_variables(default: Mapping[str, str], *more: Mapping[str, str]) -> dict[str, str]:
    found = {f"REGISTRY_HTTP_TLS_{key.upper()}": path for key, path in default.items()}
    for index, pair in enumerate(more):
        for key, path in pair.items():
            found[f"REGISTRY_HTTP_TLS_CERTIFICATES_{index}_{key.upper()}"] = path
    return found


@pytest.mark.slow
def test_certificates_by_variables_are_served_and_renewed(tmp_path: Path, ca: Holder) -> None:
    """One that is not the default is watched as well."""
    default = ca.issue("default", hosts=("r.test",))
    hub = ca.issue("hub", hosts=("hub.test",), end=NOW + 50 * DAY)
    wildcard = ca.issue("wildcard", hosts=("*.example.test",), end=NOW + 60 * DAY)
    names = {None: default, "r.test": default, "hub.test": hub, "a.example.test": wildcard}
    env = by_variables(
        *(one.write(tmp_path, name) for name, one in zip("abc", (default, hub, wildcard), strict=True))
    )
    with serving(tmp_path / "home", env=env | quick_polls(tmp_path / "custom")) as served:
        for host, holder in names.items():
            assert serial(served, ca, host) == holder.serial, host
        expires = hub.certificate.not_valid_after_utc.isoformat()
        assert f"tls=CN=hub tls_expires={expires}" in served.err.replace('"', "")
        renewed = ca.issue("renewed", hosts=("hub.test",))
        renewed.write(tmp_path, "b")
        served.logged("certificate renewed")
        until(lambda: serial(served, ca, "hub.test") == renewed.serial, "the renewed certificate")
        for host in (None, "a.example.test"):
            assert serial(served, ca, host) == names[host].serial
        (line,) = (line for line in served.err.splitlines() if "certificate renewed" in line)
        # The one that expires first now.
        assert "CN=wildcard" in line
        assert wildcard.certificate.not_valid_after_utc.isoformat() in line


@pytest.mark.parametrize("formatter", ["json", "text"])
def test_the_subject_of_a_client_is_in_the_access_log(tmp_path: Path, ca: Holder, formatter: str) -> None:
    """With each of the certificates, and in a form in which a hostile name forges nothing."""
    clients = certs.root("client CA")
    (tmp_path / "cas").write_bytes(clients.pem)
    hostile = 'eve",O=ops\n127.0.0.1 - root'
    for name, subject in (("alice", "alice"), ("eve", hostile)):
        clients.issue(subject, usage=certs.CLIENT).write(tmp_path, name)
    pairs = [ca.issue(name, hosts=(f"{name}.test",)).write(tmp_path, name) for name in ("r", "hub")]
    tls = {**pairs[0], "certificates": [pairs[1]], "clientcas": [str(tmp_path / "cas")]}
    log = {"formatter": formatter, "accesslog": {"disabled": False}}
    with serving(tmp_path / "home", command=MOORAGE, log=log, http={"tls": tls}) as served:
        for host, client in (("r.test", "alice"), ("hub.test", "eve")):
            context = ssl.create_default_context(cadata=ca.pem.decode())
            context.load_cert_chain(tmp_path / f"{client}.crt", tmp_path / f"{client}.key")
            with context.wrap_socket(served.connect(), server_hostname=host) as connection:
                connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        until(lambda: served.out.count("/v2/") == 2, "two lines of the access log", lambda: served.out)
    subjects = [_subject(line, formatter) for line in served.out.splitlines() if "/v2/" in line]
    assert subjects[0] == "CN=alice"
    assert subjects[1].startswith("CN=eve")
    assert "O=ops" not in subjects[1].replace("O\\=ops", "")
    assert len(served.out.splitlines()) == 2


def _subject(line: str, formatter: str) -> str:
    if formatter == "json":
        fields: dict[str, Any] = json.loads(line)
        return str(fields["tls.client.subject"])
    return line.rsplit(' "', maxsplit=1)[-1].rstrip('"')
