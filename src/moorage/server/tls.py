"""Certificate and key, looked at before any worker starts: Granian would only panic.

OpenSSL reads both files and proves in a handshake within memory that they belong together and whether the
certificate is valid today; rustls, which serves them, reads the same PEM files again in every worker.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.server.granian import Tls
from moorage.server.listen import Cannot

if TYPE_CHECKING:
    from moorage.config.sections.http import Tls as TlsSettings

__all__ = ["check"]

_SOON_S: Final = 14 * 24 * 3600
_NOT_YET: Final = 9
_EXPIRED: Final = 10


def check(settings: TlsSettings) -> tuple[Tls | None, list[str]]:
    """What to serve with, None for plain HTTP, and warnings.  Raises `Cannot`."""
    certificate, key = settings.certificate, settings.key
    if not certificate and not key:
        return None, []
    if not certificate or not key:
        raise Cannot(f"http.tls.{'certificate' if not certificate else 'key'} is missing")
    _readable("http.tls.certificate", certificate, "CERTIFICATE-----")
    _readable("http.tls.key", key, "PRIVATE KEY-----")
    server = _server(certificate, key)
    tls = Tls(str(Path(certificate).resolve()), str(Path(key).resolve()), settings.minimumtls)
    return tls, _validity(certificate, server)


def _readable(name: str, path: str, marker: str) -> None:
    try:
        text = Path(path).read_text(encoding="latin-1")
    except OSError as error:
        raise Cannot(f"{name}: cannot read {path}: {error.strerror}") from error
    if marker not in text:
        raise Cannot(f"{name}: {path} holds no PEM block of this kind (-----BEGIN ... {marker})")


def _server(certificate: str, key: str) -> ssl.SSLContext:
    def no_password() -> str:
        raise Cannot(f"http.tls.key: {key} is encrypted; a server needs the key without a password")

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "mismatch" in reason:
            raise Cannot(f"http.tls: the key {key} does not belong to the certificate {certificate}") from error
        raise Cannot(f"http.tls: {certificate} and {key} cannot be used: {reason}") from error
    return server


def _validity(certificate: str, server: ssl.SSLContext) -> list[str]:
    """Warnings about a certificate that is not valid now, or not for long."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        peer = _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return [f"the certificate {certificate} has expired; clients will refuse it"]
        if error.verify_code == _NOT_YET:
            return [f"the certificate {certificate} is not valid yet; clients will refuse it"]
        return [f"the certificate {certificate}: {error.verify_message}"]
    until = ssl.cert_time_to_seconds(str(peer["notAfter"]))
    if until - time.time() < _SOON_S:
        return [f"the certificate {certificate} expires on {peer['notAfter']}"]
    return []


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, object]:
    """Both ends of a handshake; the certificate as the client saw it.  Raises `SSLCertVerificationError`."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(8):
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
        if not waiting:
            break
    return dict(ends[0].getpeercert() or {})
