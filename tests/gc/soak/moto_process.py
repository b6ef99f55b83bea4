"""moto as a process of the soak: an S3 store whose removals take a while, also after their client is dead.

    python -m tests.gc.soak.moto_process LOG SEED

Prints its port.  Requests are carried out one by one: S3 is strongly consistent, and moto's dictionaries are not
safe for threads.  Before a removal of content that a collector sends there is a pause of up to `_DELAY_S`, in
which the collector can be killed.  Of some the connection breaks at once, and they are carried out all the same,
up to `_LOST_S` later, when the collector may have sent them again.  LOG gets a line when such a removal has
arrived, and one when it has been carried out: `began` or `done`, the time of the monotonic clock, which all
processes share, and the User-Agent.
"""

from __future__ import annotations

import io
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from werkzeug.serving import WSGIRequestHandler, make_server

from moorage.registry import layout

__all__ = ["COLLECTOR"]

COLLECTOR: Final = "collector-"
"""Prefix of the User-Agent of a collector; its process id follows."""
_DELAY_S: Final = 0.3
_LOST_S: Final = 1.1
_LOST: Final = 0.25
"""Share of the removals whose connection breaks."""


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Discard the line."""


class _Atomic:
    """WSGI application that has one request carried out at a time."""

    def __init__(self, inner: Any, log: Path, seed: int) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._log = log.open("a", buffering=1)
        self._random = random.Random(seed)

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        assert "chunked" not in environ.get("HTTP_TRANSFER_ENCODING", "")
        request = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(request)
        agent = environ.get("HTTP_USER_AGENT", "")
        noted = agent.startswith(COLLECTOR) and _removes_content(environ, request)
        if noted:
            self._note("began", agent)
            if self._random.random() < _LOST:
                late_s = self._random.uniform(0.4, 1) * _LOST_S
                threading.Timer(late_s, self._carry_out, (environ, _ignored, agent)).start()
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                raise ConnectionResetError("the connection of a removal breaks")
            time.sleep(self._random.uniform(0, _DELAY_S))
        return self._carry_out(environ, start, agent if noted else "")

    def _carry_out(self, environ: dict[str, Any], start: Any, agent: str) -> list[bytes]:
        with self._lock:
            body = list(self._inner(environ, start))
            if agent:
                self._note("done", agent)
        return body

    def _note(self, event: str, agent: str) -> None:
        self._log.write(f"{event} {time.monotonic()} {agent.split(maxsplit=1)[0]}\n")


def _ignored(*_: object) -> None:
    """Discard the status of an answer that is not sent."""


def _removes_content(environ: dict[str, Any], request: bytes) -> bool:
    """Return whether it is DeleteObject or DeleteObjects, and not of the state of a collection."""
    if environ["REQUEST_METHOD"] == "DELETE":
        return layout.OWN not in environ["PATH_INFO"]
    named = environ.get("QUERY_STRING", "").replace("=", "&").split("&")
    return environ["REQUEST_METHOD"] == "POST" and "delete" in named and layout.OWN.encode() not in request


def main() -> None:
    """Serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    app = _Atomic(DomainDispatcherApplication(create_backend_app), Path(sys.argv[1]), int(sys.argv[2]))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
