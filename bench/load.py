"""The load generator: each connection sends one request over and over, kept alive, from several processes.

wrk waits forever for the body of an answer to HEAD, so this repeats what it does for both methods: one epoll
loop per process, each connection sends its next request when it has read the whole answer.  An answer that is
not 2xx, is shorter than its Content-Length or ends its connection is a failure, and one failure fails the
measurement.

One process makes over 50,000 requests/s on the machine of docs/benchmarks.md; `busy` is its own share of a core.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import socket
import threading
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from bench import percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

__all__ = ["Load", "LoadFailed", "Together", "in_processes", "run", "together"]

T = TypeVar("T")

_WARM_S: Final = 0.5
_FORK: Final = multiprocessing.get_context("fork")
_READ: Final = 64 << 10
_PREPARED_S: Final = 600.0
_WAITED_IN_VAIN: Final = threading.BrokenBarrierError.__name__


class LoadFailed(Exception):
    """Answers or works that failed; the message is the first failure."""


@dataclass(frozen=True, slots=True)
class Load:
    """Answers in all and per second, `percentiles.in_ms` of them, the busiest generator's share of a core."""

    answers: int
    per_s: float
    latency: Mapping[str, float]
    busy: float


@dataclass(frozen=True, slots=True)
class Together(Generic[T]):
    """Works that began at one moment: results, seconds to the end of the last, processor seconds of the server."""

    results: list[T]
    wall_s: float
    server_s: float


@dataclass(slots=True)
class _Counted:
    total: int
    latencies: array[float]
    cpu_s: float
    failures: int
    failure: str


