"""Certificates on their way from the master to its workers: a failure is tried again until each of them has it."""

from __future__ import annotations

import errno
import http.client
import json
import os
import selectors
import socket
import ssl
import time
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from tests.server.descriptors import only_free
from tests.server.serving import LIMIT_S, Served, quick_polls, serving

from moorage.config.sections.http import Tls
from moorage.logs.mail_hook import MailQueue
from moorage.server.processes.protocol import CERTIFICATE, CERTIFICATE_FAILED, CERTIFICATE_LOADED
from moorage.server.processes.worker_pool import Slot, Worker, WorkerPool
from moorage.server.tls import validation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.certs import Holder


class Pair:
    """A worker pool with one worker, whose end of the control socket the test holds."""

    def __init__(self, tmp_path: Path, ca: Holder) -> None:
        ours, self.worker_end = socket.socketpair()
        self.worker_end.setblocking(False)
        selector = selectors.DefaultSelector()
        unused: Any = None
        self.pool = WorkerPool([Slot(0)], unused, selector, unused, None, MailQueue())
        self.worker = Worker(1, self.pool.slots[0], ours, 0.0, ready=True)
        self.pool.workers[1] = self.worker
        selector.register(ours, selectors.EVENT_READ, self.worker)
        paths = ca.issue("registry.test").write(tmp_path, "now")
        found, _ = validation.check(Tls(certificate=paths["certificate"], key=paths["key"]))
        self.plan: Any = SimpleNamespace(options=SimpleNamespace(tls=found))

    def received(self) -> bytes:
        """Return the words that the worker gets, each of which comes with one descriptor."""
        words = b""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.worker_end, 16, 16)
            except BlockingIOError:
                return words
            assert len(descriptors) == len(data)
            for descriptor in descriptors:
                os.close(descriptor)
            words += data

    def report(self, word: bytes) -> None:
        self.worker_end.send(word)
        self.pool.receive(self.worker)

    def wait(self) -> None:
        """Let the time pass that the master would wait for."""
        self.pool.send_due_certificates(self.plan, max(self.pool.due()))

    def close(self) -> None:
        self.worker_end.close()
        self.worker.control.close()
        self.pool.selector.close()


@pytest.fixture
def pair(tmp_path: Path, ca: Holder) -> Iterator[Pair]:
    with closing(Pair(tmp_path, ca)) as made:
        yield made


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS])
def test_a_certificate_that_cannot_be_sent_is_sent_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The worker would serve the old certificate until it expires, and for ever after."""
    real, failures = socket.send_fds, [number] * 3

    def send_fds(*arguments: Any) -> int:
        if failures:
            raise OSError(failures.pop(), "not now")
        return real(*arguments)

    monkeypatch.setattr(socket, "send_fds", send_fds)
    pair.pool.send_certificate(pair.plan)
    for _ in range(3):
        assert pair.received() == b""
        assert pair.pool.has_unconfirmed_certificate()
        pair.wait()
    assert pair.received() == CERTIFICATE
    pair.report(CERTIFICATE_LOADED)
    assert not pair.pool.has_unconfirmed_certificate()
    assert not pair.worker.certificate_failed


def test_a_certificate_that_a_worker_cannot_use_is_sent_again(pair: Pair) -> None:
    """The waits grow: what fails for lack of memory must not be tried without a pause."""
    pair.pool.send_certificate(pair.plan)
    for wait_s in (1, 2, 4, 8):
        assert pair.received() == CERTIFICATE
        before = time.monotonic()
        pair.report(CERTIFICATE_FAILED)
        assert pair.pool.has_unconfirmed_certificate()
        assert before + wait_s <= max(pair.pool.due()) <= time.monotonic() + wait_s
        pair.wait()
    assert pair.received() == CERTIFICATE
    pair.report(CERTIFICATE_LOADED)
    assert not pair.pool.has_unconfirmed_certificate()


def test_a_worker_that_does_not_respond_holds_one_certificate_only(pair: Pair) -> None:
    """Its control socket would fill with keys; once it responds it gets the newest one."""
    for _ in range(3):
        pair.pool.send_certificate(pair.plan)
    assert pair.received() == CERTIFICATE
    assert not [due for due in pair.pool.due() if due <= time.monotonic()], "the master would spin"
    pair.report(CERTIFICATE_LOADED)
    assert pair.pool.has_unconfirmed_certificate()
    pair.wait()
    assert pair.received() == CERTIFICATE
    pair.report(CERTIFICATE_LOADED)
    assert not pair.pool.has_unconfirmed_certificate()


def test_a_worker_that_has_died_or_retires_is_not_waited_for(pair: Pair) -> None:
    """Nothing would be served before the start is announced, and the master would try for ever."""
    pair.worker_end.close()
    pair.pool.send_certificate(pair.plan)
    assert not pair.pool.has_unconfirmed_certificate()
    pair.worker.retiring = True
    pair.pool.send_certificate(pair.plan)
    assert not pair.pool.has_unconfirmed_certificate()
    assert not [due for due in pair.pool.due() if due <= time.monotonic()]


def test_a_reload_without_tls_ends_the_tries(pair: Pair) -> None:
    pair.plan.options.tls, certificate = None, pair.plan.options.tls
    pair.pool.send_certificate(pair.plan)
    assert not pair.pool.has_unconfirmed_certificate()
    certificate.close()


def test_a_certificate_that_cannot_be_kept_in_memory_is_sent_later(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master, and with it the whole server, ended when it was at its own limit of open files."""

    def no_memory(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as limited:
        limited.setattr(os, "memfd_create", no_memory)
        pair.pool.send_certificate(pair.plan)
        assert pair.received() == b""
    pair.wait()
    assert pair.received() == CERTIFICATE


# Real processes


def requested(served: Served, trusting: ssl.SSLContext) -> tuple[int, int]:
    """Return which worker has answered on a new connection, and the serial number of its certificate."""
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=LIMIT_S, context=trusting)
    with closing(connection):
        connection.request("GET", "/hello")
        assert isinstance(connection.sock, ssl.SSLSocket)
        found = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True) or b"")
        return json.loads(connection.getresponse().read())["pid"], found.serial_number


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_worker_without_descriptors_gets_the_certificate_later(tmp_path: Path, ca: Holder, free: int) -> None:
    """With none the kernel drops the certificate on its way; with too few it cannot be loaded."""
    files = tmp_path / "certificates"
    files.mkdir()
    first, second = ca.issue("registry.test"), ca.issue("registry.test")
    trusting = ssl.create_default_context(cadata=ca.pem.decode())
    tls, env = first.write(files, "now"), quick_polls(tmp_path / "custom")
    with serving(tmp_path / "home", env=env, http={"tls": tls}) as served:
        limited, other = served.children()
        with only_free(limited, free):
            second.write(files, "now")
            served.logged("certificate renewed")
            served.logged("cannot use the new certificate; new connections get the old one")
            served.logged("raise the limit of open files")
        served.logged("a worker serves the new certificate now")
        assert [asked_of(served, trusting, pid) for pid in (limited, other)] == [second.serial] * 2
        assert served.children() == [limited, other]
        assert "Traceback" not in served.err
        assert served.stop() == 0


def asked_of(served: Served, trusting: ssl.SSLContext, pid: int) -> int:
    """Return the serial number of the certificate that a worker serves; the kernel chooses the worker."""
    for _ in range(500):
        found, serial = requested(served, trusting)
        if found == pid:
            return serial
    raise AssertionError(f"no connection has reached {pid}")
