"""The parser of ClientHello messages."""

from __future__ import annotations

import os
import random
import ssl

import pytest
from tests.server.http1.tls_client import split

from moorage.server.http1.client_hello import ACME_TLS, Assembler, ClientHello, NotTls, alert, parse


def greeting(host: str | None = "r.test", *protocols: str) -> bytes:
    """Return the ClientHello of OpenSSL."""
    context = ssl.create_default_context()
    context.check_hostname = host is not None
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_host_and_protocols_are_read() -> None:
    assert parse(greeting("R.test", "h2", "http/1.1")) == ClientHello("r.test", (b"h2", b"http/1.1"))
    assert parse(greeting("r.test", ACME_TLS.decode())) == ClientHello("r.test", (ACME_TLS,))
    assert parse(greeting(None)) == ClientHello("", ())


def test_it_may_come_byte_by_byte() -> None:
    """Clients whose keys withstand quantum computers send it in two packets; a slow network in more."""
    whole = greeting("r.test", "h2")
    assert [parse(whole[:size]) for size in range(len(whole))] == [None] * len(whole)
    assert parse(whole + b"more") == ClientHello("r.test", (b"h2",))


def test_it_may_be_spread_over_records() -> None:
    """Some clients cut it within the host's name, to hide that from firewalls."""
    spread = split(greeting("r.test", "h2"), 3, 87)
    assert parse(spread) == ClientHello("r.test", (b"h2",))
    assert all(parse(spread[:size]) is None for size in range(len(spread)))


def test_it_is_put_together_from_pieces() -> None:
    """Of any size, across the bounds of records; what follows the message does not matter."""
    spread = split(greeting("r.test", "h2"), 1, 1, 2, 50, 1)
    for size in (1, 2, 7, 64, len(spread)):
        assembler = Assembler()
        found = [assembler.feed(spread[at : at + size]) for at in range(0, len(spread), size)]
        assert found == [None] * (len(found) - 1) + [ClientHello("r.test", (b"h2",))]
    assert Assembler().feed(spread + b"\x17more") == ClientHello("r.test", (b"h2",))


def test_a_message_without_end_is_refused() -> None:
    """In records of one byte each it would be the largest that is kept."""
    record = b"\x16\x03\x01\x00\x01"
    assembler = Assembler()
    assert assembler.feed(b"".join(record + byte for byte in (b"\x01", b"\x00", b"\x3f"))) is None
    assert assembler.feed(record + b"\xfc") is None
    for _ in range(0x3FFC - 1):
        assert assembler.feed(record + b"x") is None
    with pytest.raises(NotTls):
        assembler.feed(record + b"x")
    with pytest.raises(NotTls, match="too long"):
        Assembler().feed(b"".join(record + byte for byte in (b"\x01", b"\x00", b"\x3f", b"\xfd")))


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x16\x02", b"\x15\x03\x03\x00\x02", b"\x16\x04\x01\x00\x05", b"\x16\x03\x01\x00\x00",
     b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
     b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"],
)  # fmt: skip
def test_other_bytes_are_recognised(data: bytes) -> None:
    """OpenSSL gets it as it is, and knows the alert."""
    with pytest.raises(NotTls):
        assert parse(data + b"x" * 8) is not None


def test_no_bytes_do_anything_else() -> None:
    """Any client may send any bytes here."""
    draw = random.Random(7)
    whole = greeting("r.test", "h2")
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        for candidate in (bytes(data), bytes(data[: draw.randrange(len(data))]), os.urandom(40)):
            try:
                found = parse(candidate)
            except NotTls:
                continue
            assert found is None or isinstance(found, ClientHello)


def test_an_alert_is_understood_by_clients() -> None:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="r.test")
    incoming.write(alert(80))
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        client.do_handshake()
