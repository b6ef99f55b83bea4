"""Against a real ACME server, Debian's pebble: the registry itself, from its first start to its renewals."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509
from tests.acme.certificates import Authority, autocert_holds
from tests.acme.pebble import LIMIT_S, Names, Pebble, names_of_hosts, pebble
from tests.ports import free_port

from moorage.acme.store import CertificateStore, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.slow, pytest.mark.client]

ROOT = Path(__file__).resolve().parents[2]
HTTP, ALPN = "http-01", "tls-alpn-01"
LIFE_S = 9
"""A certificate lives so long that renewals come every six seconds."""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    with names_of_hosts(tmp_path_factory.mktemp("names")) as made:
        yield made


@pytest.fixture
def authority(tmp_path: Path, names: Names) -> Iterator[Pebble]:
    """Not started yet."""
    with pebble(tmp_path / "pebble", names) as made:
        yield made


@dataclass
class Registry:
    """A registry that obtains its certificate.  `folder` is its directory of certificates."""

    process: subprocess.Popen[bytes]
    home: Path
    folder: Path
    port: int

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def logged(self, text: str, times: int = 1) -> None:
        until(lambda: len(re.findall(text, self.log)) >= times, f"{text!r} in the log", lambda: self.log)

    def ready(self) -> None:
        def listening() -> bool:
            assert self.process.poll() is None, self.log
            return "listening on https://" in self.log

        until(listening, "the registry to serve", lambda: self.log)

    def connect(self, trust: ssl.SSLContext, host: str = "r.test") -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection(host, self.port, timeout=LIMIT_S, context=trust)
        made._create_connection = lambda *_: socket.create_connection(  # type: ignore[attr-defined]
            ("127.0.0.1", self.port), LIMIT_S
        )
        return made

    def get(self, trust: ssl.SSLContext, host: str = "r.test", path: str = "/v2/") -> int:
        with contextlib.closing(self.connect(trust, host)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status

    def serial(self) -> int:
        """Of the certificate that is served."""
        with (
            socket.create_connection(("127.0.0.1", self.port), LIMIT_S) as plain,
            blind().wrap_socket(plain, server_hostname="r.test", do_handshake_on_connect=False) as connection,
        ):
            connection.do_handshake()
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)


def blind() -> ssl.SSLContext:
    """Trust in anything: certificates of a few seconds may run out while a busy machine looks at them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def until(
    reached: Callable[[], object], what: str, reported: Callable[[], str] = str, limit_s: float = 150
) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, f"waited {limit_s:g} s for {what}: {reported()[-3000:]}"
        time.sleep(0.02)


