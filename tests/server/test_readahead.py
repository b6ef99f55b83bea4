"""Bodies in small pieces: gathered, in order, bounded, and never later than a client can bear."""

from __future__ import annotations

import asyncio
import random
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tests.server.serving import Served, serving

from moorage.server import readahead
from moorage.server.readahead import Body, WorkerLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator

KIB = 1024
LIMIT_S = 60.0


class Granian:
    """Completes what was asked for in a thread of its own, one after another, as Granian does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._sent: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._deliver)
        self._thread.start()
        self.waiting = self.most_waiting = self.taken = 0

    def ask(self) -> _Asked:
        asked = _Asked(self._loop)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        self._asked.put(asked)
        return asked

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._sent.put({"type": "http.request", "body": piece, "more_body": True})

    def end(self) -> None:
        self._sent.put({"type": "http.request", "body": b"", "more_body": False})

    def disconnect(self) -> None:
        self._sent.put({"type": "http.disconnect"})

    def _deliver(self) -> None:
        while (asked := self._asked.get()) is not None and (message := self._sent.get()) is not None:
            self.waiting -= 1
            self.taken += len(message.get("body", b""))
            asked.complete(message)

    def close(self) -> None:
        self._asked.put(None)
        self._sent.put(None)
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


class _Asked:
    """What Granian's `receive` returns: awaitable, or called back through the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._lock = loop, threading.Lock()
        self._message: dict[str, Any] | None = None
        self._callback: Callable[[Any], None] | None = None

    def complete(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._message = message
            callback = self._callback
        if callback is not None:
            self._loop.call_soon_threadsafe(callback, self)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        with self._lock:
            self._callback = callback
            done = self._message is not None
        if done:
            self._loop.call_soon(callback, self)

    def result(self) -> dict[str, Any]:
        assert self._message is not None
        return self._message

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        done = self._loop.create_future()
        self.add_done_callback(lambda _: done.set_result(None))
        yield from done.__await__()
        return self.result()


async def read(body: Body) -> tuple[list[bytes], str]:
    """The bodies of all messages, and the type of the last."""
    found = []
    while True:
        message = await asyncio.wait_for(body(), LIMIT_S)
        found.append(message.get("body", b""))
        if not message.get("more_body"):
            return found, message["type"]


def run(work: Callable[[Granian], Coroutine[Any, Any, None]], loop: Callable[[], Any] = WorkerLoop) -> None:
    async def with_granian() -> None:
        granian = Granian()
        try:
            await work(granian)
        finally:
            granian.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(with_granian())


def pieces(seed: int, count: int, sizes: Iterable[int]) -> list[bytes]:
    numbers = random.Random(seed)
    return [numbers.randbytes(numbers.choice(tuple(sizes))) for _ in range(count)]


@pytest.mark.parametrize("loop", [WorkerLoop, uvloop.new_event_loop, asyncio.new_event_loop])
@pytest.mark.parametrize("sizes", [(32 * KIB,), (1, 1000, 40_000), (100_000, 400_000)])
def test_what_is_sent_arrives_whole_in_order_and_asked_for_one_by_one(
    loop: Callable[[], Any], sizes: tuple[int, ...]
) -> None:
    """Two pieces asked for at once might come in either order, and a layer be mixed."""
    sent = pieces(len(sizes), 200, sizes)

    async def work(granian: Granian) -> None:
        granian.send(*sent)
        granian.end()
        found, last = await read(Body(granian.ask))
        assert b"".join(found) == b"".join(sent)
        assert last == "http.request"
        assert granian.most_waiting == 1

    run(work, loop)


def test_small_pieces_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the event loop is woken costs more than the piece that it is woken for."""
    monkeypatch.setattr(readahead, "_PATIENCE_S", LIMIT_S)  # a busy machine is not a slow client
    sent = pieces(1, 256, [32 * KIB])

    async def work(granian: Granian) -> None:
        granian.send(*sent)
        granian.end()
        found, _ = await read(Body(granian.ask))
        assert len(found) < 50
        assert max(map(len, found)) <= 512 * KIB + 32 * KIB

    run(work)


def test_a_client_that_is_faster_than_the_disk_has_to_wait() -> None:
    """Else a fast client fills the memory while the disk is busy."""

    async def work(granian: Granian) -> None:
        granian.send(*pieces(1, 1000, [32 * KIB]))
        body = Body(granian.ask)
        handed = 0
        while handed < 300 * KIB:
            handed += len((await body())["body"])
        async with asyncio.timeout(LIMIT_S):
            while granian.taken < handed + 512 * KIB:  # noqa: ASYNC110  another thread
                await asyncio.sleep(0.001)
        granian.close()
        assert granian.taken <= handed + 512 * KIB + 32 * KIB

    run(work)


def test_a_piece_does_not_wait_for_others_that_do_not_come() -> None:
    """A slow client's bytes reach the disk, and the end of silence is measured from them."""

    async def work(granian: Granian) -> None:
        granian.send(*pieces(1, 10, [32 * KIB]))
        body = Body(granian.ask)
        handed = 0
        while handed < 320 * KIB:
            handed += len((await asyncio.wait_for(body(), LIMIT_S))["body"])
        for text in (b"slowly", b"but steadily"):
            granian.send(text)
            assert (await asyncio.wait_for(body(), LIMIT_S))["body"] == text
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(body(), 0.05)  # longer than its patience: nothing came, nothing is made up
        granian.send(b"and on after a timeout")
        assert (await asyncio.wait_for(body(), LIMIT_S))["body"] == b"and on after a timeout"

    run(work)


def test_what_came_before_the_client_left_comes_before_the_news() -> None:
    """What arrived is kept; a body that broke off is never taken for whole."""
    sent = pieces(1, 20, [32 * KIB])

    async def work(granian: Granian) -> None:
        granian.send(*sent)
        granian.disconnect()
        found, last = await read(Body(granian.ask))
        assert b"".join(found) == b"".join(sent)
        assert last == "http.disconnect"

    run(work)


def test_after_the_end_the_next_message_is_granians_own() -> None:
    """A stream of pieces asks once more, to learn that its client has left."""

    async def work(granian: Granian) -> None:
        granian.send(*pieces(1, 20, [32 * KIB]))
        granian.end()
        granian.disconnect()
        body = Body(granian.ask)
        await read(body)
        assert (await body())["type"] == "http.disconnect"

    run(work)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("readahead") / "home", http={"workers": 1}) as served:
        yield served


@pytest.mark.parametrize("ended", [True, False])
def test_granian_itself_delivers_chunks_so(server: Served, *, ended: bool) -> None:
    """A push by Docker: HTTP chunks of 32 KiB, and now and then a client that hangs up between two."""
    (server.home / "seen").unlink(missing_ok=True)
    sent = pieces(3, 100, [32 * KIB, 7])
    length = sum(map(len, sent))
    with server.connect() as connection:
        connection.sendall(b"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in sent))
        if ended:
            connection.sendall(b"0\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n%d" % length):
                piece = connection.recv(65536)
                assert piece, answer
                answer += piece
    if not ended:
        server.seen(f"http.disconnect after {length}")
