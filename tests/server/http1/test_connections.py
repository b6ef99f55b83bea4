"""Life of a connection: half-close, early refusals, aborts, pipelining, timeouts, limits."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import TYPE_CHECKING, Final

import pytest
import structlog.testing
from tests.server.http1.harness import exchange, get, running, until
from tests.server.http1.peer import Peer, read_answers, turns

from moorage.server.http1.tls_connection import _subject

if TYPE_CHECKING:
    from tests.server.http1.harness import Running

GET: Final = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
SHORT_S: Final = 0.1


async def test_a_half_closed_client_gets_its_answer() -> None:
    """Clients shut down their sending side after the request; CNCF Distribution answers them."""
    async with running() as served:
        outcome = await exchange(served, GET)
        assert outcome.statuses == [200]
        async with await served.connect() as peer:
            await peer.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
            peer.half_close()
            await served.app.waiting.wait()
            served.app.gate.set()
            (answer,) = read_answers(await peer.read_to_end())
    assert answer.status == 200


@pytest.mark.slow
@pytest.mark.parametrize("reads_meanwhile", [True, False])
@pytest.mark.parametrize("size", [100_000, 1_000_000, 4_194_305, 20_000_000])
async def test_an_early_refusal_is_delivered(size: int, reads_meanwhile: bool) -> None:
    """A client that sees a reset instead of 403 or 404 tries again, and never knows why."""
    head = b"PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    async with running() as served:
        for _ in range(5):
            async with await served.connect() as peer:
                reader = asyncio.ensure_future(peer.read_answer()) if reads_meanwhile else None
                assert await peer.send(head + bytes(size)), "the client cannot send its body"
                answer = await (reader or peer.read_answer())
                assert (answer.status, peer.reset) == (403, False)


ABORTED: Final = {
    "before anything": b"",
    "in the request line": b"GET /x HT",
    "in the headers": b"GET /x HTTP/1.1\r\nHost: h\r\nX",
    "in a sized body": b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nhello",
    "in a chunked body": b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "between chunks": b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "in the trailers": b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y",
    "before a slow answer": b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n",
    "within an answer": b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n",
    "within a large answer": b"GET /size/50000000 HTTP/1.1\r\nHost: h\r\n\r\n",
    "within a file": b"GET /file/50000000 HTTP/1.1\r\nHost: h\r\n\r\n",
    "within chunks of an answer": b"GET /stream/50000 HTTP/1.1\r\nHost: h\r\n\r\n",
    "with a request waiting": b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" + GET,
    "after an answer": GET,
    "after a refusal": b"GET\r\n\r\n",
}


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "close"])
@pytest.mark.parametrize("state", ABORTED)
async def test_a_client_that_leaves_leaves_nothing_behind(state: str, reset: bool) -> None:
    """A task, a connection or a descriptor for each would be the end after a day of impatient clients."""
    async with running() as served:
        peer = await served.connect()
        await peer.send(ABORTED[state])
        await turns(5)
        peer.abort() if reset else peer.close()
        await turns(5)
        served.app.gate.set()
        await until(lambda: not served.server.connections, "the connection to be forgotten")
        await until(lambda: not served.app.running, "the application to return")
        assert (await get(served)).status == 200


@pytest.mark.parametrize("eof_first", [True, False])
@pytest.mark.parametrize(
    "framing", ["Content-Length: 99\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhe"]
)
async def test_a_body_that_ends_early_behind_an_early_answer_ends_the_connection(
    framing: str, eof_first: bool
) -> None:
    """The server would wait for the rest until a timeout, and hold a descriptor for each such client."""
    async with running() as served, await served.connect() as peer:
        target = "/hold" if eof_first else "/refuse"
        await peer.send(f"POST {target} HTTP/1.1\r\nHost: h\r\n{framing}".encode())
        if eof_first:
            await served.app.waiting.wait()
        else:
            await peer.read_until(b"refused")
        peer.half_close()
        await turns(5)
        served.app.gate.set()
        await peer.read_to_end()
        await until(lambda: not served.server.connections, "the connection to be forgotten")


async def test_a_body_that_ends_early_within_an_early_answer_ends_the_connection() -> None:
    async with running() as served, await served.connect() as peer:
        await peer.send(b"POST /file/20000000 HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nhello")
        await peer.read_until(b"\r\n\r\n")
        peer.half_close()
        await turns(5)
        while await peer.receive():
            peer.received = b""
        await until(lambda: not served.server.connections, "the connection to be forgotten")


async def test_a_client_that_leaves_within_a_file_is_no_error() -> None:
    """Clients break downloads off every day; a traceback for each would hide the errors."""
    async with running() as served:
        with structlog.testing.capture_logs() as lines:
            for _ in range(20):
                async with await served.connect(receive_bytes=4096) as peer:
                    await peer.send(b"GET /file/50000000 HTTP/1.1\r\nHost: h\r\n\r\n")
                    await peer.read_until(b"\r\n\r\n")
                    peer.abort()
            await until(lambda: not served.server.connections, "the connections to be forgotten")
            await until(lambda: not served.app.running, "the application to return")
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_pipelined_requests_are_answered_in_order() -> None:
    """And one at a time: the second must not overtake a slow first."""
    chunked = b"POST /y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    sized = b"PUT /z HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    async with running() as served, await served.connect() as peer:
        await peer.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n" + chunked + sized + GET + chunked)
        await served.app.waiting.wait()
        await turns(10)
        assert served.app.begun == [b"/wait"]
        served.app.gate.set()
        peer.half_close()
        answers = read_answers(await peer.read_to_end())
        assert [answer.status for answer in answers] == [200] * 5
        assert served.app.begun == [b"/wait", b"/y", b"/z", b"/x", b"/y"]
        assert [seen.body for seen in served.app.seen] == [b"", b"ab", b"abc", b"", b"ab"]


@pytest.mark.slow
async def test_ten_thousand_pipelined_requests_in_one_write() -> None:
    """All are answered, in order, without recursion."""
    data = b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(10_000))
    async with running() as served:
        outcome = await exchange(served, data)
        assert outcome.statuses == [200] * 10_000
        assert served.app.begun == [b"/%d" % number for number in range(10_000)]


@pytest.mark.slow
async def test_requests_behind_an_unanswered_one_are_not_read() -> None:
    """They would fill the memory of the worker; the kernel's buffers are enough."""
    async with running() as served, await served.connect() as peer:
        await peer.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        await served.app.waiting.wait()
        sent = await fill(peer, GET * 4000)
        assert sent < 24 << 20, f"{sent} bytes were taken"
        assert served.app.begun == [b"/wait"]


