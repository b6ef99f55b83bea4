"""Certificates for rows with TLS: EC on P-256, as Let's Encrypt issues them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["issue"]


def issue(folder: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """Write a certificate for localhost into a new folder; return `http.tls` and a context that trusts it."""
    folder.mkdir(parents=True)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    paths = {"certificate": str(folder / "crt"), "key": str(folder / "key")}
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    issued.private_key_pem.write_to_path(paths["key"])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return paths, trusting
