"""Certificates by ACME, as the master sees them: what is refused at start, and what happens without any."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.acme.certificates import Authority
from tests.acme.listening import listening
from tests.config.helpers import BASE, load_text
from tests.ports import free_port
from tests.server.serving import LIMIT_S, ROOT, service, serving, until

from moorage import extras
from moorage.acme.order_spec import HTTP_01, LETS_ENCRYPT, TLS_ALPN_01, Timings
from moorage.acme.store import CertificateStore, prepare
from moorage.server.housekeeper.acme_job import certificate_order, prepare_acme
from moorage.server.listeners import Sockets, bind
from moorage.server.processes.worker_config import Plan, draw, redraw
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOWHERE = "https://127.0.0.1:9/dir"


def plan_of(tmp_path: Path, letsencrypt: str, home: str = "config") -> Plan:
    (tmp_path / home).mkdir(exist_ok=True)
    loaded = load_text(tmp_path / home, BASE + f"  tls: {{letsencrypt: {{{letsencrypt}}}}}\n")
    plan, _ = draw(loaded, service(tmp_path).build, secret=b"", instance="")
    return plan


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = bind("tcp", "127.0.0.1:0", 1)
    yield made
    made.close()


def acme(tmp_path: Path, **more: Any) -> dict[str, Any]:
    settings = {"cachefile": str(tmp_path / "le"), "hosts": ["r.test"], "directoryurl": NOWHERE, **more}
    return {"tls": {"letsencrypt": settings}}


def test_settings_become_what_is_asked_for(tmp_path: Path) -> None:
    """Host names are file names, so they have one spelling, independent of their case in the settings."""
    some = "cachedir: sub/le, hosts: [R.test, s.test, r.test], email: a@x.test, directoryurl: 'https://ca.x/dir'"
    found = certificate_order(plan_of(tmp_path, some).settings, http=True, unix=False)
    assert found.hosts == ("r.test", "s.test")
    assert found.folder == os.path.abspath("sub/le")  # noqa: PTH100  what pathlib would do is under test
    assert (found.email, found.directory, found.kinds) == (
        "a@x.test",
        "https://ca.x/dir",
        (HTTP_01, TLS_ALPN_01),
    )
    few = certificate_order(plan_of(tmp_path, "cachefile: le, hosts: [r.test]").settings, http=False, unix=False)
    assert (few.email, few.directory, few.kinds) == ("", LETS_ENCRYPT, (TLS_ALPN_01,))


def test_without_acme_there_is_no_job(tmp_path: Path, sockets: Sockets) -> None:
    assert prepare_acme(plan_of(tmp_path, "email: ''"), sockets, Timings()) is None


def test_a_missing_library_is_named(tmp_path: Path, sockets: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match=r"moorage\[letsencrypt\].* \(no acme and josepy\); install it with: "):
        prepare_acme(plan_of(tmp_path, f"cachefile: {tmp_path}/le, hosts: [r.test]"), sockets, Timings())


def test_a_directory_that_cannot_be_made_ends_the_start(tmp_path: Path, sockets: Sockets) -> None:
    """Not the first order, after which the key would be lost."""
    with pytest.raises(StartupError, match="cannot use /proc/le: "):
        prepare_acme(plan_of(tmp_path, "cachefile: /proc/le, hosts: [r.test]"), sockets, Timings())


def test_a_unix_socket_that_was_passed_down_is_out_of_reach(tmp_path: Path) -> None:
    """Where `http.net` is `unix`, the configuration is refused already."""
    plan = plan_of(tmp_path, f"cachefile: {tmp_path}/le, hosts: [r.test]")
    unix = bind("unix", str(tmp_path / "socket"), 1)
    with contextlib.closing(unix), pytest.raises(StartupError, match="no authority can reach it"):
        prepare_acme(plan, unix, Timings())


def test_an_address_for_challenges_that_is_taken_ends_the_start(tmp_path: Path, sockets: Sockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        plan = plan_of(tmp_path, f"cachefile: {tmp_path}/le, hosts: [r.test], http01: '{taken}'")
        with pytest.raises(StartupError, match=f"cannot listen on {taken}: Address already in use"):
            prepare_acme(plan, sockets, Timings())


def test_what_takes_a_restart_is_said(tmp_path: Path) -> None:
    prepare(str(tmp_path / "le"))
    CertificateStore(str(tmp_path / "le")).put_certificate(["r.test"], Authority().issue("r.test"))
    cache = f"cachefile: {tmp_path}/le, hosts: [r.test]"
    old = plan_of(tmp_path, cache)
    assert not old.awaiting
    (tmp_path / "other").mkdir()
    off = load_text(tmp_path / "other", BASE)
    with pytest.raises(StartupError, match="switched on or off"):
        redraw(old, off)
    more = load_text(tmp_path / "other", BASE + f"  tls: {{letsencrypt: {{{cache}, http01: ':80'}}}}\n")
    assert "http.tls.letsencrypt.http01 has changed: restart the registry to apply it" in redraw(old, more)[1]


def test_new_hosts_are_served_with_the_old_certificate_at_first(tmp_path: Path) -> None:
    """Or a reload would end all service until an authority has answered."""
    prepare(str(tmp_path / "le"))
    CertificateStore(str(tmp_path / "le")).put_certificate(["r.test"], Authority().issue("r.test"))
    old = plan_of(tmp_path, f"cachefile: {tmp_path}/le, hosts: [r.test]")
    (tmp_path / "other").mkdir()
    text = BASE + f"  tls: {{letsencrypt: {{cachefile: {tmp_path}/le, hosts: [new.test, r.test]}}}}\n"
    new, warnings = redraw(old, load_text(tmp_path / "other", text))
    assert (new.options.tls, new.awaiting) == (old.options.tls, False)
    assert new.watched.paths == (f"{tmp_path}/le/new.test",)
    assert any("the old certificate is served" in warning for warning in warnings)


def test_plain_servers_do_without_the_libraries() -> None:
    """They would cost each worker 20 MB, and each start half a second."""
    code = (
        "import sys, moorage.server; print(*(set(sys.modules) & {'acme', 'josepy', 'requests', 'cryptography'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_without_a_certificate_nothing_is_served_and_a_service_manager_waits(tmp_path: Path) -> None:
    """No READY before clients can be served, and no kill for a start that takes long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT_S)
        with serving(
            tmp_path / "home", wait=False, module="tests.acme.odd", http=acme(tmp_path),
            env={"NOTIFY_SOCKET": str(tmp_path / "notify")},
        ) as served:  # fmt: skip
            assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=60000000"
            served.logged("waiting for a certificate; nothing is served before")
            served.logged("cannot reach 127.0.0.1:9: Connection refused")
            # Another node, or the operator, puts one there.
            authority = Authority()
            CertificateStore(str(tmp_path / "le")).put_certificate(["r.test"], authority.issue("r.test"))
            while (word := manager.recv(100)) != b"READY=1":
                assert word.startswith(b"EXTEND_TIMEOUT_USEC=")
            served.logged("listening on https://127.0.0.1:")
            assert served.stop() == 0


