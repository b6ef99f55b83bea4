"""Health checks, and what clients see while one fails."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from moorage.config.sections.rules import FileCheck, HttpCheck, StorageCheck, TcpCheck
from moorage.config.sections.rules import Health as Settings
from moorage.errors import Unavailable
from moorage.health_checks import STORAGE, Check, Failed, HealthChecks, StorageReport, checks_of
from moorage.http.health_gate import HealthGate
from moorage.http.middleware import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moorage.http.middleware import Message, Receive, Scope, Send


async def fine() -> None:
    """A probe of a storage that is well."""


async def app(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(
    health: HealthChecks, method: str = "GET", path: str = "/v2/", traffic: Traffic | None = None
) -> tuple[int, bytes]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    await HealthGate(app, health, traffic or Traffic())(
        {"type": "http", "method": method, "path": path}, receive, send
    )
    return sent[0]["status"], sent[1]["body"]


def failing(**checks: str) -> HealthChecks:
    health = HealthChecks([])
    health.failing.update(checks)
    return health


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_registry_that_is_unhealthy_is_alive_and_not_ready(method: str) -> None:
    """A restart mends no storage that is away; to be sent requests would."""
    body = b"" if method == "HEAD" else b"ok\n"
    assert await ask(failing(), method, "/livez") == (200, body)
    assert await ask(failing(), method, "/readyz") == (200, body)
    assert await ask(failing(db="secret.internal: down"), method, "/livez") == (200, body)
    status, body = await ask(failing(db="secret.internal: down"), method, "/readyz")
    assert status == 503
    assert b"secret" not in body, "it needs no credentials"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_registry_that_cannot_be_written_to_is_ready(method: str) -> None:
    """Pulls are served; every node is out of space at the same time, so no other node could serve them."""
    report = StorageReport(writable=False, reason="the disk is full", cause="/secret: full", seen=True)
    health = HealthChecks([], lambda: report)
    status, body = await ask(health, method, "/readyz")
    assert status == 200
    assert body == (b"" if method == "HEAD" else b"degraded: pushes are refused: the disk is full\n")
    assert (await ask(health, method, "/v2/"))[0] == 200
    assert health.failures() == {}


async def test_a_registry_that_cannot_be_read_is_refused_like_one_whose_check_fails() -> None:
    """With and without checks of the configuration."""
    report = StorageReport(readable=False, writable=False, reason="lost", cause="/secret: lost", seen=True)
    health = HealthChecks([], lambda: report)
    assert (await ask(health))[0] == 503
    assert await ask(health, path="/readyz") == (503, b"not ready\n")
    assert await ask(health, path="/livez") == (200, b"ok\n")
    assert health.failures() == {STORAGE: "/secret: lost"}
    health.failing["db"] = "down"
    assert health.failures() == {STORAGE: "/secret: lost", "db": "down"}


async def test_a_registry_that_stops_is_alive_and_not_ready() -> None:
    """So that no new clients are sent while the last requests finish."""
    traffic = Traffic()
    traffic.draining = traffic.stopping = True
    assert (await ask(failing(), path="/livez", traffic=traffic))[0] == 200
    assert (await ask(failing(), path="/readyz", traffic=traffic))[0] == 503


async def test_a_worker_that_makes_room_for_a_newer_one_stays_ready() -> None:
    """A reload takes no registry out of service."""
    traffic = Traffic()
    traffic.draining = True
    assert (await ask(failing(), path="/readyz", traffic=traffic))[0] == 200


async def test_probes_are_asked_by_get_and_head() -> None:
    assert (await ask(failing(), "POST", "/readyz"))[0] == 405
    assert (await ask(failing(), "DELETE", "/livez"))[0] == 405


class Switch:
    """A check that fails while it is switched off; a test can wait for its runs."""

    def __init__(self) -> None:
        self.broken = False
        self.runs = 0
        self._ran = asyncio.Condition()

    async def __call__(self) -> None:
        self.runs += 1
        async with self._ran:
            self._ran.notify_all()
        if self.broken:
            raise Failed("switched off")

    async def more(self, count: int) -> None:
        """Wait until it has run so many times more and the outcome of all but the last is known."""
        aim = self.runs + count
        async with self._ran:
            await self._ran.wait_for(lambda: self.runs >= aim)


async def test_every_path_is_refused_while_a_check_fails_and_not_after() -> None:
    """Load balancers use other nodes, and come back by themselves."""
    switch = Switch()
    health = HealthChecks([Check("switch", switch, 0.001, 1)])
    with structlog.testing.capture_logs() as logs:
        await health.start()
        try:
            await switch.more(2)
            assert (await ask(health))[0] == 200
            switch.broken = True
            await switch.more(2)
            status, body = await ask(health)
            assert status == 503
            (error,) = json.loads(body)["errors"]
            assert error["code"] == "UNAVAILABLE"
            assert "/debug/health" in error["detail"]
            assert await ask(health, "HEAD") == (503, b"")
            assert health.failing == {"switch": "switched off"}
            switch.broken = False
            await switch.more(2)
            assert (await ask(health))[0] == 200
        finally:
            await health.close()
    assert [(line["log_level"], line.get("reason")) for line in logs] == [
        ("error", "switched off"),
        ("info", None),
    ]


async def test_a_threshold_takes_that_many_failures_in_a_row() -> None:
    """A single lost packet does not take a registry out of service."""
    outcomes = [True, True, False, True, True, True]
    states = []
    done = asyncio.Event()

    async def run() -> None:
        states.append(bool(health.failing))
        if not outcomes:
            done.set()
        elif outcomes.pop(0):
            raise Failed("down")

    health = HealthChecks([Check("flaky", run, 0.0, 3)])
    with structlog.testing.capture_logs():
        await health.start()
        await done.wait()
        await health.close()
    assert states[:7] == [False, False, False, False, False, False, True]


async def test_a_check_that_breaks_fails_the_registry() -> None:
    """A bug in a check must not look like health."""
    second = asyncio.Event()

    async def run() -> None:
        if health.failing:
            second.set()
        raise ZeroDivisionError

    health = HealthChecks([Check("broken", run, 0.0)])
    with structlog.testing.capture_logs():
        await health.start()
        await second.wait()
        await health.close()
    assert "ZeroDivisionError" in health.failing["broken"]


def test_two_checks_of_the_same_are_refused() -> None:
    """Distribution panics; `config/checks/dependencies.py` refuses it before, and so does this."""
    settings = Settings(file=(FileCheck(file="/x"), FileCheck(file="/x")))
    with pytest.raises(ValueError, match="/x"):
        HealthChecks(checks_of(settings, storage="filesystem", probe=fine))


def only(settings: Settings, probe: Any = fine) -> Check:
    (check,) = checks_of(settings, storage="filesystem", probe=probe)
    return check


async def test_a_file_that_exists_is_a_failure(tmp_path: Path) -> None:
    check = only(Settings(file=(FileCheck(file=str(tmp_path / "down"), interval=1.5),)))
    assert check.interval_s == 1.5
    await check.run()
    (tmp_path / "down").touch()
    with pytest.raises(Failed, match="file exists"):
        await check.run()


async def test_a_port_that_nobody_listens_on_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        addr = f"127.0.0.1:{server.getsockname()[1]}"
        check = only(Settings(tcp=(TcpCheck(addr=addr, timeout=60.0, threshold=2),)))
        assert check.threshold == 2
        await check.run()
    with pytest.raises(Failed, match=f"connection to {addr} failed"):
        await check.run()


async def test_a_storage_that_refuses_is_a_failure() -> None:
    async def broken() -> None:
        raise PermissionError("no access")

    settings = Settings(storagedriver=StorageCheck(enabled=True))
    check = only(settings)
    assert check.name == "storagedriver_filesystem"
    await check.run()
    with pytest.raises(Failed, match="no access"):
        await only(settings, broken).run()


class Answering(http.server.BaseHTTPRequestHandler):
    """HEAD only: /200, /404, /moved; the header `x-key` must be there."""

    def do_HEAD(self) -> None:
        if self.headers["x-key"] != "a, b":
            self.send_response(400)
        elif self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/200")
        else:
            self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Not in the tests' output."""


@pytest.fixture
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_the_cause_of_a_refusal_is_the_reason() -> None:
    """Who is to mend the storage is not helped by "try again later" alone."""

    async def broken() -> None:
        raise Unavailable("try again later") from OSError("disk on fire")

    with pytest.raises(Failed, match="disk on fire"):
        await only(Settings(storagedriver=StorageCheck(enabled=True)), broken).run()


async def test_an_address_must_answer_as_expected(answering: str) -> None:
    def check(path: str, status: int = 200) -> Check:
        one = HttpCheck(uri=answering + path, statuscode=status, headers={"X-Key": ("a", "b")}, timeout=60.0)
        return only(Settings(http=(one,)))

    await check("/200").run()
    await check("/404", 404).run()
    await check("/moved").run()
    with pytest.raises(Failed, match="answered 500, not 200"):
        await check("/500").run()


async def test_an_address_that_does_not_answer_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    with pytest.raises(Failed, match="refused"):
        await only(Settings(http=(HttpCheck(uri=uri),))).run()
