"""Pages of the debug listener: health with reasons, metrics, and replacements of CNCF Distribution's others.

The listener has no authentication, so its pages contain nothing confidential: no settings, no secrets, no memory.
CNCF Distribution serves all of its settings at `/debug/vars` once Redis is configured.

Dispatched by: `debug_app.py`.  Source: docs/reference/configuration.md, sections 9 and 12.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.http.headers import first_header
from moorage.http.probes import NO_STORE, degraded, page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from moorage.http.middleware import Scope, Traffic
    from moorage.http.reply import Answer

    MetricsPage = Callable[[str, str], Awaitable[tuple[bytes, dict[str, str]]]]
    """Returns body and headers for Accept and Accept-Encoding."""

__all__ = [
    "DebugRequest",
    "DebugState",
    "MetricsPage",
    "get_health",
    "get_livez",
    "get_metrics",
    "get_pprof",
    "get_readyz",
    "get_vars",
]

_TEXT: Final = b"text/plain; charset=utf-8"
_JSON: Final = b"application/json; charset=utf-8"

_NO_VARS: Final = b"""\
/debug/vars is not offered: CNCF Distribution shows its configuration here, secrets included.
Metrics of the process are among those of http.debug.prometheus; `moorage config show` prints the settings, masked.
"""
_NO_PPROF: Final = b"""\
/debug/pprof is a tool of Go programs. Instead:
  kill -QUIT PID          stacks of all threads and tasks on standard error; the server keeps running
  py-spy dump --pid PID   the same from outside, and py-spy top, py-spy record for a profile (pip install py-spy)
"""


@dataclass(frozen=True, slots=True)
class DebugState:
    """State of the registry.

    `failing` returns the failing checks of all workers with their reasons; `degraded` the reason for which pushes
    are refused, "" while they are not.  `metrics` is None while metrics are off.
    """

    failing: Callable[[], Mapping[str, str]]
    traffic: Traffic
    degraded: Callable[[], str]
    metrics: MetricsPage | None


@dataclass(frozen=True, slots=True)
class DebugRequest:
    """A request for a page."""

    scope: Scope
    state: DebugState


async def get_health(request: DebugRequest) -> Answer:
    """`/debug/health`: 200, or 503 with the failing checks and their reasons."""
    failing = request.state.failing()
    return page(503 if failing else 200, _JSON, json.dumps(failing, sort_keys=True).encode(), NO_STORE)


async def get_livez(request: DebugRequest) -> Answer:
    """`/livez`: 200."""
    del request
    return page(200, _TEXT, b"ok\n", NO_STORE)


async def get_readyz(request: DebugRequest) -> Answer:
    """`/readyz`: 200, or 503 with the reasons."""
    state = request.state
    reasons = [f"{name}: {reason}\n" for name, reason in sorted(state.failing().items())]
    reasons += ["stopping\n"] if state.traffic.stopping else []
    if reasons:
        return page(503, _TEXT, "".join(reasons).encode(errors="backslashreplace"), NO_STORE)
    reason = state.degraded()
    return page(200, _TEXT, degraded(reason) if reason else b"ok\n", NO_STORE)


async def get_metrics(request: DebugRequest) -> Answer:
    """The metrics page, compressed if the client accepts that."""
    assert request.state.metrics is not None, "the row is dispatched only with metrics"
    accept, accept_encoding = (first_header(request.scope, name) for name in (b"accept", b"accept-encoding"))
    body, headers = await request.state.metrics(accept, accept_encoding)
    kind = headers.pop("content-type").encode()
    return page(200, kind, body, *((name.encode(), text.encode()) for name, text in headers.items()))


async def get_vars(request: DebugRequest) -> Answer:
    """`/debug/vars`: 404 with the replacement."""
    del request
    return page(404, _TEXT, _NO_VARS)


async def get_pprof(request: DebugRequest) -> Answer:
    """`/debug/pprof`: 404 with the replacement."""
    del request
    return page(404, _TEXT, _NO_PPROF)
