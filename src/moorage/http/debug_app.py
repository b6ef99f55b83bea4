"""ASGI application of the debug listener, which serves the rows `routes.DEBUG`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.http import routes
from moorage.http.debug import DebugRequest, DebugState
from moorage.http.probes import page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.http.debug import MetricsPage
    from moorage.http.middleware import Receive, Scope, Send, Traffic
    from moorage.http.reply import Answer

__all__ = ["DebugPages"]

_TEXT: Final = b"text/plain; charset=utf-8"
_PAGES: Final = tuple(route for route in routes.DEBUG if route is not routes.METRICS)


class DebugPages:
    """The pages of a registry; see `DebugState`.  Metrics, if they are on, are served at `metrics_path`."""

    def __init__(
        self,
        failing: Callable[[], Mapping[str, str]],
        traffic: Traffic,
        metrics_path: str = "",
        metrics: MetricsPage | None = None,
        degraded: Callable[[], str] = str,
    ) -> None:
        self._state = DebugState(failing, traffic, degraded, metrics)
        self._metrics_path = metrics_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> Answer:
        path, method = scope["path"], scope["method"]
        if method not in {"GET", "HEAD"}:
            return page(405, _TEXT, b"Method Not Allowed\n", (b"allow", b"GET, HEAD"))
        metrics = self._state.metrics is not None and path == self._metrics_path
        for route in (routes.METRICS,) if metrics else _PAGES:
            if metrics or route.match(path):
                handler, _ = route.endpoint(method)
                return await handler(DebugRequest(scope, self._state))
        return page(404, _TEXT, b"404 page not found\n")