@pytest.mark.slow
async def test_answers_that_are_not_read_stop_the_requests_behind_them() -> None:
    """A client that asks ahead and reads nothing would fill the memory of the worker with answers."""
    size = 60_000
    async with running() as served, await served.connect() as peer:
        await fill(peer, b"GET /size/%d HTTP/1.1\r\nHost: h\r\n\r\n" % size * 2000)
        assert len(served.app.begun) * size < 24 << 20, f"{len(served.app.begun)} answers"


async def test_a_file_is_sent_after_threads_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of processes that was reached once would hang all later downloads."""
    real, failures = threading.Thread.start, [True] * 5

    def start(thread: threading.Thread) -> None:
        if thread.name == "files" and failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    async with running() as served:
        for _ in range(5):
            assert (await get(served, "/file/100000")).status == 503
        answer = await get(served, "/file/100000")
    assert (answer.status, len(answer.body)) == (200, 100_000)


def test_a_subject_cannot_pass_for_another_one() -> None:
    """The access log would show an attribute that the authority has not certified."""
    certificate = {"subject": ((("organizationName", "Ours"),), (("commonName", "a,O=ops" + "x" * 500),))}
    subject = _subject(certificate)
    assert subject.startswith("CN=a\\,O\\=opsx")
    assert subject.endswith("x,O=Ours")
    assert len(subject) < 300


@pytest.mark.slow
async def test_a_body_that_is_not_received_is_not_read() -> None:
    """A slow store slows the client."""
    async with running() as served, await served.connect() as peer:
        await peer.send(b"POST /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        await served.app.waiting.wait()
        sent = await fill(peer, bytes(1 << 20))
        assert sent < 24 << 20, f"{sent} bytes were taken"


async def fill(peer: Peer, data: bytes) -> int:
    """Send until the server takes no more; return how much it took."""
    sent = idle = 0
    while idle < 50 and sent < 256 << 20:
        try:
            sent += peer.sock.send(data)
            idle = 0
        except BlockingIOError:
            idle += 1
        await turns(2)
    return sent


async def ends(served: Running, data: bytes) -> list[int]:
    """Send, wait for the end of the connection, and return the statuses that came."""
    async with await served.connect() as peer:
        await peer.send(data)
        return [answer.status for answer in read_answers(await peer.read_to_end())]


@pytest.mark.parametrize("data", [b"", b"GET /x", b"GET /x HTTP/1.1\r\nHost: h\r\n", GET[:-1]])
async def test_a_head_that_does_not_come_ends_the_connection(data: bytes) -> None:
    """Connections that send nothing, or a byte now and then, use up the limit of connections."""
    async with running(header_timeout_s=SHORT_S) as served:
        assert await ends(served, data) in ([], [408])
        assert not served.app.begun


async def test_empty_lines_in_halves_do_not_keep_a_connection() -> None:
    """Were each half the beginning of a head, one write in 30 s would hold a connection for ever."""
    async with (
        running(header_timeout_s=4 * SHORT_S, idle_timeout_s=4 * SHORT_S) as served,
        await served.connect() as peer,
    ):
        sent = await peer.send(b"\r")
        for _ in range(2000):
            if not (sent := await peer.send(b"\n\r")):
                break
            await asyncio.sleep(SHORT_S / 4)
        assert not sent, "the connection is still open"


async def test_empty_lines_in_halves_before_a_request() -> None:
    async with running() as served:
        async with await served.connect() as peer:
            for piece in (b"\r", b"\n\r", b"\n" + GET):
                await peer.send(piece)
                await turns()
            assert (await peer.read_answer()).status == 200
        assert await ends(served, b"\rG") == [400]


async def test_an_idle_connection_is_closed() -> None:
    async with running(idle_timeout_s=SHORT_S) as served:
        assert await ends(served, GET) == [200]


async def test_a_body_that_does_not_come_ends_the_connection() -> None:
    async with running(body_timeout_s=SHORT_S, least_rate=1000) as served:
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nhello"
        statuses = await ends(served, head)
        assert 200 not in statuses
        await until(lambda: not served.app.running, "the application to return")


async def test_a_slow_application_costs_its_client_nothing() -> None:
    """Only the client's own slowness counts."""
    async with running(body_timeout_s=SHORT_S, send_timeout_s=SHORT_S, header_timeout_s=SHORT_S) as served:  # noqa: SIM117
        async with await served.connect() as peer:
            await peer.send(b"POST /wait HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel")
            asyncio.get_running_loop().call_later(4 * SHORT_S, served.app.gate.set)
            await served.app.gate.wait()
            await peer.send(b"lo")
            await peer.read_until(b'"size": 5')


