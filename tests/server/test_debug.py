"""The debug listener of real servers: metrics over all workers, also when these die, and nothing secret."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml
from tests.live import SECRET, NotStarted, start_moorage
from tests.server.debugging import LIMIT_S, Debugged, debug_port, debugged, get, until
from tests.server.serving import serving
from tests.wire import Wire

from moorage import extras
from moorage.startup import StartupError
from moorage.tracing.check import check

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MANIFESTS = ("handler=manifest", "method=get", "code=404")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debugged]:
    """One server for the tests that leave it as it is."""
    with debugged(tmp_path_factory.mktemp("debug") / "data") as server:
        yield server


def ask(server: Debugged, times: int, path: str = "/v2/a/manifests/none") -> None:
    """So many requests, each on a connection of its own, four at once."""

    def some() -> None:
        for _ in range(times // 4):
            assert get(server.live.port, path)[0] == 404

    clients = [threading.Thread(target=some) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


def shows(server: Debugged, name: str, value: float, *labels: str) -> None:
    until(
        lambda: server.total(name, *labels) == value, f"{name} to be {value}", lambda: server.total(name, *labels)
    )


def test_totals_are_those_of_all_workers_and_survive_their_deaths_and_a_reload(tmp_path: Path) -> None:
    """A scrape that asks one worker of three shows a third, and a counter that goes back looks like a restart."""
    with debugged(tmp_path / "data") as server:
        name = "registry_http_requests_total"
        ask(server, 200)
        shows(server, name, 200, *MANIFESTS)
        shows(server, "moorage_refusals_total", 200, "code=MANIFEST_UNKNOWN")
        assert server.total("moorage_workers") == 3

        seen: list[float] = []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                # Worker 0 may be the one that is gone just now.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    seen.append(server.total(name, *MANIFESTS))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for victim in server.live.workers:
                os.kill(victim, signal.SIGKILL)
            server.logged("a worker died", 3)
            until(lambda: server.total("moorage_workers") == 3, "three workers")
            server.live.process.send_signal(signal.SIGHUP)
            server.logged("configuration reloaded")
            until(lambda: server.total("moorage_workers") == 3, "the old workers to end")
        finally:
            done.set()
            watcher.join()
        assert set(seen) == {200}
        ask(server, 40)
        shows(server, name, 240, *MANIFESTS)
        shows(server, "moorage_http_received_bytes_total", 0)


def test_a_worker_that_is_stopped_is_seen(tmp_path: Path) -> None:
    """Connections that it has accepted wait, while every counter looks well."""
    with debugged(tmp_path / "data", http={"workers": 2}) as server:
        assert server.total("moorage_workers_unresponsive") == 0
        # Worker 0, which is forked first, answers the scrapes.
        victim = server.live.workers[-1]
        os.kill(victim, signal.SIGSTOP)
        try:
            shows(server, "moorage_workers_unresponsive", 1)
        finally:
            os.kill(victim, signal.SIGCONT)
        shows(server, "moorage_workers_unresponsive", 0)


def test_a_push_is_counted_with_its_bytes(shared: Debugged) -> None:
    wire = Wire(shared.live.host)
    before = shared.total("moorage_http_received_bytes_total", "handler=blob_upload_chunk")
    digest = wire.push_blob("counted/app", b"x" * 300_000)
    assert wire.blob("counted/app", digest).status == 200
    shows(shared, "moorage_http_received_bytes_total", before + 300_000, "handler=blob_upload_chunk")
    shows(shared, "moorage_http_sent_bytes_total", 300_000, "handler=blob")
    post = ("registry_http_requests_total", "code=202", "handler=blob_upload", "method=post")
    until(lambda: shared.metrics().get(post, 0) >= 1, "the POST")
    for action in ("Commit", "Move", "PutContent", "GetContent"):
        key = ("registry_storage_action_seconds_count", f"action={action}", "driver=filesystem")
        until(lambda key=key: shared.metrics().get(key, 0) >= 1, action)  # type: ignore[misc]


def test_an_upload_that_is_under_way_is_seen(shared: Debugged) -> None:
    """What an operator waits for before stopping a server."""
    place = Wire(shared.live.host).start_upload("counted/slow").headers["location"]
    connection = http.client.HTTPConnection("127.0.0.1", shared.live.port)
    connection.putrequest("PATCH", place.removeprefix(shared.live.url))
    connection.putheader("content-length", "10")
    connection.endheaders(b"12345")
    shows(shared, "moorage_uploads_in_progress", 1)
    shows(shared, "registry_http_in_flight_requests", 1, "handler=blob_upload_chunk")
    connection.send(b"67890")
    assert connection.getresponse().status == 202
    connection.close()
    shows(shared, "moorage_uploads_in_progress", 0)


def test_no_secret_is_on_any_page(shared: Debugged) -> None:
    """The reference shows all of its settings at /debug/vars once Redis is configured."""
    for path in ("/metrics", "/debug/health", "/debug/vars", "/debug/pprof/cmdline", "/", "/readyz", "/v2/"):
        _, body = shared.get(path)
        assert SECRET not in body
        assert str(shared.live.root) not in body, path


def test_the_registry_itself_serves_none_of_it(shared: Debugged) -> None:
    for path in ("/metrics", "/debug/health", "/debug/vars"):
        assert shared.requested(path)[0] == 404


def test_probes_are_answered_by_both_listeners(shared: Debugged) -> None:
    for path in ("/livez", "/readyz"):
        assert shared.requested(path) == (200, "ok\n")
        assert shared.get(path) == (200, "ok\n")


def test_the_page_can_be_had_as_openmetrics_and_packed(shared: Debugged) -> None:
    _, body = shared.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


def test_an_address_in_use_ends_the_start(tmp_path: Path) -> None:
    """A server whose health cannot be requested would look dead."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NotStarted) as caught:
            start_moorage(tmp_path / "data", http={"debug": {"addr": addr}})
    assert "ended with status 1" in str(caught.value)
    assert f"http.debug.addr: cannot listen on {addr}: Address already in use" in str(caught.value)


