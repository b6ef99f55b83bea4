"""Files of `http.tls`: every supported form, chain order, warnings and refusals."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtensionOID
from tests.server import certs
from tests.server.certs import DAY, NOW, Holder

from moorage.config.checks.files import unreadable
from moorage.server.tls.certificates import Authorities, ValidatedPair, authorities, pair
from moorage.startup import StartupError

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

KINDS = ("P-256", "P-384", "P-521", "Ed25519", "RSA-2048", "RSA-2560")


@pytest.fixture(scope="module")
def between(ca: Holder) -> Holder:
    return ca.issue("intermediate", authority=True)


@pytest.fixture(scope="module")
def leaf(between: Holder) -> Holder:
    return between.issue("registry.test")


@pytest.fixture(scope="module", params=KINDS)
def of_each_kind(request: pytest.FixtureRequest) -> Holder:
    return certs.self_signed(kind=request.param)


def read(folder: Path, chain: bytes, key: bytes, now: dt.datetime = NOW) -> ValidatedPair:
    (folder / "crt").write_bytes(chain)
    (folder / "key").write_bytes(key)
    return pair(str(folder / "crt"), str(folder / "key"), now)


def names(found: ValidatedPair | Authorities) -> list[str]:
    pem = found.chain if isinstance(found, ValidatedPair) else found.pem
    return [one.subject.rfc4514_string() for one in x509.load_pem_x509_certificates(pem)]


# Keys


def test_a_key_of_each_kind_is_taken(tmp_path: Path, of_each_kind: Holder) -> None:
    found = read(tmp_path, of_each_kind.chain, of_each_kind.key_pem())
    assert found.key == of_each_kind.key_pem()
    assert found.warnings == []
    assert found.kind == ("RSA" if "RSA" in type(of_each_kind.key).__name__ else "ECDSA")


def test_the_old_forms_of_keys_are_taken(tmp_path: Path) -> None:
    """PKCS#1 and SEC1 are what `openssl rsa` and `openssl ec` have written for twenty years."""
    for kind, label in (("RSA-2048", b"BEGIN RSA PRIVATE KEY"), ("P-384", b"BEGIN EC PRIVATE KEY")):
        holder = certs.self_signed(kind=kind)
        old = holder.key_pem(PrivateFormat.TraditionalOpenSSL)
        assert label in old
        assert read(tmp_path, holder.chain, old).key == holder.key_pem()


def test_sec1_without_its_public_half_is_taken(tmp_path: Path, leaf: Holder) -> None:
    """`openssl ec -no_public` and some hardware write such keys."""
    bare = subprocess.run(
        ["openssl", "ec", "-no_public"], input=leaf.key_pem(), capture_output=True, check=True
    ).stdout
    assert read(tmp_path, leaf.chain, bare).key == leaf.key_pem()


def test_what_surrounds_a_key_does_not_matter(tmp_path: Path, leaf: Holder) -> None:
    """Parameters of a curve, attributes of an export, the chain in the same file, and Windows' line ends."""
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    old = leaf.key_pem(PrivateFormat.TraditionalOpenSSL)
    written = (
        b"\xef\xbb\xbfBag Attributes\n  friendlyName: x\n" + parameters + old + b"trailing words\n" + leaf.chain
    )
    found = read(tmp_path, written.replace(b"\n", b"\r\n"), written.replace(b"\n", b"\r\n"))
    assert found.key == leaf.key_pem()
    assert names(found) == ["CN=registry.test", "CN=intermediate"]
    assert found.warnings == []


@pytest.mark.parametrize(
    ("kind", "reported"),
    [
        ("secp256k1", "on the curve secp256k1"),
        ("RSA-1024", "RSA with 1024 bits"),
        ("RSA-2032", "RSA with 2032 bits"),
    ],
)
def test_a_key_that_cannot_be_served_is_refused_with_those_that_can(
    tmp_path: Path, kind: str, reported: str
) -> None:
    """No client could connect, or no worker could start."""
    holder = certs.self_signed(kind=kind)
    with pytest.raises(StartupError, match=f"{reported}; keys that can be served are RSA with at least 2048 bits"):
        read(tmp_path, holder.chain, holder.key_pem())