@contextlib.contextmanager
def registry(
    home: Path, authority: Pebble, kind: str = ALPN, *, port: int | None = None, folder: Path | None = None,
    http_port: int | None = None, hosts: tuple[str, ...] = ("r.test",),
    environment: dict[str, str] | None = None, **letsencrypt: Any,
) -> Iterator[Registry]:  # fmt: skip
    """`port` and `http_port` are those where the authority asks, unless another is given."""
    home.mkdir(exist_ok=True)
    folder = folder or home / "letsencrypt"
    port = port or authority.tls_port
    acme = {"cachefile": str(folder), "hosts": list(hosts), "directoryurl": authority.directory, **letsencrypt}
    if kind == HTTP:
        acme["http01"] = f"127.0.0.1:{http_port or authority.http_port}"
    config = {
        "version": 0.1,
        "log": {"accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(home / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "workers": 2, "secret": "s", "draintimeout": "60s",
                 "tls": {"letsencrypt": acme}},
    }  # fmt: skip
    (home / "config.yml").write_text(yaml.safe_dump(config))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "LISTEN_"))}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.acme.serving", str(home / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
            env={**clean, "SSL_CERT_FILE": str(authority.ca), **(environment or {})},
        )  # fmt: skip
    try:
        yield Registry(process, home, folder, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("kind", [ALPN, HTTP])
def test_the_first_start_brings_a_certificate_and_the_second_keeps_it(
    tmp_path: Path, authority: Pebble, kind: str
) -> None:
    """An order at each restart would soon be one too many for the authority."""
    authority.start()
    hosts = ("r.test", "s.test")
    with registry(tmp_path / "home", authority, kind, hosts=hosts, email="ops@x.test") as served:
        served.ready()
        trust = authority.root()
        assert [served.get(trust, host) for host in hosts] == [200, 200]
        assert f"challenge={kind}" in served.log
        serial = served.serial()
        assert served.stop() == 0
    for host in hosts:
        autocert_holds((served.folder / host).read_bytes(), host)
    left = {path.name: path.read_bytes() for path in served.folder.iterdir()}
    assert left.keys() == {"acme_account+key", "moorage+lock", *hosts}

    with registry(tmp_path / "home", authority, kind, hosts=hosts) as served:
        served.ready()
        assert served.serial() == serial
        assert served.stop() == 0
    assert {path.name: path.read_bytes() for path in served.folder.iterdir()} == left
    assert authority.orders == 1


def test_an_authority_that_is_down_at_first_is_tried_again(tmp_path: Path, authority: Pebble) -> None:
    """Clients get an alert meanwhile, and the log names the cause."""
    with registry(tmp_path / "home", authority) as served:
        served.logged("cannot reach localhost:[0-9]+: Connection refused")
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            served.get(blind())
        assert "listening on" not in served.log
        authority.start()
        served.ready()
        assert served.get(authority.root()) == 200


def test_one_that_does_not_answer_keeps_nobody_from_being_served(tmp_path: Path, authority: Pebble) -> None:
    """There is a certificate, which is to be renewed; it has ten days left."""
    folder, own = tmp_path / "letsencrypt", Authority()
    prepare(str(folder))
    made = own.issue("r.test", begin=timedelta(days=-80), end=timedelta(days=8))
    CertificateStore(str(folder)).put_certificate(["r.test"], made)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/dir"
        hasty = {"HASTY": "1"}
        with registry(tmp_path / "home", authority, folder=folder, directoryurl=url, environment=hasty) as served:
            served.ready()
            served.logged("does not answer in time")
            assert served.get(own.client()) == 200
            assert served.stop() == 0
    assert (folder / "r.test").read_bytes() == made


@pytest.mark.parametrize("kind", [ALPN, HTTP])
def test_a_host_that_cannot_be_validated_is_named(
    tmp_path: Path, authority: Pebble, names: Names, kind: str
) -> None:
    """When its address is corrected, the next attempt succeeds without any intervention."""
    authority.start()
    names.point("s.test", "127.0.0.2")
    with registry(tmp_path / "home", authority, kind, hosts=("r.test", "s.test")) as served:
        try:
            served.logged(rf"s\.test by {kind}: .*127\.0\.0\.2.* \((connection|unauthorized)\)")
            assert f"r.test by {kind}" not in served.log
            assert "listening on" not in served.log
        finally:
            names.forget("s.test")
        served.ready()
        assert served.get(authority.root(), "s.test") == 200


def test_where_port_80_is_closed_443_is_tried(tmp_path: Path, authority: Pebble) -> None:
    authority.start()
    with registry(tmp_path / "home", authority, HTTP, http_port=free_port()) as served:
        served.logged("r.test by http-01: ")
        served.ready()
        assert "challenge=tls-alpn-01" in served.log


def test_an_authority_that_refuses_most_nonces_is_coped_with(tmp_path: Path, authority: Pebble) -> None:
    authority.start(bad_nonces=70)
    with registry(tmp_path / "home", authority, HTTP, hosts=("r.test", "s.test")) as served:
        served.ready()
    requested = re.findall("POST /(sign-me-up|order-plz|chalZ|finalize-order|certZ)", authority.log)
    assert len(requested) > 6, "not one nonce was refused"


def test_an_account_that_the_authority_has_forgotten_is_made_again(tmp_path: Path, authority: Pebble) -> None:
    """With the same key: pebble forgets everything when it ends."""
    authority.start()
    with registry(tmp_path / "home", authority) as served:
        served.ready()
        assert served.stop() == 0
    account = (served.folder / "acme_account+key").read_bytes()
    authority.stop()
    (served.folder / "r.test").unlink()
    authority.start()
    with registry(tmp_path / "home", authority) as served:
        served.ready()
        assert served.get(authority.root()) == 200
    assert (served.folder / "acme_account+key").read_bytes() == account


def test_a_stop_while_the_authority_takes_its_time_leaves_nothing(tmp_path: Path, authority: Pebble) -> None:
    """Up to 15 s before it asks, in the case of pebble."""
    authority.start(sleep=True)
    with registry(tmp_path / "home", authority, HTTP) as served:
        until(lambda: list(served.folder.glob("*+http-01")), "the answer to be put there")
        assert served.stop() == 0
    assert {path.name for path in served.folder.iterdir()} == {"acme_account+key", "moorage+lock"}


class Busy(threading.Thread):
    """Does something again and again until it is stopped; nothing of it may fail."""

    def __init__(self, once: Callable[[], object]) -> None:
        super().__init__()
        self.once, self.over = once, threading.Event()
        self.times, self.errors = 0, list[str]()
        self.start()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self.once()
                self.times += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.errors.append(f"after {self.times}: {error!r}")

    def stop(self) -> None:
        self.over.set()
        self.join()
        assert self.errors == []
        assert self.times > 0


def push(served: Registry, data: bytes) -> str:
    """A blob in one piece; its path."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with contextlib.closing(served.connect(blind())) as connection:
        connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", data)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (201, b"")
    return f"/v2/a/blobs/{digest}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [ALPN, HTTP])
def test_renewals_are_noticed_by_nobody(tmp_path: Path, authority: Pebble, kind: str) -> None:
    """Two of them, while blobs are pushed and pulled on new connections and on kept ones, and one very slowly."""
    authority.start(valid_s=LIFE_S)
    with registry(tmp_path / "home", authority, kind, hosts=("r.test", "s.test")) as served:
        served.ready()
        large = os.urandom(24 << 20)
        path = push(served, large)
        first = served.serial()

        kept = served.connect(blind())

        def on_one_connection() -> None:
            kept.request("GET", "/v2/")
            assert kept.getresponse().read() == b"{}"

        streams = [
            Busy(lambda: push(served, os.urandom(200_000))), Busy(lambda: served.get(blind())),
            Busy(on_one_connection),
        ]  # fmt: skip
        slow = served.connect(blind())
        slow.request("GET", path)
        answer = slow.getresponse()
        digest = hashlib.sha256()

        def some() -> int:
            """As slowly as there is something else to do."""
            piece = answer.read(1 << 16)
            digest.update(piece)
            return len(piece)

        size = 0

        def renewed() -> bool:
            nonlocal size
            if size < 20 << 20:
                size += some()
            return authority.orders >= 3 and served.log.count("certificate renewed") >= 2

        until(renewed, "two renewals", lambda: served.log, 240)
        while piece := some():
            size += piece
        assert size == len(large)
        assert digest.digest() == hashlib.sha256(large).digest()
        for stream in streams:
            stream.stop()
        slow.close()
        kept.close()
        assert served.serial() != first
        assert "no new certificate" not in served.log
        assert served.stop() == 0


@pytest.mark.timeout(300)
def test_nodes_that_share_a_directory_order_once_and_answer_for_each_other(
    tmp_path: Path, authority: Pebble
) -> None:
    """The authority's questions reach one of them, which cannot order anything; the other one can."""
    authority.start(valid_s=LIFE_S)
    shared = tmp_path / "shared"
    nowhere = f"https://127.0.0.1:{free_port()}/dir"
    with (
        registry(tmp_path / "asked", authority, folder=shared, directoryurl=nowhere) as requested,
        registry(tmp_path / "orders", authority, folder=shared, port=free_port()) as orders,
    ):
        requested.ready()
        orders.ready()
        assert requested.serial() == orders.serial()
        stream = Busy(lambda: requested.get(blind()))
        requested.logged("certificate renewed")
        orders.logged("certificate renewed")
        stream.stop()
        assert "answering tls-alpn-01" not in orders.log
        assert (requested.stop(), orders.stop()) == (0, 0)


def test_nodes_that_start_together_cost_one_order(tmp_path: Path, authority: Pebble) -> None:
    authority.start()
    shared = tmp_path / "shared"
    with (
        registry(tmp_path / "one", authority, HTTP, folder=shared) as one,
        registry(tmp_path / "two", authority, HTTP, folder=shared, port=free_port(), http_port=free_port()) as two,
    ):
        one.ready()
        two.ready()
        assert one.serial() == two.serial()
    assert authority.orders == 1


def test_another_host_is_added_while_serving(tmp_path: Path, authority: Pebble) -> None:
    """SIGHUP: the old certificate serves until there is one with all hosts."""
    authority.start()
    with registry(tmp_path / "home", authority) as served:
        served.ready()
        trust = authority.root()
        stream = Busy(lambda: served.get(trust))
        config = yaml.safe_load((served.home / "config.yml").read_text())
        config["http"]["tls"]["letsencrypt"]["hosts"] = ["new.test", "r.test"]
        (served.home / "config.yml").write_text(yaml.safe_dump(config))
        served.process.send_signal(signal.SIGHUP)
        served.logged("certificate renewed")
        until(lambda: served.get(blind(), "new.test") == 200, "the new host")
        assert served.get(trust, "new.test") == 200
        stream.stop()
        assert served.stop() == 0


def test_a_wrong_setting_is_put_right_before_there_is_a_certificate(tmp_path: Path, authority: Pebble) -> None:
    """SIGHUP, as ever; no restart."""
    authority.start()
    with registry(tmp_path / "home", authority, directoryurl="https://127.0.0.1:9/dir") as served:
        served.logged("cannot reach 127.0.0.1:9")
        config = yaml.safe_load((served.home / "config.yml").read_text())
        config["http"]["tls"]["letsencrypt"]["directoryurl"] = authority.directory
        (served.home / "config.yml").write_text(yaml.safe_dump(config))
        served.process.send_signal(signal.SIGHUP)
        served.ready()
        assert "died" not in served.log
