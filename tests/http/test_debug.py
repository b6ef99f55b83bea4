"""The debug listener's pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from moorage.http.debug_app import DebugPages
from moorage.http.middleware import Traffic

if TYPE_CHECKING:
    from moorage.http.middleware import Message


class Pages:
    """The pages, of a registry whose failing checks the test sets."""

    def __init__(self, *, metrics: bool = True) -> None:
        self.failing: dict[str, str] = {}
        self.traffic = Traffic()
        self.requested: list[tuple[str, str]] = []
        self.degraded = ""
        page = self.page if metrics else None
        self.app = DebugPages(lambda: self.failing, self.traffic, "/metrics", page, lambda: self.degraded)

    async def page(self, accept: str, encoding: str) -> tuple[bytes, dict[str, str]]:
        self.requested.append((accept, encoding))
        return b"a 1\n", {"content-type": "text/plain; version=0.0.4", "vary": "accept"}

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("nothing is read")

        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": given}
        await self.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        body: bytes = sent[1]["body"]
        if method == "GET":
            assert answered["content-length"] == str(len(body))
        return sent[0]["status"], answered, body.decode()


async def test_health_is_a_map_of_what_fails() -> None:
    """The reference's form, which monitoring reads."""
    pages = Pages()
    status, headers, body = await pages.get("/debug/health")
    assert (status, body) == (200, "{}")
    assert headers["content-type"].startswith("application/json")
    pages.failing = {"storagedriver_filesystem": "no such directory", "db:5432": "refused"}
    status, headers, body = await pages.get("/debug/health")
    assert (status, json.loads(body)) == (503, pages.failing)
    assert await pages.get("/debug/health", "HEAD") == (503, headers, "")


async def test_readiness_tells_reasons_here() -> None:
    """Only operators reach this listener."""
    pages = Pages()
    assert (await pages.get("/readyz"))[::2] == (200, "ok\n")
    pages.degraded = "/data: full"
    assert (await pages.get("/readyz"))[::2] == (200, "degraded: pushes are refused: /data: full\n")
    assert (await pages.get("/debug/health"))[::2] == (200, "{}")
    pages.degraded = "/da\udcffta: full"  # a path that is not UTF-8
    assert (await pages.get("/readyz"))[::2] == (200, "degraded: pushes are refused: /da\\udcffta: full\n")
    pages.degraded = ""
    pages.failing = {"db:5432": "refused"}
    assert (await pages.get("/readyz"))[::2] == (503, "db:5432: refused\n")
    assert (await pages.get("/livez"))[::2] == (200, "ok\n")
    pages.failing = {}
    pages.traffic.stopping = True
    assert (await pages.get("/readyz"))[::2] == (503, "stopping\n")
    assert (await pages.get("/livez"))[0] == 200


async def test_metrics_are_at_their_path() -> None:
    pages = Pages()
    status, headers, body = await pages.get("/metrics", accept="text/plain", accept_encoding="gzip")
    assert (status, body) == (200, "a 1\n")
    assert headers["content-type"] == "text/plain; version=0.0.4"
    assert headers["vary"] == "accept"
    assert pages.requested == [("text/plain", "gzip")]


async def test_without_metrics_there_is_no_such_page() -> None:
    assert (await Pages(metrics=False).get("/metrics"))[0] == 404


@pytest.mark.parametrize("path", ["/debug/vars", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap"])
async def test_the_reference_s_other_pages_say_what_there_is_instead(path: str) -> None:
    """At /debug/vars CNCF Distribution shows http.secret and the storage's keys to every client."""
    status, _, body = await Pages().get(path)
    assert status == 404
    assert "moorage config show" in body or "kill -QUIT" in body


@pytest.mark.parametrize(
    "path", ["/", "/v2/", "/debug", "/debug/", "/debug/health/", "/metrics/", "/debug/pprofx"]
)
async def test_there_is_nothing_else(path: str) -> None:
    assert (await Pages().get(path))[::2] == (404, "404 page not found\n")


async def test_nothing_is_changed_by_whoever_comes() -> None:
    status, headers, _ = await Pages().get("/debug/health", "POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
