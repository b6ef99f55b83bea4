"""What `server/granian.py` says of Granian, seen from the other side of the wire."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import h2.connection
import httpx
import pytest
from h2.settings import SettingCodes
from tests.server.serving import Served, serving

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("granian") / "home"
    with serving(home, http={"workers": 1, "h2c": {"enabled": False}}) as served:
        yield served


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Apart from the others, whose clients may be held up on a busy machine."""
    home = tmp_path_factory.mktemp("hasty") / "home"
    with serving(home, http={"workers": 1, "headertimeout": "500ms"}) as served:
        yield served


@pytest.fixture(scope="module")
def h2c(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("h2c") / "home"
    with serving(home, http={"workers": 1, "h2c": {"enabled": True}}) as served:
        yield served


def whole(connection: socket.socket) -> bytes:
    """Everything until the server closes, which resets a connection that it has not read to its end."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        if not received:
            raise
    return received


def forget(served: Served) -> None:
    (served.home / "seen").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 100\r\n\r\n12345",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\n12345",
    ],
)
def test_a_body_that_breaks_off_is_never_taken_for_whole(server: Served, sent: bytes) -> None:
    """Else half a layer would be stored under the digest of the client's choice, or a resume would be wrong."""
    forget(server)
    with server.connect() as connection:
        connection.sendall(b"PUT /echo HTTP/1.1\r\nHost: x\r\n" + sent)
        server.seen("reading")
    server.seen("http.disconnect after 5")


def test_a_stream_of_http2_that_breaks_off_is_never_taken_for_whole(h2c: Served) -> None:
    forget(h2c)

    def half() -> Iterator[bytes]:
        yield b"12345"
        h2c.seen("reading")
        raise ConnectionAbortedError

    with httpx.Client(http1=False, http2=True) as client, pytest.raises(ConnectionAbortedError):
        client.put(f"{h2c.url}/echo", content=half())
    h2c.seen("http.disconnect after 5")


def test_http2_without_tls_is_spoken_where_it_is_enabled(server: Served, h2c: Served) -> None:
    with httpx.Client(http1=False, http2=True) as client:
        assert client.get(h2c.url).json()["http"] == "2"
        with pytest.raises(httpx.TransportError):
            client.get(server.url)
    assert httpx.get(h2c.url).json()["http"] == "1.1"


def test_a_megabyte_over_http2_comes_in_large_frames(h2c: Served) -> None:
    """With frames of 16 KiB an upload costs seven times the processor time."""
    with httpx.Client(http1=False, http2=True) as client:
        assert client.put(f"{h2c.url}/echo", content=bytes(1 << 20)).text == str(1 << 20)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    with h2c.connect() as wire:
        wire.sendall(connection.data_to_send())
        settings: dict[int, int] = {}
        while SettingCodes.MAX_FRAME_SIZE not in settings:
            for event in connection.receive_data(wire.recv(65536)):
                for code, change in getattr(event, "changed_settings", {}).items():
                    settings[code] = change.new_value
    assert settings[SettingCodes.MAX_FRAME_SIZE] == 512 << 10
    assert settings[SettingCodes.INITIAL_WINDOW_SIZE] == 1 << 20


def test_head_keeps_the_length(server: Served) -> None:
    with server.connect() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = connection.recv(65536).lower()
    assert b"content-length: 0" not in head
    assert b"content-length: " in head
    assert head.endswith(b"\r\n\r\n")


def test_continue_is_sent_only_to_whom_the_application_listens(server: Served) -> None:
    """A client with a huge layer and no permission is told so before it sends the layer."""
    ask = b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(b"PUT /echo" + ask)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"12345")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    with server.connect() as connection:
        connection.sendall(b"PUT /refuse" + ask)
        assert whole(connection).startswith(b"HTTP/1.1 403 ")


def test_an_unread_body_ends_the_connection_after_the_answer(server: Served) -> None:
    """What is left of the body would otherwise be read as the next request."""
    with server.connect() as connection:
        connection.sendall(b"PUT /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)
        # To the end of the connection, which `Connection: close` announces often, not always.
        answer = whole(connection)
    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("begun", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_client_that_does_not_finish_its_headers_is_cut_off(hasty: Served, begun: bytes) -> None:
    """A thousand of these would otherwise be all the connections there are."""
    with hasty.connect() as connection:
        connection.sendall(begun)
        with contextlib.suppress(ConnectionResetError):  # we were late ourselves
            assert whole(connection) == b""


@pytest.mark.parametrize(
    "headers",
    [
        b"X-Large: " + b"x" * (200 << 10) + b"\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(150)),
        b"X-Huge: " + b"x" * (2 << 20) + b"\r\n",
    ],
    ids=["large", "many", "huge"],
)
def test_too_much_of_headers_is_refused(server: Served, headers: bytes) -> None:
    with server.connect() as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        except OSError:
            # The refusal came while we were still writing.
            return
        try:
            assert whole(connection).startswith(b"HTTP/1.1 431 ")
        except ConnectionResetError:
            return


def test_a_file_is_sent_without_being_held_in_memory(server: Served) -> None:
    """A slow reader of a large layer costs what a fast one costs."""
    size = 512 << 20
    with (server.home / "large").open("wb") as file:
        file.truncate(size)
    (worker,) = server.children()

    def resident() -> int:
        return int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096

    before = resident()
    connections = [server.connect() for _ in range(4)]
    for connection in connections:
        connection.sendall(b"GET /file?name=large HTTP/1.1\r\nHost: x\r\n\r\n")
    for connection in connections:
        assert b"content-length: %d" % size in connection.recv(4096)
        left = 64 << 20
        while left > 0:
            left -= len(connection.recv(1 << 20))
    assert resident() - before < 24 << 20
    for connection in connections:
        connection.close()
