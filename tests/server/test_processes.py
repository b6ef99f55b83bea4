"""Workers, signals, draining and reloading, with real processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.server.serving import LIMIT_S, Served, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "home") as server:
        yield server


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Background(threading.Thread):
    """A request whose answer is asked for later."""

    def __init__(self, served: Served, path: str) -> None:
        super().__init__()
        self.served, self.path = served, path
        self.answer: tuple[int, dict[str, str], bytes] | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.served.get(self.path)
        except (OSError, http.client.HTTPException) as error:
            self.error = error


def test_connections_reach_every_worker(tmp_path: Path) -> None:
    """A worker that takes all connections leaves the other cores idle."""
    with serving(tmp_path / "home", http={"workers": 3}) as served:
        counts = dict.fromkeys(served.children(), 0)
        connections = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S) for _ in range(96)]
        for connection in connections:
            connection.request("GET", "/")
        for connection in connections:
            counts[json.loads(connection.getresponse().read())["pid"]] += 1
            connection.close()
        # 96 connections in three bins by hash: under 10 in one of them happens once in 10^6 runs.
        assert min(counts.values()) >= 10, counts


def test_stopping_waits_for_the_answer_that_is_being_made(served: Served) -> None:
    """A deployment must not cut a push that is nearly done."""
    slow = Background(served, "/wait?file=go")
    served.seen("waiting")
    served.signal(signal.SIGTERM)
    served.logged("stopping")
    until(lambda: _refuses(served), "the server to stop accepting")
    (served.home / "go").touch()
    slow.join()
    assert slow.answer is not None
    assert slow.answer[0] == 200
    assert slow.answer[1]["connection"] == "close"
    assert served.ended() == 0
    stopping, stopped = (line for line in served.err.splitlines() if re.search(r"msg=stopp(?:ing|ed)", line))
    assert " requests=1 " in stopping, "an operator who waits wants to know for what"
    assert "msg=stopped" in stopped
    assert " status=0 " in stopped
    assert served.err.endswith(f"{stopped}\n"), "nothing runs any more"


def _refuses(served: Served) -> bool:
    try:
        served.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # The kernel had accepted it when the listening socket was closed.
        return False
    return False


def test_idle_connections_do_not_delay_the_end(served: Served) -> None:
    """Clients keep connections open for minutes."""
    idle = [http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S) for _ in range(8)]
    for connection in idle:
        connection.request("GET", "/")
        connection.getresponse().read()
    assert served.stop() == 0
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("probes", [False, True])
def test_probes_leave_lines_in_the_access_log_only_on_request(tmp_path: Path, probes: bool) -> None:
    """An orchestrator that asks every 5 seconds would fill the log; a probe that is refused is worth a line."""
    down = tmp_path / "down"
    health = {"file": [{"file": str(down), "interval": "20ms"}]}
    accesslog = {"disabled": False, **({"probes": True} if probes else {})}
    with serving(tmp_path / "home", http={"workers": 1}, log={"accesslog": accesslog}, health=health) as served:
        for path in ("/", "/livez", "/readyz", "/readyz?verbose", "/hello"):
            assert served.get(path)[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
        connection.request("POST", "/livez")
        assert connection.getresponse().status == 405
        connection.close()
        down.touch()
        served.logged("health check fails")
        assert served.get("/readyz")[0] == 503
        assert served.stop() == 0
        requested = re.findall(r'"([A-Z]+ \S+) HTTP/1.1" (\d+)', served.out)
    quiet = [("GET /", "200"), ("GET /livez", "200"), ("GET /readyz", "200"), ("GET /readyz?verbose", "200")]
    loud = [("GET /hello", "200"), ("POST /livez", "405"), ("GET /readyz", "503")]
    assert requested == (quiet if probes else []) + loud


def test_requests_that_outlast_the_drain_are_cut_and_the_status_says_so(tmp_path: Path) -> None:
    """The exit status reports that a client got an error."""
    with serving(tmp_path / "home", http={"draintimeout": "300ms"}) as served:
        slow = Background(served, "/wait?file=never")
        served.seen("waiting")
        assert served.stop() == 1
        slow.join()
        assert slow.error is not None
        assert "cut off" in served.err


def test_without_a_drain_timeout_the_server_ends_at_once(tmp_path: Path) -> None:
    """As the reference does with its default of 0: a hanging client delays nothing."""
    with serving(tmp_path / "home", http={"draintimeout": "0"}) as served:
        slow = Background(served, "/wait?file=never")
        served.seen("waiting")
        assert served.stop() == 0
        slow.join()
        assert slow.error is not None


def test_a_second_signal_ends_the_server_at_once(served: Served) -> None:
    """An operator who presses Ctrl-C again means it."""
    slow = Background(served, "/wait?file=never")
    served.seen("waiting")
    served.signal(signal.SIGINT)
    served.logged("stopping")
    served.signal(signal.SIGTERM)
    assert served.ended() == 1
    slow.join()


def test_a_worker_that_is_killed_is_replaced(served: Served) -> None:
    """Out of memory or a crash takes one worker, not the registry."""
    victim = served.children()[0]
    os.kill(victim, signal.SIGKILL)
    served.logged("a worker died")
    assert "SIGKILL" in served.err
    until(lambda: len(served.children()) == 2, "a new worker")
    assert victim not in served.children()
    # A socket of the dead worker still queues connections, which the new one answers.
    assert {served.get()[0] for _ in range(20)} == {200}
    assert served.stop() == 0


def test_a_worker_that_is_told_to_end_finishes_its_request_and_is_replaced(served: Served) -> None:
    slow = Background(served, "/wait?file=go")
    served.seen("waiting")
    for pid in served.children():
        os.kill(pid, signal.SIGTERM)
    served.logged("a worker was ended by SIGTERM")
    (served.home / "go").touch()
    slow.join()
    assert slow.answer is not None
    until(lambda: len(served.children()) == 2, "new workers")
    assert served.get()[0] == 200


def test_workers_die_with_the_master(served: Served) -> None:
    """Else they would hold the port and the data against the next start."""
    workers = served.children()
    served.signal(signal.SIGKILL)
    served.ended()
    until(lambda: not any(alive(pid) for pid in workers), "the workers to end")


def test_a_server_whose_workers_cannot_start_says_so_and_ends(tmp_path: Path) -> None:
    """A service manager must not see a running server that never answers."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "do-not-start").touch()
    with serving(home, wait=False) as served:
        assert served.ended() == 1
        assert "told not to start" in served.err
        assert "no worker could start" in served.err


