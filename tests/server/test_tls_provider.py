"""Challenges on a file system that hangs, and server names that are malformed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from tests.server import certs

from moorage.acme import pem
from moorage.acme.store import Store, prepare
from moorage.config.sections.http import CertificatePair, Tls
from moorage.server import tls, tls_provider
from moorage.server.options import Challenges
from moorage.server.tls_contexts import ignore_malformed_names, make_context
from moorage.server.tls_provider import Certificates

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

HOST = "r.test"
LIMIT_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare(str(tmp_path / "le"))
    return Store(str(tmp_path / "le"))


async def test_challenges_that_cannot_be_read_occupy_few_threads(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of everything else, such as the parsing of manifests, would all hang as well."""
    monkeypatch.setattr(tls_provider, "_READ_LIMIT_S", 0.1)
    provider = Certificates(None, Challenges(str(store.folder), (HOST,)))
    os.mkfifo(store.alpn_file(HOST))  # to open it blocks until there is a writer
    try:
        asked: list[Awaitable[object]] = [provider.challenge(HOST) for _ in range(40)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [TimeoutError] * 40
        async with asyncio.timeout(LIMIT_S):
            assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        await _let_go(store, provider)
    monkeypatch.setattr(tls_provider, "_READ_LIMIT_S", LIMIT_S)
    store.put_alpn_answer(HOST, pem.challenge_certificate(HOST, "token.thumb", datetime.now(UTC)))
    assert await provider.challenge(HOST) is not None
    assert await provider.challenge("other.test") is None


async def _let_go(store: Store, provider: Certificates) -> None:
    """End the reads that hang."""
    async with asyncio.timeout(LIMIT_S):
        while provider._free._value < tls_provider._THREADS:
            with contextlib.suppress(OSError):  # nobody has the other end open at this moment
                os.close(os.open(store.alpn_file(HOST), os.O_WRONLY | os.O_NONBLOCK))
            await asyncio.sleep(0.01)
    store.alpn_file(HOST).unlink()


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reaches the hook that was set before ours."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: found.append(unraisable.exc_value))
    ignore_malformed_names()
    return found


def test_a_malformed_server_name_fails_the_handshake_without_a_traceback(
    tmp_path: Path, reported: list[Any]
) -> None:
    """Each such client would fill the log with a traceback that names no address."""
    paths = [certs.self_signed(hosts=(name,)).write(tmp_path, name) for name in ("a.test", "b.test")]
    (first, more) = ({"certificate": each["certificate"], "key": each["key"]} for each in paths)
    found, _ = tls.check(Tls(**first, certificates=(CertificatePair(**more),)))  # type: ignore[arg-type]
    assert found is not None
    context = make_context(found)
    assert _shaken(context, b"b.test")
    with pytest.raises(ssl.SSLError):
        _shaken(context, b"b.t\xffst")
    assert reported == []


def _shaken(context: ssl.SSLContext, name: bytes) -> bool:
    """Send a ClientHello for `b.test` in which the name is replaced; True if the server goes on."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="b.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(outgoing.read().replace(b"b.test", name))
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    return True


def test_other_errors_are_still_reported(reported: list[Any]) -> None:
    """A bug would leave no trace: also one with text that cannot be decoded."""

    class Broken:
        def __del__(self) -> None:
            b"\xff".decode("ascii")

    one = Broken()
    del one
    assert [type(error) for error in reported] == [UnicodeDecodeError]
