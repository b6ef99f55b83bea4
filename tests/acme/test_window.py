"""While an authority asks, another process accepts in the workers' place, and nobody notices."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acme.certificates import Authority
from tests.server.serving import LIMIT_S, Served, serving, until

from moorage.acme import pem
from moorage.acme.store import Store, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


class Window:
    """A server with a certificate that is good for long, and the directory in which nodes leave challenges."""

    def __init__(self, served: Served, store: Store, authority: Authority) -> None:
        self.served, self.store, self.authority = served, store, authority
        self.companion = self.find_companion()

    def find_companion(self) -> int:
        """While the window is closed: the child that does not listen on the registry's port."""
        until(lambda: len(self.served.children()) == 3, "three processes", lambda: self.served.err)
        (found,) = (pid for pid in self.served.children() if self.served.port not in listening(pid))
        return found

    def workers(self) -> list[int]:
        return [pid for pid in self.served.children() if pid != self.companion]

    def connect(self, **changes: Any) -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection("r.test", self.served.port, timeout=LIMIT_S, **changes)
        made._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
            ("127.0.0.1", self.served.port), LIMIT_S
        )
        made._context = self.authority.client()  # type: ignore[attr-defined]
        return made

    def get(self, path: str = "/") -> dict[str, Any]:
        """The answer to a request on a connection of its own, which is seen with its client's address."""
        with contextlib.closing(self.connect()) as connection:
            connection.connect()
            ours = connection.sock.getsockname()
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            seen = dict(json.loads(answer.read()))
        assert seen["client"] == [ours[0], str(ours[1])]
        return seen

    def relay(self) -> int:
        """The port that the request came to in the end."""
        return int(self.get()["server"][1])

    def is_open(self) -> bool:
        """Whether connections take the long way."""
        return self.relay() != self.served.port

    def open(self) -> None:
        made = pem.challenge_certificate("r.test", "token.thumb", datetime.now(UTC))
        self.store.put_alpn_answer("r.test", made)
        until(self.is_open, "the long way", lambda: self.served.err)

    def close(self) -> None:
        self.store.withdraw(["r.test"], [])
        until(lambda: not self.is_open(), "the short way", lambda: self.served.err)

    def prove(self) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["acme-tls/1"])
        with (
            socket.create_connection(("127.0.0.1", self.served.port), LIMIT_S) as plain,
            context.wrap_socket(plain, server_hostname="r.test", do_handshake_on_connect=False) as connection,
        ):
            connection.do_handshake()
            return connection.getpeercert(binary_form=True) or b""