def test_workers_that_stop_coming_up_are_tried_again_later(served: Served) -> None:
    """The others serve meanwhile, and once the cause is gone all is well."""
    (served.home / "do-not-start").touch()
    os.kill(served.children()[0], signal.SIGKILL)
    served.logged("waiting before the next try")
    assert {served.get()[0] for _ in range(20)} == {200}
    (served.home / "do-not-start").unlink()
    until(lambda: len(served.children()) == 2, "the worker to come back")
    assert {served.get()[0] for _ in range(20)} == {200}
    assert served.stop() == 0


def test_reloading_under_load_loses_no_request(served: Served) -> None:
    """SIGHUP may be sent at any time, by a cron job, to a busy registry."""
    before = set(served.children())
    done = threading.Event()
    failures: list[object] = []
    answers = [0]

    def ask() -> None:
        while not done.is_set():
            try:
                status, _, _ = served.get()
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
            else:
                answers[0] += 1
                if status != 200:
                    failures.append(status)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for times in (1, 2):
            served.signal(signal.SIGHUP)
            served.logged("configuration reloaded", times)
        until(lambda: not any(alive(pid) for pid in before), "the old workers to end")
    finally:
        done.set()
        for client in clients:
            client.join()
    assert failures == []
    assert answers[0] > 0
    assert served.stop() == 0


def test_a_connection_made_before_a_reload_may_still_ask(tmp_path: Path) -> None:
    """Its request is on its way while the worker that accepted it gets RETIRE."""
    with serving(tmp_path / "home", http={"workers": 1}) as served, served.connect() as connection:
        served.get()  # accepted after the connection, so that one is accepted too
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_kept_connection_may_ask_once_more_after_a_reload(tmp_path: Path) -> None:
    """A client sends no second POST when the connection is closed under the first one; see Go's net/http."""
    with serving(tmp_path / "home", http={"workers": 1}) as served:
        kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
        kept.request("GET", "/")
        before = json.loads(kept.getresponse().read())["pid"]
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        # By the time that others have been answered by the new worker, the old one has got RETIRE.
        until(lambda: json.loads(served.get()[2])["pid"] != before, "the new worker")
        kept.request("POST", "/echo", body=b"12345")
        answer = kept.getresponse()
        assert (answer.read(), answer.getheader("connection")) == (b"5", "close")
        until(lambda: not alive(before), "the old worker to end")
        kept.close()


def test_idle_connections_of_retired_workers_do_not_delay_the_end(tmp_path: Path) -> None:
    """They are waited for until the server is to stop."""
    with serving(tmp_path / "home", http={"workers": 1, "idletimeout": "10m"}) as served:
        kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
        kept.request("GET", "/")
        before = json.loads(kept.getresponse().read())["pid"]
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        assert alive(before)
        assert served.stop() == 0
        kept.close()