@pytest.mark.slow
def test_a_server_that_waits_can_be_stopped(tmp_path: Path) -> None:
    with serving(tmp_path / "home", wait=False, module="tests.acme.odd", http=acme(tmp_path)) as served:
        served.logged("cannot reach")
        assert served.stop() == 0


@pytest.mark.slow
def test_a_reload_ends_a_pause(tmp_path: Path) -> None:
    """After a correction of DNS no restart is needed, and no wait of hours."""
    with serving(
        tmp_path / "home", wait=False, module="tests.acme.odd", http=acme(tmp_path), env={"PATIENT": "1"}
    ) as served:
        served.logged("cannot reach")
        served.signal(signal.SIGHUP)
        served.logged("cannot reach", 2)
        prepare(str(tmp_path / "le"))
        CertificateStore(str(tmp_path / "le")).put_certificate(
            ["r.test"], Authority().issue("r.test", begin=timedelta(days=-80), end=timedelta(days=8))
        )
        served.logged("listening on")
        served.logged("cannot reach", 2)
        served.signal(signal.SIGHUP)
        served.logged("cannot reach", 3)


@pytest.mark.slow
def test_a_housekeeper_that_dies_while_all_wait_is_replaced(tmp_path: Path) -> None:
    """Clients that come before there is a certificate get an alert, and are not kept hanging."""
    port = free_port()
    http = {**acme(tmp_path), "addr": f"127.0.0.1:{port}"}
    with serving(tmp_path / "home", wait=False, module="tests.acme.odd", http=http) as served:
        served.logged("cannot reach")
        dead = served.helper("housekeeper")
        assert port not in listening(dead)
        os.kill(dead, signal.SIGKILL)
        served.logged("the housekeeper died")
        until(lambda: served.helper("housekeeper") != dead, "another process")
        with socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain:
            context = ssl.create_default_context()
            with (
                context.wrap_socket(plain, server_hostname="r.test", do_handshake_on_connect=False) as client,
                pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"),
            ):
                client.do_handshake()


@pytest.mark.slow
def test_behind_a_unix_socket_challenges_come_by_http(tmp_path: Path) -> None:
    """A proxy in front has port 443; port 80 is all that an authority needs."""
    prepare(str(tmp_path / "le"))
    store, authority = CertificateStore(str(tmp_path / "le")), Authority()
    store.put_certificate(["r.test"], authority.issue("r.test"))
    store.put_http_answer("token", "token.thumb")
    http = {**acme(tmp_path, http01="127.0.0.1:0"), "net": "unix", "addr": str(tmp_path / "socket")}
    with serving(tmp_path / "home", module="tests.acme.odd", http=http) as served:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(tmp_path / "socket"))
            with authority.client().wrap_socket(plain, server_hostname="r.test") as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: r.test\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert served.stop() == 0