@pytest.mark.slow
@pytest.mark.parametrize("target", ["/size/30000000", "/file/30000000"])
async def test_a_hundred_clients_that_read_nothing_are_disconnected(target: str) -> None:
    """They would hold files, threads and memory for ever."""
    request = f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    async with running(send_timeout_s=SHORT_S) as served:
        peers = [await served.connect(receive_bytes=4096) for _ in range(100)]
        for peer in peers:
            await peer.send(request)
        await until(lambda: len(served.app.begun) == 100, "the requests")
        assert (await get(served)).status == 200, "others are served meanwhile"
        await until(lambda: not served.server.connections, "the slow readers to be disconnected")
        await until(lambda: not served.app.running, "the application to return")
        for peer in peers:
            peer.close()


@pytest.mark.slow
async def test_a_hundred_clients_that_send_nothing_are_disconnected() -> None:
    async with running(body_timeout_s=SHORT_S) as served:
        peers = [await served.connect() for _ in range(100)]
        for peer in peers:
            await peer.send(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
        await until(lambda: len(served.app.begun) == 100, "the requests")
        assert (await get(served)).status == 200
        await until(lambda: not served.app.running, "the application to return")
        for peer in peers:
            peer.close()


async def test_at_the_limit_an_idle_connection_makes_way() -> None:
    """Idle clients must not keep others out."""
    async with running(connections=4) as served:
        peers = [await served.connect() for _ in range(4)]
        for peer in peers:
            await peer.send(GET)
            await peer.read_until(b"}")
        assert (await get(served)).status == 200
        for peer in peers:
            peer.close()


async def test_the_connection_that_has_idled_longest_makes_way() -> None:
    """Not a new one, whose request is on its way: its client would see a reset."""
    async with (
        running(connections=2) as served,
        await served.connect() as old,
        await served.connect() as new,
    ):
        await old.send(GET)
        await old.read_answer()
        connection = min(served.server.connections, key=lambda each: each.deadline)
        connection.deadline += 1  # as if it had come a second later
        assert (await get(served)).status == 200
        await old.read_to_end()
        await new.send(GET)
        assert (await new.read_answer()).status == 200


async def test_busy_connections_that_become_idle_make_way() -> None:
    """New clients would wait until one of them is closed."""
    async with (
        running(connections=2) as served,
        await served.connect() as one,
        await served.connect() as two,
    ):
        for peer in (one, two):
            await peer.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: len(served.app.begun) == 2, "the requests")
        late = asyncio.ensure_future(get(served))
        await turns(10)
        served.app.gate.set()
        assert (await late).status == 200


async def test_without_descriptors_an_idle_connection_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle clients must not keep others out, and the attempts, ten in a second, must not fill the log."""
    accept = socket.socket.accept
    async with running() as served, await served.connect() as peer:
        await peer.send(GET)
        await peer.read_answer()

        def fail(listening: socket.socket) -> tuple[socket.socket, object]:
            if served.server.connections:
                raise OSError(errno.EMFILE, "no descriptor")
            return accept(listening)

        monkeypatch.setattr(socket.socket, "accept", fail)
        with structlog.testing.capture_logs() as lines:
            assert (await get(served)).status == 200
        assert [line["event"] for line in lines] == ["cannot accept a connection"]


async def test_at_the_limit_busy_connections_are_kept() -> None:
    """A new client waits; no running request is aborted for it."""
    async with running(connections=2) as served:  # noqa: SIM117
        async with await served.connect() as one, await served.connect() as two:
            for peer in (one, two):
                await peer.send(b"GET /wait HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await until(lambda: len(served.app.begun) == 2, "the requests")
            late = await served.connect()
            await late.send(b"GET /late HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await turns(10)
            assert len(served.app.begun) == 2
            served.app.gate.set()
            for peer in (one, two, late):
                assert [answer.status for answer in read_answers(await peer.read_to_end())] == [200]
                peer.close()
