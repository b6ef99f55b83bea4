"""Answers to the challenges of one order: written to the directory, and removed after the validation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from moorage.acme.order_spec import OrderFailed

if TYPE_CHECKING:
    from moorage.acme.store import CertificateStore

__all__ = ["ChallengeAnswers"]


class ChallengeAnswers:
    """Implements `authority.Answers`; used in the thread of the order.

    `spread_s`: time for the directory to show a challenge to the workers of other nodes.
    """

    def __init__(self, store: CertificateStore, spread_s: float) -> None:
        self._store = store
        self._spread_s = spread_s
        self._hosts: list[str] = []
        self._tokens: list[str] = []
        self._ended = False

    def put_http(self, token: str, text: str) -> None:
        self._check()
        self._tokens.append(token)
        self._store.put_http_answer(token, text)

    def put_alpn(self, host: str, certificate: bytes) -> None:
        self._check()
        self._hosts.append(host)
        self._store.put_alpn_answer(host, certificate)

    def ready(self) -> None:
        if self._hosts:
            time.sleep(self._spread_s)

    def withdraw(self) -> None:
        self._store.withdraw(self._hosts, self._tokens)

    def end(self) -> None:
        """Withdraw all answers and refuse new ones: the server stops."""
        self._ended = True
        self.withdraw()

    def _check(self) -> None:
        if self._ended:
            raise OrderFailed("the server stops")
