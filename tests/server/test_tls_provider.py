"""Challenges on a file system that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from moorage.acme import pem
from moorage.acme.store import CertificateStore, prepare
from moorage.server.options import Challenges
from moorage.server.tls import provider
from moorage.server.tls.provider import Certificates

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

HOST = "r.test"
LIMIT_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> CertificateStore:
    prepare(str(tmp_path / "le"))
    return CertificateStore(str(tmp_path / "le"))


async def test_challenges_that_cannot_be_read_occupy_few_threads(
    store: CertificateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of everything else, such as the parsing of manifests, would all hang as well."""
    monkeypatch.setattr(provider, "_READ_LIMIT_S", 0.1)
    tls_provider = Certificates(None, Challenges(str(store.folder), (HOST,)))
    os.mkfifo(store.alpn_file(HOST))  # to open it blocks until there is a writer
    try:
        requested: list[Awaitable[object]] = [tls_provider.challenge(HOST) for _ in range(40)]
        results = await asyncio.gather(*requested, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 40
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        await _let_go(store, tls_provider)
    monkeypatch.setattr(provider, "_READ_LIMIT_S", LIMIT_S)
    store.put_alpn_answer(HOST, pem.challenge_certificate(HOST, "token.thumb", datetime.now(UTC)))
    assert await tls_provider.challenge(HOST) is not None
    assert await tls_provider.challenge("other.test") is None


async def _let_go(store: CertificateStore, tls_provider: Certificates) -> None:
    """End the reads that hang."""
    async with asyncio.timeout(LIMIT_S):
        while tls_provider._free._value < provider._THREADS:
            with contextlib.suppress(OSError):  # no reader has it open at this moment
                os.close(os.open(store.alpn_file(HOST), os.O_WRONLY | os.O_NONBLOCK))
            await asyncio.sleep(0.01)
    store.alpn_file(HOST).unlink()