def test_keys_that_clients_in_go_refuse_are_served_with_a_warning(tmp_path: Path) -> None:
    """OpenSSL's own clients take them; a warning, since other clients may accept it."""
    holder = certs.self_signed(kind="Ed448")
    (warning,) = read(tmp_path, holder.chain, holder.key_pem()).warnings
    assert "has a key of the kind Ed448; Docker and other clients in Go will refuse it" in warning


def test_a_small_public_exponent_is_taken(tmp_path: Path) -> None:
    """OpenSSL serves it, and clients in Go accept it."""
    made = ["openssl", "genpkey", "-quiet", "-algorithm", "RSA"]
    options = ["-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"]
    key = subprocess.run([*made, *options], capture_output=True, check=False).stdout
    loaded = load_pem_private_key(key, None)
    holder = Holder(certs.certificate("x", loaded), loaded)  # type: ignore[arg-type]
    assert read(tmp_path, holder.chain, key).warnings == []


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_is_refused(tmp_path: Path, leaf: Holder, form: PrivateFormat) -> None:
    with pytest.raises(StartupError, match="is encrypted; a server needs the key without a password"):
        read(tmp_path, leaf.chain, leaf.key_pem(form, password=b"secret"))


def test_a_broken_key_is_refused_without_a_word_of_it(tmp_path: Path, leaf: Holder) -> None:
    broken = leaf.key_pem().replace(b"\n", b"\nAAAA", 1)
    with pytest.raises(StartupError, match=r"the private key in .* is broken") as refused:
        read(tmp_path, leaf.chain, broken)
    assert leaf.key_pem().splitlines()[1].decode() not in str(refused.value)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path, leaf: Holder, ca: Holder) -> None:
    with pytest.raises(StartupError, match="does not belong to any of the 2 certificates in"):
        read(tmp_path, leaf.chain, ca.key_pem())
    with pytest.raises(StartupError, match=r"does not belong to CN=registry\.test in"):
        read(tmp_path, leaf.pem, ca.key_pem())


# Files


def test_files_of_another_kind_are_told_apart(tmp_path: Path, leaf: Holder) -> None:
    """Which of the two is wrong, and what is in it."""
    for chain, key, reported in (
        (b"this is no certificate\n", leaf.key_pem(), "certificate: .*holds no PEM block"),
        (leaf.chain, b"", "key: .*holds no PEM block"),
        (b"\x30\x82\x01", leaf.key_pem(), "it looks like DER or PKCS#12, expected PEM"),
        (leaf.key_pem(), leaf.chain, "holds a private key and no PEM block CERTIFICATE; are the two mixed up"),
        (leaf.chain, leaf.chain, "key: .*holds no PEM block PRIVATE KEY, only CERTIFICATE"),
        (leaf.pem.replace(b"CERTIFICATE", b"X509 CRL"), leaf.key_pem(), "no PEM block CERTIFICATE, only X509 CRL"),
        (leaf.pem + leaf.pem.replace(b"MII", b"AAA", 1), leaf.key_pem(), "certificate 2 in .* cannot be used"),
    ):
        with pytest.raises(StartupError, match=reported):
            read(tmp_path, chain, key)
    with pytest.raises(StartupError, match=r"certificate: cannot read .*missing: No such file"):
        pair(str(tmp_path / "missing"), str(tmp_path / "key"), NOW)
    with pytest.raises(StartupError, match=r"cannot read .*: not a path"):
        pair("a\0b", str(tmp_path / "key"), NOW)