def test_retired_workers_do_not_wait_longer_than_connections_may_idle(tmp_path: Path) -> None:
    with serving(tmp_path / "home", http={"workers": 1, "idletimeout": "500ms"}) as served:
        kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)
        kept.request("GET", "/")
        before = json.loads(kept.getresponse().read())["pid"]
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        until(lambda: not alive(before), "the old worker to end")
        kept.close()


def test_reloading_takes_the_new_configuration(served: Served) -> None:
    served.get()
    assert served.out == ""
    served.configure(log={"accesslog": {"disabled": False}}, http={"workers": 5})
    served.signal(signal.SIGHUP)
    served.logged("configuration reloaded")
    # The old workers have been sent RETIRE; one of them may not have received it yet.
    until(lambda: served.get("/hello?new=1")[0] == 200 and "/hello?new=1" in served.out, "the access log")
    assert "http.workers has changed: restart the registry to apply it" in served.err


def test_only_an_address_other_than_that_of_the_start_takes_a_restart(served: Served) -> None:
    """A file that is restored requires no restart; one that is not is reported at each reload."""
    expected = "http.addr has changed: restart the registry to apply it"
    for times, addr in ((1, "127.0.0.2:0"), (2, "127.0.0.2:0"), (2, "127.0.0.1:0")):
        served.configure(http={"addr": addr})
        before = served.err.count("configuration reloaded")
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded", before + 1)
        assert served.err.count(expected) == times


def test_a_reload_asked_for_during_the_start_is_not_forgotten(tmp_path: Path) -> None:
    """A tool that writes the configuration while the server starts sends one signal, once."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "start-later").touch()
    with serving(home, wait=False) as served:
        served.seen("starting")
        served.signal(signal.SIGHUP)
        (home / "start-later").unlink()
        served.logged("configuration reloaded")


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(served: Served) -> None:
    """A typing error must not take the registry down."""
    workers = served.children()
    http = {"draintimeout": "soon", "tls": {}, "unknown": 1}
    served.configure(aaa="unknown", auth="none", http=http, zzz="unknown")
    served.signal(signal.SIGHUP)
    served.logged("the old one stays")
    (refusal,) = [line for line in served.err.splitlines() if "the old one stays" in line]
    found = re.search(r'cause="(?:[^":]|:\d)*: http.draintimeout: [^;]*; ', refusal)
    assert found is not None, "the error stands before the warnings, or they would look like the cause"
    assert "http.unknown" in refusal
    assert served.children() == workers
    assert served.get()[0] == 200


def test_workers_that_cannot_start_with_the_new_configuration_replace_nobody(served: Served) -> None:
    workers = served.children()
    (served.home / "do-not-start").touch()
    served.signal(signal.SIGHUP)
    served.logged("the old ones stay")
    assert served.children() == workers
    assert served.get()[0] == 200
    # And the next reload works.
    (served.home / "do-not-start").unlink()
    served.signal(signal.SIGHUP)
    served.logged("configuration reloaded")
    assert set(served.children()).isdisjoint(workers) or served.get()[0] == 200


def test_a_replaced_worker_finishes_what_it_began(tmp_path: Path) -> None:
    """Even with no drain timeout: a reload is not a stop."""
    with serving(tmp_path / "home", http={"draintimeout": "0"}) as served:
        slow = Background(served, "/wait?file=go")
        served.seen("waiting")
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        (served.home / "go").touch()
        slow.join()
        assert slow.answer is not None
        assert slow.answer[0] == 200


def test_sigquit_shows_what_every_process_does(served: Served) -> None:
    """The first diagnosis of a hanging server; it keeps serving."""
    slow = Background(served, "/wait?file=go")
    served.seen("waiting")
    served.signal(signal.SIGQUIT)
    served.logged("Odd.on_wait")
    served.logged("master.py")
    served.logged("Task ", 2)
    (served.home / "go").touch()
    slow.join()
    assert slow.answer is not None
    assert served.stop() == 0


def test_an_exception_of_the_application_is_a_500_with_an_id_that_the_log_has(served: Served) -> None:
    """So that an operator finds the traceback of the failure that a user reports."""
    status, headers, body = served.get("/break", **{"X-Request-Id": "my-request"})
    assert status == 500
    assert headers["x-request-id"] == "my-request"
    assert json.loads(body)["errors"][0]["code"] == "UNKNOWN"
    served.logged("broken on purpose")
    assert "http.request.id=my-request" in served.err
