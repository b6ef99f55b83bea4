"""When the certificate that is served ends."""

from __future__ import annotations

from pathlib import Path

__all__ = ["expiry"]


def expiry(path: str) -> float:
    """The end of the first certificate in a PEM file, in seconds since 1970.  Raises OSError, ValueError."""
    from cryptography import x509  # noqa: PLC0415  of 10 MB, for who serves TLS and wants metrics

    certificate, *_ = x509.load_pem_x509_certificates(Path(path).read_bytes())
    return certificate.not_valid_after_utc.timestamp()