def test_a_file_without_an_end_is_refused(tmp_path: Path) -> None:
    """The master would wait for a writer for ever, or fill its memory, and take no signal meanwhile."""
    leaf = certs.self_signed()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(1 << 30)
    for path, reason in (
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "large", "larger than 4194304 bytes"),
        (tmp_path, "Is a directory"),
    ):
        leaf.write(tmp_path, "good")
        with pytest.raises(StartupError, match=f"certificate: cannot read .*: {reason}"):
            pair(str(path), str(tmp_path / "good.key"), NOW)
        with pytest.raises(StartupError, match=f"key: cannot read .*: {reason}"):
            pair(str(tmp_path / "good.crt"), str(path), NOW)
        assert unreadable(str(path)).startswith(reason)


# Order


def test_a_chain_in_order_stays_as_it_is(tmp_path: Path, leaf: Holder, between: Holder, ca: Holder) -> None:
    found = read(tmp_path, leaf.pem + between.pem + ca.pem, leaf.key_pem())
    assert names(found) == ["CN=registry.test", "CN=intermediate", "CN=test CA"]
    assert found.warnings == []


def test_a_chain_that_does_not_begin_with_the_leaf_is_mended_and_told(
    tmp_path: Path, leaf: Holder, between: Holder, ca: Holder
) -> None:
    """The reference does not start with it; at night, when a renewal wrote it, that would be an outage."""
    found = read(tmp_path, ca.pem + between.pem + leaf.pem, leaf.key_pem())
    assert names(found) == ["CN=registry.test", "CN=intermediate", "CN=test CA"]
    (warning,) = found.warnings
    assert "does not begin with the server's own certificate, CN=registry.test, which is number 3 in it" in warning
    assert "put it first" in warning


def test_intermediates_out_of_order_are_mended_and_told(
    tmp_path: Path, leaf: Holder, between: Holder, ca: Holder
) -> None:
    found = read(tmp_path, leaf.pem + ca.pem + between.pem, leaf.key_pem())
    assert names(found) == ["CN=registry.test", "CN=intermediate", "CN=test CA"]
    (warning,) = found.warnings
    assert "not in order; they are served as CN=registry.test, CN=intermediate, CN=test CA" in warning


def test_cross_signed_authorities_are_all_sent(tmp_path: Path, leaf: Holder, between: Holder, ca: Holder) -> None:
    """Old clients know the one that signed the new root; leaving it out would lock them out."""
    older = certs.root("older root")
    crossed = older.issue("test CA", key=ca.key, authority=True)
    found = read(tmp_path, leaf.pem + between.pem + ca.pem + crossed.pem + older.pem, leaf.key_pem())
    assert len(names(found)) == 5
    assert found.warnings == []


def test_strangers_in_a_bundle_are_left_out_and_told(tmp_path: Path, leaf: Holder) -> None:
    stranger = certs.root("stranger")
    found = read(tmp_path, leaf.chain + stranger.pem + leaf.chain, leaf.key_pem())
    assert names(found) == ["CN=registry.test", "CN=intermediate"]
    (warning,) = found.warnings
    assert "CN=stranger in" in warning
    assert "signs none of the others" in warning


def test_an_authority_of_the_same_name_with_another_key_is_a_stranger(tmp_path: Path, leaf: Holder) -> None:
    """Private authorities are made again under their old name, and the wrong one ends up in the bundle."""
    impostor = certs.root().issue("intermediate", authority=True)
    found = read(tmp_path, leaf.pem + impostor.pem, leaf.key_pem())
    assert names(found) == ["CN=registry.test"]
    assert len(found.warnings) == 1


# Judging


@pytest.mark.parametrize(
    ("after", "reported"),
    [(-2 * DAY, "is not valid before"), (0 * DAY, ""), (80 * DAY, ""), (87 * DAY, "expires on"),
     (101 * DAY, "has expired on")],
)  # fmt: skip
def test_a_certificate_that_is_not_valid_now_is_told(
    tmp_path: Path, ca: Holder, after: dt.timedelta, reported: str
) -> None:
    """It is served all the same: a warning, since other clients may accept it."""
    holder = ca.issue("registry.test")
    found = read(tmp_path, holder.chain, holder.key_pem(), NOW + after)
    assert found.until == holder.certificate.not_valid_after_utc
    assert [reported in warning for warning in found.warnings] == ([True] if reported else [])


