"""The debug listener's pages: health with reasons, metrics, and what there is instead of the reference's others.

This listener has no authentication, so its pages contain nothing confidential: no settings, no
secrets, no memory.  The reference serves all of its settings at `/debug/vars` once Redis is configured.

Source: docs/reference/configuration.md, sections 9 and 12.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from moorage.http.probes import answer, degraded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from moorage.http.middleware import Receive, Scope, Send, Traffic

    Page = Callable[[str, str], Awaitable[tuple[bytes, dict[str, str]]]]
    """Given Accept and Accept-Encoding: the body and its headers."""

__all__ = ["DebugPages"]

_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json; charset=utf-8"
_NO_STORE: Final = (b"cache-control", b"no-store")

_NO_VARS: Final = b"""\
/debug/vars is not offered: CNCF Distribution shows its configuration here, secrets included.
Metrics of the process are among those of http.debug.prometheus; `moorage config show` prints the settings, masked.
"""
_NO_PPROF: Final = b"""\
/debug/pprof is a tool of Go programs. Instead:
  kill -QUIT PID          stacks of all threads and tasks on standard error; the server keeps running
  py-spy dump --pid PID   the same from outside, and py-spy top, py-spy record for a profile (pip install py-spy)
"""


class DebugPages:
    """An ASGI application of its own.

    `failing` returns the checks that fail in any worker, with the reasons; `degraded` why pushes are refused, ""
    while they are not.  `metrics`, if they are on, is the page at `metrics_path`.
    """

    def __init__(
        self,
        failing: Callable[[], Mapping[str, str]],
        traffic: Traffic,
        metrics_path: str = "",
        metrics: Page | None = None,
        degraded: Callable[[], str] = str,
    ) -> None:
        self._failing, self._traffic, self._degraded = failing, traffic, degraded
        self._metrics_path, self._metrics = metrics_path, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        path: str = scope["path"]
        if scope["method"] not in {"GET", "HEAD"}:
            await answer(scope, send, 405, _TEXT, b"Method Not Allowed\n", (b"allow", b"GET, HEAD"))
        elif self._metrics is not None and path == self._metrics_path:
            await self._measured(scope, send)
        elif path == "/debug/health":
            failing = self._failing()
            body = json.dumps(failing, sort_keys=True).encode()
            await answer(scope, send, 503 if failing else 200, _JSON, body, _NO_STORE)
        elif path == "/livez":
            await answer(scope, send, 200, _TEXT, b"ok\n", _NO_STORE)
        elif path == "/readyz":
            reasons = [f"{name}: {reason}\n" for name, reason in sorted(self._failing().items())]
            reasons += ["stopping\n"] if self._traffic.stopping else []
            why = self._degraded()
            body = "".join(reasons).encode(errors="backslashreplace") or (degraded(why) if why else b"ok\n")
            await answer(scope, send, 503 if reasons else 200, _TEXT, body, _NO_STORE)
        elif path == "/debug/vars":
            await answer(scope, send, 404, _TEXT, _NO_VARS)
        elif path == "/debug/pprof" or path.startswith("/debug/pprof/"):
            await answer(scope, send, 404, _TEXT, _NO_PPROF)
        else:
            await answer(scope, send, 404, _TEXT, b"404 page not found\n")

    async def _measured(self, scope: Scope, send: Send) -> None:
        assert self._metrics is not None
        asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
        body, headers = await self._metrics(asked.get(b"accept", ""), asked.get(b"accept-encoding", ""))
        kind = headers.pop("content-type").encode()
        await answer(
            scope, send, 200, kind, body, *((name.encode(), text.encode()) for name, text in headers.items())
        )
