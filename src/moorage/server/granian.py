"""Granian, embedded: everything that depends on its version stands here.

Granian 2.8 has no public way to serve ASGI from a socket that somebody else bound, so this repeats the few lines
of `granian.server.mp.MPServer._spawn_asgi_worker`.  pyproject.toml pins the minor version for that reason.

What was found out about 2.8.7, by experiment and in its source (`tests/server/test_granian.py` repeats most):

* A client that leaves within a body (Content-Length or chunked, HTTP/1.1 or a reset or cut HTTP/2 stream): the
  pieces that came are delivered, then `receive` gives `http.disconnect`, never a last `http.request`.
* `receive` after the body waits for the client to leave or the answer to be complete.  Of several HTTP/2 requests
  on one connection that wait so, only one is told that the connection broke: do not wait for nothing else.
* `send` never fails when the client has left.  It waits once four pieces are queued, so a slow reader holds four.
* `100 Continue` is sent when the application first calls `receive`, not before.
* An answer to a body that was not read is followed by the end of the connection (often, not always, announced by
  `Connection: close`), unless the body was small enough to have arrived with its headers.  A client that is still
  writing may see a reset before it has read the answer.
* Answers without a `Server` header get `Server: granian`, always; so `http/middleware.py` sends an empty one.
  Its own 404, for a file that is gone after `pathsend`, still has it.
* The answer to HEAD keeps its Content-Length.  An answer with Content-Length that ends early cuts the connection;
  a chunked one would end as if it were whole, so send none.
* `http.response.pathsend` streams in pieces of 128 KiB from a thread, memory does not grow; `send` returns at
  once, and nobody learns when the file is sent or whether the client stayed.  A file that is gone is a bare 404.
* The header timeout of HTTP/1.1 also ends connections that idle between requests.  With HTTP/2 possible ("auto":
  TLS by default, h2c) it starts only after the first byte, and HTTP/2 connections may idle for ever.
* 100 header lines are the limit (431), and `max_buffer_size` for their bytes, roughly.
* TLS files are read when serving begins; whatever is wrong with them is a panic, and a panic ends the process.
  ring signs with RSA of 2048, 3072 and 4096 bits, P-256, P-384 and Ed25519 only, and needs the public half in an
  EC key.  The leaf must be of version 3; critical extensions that webpki does not know are refused.  With
  authorities for clients it verifies whoever shows a certificate, and `ssl_client_verify` makes one required;
  there is no mode without verifying, and authorities' own expiry is not looked at.  Suites, curves and their
  order cannot be set.  The scope says nothing of the client's certificate, and a failed handshake is logged
  nowhere.  A handshake may take 10 s.  TLS 1.0 and 1.1 are refused with an alert (handshake failure).
* Each piece of a body costs 60 to 250 us (three threads woken), so pieces must be large, and where the client
  makes them small (each HTTP chunk is a piece) `readahead.py` gathers them.  CPU seconds per GiB uploaded with
  Content-Length, HTTP/1.1 without TLS: 2.1 with buffers of 64 KiB, 1.3 with 128, 1.0 with 256, 0.8 with 416; with
  TLS 2.4, 1.9, 1.7, 1.5.  HTTP/2 with TLS: 12 with frames of 16 KiB, 1.65 with 512 KiB.  The client decides: those
  in Go, Python and Rust fill what we allow, curl sends frames of 16 KiB whatever we say.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from granian import _futures, _granian
from granian.http import HTTP1Settings, HTTP2Settings

from moorage.server.readahead import Body

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.http.middleware import ASGIApp
    from moorage.server.sealed import Sealed

__all__ = ["BACKLOG", "Clients", "Listener", "ServerOptions", "Tls"]

BACKLOG: Final = 2048
"""Connections that the kernel keeps while every worker is busy (it caps this at net.core.somaxconn)."""

_KIB: Final = 1024
_TAKE_UP_S: Final = 10.0

# Granian's stubs have the signatures of older versions, and its Python helpers have none.
_rust: Any = _granian
_new_scheduler: Any = _futures._new_cbscheduler  # noqa: SLF001  the price of embedding
_watched: Any = _futures._future_watcher_wrapper  # noqa: SLF001  as above


@dataclass(frozen=True, slots=True)
class Clients:
    """Authorities that clients' certificates are checked against; without `required` a client may have none."""

    authorities: Sealed = field(compare=False)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Tls:
    """What `tls.check` has made; `minimum` is `tls1.2` or `tls1.3`.

    `identity` tells contents apart, `until` is when the certificate expires, `subject` whose it is.
    """

    certificate: Sealed = field(compare=False)
    key: Sealed = field(compare=False)
    minimum: str
    clients: Clients | None
    identity: str
    until: datetime
    subject: str = ""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a worker tells Granian.  `http2`: offered by ALPN with TLS, by prior knowledge without."""

    http2: bool = False
    tls: Tls | None = None
    header_timeout_s: float = 30.0
    connections: int = 1024
    buffer_bytes: int = 408 * _KIB
    window_bytes: int = 1024 * _KIB
    frame_bytes: int = 512 * _KIB
    threads: int = 1


class Listener:
    """Serves one ASGI application on a listening socket from threads of its own, until `stop`.

    To be made inside the running event loop; the application runs there.  The descriptor becomes Granian's,
    which closes it once it has stopped accepting.
    """

    def __init__(self, app: ASGIApp, fd: int, *, unix: bool, options: ServerOptions) -> None:
        self._loop = asyncio.get_running_loop()
        self._signal = _rust.WorkerSignal()
        self._stopped = asyncio.Event()
        self._told = False
        self._fd = fd
        self._kept: int | None = None
        self._polled = False
        self._signal.add_cb(lambda: self._loop.call_soon_threadsafe(self._stopped.set))
        # Kept for as long as the worker lives: Granian refers to neither by itself.
        self._socket = _rust.SocketHolder(fd, unix, BACKLOG)
        self._worker = _worker((None, self._socket), options)
        scheduler = _new_scheduler(self._loop, _callback(app), impl_asyncio=True)
        serve = self._worker.serve_mtr_uds if unix else self._worker.serve_mtr
        serve(scheduler, self._loop, self._signal)

    def accept_no_more(self) -> None:
        """Leave new connections to the other processes that share the socket; those accepted go on.

        Granian stops accepting only together with closing what is idle, and a connection whose first request is
        still on its way is idle to it: that client would get no answer.  So its descriptor is given another
        listening socket, one that nobody can reach.  (The poll of the old one goes on; what it announces finds an
        empty queue.)
        """
        self._wait_until_polled()
        self._let_go()
        with TemporaryDirectory(prefix="moorage-") as folder, socket.socket(socket.AF_UNIX) as unreachable:
            unreachable.bind(f"{folder}/unreachable")
            unreachable.listen()
            unreachable.setblocking(False)
            os.dup2(unreachable.fileno(), self._fd, inheritable=False)

    def pause(self) -> None:
        """Leave new connections to the other processes that share the socket, until `resume`."""
        if self._kept is None:
            kept = os.dup(self._fd)
            self.accept_no_more()
            self._kept = kept

    def resume(self) -> None:
        """Accept again what comes from now on.

        Granian learns of a connection when it comes (epoll(7), edge-triggered), so what waits in the queue by then
        may stay there until the next one comes.  Somebody else must take it.
        """
        if self._kept is not None:
            os.dup2(self._kept, self._fd, inheritable=False)
            self._let_go()

    def _wait_until_polled(self) -> None:
        """Granian's thread takes the descriptor up some milliseconds after it was handed over.

        If it were to find another socket there, it would poll that one for ever, or panic.
        """
        deadline = time.monotonic() + _TAKE_UP_S
        while not self._polled:
            self._polled = _is_polled(self._fd)
            if time.monotonic() > deadline:
                raise RuntimeError("Granian does not poll its socket")
            if not self._polled:
                time.sleep(0.001)

    def _let_go(self) -> None:
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def stop(self) -> None:
        """Stop accepting; close idle connections now and the others after the answer they wait for."""
        if not self._told:
            # A second set() would block this thread: Granian reads its channel of one place only once.
            self._told = True
            self._let_go()
            self._signal.set()

    async def stopped(self) -> None:
        """Returns when the last connection is closed."""
        await self._stopped.wait()


def _is_polled(fd: int) -> bool:
    """Whether some epoll(7) of this process has the descriptor; proc_pid_fdinfo(5)."""
    wanted = re.compile(rf"^tfd:\s+{fd} ", re.MULTILINE)
    for path in Path("/proc/self/fdinfo").iterdir():
        # Descriptors come and go meanwhile.
        with suppress(OSError):
            if wanted.search(path.read_text()):
                return True
    return False


def _callback(app: ASGIApp) -> Any:
    # Granian's own wrapper adds `state` and `root_path` to every scope, and an access log that we do not use.
    def run(scope: Any, protocol: Any) -> Any:
        return app(scope, Body(protocol.receive), protocol.send)

    return _watched(run)


def _worker(sock: tuple[None, Any], options: ServerOptions) -> Any:
    tls = options.tls
    return _rust.ASGIWorker(
        1,
        sock,
        None,
        options.threads,
        64,
        1,
        30,
        options.connections,
        "auto" if options.http2 else "1",
        HTTP1Settings(
            header_read_timeout=max(1, round(options.header_timeout_s * 1000)),
            max_buffer_size=options.buffer_bytes,
        ),
        HTTP2Settings(
            initial_connection_window_size=options.window_bytes * 2,
            initial_stream_window_size=options.window_bytes,
            max_frame_size=options.frame_bytes,
            max_headers_size=64 * _KIB,
            max_concurrent_streams=200,
        ),
        False,
        None,
        tls is not None,
        tls.certificate.path if tls else None,
        tls.key.path if tls else None,
        None,
        tls.minimum if tls else "tls1.2",
        tls.clients.authorities.path if tls and tls.clients else None,
        [],
        bool(tls and tls.clients and tls.clients.required),
        (None, None),
    )
