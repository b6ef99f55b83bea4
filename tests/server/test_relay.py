"""Whose connection it is that another process has passed on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from moorage.http.middleware import Traffic
from moorage.server.relay import Relay, Relayed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.http.middleware import Message, Receive, Scope, Send


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.socket.close()


def test_what_one_process_notes_all_others_read(relay: Relay) -> None:
    """The companion writes, the workers read."""
    pid = os.fork()
    if pid == 0:
        relay.note(50000, ("203.0.113.7", 40000))
        relay.note(65535, ("fe80::1234:5678:9abc:def0%enp0s31f6-longest-name", 65535))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert relay.client(50000) == ("203.0.113.7", "40000")
    assert relay.client(65535) == ("fe80::1234:5678:9abc:def0%enp0s31f6-longest-name", "65535")
    assert relay.client(50001) is None


def test_what_has_ended_is_forgotten(relay: Relay) -> None:
    """Its port may be anybody's next."""
    relay.note(1, ("203.0.113.7", 40000))
    relay.note(2, ("203.0.113.7", 40001))
    relay.note(1, None)
    assert (relay.client(1), relay.client(2)) == (None, ("203.0.113.7", "40001"))
    relay.forget()
    assert relay.client(2) is None


async def test_requests_have_their_clients_address_and_the_connection_is_busy(relay: Relay) -> None:
    """Without the second, a pull that says nothing for a while would be taken for idle, and cut."""
    traffic = Traffic()
    sent: list[Message] = []
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([scope["client"], ("127.0.0.1", "50000") in traffic.active])

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    relayed = Relayed(app, relay, traffic)
    relay.note(50000, ("203.0.113.7", 40000))
    await relayed({"type": "http", "client": ["127.0.0.1", "50000"]}, receive, send)
    assert seen == [("203.0.113.7", "40000"), True]
    assert traffic.active == {}
    assert sent == []
    await relayed({"type": "http", "client": ["127.0.0.1", "50001"]}, receive, send)
    assert sent[0]["status"] == 403
    assert len(seen) == 2
