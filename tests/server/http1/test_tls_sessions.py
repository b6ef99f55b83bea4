"""TLS sessions are resumed, and clients' certificates are known afterwards: by real handshakes."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs
from tests.server import certs
from tests.server.http1.harness import running
from tests.server.http1.tls_client import TLS12, TLS13, provider, shake, tls, trusting

from moorage.server.http1.tls_connection import _peer_subject

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.certs import Holder

    from moorage.server.tls.provider import Certificates

VERSIONS: Final = pytest.mark.parametrize("version", [TLS12, TLS13])
OPTIONAL: Final = "verify-client-cert-if-given"


@pytest.fixture(scope="module")
def holders(ca: Holder) -> list[Holder]:
    return [ca.issue("default", hosts=("r.test",)), ca.issue("other", hosts=("hub.test",))]


def verifying(folder: Path, client_ca: Holder, *holders: Holder, clientauth: str = "") -> Certificates:
    """Return certificates of a server that checks those of clients."""
    (folder / "cas").write_bytes(client_ca.pem)
    return provider(folder, *holders, clientcas=(str(folder / "cas"),), clientauth=clientauth)


def shown_by(holder: Holder, folder: Path, context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a client show a certificate."""
    paths = holder.write(folder, f"client-{holder.serial}")
    context.load_cert_chain(paths["certificate"], paths["key"])
    return context


# Sessions


@VERSIONS
@pytest.mark.parametrize("host", ["r.test", "hub.test", None])
async def test_a_session_is_resumed(
    tmp_path: Path, ca: Holder, holders: list[Holder], version: ssl.TLSVersion, host: str | None
) -> None:
    """A session keeps the certificate that it began with."""
    context = trusting(ca, "http/1.1", version=version)
    async with running(tls=provider(tmp_path, *holders)) as served:
        first = await shake(served, context, host)
        second = await shake(served, context, host, session=first.session)
        assert (first.reused, second.reused, second.status) == (False, True, 200)
        assert (second.serial, second.protocol) == (first.serial, "http/1.1")
        other = "r.test" if host == "hub.test" else "hub.test"
        third = await shake(served, context, other, session=second.session)
        assert (third.reused, third.status) == (False, 200)
        assert third.serial != first.serial


@VERSIONS
async def test_a_session_ends_with_an_exchange_of_certificates(
    tmp_path: Path, ca: Holder, holders: list[Holder], version: ssl.TLSVersion
) -> None:
    """The client falls back to a whole handshake by itself."""
    certificates = provider(tmp_path, *holders)
    context = trusting(ca, version=version)
    async with running(tls=certificates) as served:
        for host in ("r.test", "hub.test"):
            first = await shake(served, context, host)
            renewed = [ca.issue(f"renewed {name}", hosts=(name,)) for name in ("r.test", "hub.test")]
            certificates.replace(tls(tmp_path, *renewed))
            second = await shake(served, context, host, session=first.session)
            assert (second.reused, second.status) == (False, 200)
            assert second.serial == renewed[host == "hub.test"].serial
            third = await shake(served, context, host, session=second.session)
            assert (third.reused, third.serial) == (True, second.serial)


async def test_a_session_of_another_worker_ends_in_a_whole_handshake(
    tmp_path: Path, ca: Holder, holders: list[Holder]
) -> None:
    context = trusting(ca)
    async with (
        running(tls=provider(tmp_path, *holders)) as one,
        running(tls=provider(tmp_path, *holders)) as two,
    ):
        first = await shake(one, context, "r.test")
        second = await shake(two, context, "r.test", session=first.session)
        assert (second.reused, second.status) == (False, 200)


# Clients' certificates


@VERSIONS
async def test_the_subject_of_a_client_is_known(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, alice: Holder, version: ssl.TLSVersion
) -> None:
    """Also on a resumed session, which sends no certificate, and with each certificate of the server."""
    context = shown_by(alice, tmp_path, trusting(ca, version=version))
    async with running(tls=verifying(tmp_path, client_ca, *holders)) as served:
        for host in ("r.test", "hub.test"):
            first = await shake(served, context, host, target="/subject")
            second = await shake(served, context, host, target="/subject", session=first.session)
            assert (first.reused, first.body) == (False, b"CN=alice")
            assert (second.reused, second.body) == (True, b"CN=alice")


@VERSIONS
async def test_a_missing_certificate_is_refused_and_logged(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, version: ssl.TLSVersion
) -> None:
    alert = "CERTIFICATE_REQUIRED" if version is TLS13 else "HANDSHAKE_FAILURE"
    with capture_logs() as lines:
        async with running(tls=verifying(tmp_path, client_ca, *holders)) as served:
            for host in ("r.test", "hub.test"):
                with pytest.raises(ssl.SSLError, match=alert):
                    await shake(served, trusting(ca, version=version), host)
            assert served.app.begun == []
    expected = ("TLS handshake failed", "127.0.0.1", "peer did not return a certificate")
    assert [(line["event"], line["remote"], line["reason"]) for line in lines] == [expected] * 2