def listening(pid: int) -> set[int]:
    """The TCP ports that a process listens on."""
    held = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(str(link.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held
    }


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    prepare(str(tmp_path / "le"))
    store, authority = Store(str(tmp_path / "le")), Authority()
    store.put_certificate(["r.test"], authority.issue("r.test"))
    with serving(
        tmp_path / "home", module="tests.acme.odd",
        http={"tls": {"letsencrypt": {"cachefile": str(tmp_path / "le"), "hosts": ["r.test"],
                                      "directoryurl": "https://127.0.0.1:9/dir"}}},
    ) as served:  # fmt: skip
        yield Window(served, store, authority)


class Stream(threading.Thread):
    """Requests without end, each on a connection of its own."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window, self.over = window, threading.Event()
        self.answered, self.errors = 0, list[Exception]()
        self.start()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.window.get()
                self.answered += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.errors.append(error)

    def stop(self) -> None:
        self.over.set()
        self.join()
        assert not self.errors, (self.errors[:3], self.window.served.err[-2000:])
        assert self.answered


def test_requests_go_on_and_the_authority_is_answered(window: Window) -> None:
    """Five renewals under load: connections of before, of within, and of between."""
    before = window.connect()
    before.request("GET", "/")
    first = json.loads(before.getresponse().read())
    streams = [Stream(window) for _ in range(3)]
    for _ in range(5):
        window.open()
        shown = window.prove()
        assert shown
        window.close()
        before.request("GET", "/")
        assert json.loads(before.getresponse().read()) == first
    for stream in streams:
        stream.stop()
    before.close()
    with pytest.raises(ssl.SSLError):
        window.prove()
    assert window.served.stop() == 0


def test_nobody_else_comes_in_by_the_relay(window: Window) -> None:
    """Somebody with an account on the machine would speak for any client, and pass where loopback is trusted."""
    window.open()
    with (
        socket.create_connection(("127.0.0.1", window.relay()), LIMIT_S) as plain,
        window.authority.client().wrap_socket(plain, server_hostname="r.test") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: r.test\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 403 ")
    window.close()


def test_what_began_within_may_last(window: Window) -> None:
    """A pull of hours is not cut off when the seconds are over, nor when the workers are replaced."""
    window.open()
    slow = window.connect()
    slow.request("GET", "/wait?file=go")
    window.served.seen("waiting")
    window.close()
    window.served.signal(signal.SIGHUP)
    window.served.logged("configuration reloaded")
    (window.served.home / "go").touch()
    assert slow.getresponse().read() == b"released"
    slow.close()


def test_what_began_within_is_waited_for_at_the_end(window: Window) -> None:
    """`http.draintimeout` is for these as for all others."""
    window.open()
    slow = window.connect()
    slow.request("GET", "/wait?file=go")
    window.served.seen("waiting")
    window.served.signal(signal.SIGTERM)
    window.served.logged("stopping")
    os.kill(window.companion, signal.SIGTERM)
    until(lambda: refuses(window.served.port), "the port to be closed")
    (window.served.home / "go").touch()
    assert slow.getresponse().read() == b"released"
    slow.close()
    assert window.served.ended() == 0


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), LIMIT_S).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # It was still waiting to be accepted.
        return False
    return False


def test_workers_that_are_replaced_meanwhile_make_way_too(window: Window) -> None:
    """SIGHUP in the very seconds of a renewal."""
    stream = Stream(window)
    window.open()
    window.served.signal(signal.SIGHUP)
    window.served.logged("configuration reloaded")
    until(window.is_open, "the long way again")
    assert window.prove()
    window.close()
    stream.stop()


def test_a_worker_that_dies_meanwhile_is_replaced(window: Window) -> None:
    """Its successor makes way, and no connection waits for ever."""
    window.open()
    for worker in window.workers():
        os.kill(worker, signal.SIGKILL)
    window.served.logged("a worker died; another takes its place", 2)
    until(window.is_open, "the long way again")
    window.close()


def test_a_worker_that_hangs_holds_nobody_up(window: Window) -> None:
    """What comes to its socket is passed on to another; without that half of the clients would wait for ever."""
    stuck = window.workers()[0]
    os.kill(stuck, signal.SIGSTOP)
    made = pem.challenge_certificate("r.test", "token.thumb", datetime.now(UTC))
    window.store.put_alpn_answer("r.test", made)
    for _ in range(20):
        window.get()
    assert window.is_open()
    os.kill(stuck, signal.SIGCONT)
    window.close()
    for _ in range(20):
        window.get()


def test_a_companion_that_dies_meanwhile_takes_nobody_along(window: Window) -> None:
    """Workers accept again, and its successor looks after what has waited."""
    window.open()
    os.kill(window.companion, signal.SIGKILL)
    window.served.logged("another takes its place")
    for _ in range(20):
        window.get()
    until(window.is_open, "the long way again")
    window.close()


def test_a_companion_that_dies_is_replaced(window: Window) -> None:
    """At once the first time, then after longer and longer pauses; nobody else notices."""
    stream = Stream(window)
    for times in (1, 2):
        os.kill(window.find_companion(), signal.SIGKILL)
        window.served.logged("the process that keeps certificates died", times)
    assert window.find_companion()
    stream.stop()
    assert window.served.stop() == 0