def test_a_listener_that_others_may_reach_is_warned_of(tmp_path: Path) -> None:
    """As the image of registry:3 has it; it works all the same."""
    with debugged(tmp_path / "data", http={"workers": 1, "debug": {"addr": ":0"}}) as server:
        assert "the debug listener has no authentication" in server.live.logs()
        assert server.get("/debug/health") == (200, "{}")
        assert server.get("/metrics")[0] == 404, "not switched on"


def test_a_reload_takes_another_path_and_keeps_the_address(tmp_path: Path) -> None:
    with debugged(tmp_path / "data", http={"workers": 2}) as server:
        path = server.live.root.with_name("data.yml")
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        config["http"]["debug"] = {"addr": "127.0.0.1:1", "prometheus": {"enabled": True, "path": "/other"}}
        path.write_text(yaml.safe_dump(config))
        server.live.process.send_signal(signal.SIGHUP)
        server.logged("configuration reloaded")
        assert "http.debug.addr has changed: restart the registry to apply it" in server.live.logs()
        until(lambda: server.get("/other")[0] == 200, "the new path")
        until(lambda: server.get("/metrics")[0] == 404, "the old path to go")


def test_a_connection_that_is_kept_open_survives_a_reload(tmp_path: Path) -> None:
    """Prometheus keeps one connection; it is closed, so that the next scrape opens a new one."""
    with debugged(tmp_path / "data", http={"workers": 1}) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        server.live.process.send_signal(signal.SIGHUP)
        server.logged("configuration reloaded")
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            answer = None  # closed while idle, upon which every client opens another
        assert answer is None or answer.status == 200
        connection.close()
        assert server.get("/metrics")[0] == 200


def test_while_it_stops_a_server_says_so_and_shows_its_numbers(tmp_path: Path) -> None:
    """Kubernetes takes it out of service, and its last minutes are seen."""
    with debugged(tmp_path / "data", http={"workers": 1, "draintimeout": "60s"}) as server:
        place = Wire(server.live.host).start_upload("slow/app").headers["location"]
        connection = http.client.HTTPConnection("127.0.0.1", server.live.port)
        connection.putrequest("PATCH", place.removeprefix(server.live.url))
        connection.putheader("content-length", "10")
        connection.endheaders(b"12345")
        shows(server, "moorage_uploads_in_progress", 1)
        server.live.process.send_signal(signal.SIGTERM)
        until(lambda: server.get("/readyz") == (503, "stopping\n"), "the server to say that it stops")
        assert server.get("/livez") == (200, "ok\n")
        assert server.total("moorage_uploads_in_progress") == 1
        connection.send(b"67890")
        assert connection.getresponse().status == 202
        connection.close()
        assert server.live.process.wait(LIMIT_S) == 0


def test_the_end_of_the_certificate_is_told(tmp_path: Path) -> None:
    """An alert comes before the clients' complaints.  Once, although each worker has the certificate."""
    issued = trustme.CA().issue_cert("localhost", not_after=datetime(2199, 1, 1, tzinfo=UTC))
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    debug = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
    with serving(tmp_path / "home", http={"workers": 2, "tls": tls, "debug": debug}) as served:
        _, page = get(debug_port(served.err), "/metrics")
    (line,) = (line for line in page.splitlines() if line.startswith("moorage_tls_certificate_expiry"))
    assert float(line.split()[1]) == datetime(2199, 1, 1, tzinfo=UTC).timestamp()


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with pytest.raises(StartupError, match=r"moorage\[tracing\]"):
        check(os.environ)


def test_what_is_off_is_not_imported() -> None:
    """Metrics and traces that are not configured would cost 15 MB for each worker."""
    code = (
        "import sys, moorage.wiring.app, moorage.server\n"
        "print([name for name in sys.modules if name.startswith(('prometheus_client', 'opentelemetry', "
        "'moorage.metrics', 'moorage.tracing.s'))])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"
