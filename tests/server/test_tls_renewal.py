"""Certificates renewed under a running server: taken without a dropped connection, or left alone."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from tests.server import certs
from tests.server.serving import LIMIT_S, Served, quick_polls, serving, until

from moorage.config.load import load
from moorage.server.processes.worker_config import draw, renew
from moorage.server.tls.file_watch import MISMATCH_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.certs import Holder

    from moorage.server.application import Application, WorkerContext, WorkerParameters

SIZE = 24 << 20
"""Of a file that is being downloaded: more than all buffers between server and client hold."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder that a tool writes certificates to."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    return folder


@pytest.fixture
def first(ca: Holder) -> Holder:
    return ca.issue("registry.test")


@pytest.fixture
def served(tmp_path: Path, files: Path, first: Holder) -> Iterator[Served]:
    tls = first.write(files, "now")
    with serving(tmp_path / "home", env=quick_polls(tmp_path / "custom"), http={"tls": tls}) as server:
        yield server


@pytest.fixture
def impatient(tmp_path: Path, files: Path, first: Holder) -> Iterator[Served]:
    """A server that takes files for wrong when they have not matched for a second."""
    tls, env = first.write(files, "now"), quick_polls(tmp_path / "custom", MISMATCH_GRACE_S=1.0)
    with serving(tmp_path / "home", env=env, http={"tls": tls}) as server:
        yield server


@pytest.fixture
def trusting(ca: Holder) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.pem.decode())