def test_short_lived_certificates_are_not_told_of_all_their_life(tmp_path: Path, ca: Holder) -> None:
    """Six days are all that some authorities give."""
    holder = ca.issue("registry.test", begin=NOW, end=NOW + 6 * DAY)
    assert read(tmp_path, holder.chain, holder.key_pem(), NOW + 3 * DAY).warnings == []
    assert "expires on" in read(tmp_path, holder.chain, holder.key_pem(), NOW + 5 * DAY).warnings[0]


def test_an_intermediate_that_has_expired_is_told(tmp_path: Path, ca: Holder) -> None:
    between = ca.issue("intermediate", authority=True, end=NOW)
    holder = between.issue("registry.test")
    (warning,) = read(tmp_path, holder.chain, holder.key_pem(), NOW + DAY).warnings
    assert "the intermediate CN=intermediate in" in warning
    assert "has expired" in warning


@pytest.mark.parametrize("hosts", [(), ("someone@example.org",)])
def test_a_certificate_without_a_host_is_told(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    """Docker does not look at the common name since 2020."""
    holder = certs.self_signed(hosts=hosts)
    (warning,) = read(tmp_path, holder.chain, holder.key_pem()).warnings
    assert "names no host in subjectAltName" in warning


def test_a_certificate_for_clients_is_told(tmp_path: Path, ca: Holder) -> None:
    holder = ca.issue("registry.test", usage=certs.CLIENT)
    (warning,) = read(tmp_path, holder.chain, holder.key_pem()).warnings
    assert "is not meant for servers" in warning
    holder = ca.issue("registry.test", usage=certs.SERVER)
    assert read(tmp_path, holder.chain, holder.key_pem()).warnings == []


def test_weak_signatures_and_keys_above_are_told(tmp_path: Path) -> None:
    weak = certs.root().issue("weak", kind="RSA-1024", authority=True)
    holder = weak.issue("registry.test")
    (warning,) = read(tmp_path, holder.chain, holder.key_pem()).warnings
    assert "RSA key of 1024 bits" in warning


def test_a_signature_with_sha1_is_told(tmp_path: Path, ca: Holder, leaf: Holder) -> None:
    """No client has taken one for years; some private authorities still make them."""
    (tmp_path / "ca.key").write_bytes(ca.key_pem())
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    (tmp_path / "new.key").write_bytes(leaf.key_pem())
    (tmp_path / "extensions").write_text("subjectAltName=DNS:registry.test\n")
    request = ["openssl", "req", "-new", "-key", "new.key", "-subj", "/CN=registry.test", "-out", "csr"]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True)
    sign = "openssl x509 -req -sha1 -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -in csr -extfile extensions"
    signed = subprocess.run(sign.split(), cwd=tmp_path, check=True, capture_output=True).stdout
    (warning,) = read(tmp_path, signed, leaf.key_pem(), NOW + DAY).warnings
    assert "is signed with SHA1" in warning


def test_what_is_not_known_in_a_certificate_does_not_end_the_master(tmp_path: Path, leaf: Holder) -> None:
    """It reads any content at a renewal; an exception would take the whole registry down."""
    der = leaf.certificate.public_bytes(Encoding.DER)
    ecdsa_with_sha256, unknown = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d040371")
    assert der.count(ecdsa_with_sha256) == 2
    other = x509.load_der_x509_certificate(der.replace(ecdsa_with_sha256, unknown)).public_bytes(Encoding.PEM)
    assert names(read(tmp_path, other, leaf.key_pem())) == ["CN=registry.test"]
    x400_address = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x02\xa3\x00")
    strange = certs.self_signed(hosts=(), critical=x400_address)
    with pytest.raises(StartupError, match=r"certificate 1 in .* cannot be used: x400Address"):
        read(tmp_path, strange.chain, strange.key_pem())


