"""Certificates: served natively, and looked at before anything starts."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
import ssl
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.server.serving import serving, until

from moorage.config.sections.http import Tls
from moorage.server.listen import Cannot
from moorage.server.tls import check

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys, an expired one, and an encrypted key."""
    folder = tmp_path_factory.mktemp("tls")
    _make(folder, "one")
    _make(folder, "two")
    _make(folder, "soon", days=3)
    subprocess.run(
        ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", "one.key", "-out", "locked.key"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    (folder / "garbage").write_text("this is no certificate\n")
    (folder / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return folder


def _make(folder: Path, name: str, days: int = 100) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
         f"{name}.crt", "-days", str(days), "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def settings(folder: Path, certificate: str, key: str) -> Tls:
    return Tls(certificate=str(folder / certificate), key=str(folder / key))


def test_a_certificate_and_its_key_are_taken(folder: Path) -> None:
    tls, warnings = check(settings(folder, "one.crt", "one.key"))
    assert tls is not None
    assert warnings == []


def test_without_certificate_there_is_no_tls() -> None:
    assert check(Tls()) == (None, [])


def test_a_certificate_that_ends_soon_is_told(folder: Path) -> None:
    """Clients refuse the registry from one second to the next."""
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=2, hours=1)
    _, warnings = check(settings(folder, "soon.crt", "soon.key"), soon)
    assert len(warnings) == 1
    assert "expires on" in warnings[0]


def test_an_expired_certificate_is_told(folder: Path) -> None:
    """It is served all the same: a registry that does not start helps nobody."""
    now = dt.datetime.now(dt.UTC)
    begin, end = (f"{now - dt.timedelta(days=ago):%Y%m%d%H%M%SZ}" for ago in (20, 10))
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
        "[p]\ncommonName=supplied\n[e]\nsubjectAltName=IP:127.0.0.1\n"
    )
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    subprocess.run(
        ["openssl", "req", "-new", "-key", "one.key", "-subj", "/CN=old", "-out", "old.csr",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["openssl", "ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", "one.key", "-in", "old.csr",
         "-out", "old.crt", "-extensions", "e", "-startdate", begin, "-enddate", end, "-notext"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    tls, warnings = check(settings(folder, "old.crt", "one.key"))
    assert tls is not None
    assert len(warnings) == 1
    assert "has expired" in warnings[0]


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("missing", "one.key", "certificate: cannot read"),
        ("one.crt", "missing", "key: cannot read"),
        ("garbage", "one.key", "no PEM block"),
        ("one.crt", "garbage", "no PEM block"),
        ("broken", "one.key", "cannot be used"),
        ("one.crt", "two.key", "does not belong"),
        ("one.crt", "locked.key", "is encrypted"),
        ("one.key", "one.crt", "no PEM block"),
    ],
)
def test_files_that_cannot_be_served_are_refused_with_the_reason(
    folder: Path, certificate: str, key: str, message: str
) -> None:
    with pytest.raises(Cannot, match=message):
        check(settings(folder, certificate, key))


def test_half_a_pair_is_refused(folder: Path) -> None:
    with pytest.raises(Cannot, match=r"http\.tls.key is missing"):
        check(Tls(certificate=str(folder / "one.crt")))
    with pytest.raises(Cannot, match=r"http\.tls.certificate is missing"):
        check(Tls(key=str(folder / "one.key")))


def test_a_server_with_the_wrong_key_ends_with_a_message(tmp_path: Path, folder: Path) -> None:
    tls = {"certificate": str(folder / "one.crt"), "key": str(folder / "two.key")}
    with serving(tmp_path / "home", wait=False, http={"tls": tls}) as served:
        assert served.ended() == 1
        assert "does not belong" in served.err


def test_https_is_spoken_with_http2_and_without(tmp_path: Path, folder: Path) -> None:
    tls = {"certificate": str(folder / "one.crt"), "key": str(folder / "one.key")}
    trusting = ssl.create_default_context(cafile=str(folder / "one.crt"))
    with (
        serving(tmp_path / "home", http={"tls": tls}) as served,
        httpx.Client(http2=True, verify=trusting) as client,
    ):
        assert "listening on https://127.0.0.1" in served.err
        answer = client.get(served.url)
        assert (answer.http_version, answer.json()["scheme"]) == ("HTTP/2", "https")
        size = 3 << 20
        assert client.put(f"{served.url}/echo", content=bytes(size)).text == str(size)
        with httpx.Client(verify=trusting) as older:
            assert older.get(served.url).http_version == "HTTP/1.1"
        assert served.stop() == 0


def test_http2_and_old_tls_can_be_switched_off(tmp_path: Path, folder: Path) -> None:
    tls = {"certificate": str(folder / "one.crt"), "key": str(folder / "one.key"), "minimumtls": "tls1.3"}
    trusting = ssl.create_default_context(cafile=str(folder / "one.crt"))
    with serving(tmp_path / "home", http={"tls": tls, "http2": {"disabled": True}}) as served:
        with httpx.Client(http2=True, verify=trusting) as client:
            answer = client.get(served.url)
        assert answer.http_version == "HTTP/1.1"
        assert json.loads(answer.content)["scheme"] == "https"
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with httpx.Client(verify=trusting) as client, pytest.raises(httpx.ConnectError):
            client.get(served.url)


def test_a_renewed_certificate_is_taken_over_by_a_reload(tmp_path: Path, folder: Path) -> None:
    """Certificates of 90 days must not mean a restart every 60."""
    for kind in ("crt", "key"):
        shutil.copy(folder / f"one.{kind}", tmp_path / f"now.{kind}")
    tls = {"certificate": str(tmp_path / "now.crt"), "key": str(tmp_path / "now.key")}
    with serving(tmp_path / "home", http={"tls": tls}) as served:
        address = ("127.0.0.1", served.port)
        assert ssl.get_server_certificate(address).split() == (folder / "one.crt").read_text().split()
        for kind in ("crt", "key"):
            shutil.copy(folder / f"two.{kind}", tmp_path / f"now.{kind}")
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        until(
            lambda: ssl.get_server_certificate(address).split() == (folder / "two.crt").read_text().split(),
            "the new certificate",
        )


def test_a_renewed_certificate_is_noticed_on_disk(tmp_path: Path, folder: Path) -> None:
    """Nobody has to remember a hook of certbot, and a secret of Kubernetes has none."""
    for kind in ("crt", "key"):
        shutil.copy(folder / f"one.{kind}", tmp_path / f"now.{kind}")
    tls = {"certificate": str(tmp_path / "now.crt"), "key": str(tmp_path / "now.key")}
    with serving(tmp_path / "home", http={"tls": tls}) as served:
        address = ("127.0.0.1", served.port)
        for kind in ("crt", "key"):
            shutil.copy(folder / f"two.{kind}", tmp_path / f"now.{kind}")
        served.logged("certificate renewed")
        until(
            lambda: ssl.get_server_certificate(address).split() == (folder / "two.crt").read_text().split(),
            "the new certificate",
        )


def test_an_http2_client_that_does_not_listen_does_not_delay_the_end(tmp_path: Path, folder: Path) -> None:
    """Pools keep connections that nobody reads from; GOAWAY is never acknowledged on them."""
    tls = {"certificate": str(folder / "one.crt"), "key": str(folder / "one.key")}
    trusting = ssl.create_default_context(cafile=str(folder / "one.crt"))
    home = tmp_path / "home"
    with (
        serving(home, http={"tls": tls, "draintimeout": "60s"}) as served,
        httpx.Client(http2=True, verify=trusting) as client,
    ):
        assert client.get(served.url).http_version == "HTTP/2"
        assert served.stop() == 0
