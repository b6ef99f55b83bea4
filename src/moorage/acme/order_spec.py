"""What is asked for, and how patiently: plain data, light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HTTP_01", "LETS_ENCRYPT", "TLS_ALPN_01", "Failed", "Pace", "Wanted", "served_file"]

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
HTTP_01: Final = "http-01"
TLS_ALPN_01: Final = "tls-alpn-01"


class Failed(Exception):
    """No certificate this time; the message is for the operator.

    `challenge`: it was for want of a right answer to a challenge, so another kind may do better.  `wait_s`: how
    long the authority wants to be left alone.
    """

    def __init__(self, message: str, *, wait_s: float = 0.0, challenge: bool = False) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Wanted:
    """One certificate with all `hosts` (lower case, ASCII); `kinds` are the challenges that can be answered."""

    hosts: tuple[str, ...]
    folder: str
    kinds: tuple[str, ...]
    email: str = ""
    directory: str = LETS_ENCRYPT


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds.  Tests are in more of a hurry than an authority likes its clients to be."""

    first_retry_s: float = 60.0
    last_retry_s: float = 4 * 3600.0
    poll_s: float = 2.0
    """Between two looks at what other nodes have put into the directory."""
    spread_s: float = 3.0
    """How long the other nodes have to see a challenge that they must prepare for; more than `poll_s`."""
    rest_s: float = 60.0
    """Between two looks at a certificate that is good for long."""
    order_limit_s: float = 300.0
    request_limit_s: float = 45.0
    turn_limit_s: float = 900.0
    """How long another node may be at work before this one goes ahead regardless."""


def served_file(folder: str, hosts: tuple[str, ...]) -> str:
    """The file with the certificate that is served, and its key."""
    return str(Path(folder) / hosts[0])