def test_what_clients_in_go_do_not_understand_is_served_with_a_warning(tmp_path: Path, leaf: Holder) -> None:
    """OpenSSL serves any certificate that belongs to its key."""
    policy = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.2.3.4"), None)])
    holder = certs.self_signed(critical=policy)
    assert read(tmp_path, holder.chain, holder.key_pem()).warnings == []
    must_staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    holder = certs.self_signed(critical=must_staple)
    (warning,) = read(tmp_path, holder.chain, holder.key_pem()).warnings
    assert "marks the extension 1.3.6.1.5.5.7.1.24 as critical" in warning
    (tmp_path / "key").write_bytes(leaf.key_pem())
    request = ["openssl", "req", "-new", "-key", "key", "-subj", "/CN=old", "-out", "csr"]
    subprocess.run(request, cwd=tmp_path, check=True, capture_output=True)
    sign = ["openssl", "x509", "-req", "-in", "csr", "-signkey", "key"]
    old = subprocess.run(sign, cwd=tmp_path, check=True, capture_output=True).stdout
    (warning,) = read(tmp_path, old, leaf.key_pem(), NOW + DAY).warnings
    assert "names no host in subjectAltName" in warning


def test_the_hosts_of_a_certificate_are_known(tmp_path: Path) -> None:
    """Another certificate would be served for them."""
    holder = certs.self_signed(hosts=("R.example", "*.r.example", "127.0.0.1", "r.example"))
    assert read(tmp_path, holder.chain, holder.key_pem()).names == ("r.example", "*.r.example")


# Authorities of clients


def trusted(folder: Path, *bundles: bytes, now: dt.datetime = NOW) -> Authorities:
    paths = []
    for index, bundle in enumerate(bundles):
        (folder / str(index)).write_bytes(bundle)
        paths.append(str(folder / str(index)))
    return authorities(paths, now)


def test_authorities_come_from_several_files_and_bundles(tmp_path: Path, ca: Holder, between: Holder) -> None:
    other = certs.root("other")
    found = trusted(tmp_path, ca.pem + between.pem, other.pem)
    assert names(found) == ["CN=test CA", "CN=intermediate", "CN=other"]
    assert found.warnings == []


def test_an_authority_that_has_expired_lets_nobody_in(tmp_path: Path, ca: Holder) -> None:
    """Its clients would be refused at every handshake, without a hint in the log at the start."""
    old = certs.root("old", end=NOW)
    found = trusted(tmp_path, ca.pem + old.pem)
    assert names(found) == ["CN=test CA"]
    assert "CN=old in" in found.warnings[0]
    with pytest.raises(StartupError, match=r"clientcas: every authority in .* has expired"):
        trusted(tmp_path, old.pem)


def test_an_authority_whose_signatures_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    """Else it would look as if all its clients were strangers."""
    with pytest.raises(StartupError, match=r"clientcas\[0\]: signatures of CN=small in .* cannot be checked"):
        trusted(tmp_path, certs.root("small", kind="RSA-1024").pem)
    for kind in ("P-521", "secp256k1", "Ed448", "RSA-2560"):
        assert trusted(tmp_path, certs.root("other", kind=kind).pem).warnings == []


def test_a_clients_own_certificate_is_not_an_authority(tmp_path: Path, ca: Holder) -> None:
    found = trusted(tmp_path, ca.issue("alice", usage=certs.CLIENT).pem)
    assert "CN=alice in" in found.warnings[0]
    assert trusted(tmp_path, certs.self_signed().pem).warnings == []


def test_files_of_authorities_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"clientcas\[0\]: .* holds no PEM block"):
        trusted(tmp_path, b"nothing")
    with pytest.raises(StartupError, match=r"clientcas\[0\]: cannot read"):
        authorities([str(tmp_path / "missing")], NOW)
