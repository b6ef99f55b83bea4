"""The order of a certificate and its timings: plain data, cheap to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HTTP_01", "LETS_ENCRYPT", "TLS_ALPN_01", "CertificateOrder", "OrderFailed", "Timings", "served_file"]

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
HTTP_01: Final = "http-01"
TLS_ALPN_01: Final = "tls-alpn-01"


class OrderFailed(Exception):
    """No certificate was issued; the message is for the operator.

    `challenge`: the answer to a challenge was missing or wrong, so another kind may succeed.  `wait_s`: the
    seconds that the authority requires between two orders.
    """

    def __init__(self, message: str, *, wait_s: float = 0.0, challenge: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class CertificateOrder:
    """One certificate with all `hosts` (lower case, ASCII); `kinds` are the challenges that can be answered."""

    hosts: tuple[str, ...]
    folder: str
    kinds: tuple[str, ...]
    email: str = ""
    directory: str = LETS_ENCRYPT


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds.  Tests use shorter times than an authority accepts of its clients."""

    first_retry_s: float = 60.0
    last_retry_s: float = 4 * 3600.0
    poll_s: float = 2.0
    """Between two reads of the directory, into which other nodes write."""
    spread_s: float = 3.0
    """Time for the directory to show a challenge to all nodes; more than `poll_s`."""
    rest_s: float = 60.0
    """Between two reads of a certificate that is valid for long."""
    order_limit_s: float = 300.0
    request_limit_s: float = 45.0
    lock_limit_s: float = 900.0
    """Time for which another node may hold the lock before this one orders all the same."""


def served_file(folder: str, hosts: tuple[str, ...]) -> str:
    """Return the path of the file with the served certificate and its key."""
    return str(Path(folder) / hosts[0])