def serial(served: Served) -> int:
    """Of the certificate that a new connection gets."""
    pem = ssl.get_server_certificate(("127.0.0.1", served.port), timeout=LIMIT_S)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def connect(served: Served, trusting: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", served.port, timeout=LIMIT_S, context=trusting)


def ask(connection: http.client.HTTPSConnection) -> None:
    connection.request("GET", "/hello")
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read()


def swap(path: Path, data: bytes) -> None:
    """As certbot and most others do it: write beside, then rename."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["on disk", "SIGHUP"])
def test_a_renewal_drops_no_connection(
    served: Served, files: Path, first: Holder, ca: Holder, trusting: ssl.SSLContext, how: str
) -> None:
    """A long pull continues, and a client that keeps its connection does not see an error on its next push."""
    (served.home / "layer").write_bytes(os.urandom(SIZE))
    download, kept = connect(served, trusting), connect(served, trusting)
    ask(kept)
    download.request("GET", "/file?name=layer")
    answer = download.getresponse()
    begun = answer.read(1 << 20)
    second = ca.issue("registry.test")
    swap(files / "now.crt", second.chain)
    swap(files / "now.key", second.key_pem())
    if how == "SIGHUP":
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
    else:
        served.logged("certificate renewed")
    until(lambda: serial(served) == second.serial, "the new certificate")

    socket_before = kept.sock
    kept.request("POST", "/echo", body=b"12345")
    last = kept.getresponse()
    # A renewal replaces no worker; a reload does.
    ends = "close" if how == "SIGHUP" else None
    assert (last.status, last.read(), last.getheader("connection")) == (200, b"5", ends)
    assert socket_before is not None
    assert begun + answer.read() == (served.home / "layer").read_bytes()
    assert first.serial != second.serial
    assert served.stop() == 0
    for connection in (download, kept):
        connection.close()


@pytest.mark.slow
def test_the_moment_between_certificate_and_key_is_waited_out(
    served: Served, files: Path, first: Holder, ca: Holder
) -> None:
    """Two renames are never one; nothing is complained of, and a worker that starts in between starts."""
    second = ca.issue("registry.test")
    begun = time.monotonic()
    swap(files / "now.crt", second.chain)
    (worker, *_) = served.children()
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in served.children() and len(served.children()) == 2, "another worker")
    assert {serial(served) for _ in range(8)} == {first.serial}
    swap(files / "now.key", second.key_pem())
    # A machine that needs longer for a worker has every reason to complain.
    in_time = time.monotonic() - begun < MISMATCH_GRACE_S
    served.logged("certificate renewed")
    until(lambda: serial(served) == second.serial, "the new certificate")
    assert not (in_time and "is not taken" in served.err)
    assert served.stop() == 0


@pytest.mark.slow
def test_a_pair_that_stays_wrong_is_complained_of_and_the_old_one_served(
    impatient: Served, files: Path, first: Holder, ca: Holder
) -> None:
    served = impatient
    workers = served.children()
    (files / "now.key").write_bytes(ca.key_pem())
    served.logged("the renewed certificate is not taken; the old one stays")
    assert "does not belong" in served.err
    assert served.children() == workers
    assert serial(served) == first.serial
    # A reload with the same pair is refused as well, and costs nothing.
    served.signal(signal.SIGHUP)
    served.logged("the configuration is not taken; the old one stays")
    assert served.children() == workers
    # A corrected pair is used without further action.
    second = ca.issue("registry.test")
    second.write(files, "now")
    served.logged("certificate renewed")
    until(lambda: serial(served) == second.serial, "the new certificate")


@pytest.mark.slow
def test_a_secret_of_kubernetes_is_noticed(tmp_path: Path, ca: Holder) -> None:
    """Its files are links to links, and only the one in the middle changes."""
    mount = tmp_path / "secret"
    one, two = ca.issue("registry.test"), ca.issue("registry.test")
    for name, holder in (("..1", one), ("..2", two)):
        (mount / name).mkdir(parents=True)
        (mount / name / "tls.crt").write_bytes(holder.chain)
        (mount / name / "tls.key").write_bytes(holder.key_pem())
    (mount / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    tls = {"certificate": str(mount / "tls.crt"), "key": str(mount / "tls.key")}
    with serving(tmp_path / "home", env=quick_polls(tmp_path / "custom"), http={"tls": tls}) as served:
        assert serial(served) == one.serial
        (mount / "..data_tmp").symlink_to("..2")
        (mount / "..data_tmp").rename(mount / "..data")
        served.logged("certificate renewed")
        until(lambda: serial(served) == two.serial, "the new certificate")


@pytest.mark.slow
def test_other_authorities_for_clients_are_noticed(tmp_path: Path, files: Path, ca: Holder) -> None:
    """Clients of a removed authority are refused from then on."""
    old, new = certs.root("old clients"), certs.root("new clients")
    trusting = ssl.create_default_context(cadata=ca.pem.decode())
    alice = new.issue("alice", usage=certs.CLIENT).write(files, "alice")
    trusting.load_cert_chain(alice["certificate"], alice["key"])
    (files / "cas").write_bytes(old.pem)
    tls = {**ca.issue("registry.test").write(files, "now"), "clientcas": [str(files / "cas")]}
    with serving(tmp_path / "home", env=quick_polls(tmp_path / "custom"), http={"tls": tls}) as served:
        assert not _let_in(served, trusting)
        swap(files / "cas", new.pem)
        served.logged(f'msg="certificate renewed" files={files / "cas"} ')
        until(lambda: _let_in(served, trusting), "the client to be let in")


def _let_in(served: Served, trusting: ssl.SSLContext) -> bool:
    with contextlib.closing(connect(served, trusting)) as connection:
        try:
            ask(connection)
        except (OSError, http.client.HTTPException):
            return False
    return True


def test_files_that_are_only_touched_replace_nobody(
    tmp_path: Path, files: Path, first: Holder, ca: Holder
) -> None:
    """A tool that writes the same again every night must not close any connection."""
    config = {"version": 0.1, "storage": "inmemory", "http": {"addr": ":0", "tls": first.write(files, "now")}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    plan, _ = draw(load(tmp_path / "config.yml", {}), _no_application, secret=b"s", instance="i")
    first.write(files, "now")
    assert renew(plan)[0] is plan
    ca.issue("registry.test").write(files, "now")
    renewed, _ = renew(plan)
    assert renewed.options.tls != plan.options.tls
    assert renewed.watched is plan.watched


def _no_application(_: WorkerParameters, __: WorkerContext) -> Application:
    raise AssertionError


def test_a_retired_worker_with_nobody_left_ends_at_once(served: Served, files: Path, ca: Holder) -> None:
    """Two generations of workers take twice the memory."""
    before = set(served.children())
    ca.issue("registry.test").write(files, "now")
    served.signal(signal.SIGHUP)
    served.logged("configuration reloaded")
    until(lambda: before.isdisjoint(served.children()), "the old workers to end")


def test_old_keys_are_forgotten(served: Served, files: Path, ca: Holder) -> None:
    """A year of renewals must not fill the table of open files, and a replaced key may have been stolen."""
    for times in (1, 2):
        ca.issue("registry.test").write(files, "now")
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded", times)
    until(lambda: len(served.children()) == 2, "the old workers to end")
    for pid in (served.process.pid, *served.children()):
        links = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(link.readlink()))
        kept = ["/memfd:moorage certificate (deleted)", "/memfd:moorage key (deleted)"]
        # Workers keep a context only.
        expected = kept if pid == served.process.pid else []
        assert sorted(link for link in links if "memfd:moorage" in link) == expected