def run(port: int, *requests: bytes, connections: int, seconds: float, cpus: Sequence[int]) -> Load:
    """Load 127.0.0.1:`port` for `seconds`, with one process on each of `cpus`.  Raises LoadFailed.

    `requests` are dealt out to the connections of a process in turn; all have the same method.
    """
    # All begin to count at the same moment, after a warm-up.
    begin = time.monotonic() + 0.2 + _WARM_S
    shares = [connections // len(cpus) + (index < connections % len(cpus)) for index in range(len(cpus))]
    works = [_work(port, requests, share, begin, seconds) for share in shares if share]
    counted = in_processes(cpus, works)
    failures = sum(one.failures for one in counted)
    if failures:
        first = next(one.failure for one in counted if one.failures)
        raise LoadFailed(f"{failures} of the answers to {requests[0][:80]!r} failed, the first with {first}")
    if not any(one.latencies for one in counted):
        raise LoadFailed(f"no answer to {requests[0][:80]!r} in {seconds} s")
    return Load(
        answers=sum(one.total for one in counted),
        per_s=sum(len(one.latencies) for one in counted) / seconds,
        latency=percentiles.in_ms(value for one in counted for value in one.latencies),
        busy=max(one.cpu_s for one in counted) / seconds,
    )


def in_processes(cpus: Sequence[int], works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all `works` at once, each in a process of its own on one of `cpus` in turn; return their results.

    Raises LoadFailed with the first one's exception if any raised.
    """
    running = []
    for index, work in enumerate(works):
        here, there = _FORK.Pipe()
        process = _FORK.Process(target=_child, args=(work, cpus[index % len(cpus)], there), daemon=True)
        process.start()
        there.close()
        running.append((process, here))
    results: list[T] = []
    problems = []
    for process, here in running:
        try:
            result, problem = here.recv()
        except EOFError:
            result, problem = None, "a generator process died"
        process.join()
        if problem:
            problems.append(problem)
        else:
            results.append(result)
    if problems:
        # Processes that waited for a failed one fail as well, but are not the reason.
        raise LoadFailed(next((one for one in problems if not one.startswith(_WAITED_IN_VAIN)), problems[0]))
    return results


def together(
    cpus: Sequence[int], works: Sequence[Callable[[], Callable[[], T]]], server_cpu_s: Callable[[], float]
) -> Together[T]:
    """Prepare all `works` in processes of their own; when the last is ready, do what they returned, all at once.

    The time of preparation is not measured, however long it takes.  Raises LoadFailed.
    """
    began, used = _FORK.Value("d", 0.0), _FORK.Value("d", 0.0)

    def begin() -> None:
        began.value, used.value = time.monotonic(), server_cpu_s()

    barrier = _FORK.Barrier(len(works), action=begin, timeout=_PREPARED_S)

    def prepared(work: Callable[[], Callable[[], T]]) -> Callable[[], tuple[T, float]]:
        def go() -> tuple[T, float]:
            try:
                ready = work()
            except BaseException:
                barrier.abort()
                raise
            barrier.wait()
            return ready(), time.monotonic()

        return go

    done = in_processes(cpus, [prepared(work) for work in works])
    return Together(
        [result for result, _ in done], max(end for _, end in done) - began.value, server_cpu_s() - used.value
    )


def _child(work: Callable[[], T], cpu: int, sink: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    try:
        sink.send((work(), ""))
    except Exception as error:  # noqa: BLE001  carried to the parent, which raises it
        sink.send((None, f"{type(error).__name__}: {error}"))


def _work(
    port: int, requests: Sequence[bytes], connections: int, begin: float, seconds: float
) -> Callable[[], _Counted]:
    return lambda: _Loop(port, requests, connections).count(begin, begin + seconds)


class _Loop:
    """One process's share of the connections."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._bodiless = requests[0].startswith(b"HEAD ")
        self._sockets = {}
        self._requests = {}
        self._epoll = select.epoll()
        for number in range(connections):
            one = socket.create_connection(("127.0.0.1", port), timeout=30)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._requests[one.fileno()] = requests[number % len(requests)]
            self._epoll.register(one.fileno(), select.EPOLLIN)
        self._partial: dict[int, bytes] = {}
        self._sent: dict[int, float] = {}
        self.failures = 0
        self.failure = ""

    def count(self, begin: float, end: float) -> _Counted:
        gc.disable()
        # 8 bytes for each answer: 3 MB for a load of 5 seconds at 75,000 requests/s.
        latencies = array("d")
        for fd in self._sockets:
            self._send(fd, time.monotonic())
        cpu = None
        total = 0
        while self._sockets and (now := time.monotonic()) < end:
            if cpu is None and now >= begin:
                cpu = time.process_time()
            for fd, _ in self._epoll.poll(end - now):
                if not self._read_whole(fd):
                    continue
                total += 1
                now = time.monotonic()
                if begin <= now < end:
                    latencies.append(now - self._sent[fd])
                self._send(fd, now)
        used = time.process_time() - (cpu or 0.0)
        return _Counted(total, latencies, used, self.failures, self.failure)

    def _send(self, fd: int, now: float) -> None:
        self._sent[fd] = now
        # A request is far smaller than any socket buffer, and the one before it has been answered.
        self._sockets[fd].send(self._requests[fd])

    def _read_whole(self, fd: int) -> bool:
        """Return whether the response is complete; a wrong one is counted, and its connection closed."""
        held = self._partial.pop(fd, b"")
        try:
            part = self._sockets[fd].recv(_READ)
        except OSError as error:
            return self._fail(fd, repr(error))
        if not part:
            return self._fail(fd, f"a closed connection after {held[:120]!r}")
        data = held + part
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._partial[fd] = data
            return False
        if not data.startswith(b"HTTP/1.1 2"):
            return self._fail(fd, repr(data[:200]))
        complete = end + 4 + (0 if self._bodiless else _content_length(data, end))
        if len(data) < complete:
            self._partial[fd] = data
            return False
        return len(data) == complete or self._fail(
            fd, f"{len(data) - complete} bytes too many after {data[:120]!r}"
        )

    def _fail(self, fd: int, why: str) -> bool:
        self.failures += 1
        self.failure = self.failure or why
        self._epoll.unregister(fd)
        self._sockets.pop(fd).close()
        return False


def _content_length(data: bytes, end: int) -> int:
    head = data[:end].lower()
    start = head.find(b"\r\ncontent-length:")
    if start < 0:
        return 0
    stop = head.find(b"\r\n", start + 2)
    return int(head[start + 17 : stop if stop >= 0 else end])