@VERSIONS
async def test_a_strange_certificate_is_refused_and_logged(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, version: ssl.TLSVersion
) -> None:
    """Also with optional certificates."""
    stranger = certs.root("other").issue("eve", usage=certs.CLIENT)
    context = shown_by(stranger, tmp_path, trusting(ca, version=version))
    with capture_logs() as lines:
        async with running(tls=verifying(tmp_path, client_ca, *holders, clientauth=OPTIONAL)) as served:
            for host in ("r.test", "hub.test"):
                with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                    await shake(served, context, host)
            without = await shake(served, trusting(ca, version=version), "hub.test", target="/subject")
            assert (without.status, without.body) == (200, b"")
    assert [line["reason"] for line in lines] == ["certificate verify failed"] * 2


@VERSIONS
async def test_a_session_does_not_outlive_the_authority(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, alice: Holder, version: ssl.TLSVersion
) -> None:
    """A client whose authority was removed must not get in by a session that began before."""
    certificates = verifying(tmp_path, client_ca, *holders)
    context = shown_by(alice, tmp_path, trusting(ca, version=version))
    async with running(tls=certificates) as served:
        first = await shake(served, context, "hub.test", target="/subject")
        assert first.body == b"CN=alice"
        (tmp_path / "cas").write_bytes(certs.root("new client CA").pem)
        certificates.replace(tls(tmp_path, *holders, clientcas=(str(tmp_path / "cas"),)))
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            await shake(served, context, "hub.test", session=first.session)


@pytest.mark.parametrize(
    ("attributes", "subject"),
    [
        ([[(NameOID.COMMON_NAME, 'a,O=ops+OU="x";<y>\\')]], 'CN=a\\,O\\=ops\\+OU\\=\\"x\\"\\;\\<y\\>\\\\'),
        ([[(NameOID.COMMON_NAME, " #a ")]], "CN=\\ #a\\ "),
        ([[(NameOID.COMMON_NAME, "#a")]], "CN=\\#a"),
        ([[(NameOID.COMMON_NAME, " ")]], "CN=\\ "),
        ([[(NameOID.COMMON_NAME, "Zoë 漢")]], "CN=Zoë 漢"),
        ([[(NameOID.ORGANIZATION_NAME, "Ours")], [(NameOID.COMMON_NAME, "b")]], "CN=b,O=Ours"),
        ([[(NameOID.COMMON_NAME, "b"), (NameOID.USER_ID, "7")]], "CN=b+userId=7"),
        ([[(x509.ObjectIdentifier("1.2.3.4"), "z")]], "1.2.3.4=z"),
        ([], ""),
    ],
)
async def test_special_characters_of_a_subject_are_escaped(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, monkeypatch: pytest.MonkeyPatch,
    attributes: list[list[tuple[x509.ObjectIdentifier, str]]], subject: str,
) -> None:  # fmt: skip
    """RFC 4514: a value must not pass for further attributes."""
    name = x509.Name([
        x509.RelativeDistinguishedName([x509.NameAttribute(oid, value) for oid, value in group])
        for group in attributes
    ])  # fmt: skip
    monkeypatch.setattr(certs, "_named", lambda _: name)
    eve = client_ca.issue("eve", usage=certs.CLIENT)
    context = shown_by(eve, tmp_path, trusting(ca))
    async with running(tls=verifying(tmp_path, client_ca, *holders)) as served:
        shaken = await shake(served, context, target="/subject")
    assert shaken.body.decode() == subject


async def test_bits_in_a_subject_are_shown_in_hexadecimal(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ssl` returns them as bytes."""
    bits = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\0bits", _type=_ASN1Type.BitString)
    name = x509.Name([bits, x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    monkeypatch.setattr(certs, "_named", lambda _: name)
    context = shown_by(client_ca.issue("odd", usage=certs.CLIENT), tmp_path, trusting(ca))
    async with running(tls=verifying(tmp_path, client_ca, *holders)) as served:
        shaken = await shake(served, context, target="/subject")
    assert shaken.body == b"CN=odd,x500UniqueIdentifier=#62697473"


def test_a_certificate_that_cannot_be_decoded_is_shown_by_its_digest() -> None:
    """OpenSSL has verified it, so the client is let in."""

    class Undecodable:
        def getpeercert(self, binary_form: bool = False) -> bytes:
            if not binary_form:
                raise ssl.SSLError("bad string")
            return b"der"

    shown: Any = Undecodable()
    assert _peer_subject(shown) == f"sha256={hashlib.sha256(b'der').hexdigest()}"


async def test_many_clients_are_distinguished(
    tmp_path: Path, ca: Holder, holders: list[Holder], client_ca: Holder
) -> None:
    """Connections at the same time share contexts, and no subject."""
    named = [client_ca.issue(f"client {number}", usage=certs.CLIENT) for number in range(12)]
    contexts = [shown_by(one, tmp_path, trusting(ca)) for one in named]
    async with running(tls=verifying(tmp_path, client_ca, *holders, clientauth=OPTIONAL)) as served:
        shaken = await asyncio.gather(
            *(shake(served, context, target="/subject") for context in [*contexts, trusting(ca)])
        )
    assert [one.body.decode() for one in shaken] == [*(f"CN=client {number}" for number in range(12)), ""]
