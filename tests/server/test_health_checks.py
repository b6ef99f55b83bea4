"""Health checks of a real server against real files, servers and storage: 503 while they fail, and not after."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.live import NotStarted, start_moorage
from tests.ports import free_port
from tests.server.debugging import Debugged, debugged, until

from moorage.health_checks import STORAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

OFTEN = "20ms"


@contextmanager
def checked(root: Path, health: dict[str, Any], **more: Any) -> Iterator[Debugged]:
    with debugged(root, http={"workers": 2}, health=health, **more) as server:
        yield server


def becomes_unhealthy(server: Debugged, check: str, reason: str) -> None:
    """Every path is refused, log and debug listener have the reason, and the process is not to be restarted."""
    until(lambda: server.get("/debug/health")[0] == 503, "the check to fail", server.live.logs)
    reported = json.loads(server.get("/debug/health")[1])
    # The storage monitor may notice the same by the time this is asked.
    assert reported.keys() - {STORAGE} == {check}
    assert reason in reported[check]
    for path in ("/", "/v2/", "/v2/_catalog", "/readyz"):
        everywhere(server, path, 503)
    status, body = server.requested("/v2/")
    assert json.loads(body)["errors"][0]["code"] == "UNAVAILABLE"
    assert reason not in body
    assert server.requested("/livez") == (200, "ok\n")
    assert server.requested("/readyz") == (503, "not ready\n")
    status, body = server.get("/readyz")
    assert (status, check in body, reason in body) == (503, True, True)
    assert server.get("/livez") == (200, "ok\n")
    assert server.total("moorage_health_check_failing", f"check={check}") == 1
    server.logged(reason)


def everywhere(server: Debugged, path: str, status: int) -> None:
    """Each worker looks for itself, so for a moment some know and some do not."""

    def answers() -> bool:
        return {server.requested(path)[0] for _ in range(12)} == {status}

    until(answers, f"{path} to be {status} at every worker", server.live.logs)


def becomes_healthy(server: Debugged) -> None:
    until(lambda: server.get("/debug/health") == (200, "{}"), "the check to pass", server.live.logs)
    for path in ("/", "/v2/", "/readyz"):
        everywhere(server, path, 200)
    until(lambda: server.get("/readyz") == (200, "ok\n"), "the registry to be ready")
    until(lambda: not server.total("moorage_health_check_failing"), "no check to fail")


def test_a_file_takes_a_registry_out_of_service_and_back(tmp_path: Path) -> None:
    """`touch` before maintenance; its threshold counts for nothing, as in the reference."""
    down = tmp_path / "down"
    with checked(
        tmp_path / "data", {"file": [{"file": str(down), "interval": OFTEN, "threshold": 999}]}
    ) as server:
        becomes_healthy(server)
        down.touch()
        becomes_unhealthy(server, str(down), "file exists")
        down.unlink()
        becomes_healthy(server)


def test_a_port_that_is_closed_fails_and_mends(tmp_path: Path) -> None:
    port = free_port()
    listening = socket.create_server(("127.0.0.1", port))
    addr = f"127.0.0.1:{port}"
    health = {"tcp": [{"addr": addr, "interval": OFTEN, "timeout": "60s", "threshold": 3}]}
    with checked(tmp_path / "data", health) as server:
        becomes_healthy(server)
        listening.close()
        becomes_unhealthy(server, addr, "refused")
        with socket.create_server(("127.0.0.1", port)):
            becomes_healthy(server)


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers HEAD, and nothing else, with the status of the day, if the header is there."""

    status = 204

    def do_HEAD(self) -> None:
        self.send_response(self.status if self.headers["X-Key"] == "hush, hush2" else 400)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Not in the tests' output."""


def test_an_address_that_answers_otherwise_fails_and_mends(tmp_path: Path) -> None:
    """The request is a HEAD with the configured headers; these may be secrets, and are shown nowhere."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.01,))
        thread.start()
        uri = f"http://127.0.0.1:{answering.server_port}/ready"
        check = {"uri": uri, "headers": {"X-Key": ["hush", "hush2"]}, "statuscode": 204, "interval": OFTEN,
                 "timeout": "60s", "threshold": 2}  # fmt: skip
        try:
            with checked(tmp_path / "data", {"http": [check]}) as server:
                becomes_healthy(server)
                Answering.status = 500
                becomes_unhealthy(server, uri, "answered 500, not 204")
                Answering.status = 204
                becomes_healthy(server)
                assert "hush" not in server.live.logs() + server.get("/metrics")[1]
        finally:
            answering.shutdown()
            thread.join()


def test_an_address_that_stays_silent_fails_after_its_timeout(tmp_path: Path) -> None:
    """Else a check that hangs would never fail."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        health = {"http": [{"uri": uri, "interval": OFTEN, "timeout": "50ms"}]}
        with checked(tmp_path / "data", health) as server:
            becomes_unhealthy(server, uri, "timed out")


def test_a_storage_that_is_gone_fails_and_mends(tmp_path: Path) -> None:
    """A volume that was not mounted, or fell off."""
    above = tmp_path / "volume"
    health = {"storagedriver": {"enabled": True, "interval": OFTEN, "threshold": 3}}
    storage = {"filesystem": {"rootdirectory": str(above / "data")}}
    with checked(tmp_path / "data", health, storage=storage) as server:
        becomes_healthy(server)
        above.rename(tmp_path / "away")
        above.touch()
        becomes_unhealthy(server, "storagedriver_filesystem", "Not a directory")
        above.unlink()
        (tmp_path / "away").rename(above)
        becomes_healthy(server)


def test_the_first_look_is_one_interval_after_the_start(tmp_path: Path) -> None:
    """So that things started together may come up in any order."""
    down = tmp_path / "down"
    down.touch()
    with checked(tmp_path / "data", {"file": [{"file": str(down), "interval": "1h"}]}) as server:
        assert server.requested("/v2/")[0] == 200
        assert server.get("/debug/health") == (200, "{}")


def test_two_checks_of_the_same_are_refused(tmp_path: Path) -> None:
    """The reference panics."""
    health = {"tcp": [{"addr": "127.0.0.1:1"}, {"addr": "127.0.0.1:1"}]}
    with pytest.raises(NotStarted, match=r"health.tcp\[1\]: checks '127.0.0.1:1' a second time"):
        start_moorage(tmp_path / "data", health=health)
