"""File responses sent from threads: by sendfile(2), or with TLS read, encrypted and sent.

    event loop   prepare ─► job ─► send ──┐                 ┌─► the socket is writable: the job again
    thread                └─► pieces, until the end ─► done │
                                    └─► the socket is full for _PATIENCE_MS ─► back to the event loop

A thread never waits long for one client, and not at all while others wait for a thread: a job whose socket stays
full goes back to the event loop, which waits for any number of sockets at no cost.  So a few threads serve any
number of slow readers.

One owner at a time: while a job runs, its thread alone writes to the socket and, with TLS, touches the
`SSLObject`.  The connection has nothing unsent when the job begins, writes nothing and (TLS) reads nothing until
it has ended.  The job has a descriptor of its own (dup(2)), so the connection may be closed meanwhile; its
`shutdown` ends the job.  `prepare` acquires the descriptor and the first thread before anything of the response is
sent: without them the client gets a 503, not a truncated response.

Measured, one core, CPU seconds per GiB: sendfile 0.29; TLS with pieces of 128 KiB 1.2 (AES-256-GCM alone: 0.5).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorage.system_errors import no_thread_error

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Cipher", "FileJob", "FileProgress", "FileSender", "Sending"]

_SENDFILE_BYTES: Final = 4 << 20
_PIECE_BYTES: Final = 128 << 10
_PATIENCE_MS: Final = 5
"""Milliseconds within which a client on a fast network has read something."""
_THREADS: Final = 4


class Cipher(Protocol):
    """Encryption by `tls_connection.TlsConnection`, in the thread that owns the `SSLObject`."""

    def encrypt(self, data: memoryview | bytes) -> bytes: ...


class Sending(Protocol):
    """Interface of a connection for sending.  `cipher` is None without TLS."""

    loop: asyncio.AbstractEventLoop
    sock: socket.socket
    lost: bool

    @property
    def cipher(self) -> Cipher | None: ...


class FileProgress(Protocol):
    """`file_sent` counts the bytes of files that the kernel has taken."""

    file_sent: int


class FileJob:
    """Bytes `offset` to `offset + count` of one file for one client.  To be closed.

    `waiting` are bytes to be sent before the next ones are read from the file.  The constructor raises OSError
    where there is no descriptor left.
    """

    __slots__ = ("cipher", "count", "done", "error", "file", "offset", "plain", "progress", "socket", "waiting")

    def __init__(self, connection: Sending, progress: FileProgress, file: int, offset: int, count: int) -> None:
        self.socket = connection.sock.dup()
        self.cipher = connection.cipher
        self.progress = progress
        self.file = file
        self.offset = offset
        self.count = count
        self.waiting = memoryview(b"")
        self.plain = 0  # bytes of the file that `waiting` holds, encrypted
        self.done = False
        self.error: BaseException | None = None

    def close(self) -> None:
        self.socket.close()

    def put_head(self, head: bytes) -> None:
        """Send `head` before the file; by the owner of the cipher."""
        self.waiting = memoryview(head if self.cipher is None or not head else self.cipher.encrypt(head))

    def run(self, others: SimpleQueue[Any]) -> None:
        """Send until the end, or until the socket stays full for `_PATIENCE_MS`; no wait while `others` queue."""
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        try:
            while self.waiting or self.count:
                try:
                    self._send_some()
                except BlockingIOError:
                    if not poll.poll(_PATIENCE_MS if others.empty() else 0):
                        return
            self.done = True
        except BaseException as error:  # noqa: BLE001  raised again where the result is awaited
            self.error = error

    def _send_some(self) -> None:
        """Send one piece.  Raises BlockingIOError while the socket buffer is full, OSError for other failures."""
        if self.waiting:
            flags = socket.MSG_MORE if self.cipher is None and self.count else 0
            self.waiting = self.waiting[self.socket.send(self.waiting, flags) :]
            if not self.waiting:
                self.progress.file_sent += self.plain
                self.plain = 0
        elif self.cipher is None:
            sent = os.sendfile(self.socket.fileno(), self.file, self.offset, min(self.count, _SENDFILE_BYTES))
            self._advance(sent)
            self.progress.file_sent += sent
        else:
            data = os.pread(self.file, min(self.count, _PIECE_BYTES), self.offset)
            self._advance(len(data))
            self.waiting = memoryview(self.cipher.encrypt(data))
            self.plain = len(data)

    def _advance(self, size: int) -> None:
        if size == 0:
            raise OSError(errno.EIO, f"the file ends {self.count} bytes early")
        self.offset += size
        self.count -= size


class FileSender:
    """A pool of threads, started when the first file is sent."""

    def __init__(self, threads: int = _THREADS) -> None:
        self._jobs: SimpleQueue[tuple[FileJob, Callable[[], None]]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._most = threads
        self._running = 0

    def prepare(self, connection: Sending, progress: FileProgress, file: int, offset: int, count: int) -> FileJob:
        """Return the job for `send`; `progress.file_sent` counts its bytes.

        Raises OSError where a descriptor or the first thread is missing.
        """
        if not self._threads:
            self._start_thread(connection.loop)
        return FileJob(connection, progress, file, offset, count)

    async def send(self, job: FileJob, head: bytes, loop: asyncio.AbstractEventLoop) -> None:
        """Send `head`, then the bytes of the file.

        Raises ConnectionError when the client has left, OSError where the file cannot be read.  A caller that is
        cancelled waits for the thread.
        """
        job.put_head(head)
        while True:
            await self._run(job, loop)
            if job.error is not None:
                raise job.error
            if job.done:
                return
            await _writable(job.socket, loop)

    async def _run(self, job: FileJob, loop: asyncio.AbstractEventLoop) -> None:
        """Run the job in a thread until it returns."""
        ended = asyncio.Event()
        if self._running >= len(self._threads) and len(self._threads) < self._most:
            self._start_thread(loop)
        self._running += 1
        self._jobs.put((job, ended.set))
        cancelled = False
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                cancelled = True
        self._running -= 1
        if cancelled:
            raise asyncio.CancelledError

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a thread.  Raises OSError if that fails and none is running."""
        thread = threading.Thread(target=self._work, args=(loop,), name="files", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the limit of processes (ulimit -u, pids.max) is reached
            if not self._threads:
                raise no_thread_error() from error
        else:
            self._threads.append(thread)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            job, ended = self._jobs.get()
            job.run(self._jobs)
            try:
                loop.call_soon_threadsafe(ended)
            except RuntimeError:
                return  # the loop is closed: the process ends
            del job, ended


async def _writable(sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
    """Wait until the socket is writable or shut down."""
    ready = loop.create_future()
    loop.add_writer(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(sock.fileno())
