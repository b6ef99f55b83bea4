"""Addresses, Unix sockets and what systemd passes down."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.server.serving import LIMIT_S, ROOT, serving, until

from moorage.server.listeners import bind, inherited
from moorage.startup import StartupError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("addr", "families"),
    [
        ("127.0.0.1:0", {socket.AF_INET}),
        ("localhost:0", {socket.AF_INET}),
        ("[::1]:0", {socket.AF_INET6}),
        (":0", {socket.AF_INET, socket.AF_INET6}),
        ("[::]:0", {socket.AF_INET, socket.AF_INET6}),
        ("0.0.0.0:0", {socket.AF_INET, socket.AF_INET6}),
    ],
)
def test_an_address_means_what_it_means_to_the_reference(addr: str, families: set[int]) -> None:
    """Configurations are taken over as they are; an unspecified host is every interface of both families."""
    for _ in range(5):
        sockets = bind("tcp", addr, 2)
        try:
            port = sockets.of(0).getsockname()[1]
            assert str(sockets).endswith(f":{port}")
            reached = reaching(port)
        finally:
            sockets.close()
        if not reached - families:
            break
        # Another process has the port of the other family.
    assert reached == families


def reaching(port: int) -> set[int]:
    """The families in which loopback answers."""
    found = set()
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as client:
            if client.connect_ex((host, port)) == 0:
                found.add(int(family))
    return found


def test_every_worker_has_a_socket_on_the_same_port() -> None:
    sockets = bind("tcp", "127.0.0.1:0", 3)
    try:
        names = {sockets.of(index).getsockname() for index in range(3)}
        assert len(names) == 1
        assert len({sockets.of(index).fileno() for index in range(3)}) == 3
    finally:
        sockets.close()


def test_the_kernel_asks_others_while_a_socket_is_withdrawn() -> None:
    """A worker that does not come up must not swallow its share of the connections."""
    sockets = bind("tcp", "127.0.0.1:0", 2)
    try:
        address = sockets.of(0).getsockname()
        sockets.withdraw(0)
        sockets.of(1).settimeout(LIMIT_S)
        for _ in range(16):
            with socket.create_connection(address, timeout=LIMIT_S):
                sockets.of(1).accept()[0].close()
        assert sockets.of(0).getsockname() == address
        sockets.withdraw(0)
        sockets.withdraw(1)
        assert sockets.of(1).getsockname() == address, "the last one stays"
    finally:
        sockets.close()


def test_a_port_in_use_is_refused_even_by_ourselves() -> None:
    """Two servers that share a port by accident would each miss the pushes to the other."""
    sockets = bind("tcp", "127.0.0.1:0", 2)
    try:
        with pytest.raises(StartupError, match="in use"):
            bind("tcp", str(sockets), 2)
    finally:
        sockets.close()


@pytest.mark.parametrize("addr", ["nonsense", "127.0.0.1:99999", "192.0.2.1:0", "no.such.host.invalid:0"])
def test_an_address_that_cannot_be_is_refused(addr: str) -> None:
    with pytest.raises(StartupError, match="cannot listen on"):
        bind("tcp", addr, 1)


def test_a_server_that_cannot_bind_ends_with_a_message(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        addr = f"127.0.0.1:{taken.getsockname()[1]}"
        with serving(tmp_path / "home", wait=False, http={"addr": addr}) as served:
            assert served.ended() == 1
            assert f"cannot listen on {addr}" in served.err


def unix_get(path: Path) -> int:
    connection = http.client.HTTPConnection("unix", timeout=LIMIT_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_unix_socket_is_served_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    # What a killed server left behind.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with serving(tmp_path / "home", http={"net": "unix", "addr": str(path)}) as served:
        assert {unix_get(path) for _ in range(8)} == {200}
        with pytest.raises(StartupError, match="another server answers there"):
            bind("unix", str(path), 1)
        assert served.stop() == 0
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A mistyped path must not cost the operator a file."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartupError, match="no socket"):
        bind("unix", str(path), 1)
    assert path.read_text() == "data"


def test_a_directory_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        bind("unix", str(tmp_path / "none" / "socket"), 1)


_AS_SYSTEMD = """
import os, socket, sys
count = int(sys.argv[1])
for index in range(count):
    made = socket.create_server(("127.0.0.1", 0))
    print(made.getsockname()[1], flush=True)
    os.dup2(made.fileno(), 3 + index) if made.fileno() != 3 + index else os.set_inheritable(made.fileno(), True)
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "tests.server.serving", sys.argv[2]])
"""


def test_a_socket_of_systemd_takes_the_place_of_the_address(tmp_path: Path) -> None:
    """Socket activation: the unit owns the port, and READY=1 reports when the registry is up."""
    home = tmp_path / "home"
    with serving(home, wait=False, http={"addr": "127.0.0.1:1"}) as unused:
        unused.process.kill()
    (home / "err").write_text("")
    reported = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    reported.bind(str(tmp_path / "notify"))
    reported.settimeout(LIMIT_S)
    with (home / "err").open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_SYSTEMD, "1", str(home / "config.yml")],
            stdout=subprocess.PIPE,
            stderr=err,
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert reported.recv(100) == b"READY=1"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", reported.recv(100))
        assert reported.recv(100) == b"READY=1"
        process.terminate()
        assert reported.recv(100) == b"STOPPING=1"
        assert process.wait(LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        reported.close()


def test_more_than_one_socket_of_systemd_is_an_error() -> None:
    with pytest.raises(StartupError, match="2 sockets"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_sockets_meant_for_another_process_are_not_taken() -> None:
    """A shell between systemd and us leaves the variables, but not the descriptors, in place."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert inherited(environ) is None
    assert environ == {}


def test_a_server_tells_where_it_listens(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as served:
        until(lambda: f"http://127.0.0.1:{served.port}" in served.err, "the line")
        assert f"path={served.home}/data" in served.err
        assert served.err.count("listening on") == 1
        assert "no authentication" not in served.err


def test_a_registry_that_is_open_to_the_network_says_so_once(tmp_path: Path) -> None:
    """A scan of the network finds it before its operator notices."""
    with serving(tmp_path / "home", http={"addr": "0.0.0.0:0"}) as served:
        until(lambda: "listening on" in served.err, "the line")
        (line,) = [line for line in served.err.splitlines() if "no authentication" in line]
        assert "level=warning" in line
        assert f":{served.port} may pull and overwrite everything; set auth" in line
        served.configure(auth={"silly": {"realm": "r", "service": "s"}}, http={"addr": "0.0.0.0:0"})
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        assert served.err.count("no authentication") == 1
        served.configure(auth={}, http={"addr": "0.0.0.0:0"})
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded", 2)
        assert served.err.count("no authentication") == 2, "a reload that opens it says so as well"


def test_a_worker_that_ends_with_the_server_is_no_reason_for_a_warning() -> None:
    """Each stop with two workers warned that connections could not be steered, by sockets that were closed."""
    sockets = bind("tcp", "127.0.0.1:0", 2)
    sockets.close()
    with capture_logs() as logs:
        sockets.exclude(0)
        sockets.include(0)
    assert logs == []
