"""TLS handshakes: certificates by SNI, protocols by ALPN, ACME challenges, versions, suites, renegotiation."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs
from tests.server.http1.harness import running, until
from tests.server.http1.peer import LIMIT_S, turns
from tests.server.http1.tls_client import (
    TLS12,
    TLS13,
    alert_of,
    certificates_in,
    client_hello,
    provider,
    shake,
    split,
    tls,
    trusting,
)

from moorage.acme import pem
from moorage.acme.store import CertificateStore
from moorage.server.options import Challenges

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.server.certs import Holder
    from tests.server.http1.harness import Running

DEFAULT, EXACT, WILDCARD = range(3)
NO_APPLICATION_PROTOCOL: Final = 120
NAMES: Final = {
    "r.test": DEFAULT,
    "hub.test": EXACT,
    "HUB.Test": EXACT,
    "hub.test.": EXACT,
    "HUB.TEST.": EXACT,
    "a.example.test": WILDCARD,
    "A.EXAMPLE.TEST.": WILDCARD,
    "a.b.example.test": DEFAULT,
    "example.test": DEFAULT,
    "unknown.test": DEFAULT,
    "x.hub.test": DEFAULT,
    "127.0.0.1": DEFAULT,
    "::1": DEFAULT,
}


@pytest.fixture(scope="module")
def holders(ca: Holder) -> list[Holder]:
    """The default certificate, one for an exact name and an address, one for a wildcard."""
    return [
        ca.issue("default", hosts=("r.test",)),
        ca.issue("exact", hosts=("Hub.test", "127.0.0.1")),
        ca.issue("wildcard", hosts=("*.example.test", "r.test"), kind="Ed25519"),
    ]


async def answer_to(served: Running, *pieces: bytes) -> bytes:
    """Send pieces that the server reads one by one, and return everything up to the end of its first flight."""
    async with await served.connect() as peer:
        for piece in pieces:
            if not await peer.send(piece):
                break
            await turns()
        peer.half_close()
        return await peer.read_to_end()


# Server Name Indication


@pytest.mark.parametrize("version", [TLS12, TLS13])
async def test_each_name_gets_its_certificate(
    tmp_path: Path, ca: Holder, holders: list[Holder], version: ssl.TLSVersion, capfd: pytest.CaptureFixture[str]
) -> None:
    context = trusting(ca, "http/1.1", version=version)
    with capture_logs() as lines:
        async with running(tls=provider(tmp_path, *holders)) as served:
            for name, expected in [*NAMES.items(), (None, DEFAULT)]:
                shaken = await shake(served, context, name)
                assert (shaken.serial, shaken.status) == (holders[expected].serial, 200), name
    assert lines == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"127.0.0.1", DEFAULT), (b"a\xff.test", DEFAULT), (b"\xc3\xa9.example.test", WILDCARD), (b".", DEFAULT),
        (b".example.test", WILDCARD), (b"*.example.test", WILDCARD), (b"hub.test\n", DEFAULT), (b" ", DEFAULT),
        (b"hub.test..", DEFAULT), (b"hub.test:443", DEFAULT), (b"../hub.test", DEFAULT), (b"..", DEFAULT),
    ],
)  # fmt: skip
async def test_a_strange_name_gets_a_certificate(
    tmp_path: Path, holders: list[Holder], name: bytes, expected: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """TLS requires no end of the handshake, and the client's own check of the certificate decides."""
    async with running(tls=provider(tmp_path, *holders)) as served:
        answer = await answer_to(served, client_hello(name))
    assert certificates_in(answer, holders) == [holders[expected]]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("old", "new", "alert"),
    [
        (b"hub.test", b"hub\0test", 112),
        (b"\x00\x0b\x00\x00\x08hub.test", b"\x00\x0b\x00\x00\x09hub.test", 50),
        (b"\x00\x0b\x00\x00\x08hub.test", b"\x00\x0a\x00\x00\x08hub.test", 50),
        (b"\x00\x0b\x00\x00\x08hub.test", b"\x00\x0b\x00\x00\x00hub.test", 50),
    ],
)
async def test_a_malformed_extension_is_refused_by_alert(
    tmp_path: Path, holders: list[Holder], old: bytes, new: bytes, alert: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = client_hello(b"hub.test")
    assert data.count(old) == 1
    for certificates in (holders, holders[:1]):
        with capture_logs() as lines:
            async with running(tls=provider(tmp_path, *certificates)) as served:
                assert alert_of(await answer_to(served, data.replace(old, new))) == alert
        assert [(line["event"], line["remote"]) for line in lines] == [("TLS handshake failed", "127.0.0.1")]
    assert capfd.readouterr().err == ""


async def test_a_name_may_come_in_pieces(tmp_path: Path, holders: list[Holder]) -> None:
    """Clients with keys against quantum computers need several packets, and some split the name on purpose."""
    data = client_hello(b"a.example.test")
    cut = data.index(b"example")
    async with running(tls=provider(tmp_path, *holders)) as served:
        for pieces in ([data[:cut], data[cut:]], [bytes([byte]) for byte in data], [split(data, 1, 2, cut)]):
            answer = await answer_to(served, *pieces)
            assert certificates_in(answer, holders) == [holders[WILDCARD]]


async def test_renewed_certificates_are_chosen_by_name(tmp_path: Path, ca: Holder, holders: list[Holder]) -> None:
    """Also when their number changes."""
    certificates = provider(tmp_path, holders[0])
    async with running(tls=certificates) as served:
        context = trusting(ca, "http/1.1")
        assert (await shake(served, context, "hub.test")).serial == holders[DEFAULT].serial
        certificates.replace(tls(tmp_path, *holders))
        assert (await shake(served, context, "hub.test")).serial == holders[EXACT].serial
        certificates.replace(tls(tmp_path, holders[2]))
        assert (await shake(served, context, "hub.test")).serial == holders[WILDCARD].serial


# Application-Layer Protocol Negotiation


@pytest.mark.parametrize("count", [1, 3])
async def test_http_is_chosen_from_what_a_client_offers(
    tmp_path: Path, ca: Holder, holders: list[Holder], count: int
) -> None:
    """`curl --http1.0` offers http/1.0 only, and openssl nothing."""
    offers: dict[tuple[str, ...], str | None] = {
        ("h2", "http/1.1"): "http/1.1", ("http/1.1",): "http/1.1", ("http/1.0", "http/1.1"): "http/1.1",
        ("http/1.0",): "http/1.0", ("spdy/3", "h2", "http/1.1", "x" * 255): "http/1.1", (): None,
    }  # fmt: skip
    async with running(tls=provider(tmp_path, *holders[:count])) as served:
        for offered, chosen in offers.items():
            shaken = await shake(served, trusting(ca, *offered))
            assert (shaken.protocol, shaken.status) == (chosen, 200), offered


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("offered", [("h2",), ("acme-tls/1",), ("h3", "h2"), ("http/2",), ("HTTP/1.1",)])
@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_without_http_1_is_refused_by_alert(
    tmp_path: Path,
    ca: Holder,
    holders: list[Holder],
    version: ssl.TLSVersion,
    offered: tuple[str, ...],
    count: int,
) -> None:
    """RFC 7301 section 3.2: otherwise the client sends HTTP/2 on a connection of HTTP/1.1."""
    with capture_logs() as lines:
        async with running(tls=provider(tmp_path, *holders[:count])) as served:
            with pytest.raises(ssl.SSLError, match="alert no application protocol"):
                await shake(served, trusting(ca, *offered, version=version))
            assert served.app.begun == []
    assert [(line["event"], line["remote"], line["reason"]) for line in lines] == [
        (
            "TLS handshake failed", "127.0.0.1",
            f"the client offers no HTTP/1.1 by ALPN, only {' '.join(offered)}",
        )
    ]  # fmt: skip


async def test_protocols_may_come_in_pieces(tmp_path: Path, ca: Holder, holders: list[Holder]) -> None:
    refused, served_one = client_hello(b"r.test", "h2"), client_hello(b"r.test", "h2", "http/1.1")
    cut = served_one.index(b"http/1.1") + 3
    async with running(tls=provider(tmp_path, holders[0])) as served:
        for pieces in ([bytes([byte]) for byte in refused], [split(refused, 3, 60)], [refused]):
            assert alert_of(await answer_to(served, *pieces)) == NO_APPLICATION_PROTOCOL
        for pieces in ([bytes([byte]) for byte in served_one], [split(served_one, cut - 5)], [served_one]):
            assert certificates_in(await answer_to(served, *pieces), holders) == [holders[0]]


async def test_an_ordinary_client_costs_nothing(
    tmp_path: Path, ca: Holder, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one certificate a ClientHello that mentions HTTP/1 is parsed by OpenSSL only."""
    monkeypatch.setattr("moorage.server.http1.client_hello.Assembler", lambda: pytest.fail("parsed"))
    async with running(tls=provider(tmp_path, holders[0])) as served:
        assert (await shake(served, trusting(ca, "h2", "http/1.1"))).status == 200


async def test_hostile_protocol_names_are_cut_in_the_log(tmp_path: Path, holders: list[Holder]) -> None:
    data = client_hello(b"r.test", *(f"{number:03}{'y' * 200}" for number in range(20)))
    data = data.replace(b"000yyy", b"000\xff\xfe\n")
    with capture_logs() as lines:
        async with running(tls=provider(tmp_path, holders[0])) as served:
            assert alert_of(await answer_to(served, data)) == NO_APPLICATION_PROTOCOL
    (line,) = lines
    assert "000\\xff\\xfe" in line["reason"]
    assert len(line["reason"]) < 200


@pytest.mark.parametrize(("count", "expected"), [(50, EXACT), (120, DEFAULT)])
async def test_a_large_client_hello_is_served(
    tmp_path: Path, ca: Holder, holders: list[Holder], count: int, expected: int
) -> None:
    """As far as OpenSSL accepts it; beyond 16 KiB with the default certificate."""
    protocols = [f"{number:03}{'y' * 250}" for number in range(count)]
    async with running(tls=provider(tmp_path, *holders)) as served:
        shaken = await shake(served, trusting(ca, *protocols, "http/1.1"), "hub.test")
        assert (shaken.serial, shaken.protocol) == (holders[expected].serial, "http/1.1")


async def test_curl_is_served_with_every_option(tmp_path: Path, ca: Holder, holders: list[Holder]) -> None:
    """With HTTP/2 by prior knowledge it offers HTTP/1.1 as well."""
    (tmp_path / "ca").write_bytes(ca.pem)
    async with running(tls=provider(tmp_path, holders[0])) as served:
        curl = ["curl", "-sS", "--cacert", str(tmp_path / "ca"), "-w", "\n%{http_version}", "-m", f"{LIMIT_S:g}"]
        url = ["--resolve", f"r.test:{served.port}:127.0.0.1", f"https://r.test:{served.port}/"]
        for option in ("--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge", "--no-alpn"):
            ran = await asyncio.to_thread(subprocess.run, [*curl, option, *url], capture_output=True, check=True)
            assert ran.stdout.endswith(b"\n1.1"), option


async def test_the_preface_of_http_2_gets_a_readable_505(
    tmp_path: Path, ca: Holder, holders: list[Holder]
) -> None:
    """Without TLS, and from a client that negotiates nothing."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with running() as served, await served.connect() as peer:
        await peer.send(preface)
        assert (await peer.read_answer()).status == 505
    async with running(tls=provider(tmp_path, holders[0])) as served:
        client = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{served.port}"]
        ran = await asyncio.to_thread(
            subprocess.run, client, input=preface, capture_output=True, check=False, timeout=LIMIT_S
        )
    assert ran.stdout.startswith(b"HTTP/1.1 505 ")


# Challenges of ACME


@pytest.fixture
def challenges(tmp_path: Path) -> Challenges:
    folder = tmp_path / "acme"
    folder.mkdir()
    return Challenges(str(folder), ("r.test",))


@pytest.mark.parametrize("count", [1, 3])
async def test_challenges_are_answered_beside_http(
    tmp_path: Path, ca: Holder, holders: list[Holder], challenges: Challenges, count: int
) -> None:
    made = pem.challenge_certificate("r.test", "token.thumb", datetime.now(UTC))
    CertificateStore(challenges.folder).put_alpn_answer("r.test", made)
    proof = x509.load_pem_x509_certificate(made[made.index(b"-----BEGIN CERTIFICATE") :])
    data = client_hello(b"R.test", "acme-tls/1")
    async with running(tls=provider(tmp_path, *holders[:count], challenges=challenges)) as served:
        for pieces in ([data], [bytes([byte]) for byte in data]):
            answer = await challenge_answer(served, pieces)
            assert proof.public_bytes(Encoding.DER) in answer
        shaken = await shake(served, trusting(ca, "h2", "http/1.1"), "r.test")
        assert (shaken.serial, shaken.protocol) == (holders[0].serial, "http/1.1")
        with pytest.raises(ssl.SSLError, match="alert no application protocol"):
            await shake(served, trusting(ca, "h2"), "r.test")
        with pytest.raises(ssl.SSLError, match="unrecognized name"):
            await shake(served, trusting(ca, "acme-tls/1"), "hub.test")


async def challenge_answer(served: Running, pieces: Sequence[bytes]) -> bytes:
    """Send a ClientHello in pieces; the answer comes from a file, so the client waits for it."""
    async with await served.connect() as peer:
        for piece in pieces:
            await peer.send(piece)
            await turns()
        return await peer.read_until(b"\x0e\x00\x00\x00")  # ServerHelloDone


# Versions and suites


async def test_old_versions_are_refused_by_alert(tmp_path: Path, holders: list[Holder]) -> None:
    for count in (1, 3):
        with capture_logs() as lines:
            async with running(tls=provider(tmp_path, *holders[:count])) as served:
                for minor in (1, 2):
                    data = bytearray(client_hello(b"r.test"))
                    data[9:11] = (3, minor)
                    assert alert_of(await answer_to(served, bytes(data))) == 70
        assert [line["reason"] for line in lines] == ["unsupported protocol"] * 2


async def test_tls_1_2_can_be_excluded(tmp_path: Path, ca: Holder, holders: list[Holder]) -> None:
    with capture_logs() as lines:
        async with running(tls=provider(tmp_path, *holders, minimumtls="tls1.3")) as served:
            for host in ("r.test", "hub.test"):
                shaken = await shake(served, trusting(ca, version=TLS13), host)
                assert (shaken.version, shaken.status) == ("TLSv1.3", 200)
                with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                    await shake(served, trusting(ca, version=TLS12), host)
    assert [line["reason"] for line in lines] == ["unsupported protocol"] * 2


async def test_a_listed_suite_is_negotiated(tmp_path: Path, ca: Holder, holders: list[Holder]) -> None:
    """The first one of the list that the client offers, for every certificate."""
    listed = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    context = trusting(ca, version=TLS12)
    offers = {
        "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    }
    with capture_logs() as lines:
        async with running(tls=provider(tmp_path, *holders, ciphersuites=listed)) as served:
            for host in ("r.test", "hub.test", "a.example.test"):
                for offered, chosen in offers.items():
                    context.set_ciphers(offered)
                    assert (await shake(served, context, host)).cipher == chosen
            assert lines == []
            context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-GCM-SHA256")
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                await shake(served, context, "hub.test")
            await until(lambda: lines, "a line in the log")
    assert [(line["remote"], line["reason"]) for line in lines] == [("127.0.0.1", "no shared cipher")]


# After the handshake


async def test_renegotiation_is_refused(tmp_path: Path, holders: list[Holder]) -> None:
    """Each one costs the server a signature."""
    async with running(tls=provider(tmp_path, holders[0])) as served:
        client = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{served.port}"]
        ran = await asyncio.to_thread(
            subprocess.run, client, input=b"R\n", capture_output=True, check=False, timeout=LIMIT_S
        )
        assert b"RENEGOTIATING" in ran.stdout + ran.stderr
        assert b"no renegotiation" in ran.stderr
        assert served.app.begun == []
        assert (await shake(served, ssl._create_unverified_context())).status == 200
