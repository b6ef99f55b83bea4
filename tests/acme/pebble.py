"""Debian's pebble, an ACME server for tests, and the name server that tells it where hosts are.

Everything is on loopback addresses, on ports of `tests/ports.py`: pebble cannot be told to choose some.  `valid_s`
is how long its certificates last.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trustme
from tests.live import require
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_S: Final = 60.0


@dataclass
class Names:
    """pebble-challtestsrv: every name resolves to 127.0.0.1 unless configured otherwise."""

    management: int
    dns: int

    def point(self, host: str, address: str) -> None:
        self._post("add-a", {"host": host, "addresses": [address]})

    def forget(self, host: str) -> None:
        self._post("clear-a", {"host": host})

    def _post(self, path: str, body: dict[str, Any]) -> None:
        url = f"http://127.0.0.1:{self.management}/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=LIMIT_S) as answer:
            assert answer.status == 200


@dataclass
class Pebble:
    """It asks for challenges on `tls_port` and `http_port`; `ca` is the file that its HTTPS is trusted by."""

    folder: Path
    names: Names
    ca: Path
    tls_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    management: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> str:
        return f"https://localhost:{self.port}/dir"

    @property
    def log(self) -> str:
        return (self.folder / "pebble.log").read_text()

    @property
    def orders(self) -> int:
        """How many certificates it has issued."""
        return self.log.count("Issued certificate serial")

    def start(self, *, valid_s: int = 3600, bad_nonces: int = 0, sleep: bool = False) -> None:
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.folder / "server.pem"),
            "privateKey": str(self.folder / "server.key"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": valid_s,
        }
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": config}))
        environment = {
            "PEBBLE_WFE_NONCEREJECT": str(bad_nonces),
            "PEBBLE_AUTHZREUSE": "0",
            **({} if sleep else {"PEBBLE_VA_NOSLEEP": "1"}),
        }
        with (self.folder / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(
                [require("pebble"), "-config", str(self.folder / "pebble.json"),
                 "-dnsserver", f"127.0.0.1:{self.names.dns}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        answers(self.port, self.process)

    def root(self) -> ssl.SSLContext:
        """Trust in what it issues; another one at each start."""
        trusting = ssl.create_default_context(cafile=str(self.ca))
        url = f"https://localhost:{self.management}/roots/0"
        with urllib.request.urlopen(url, timeout=LIMIT_S, context=trusting) as answer:
            return ssl.create_default_context(cadata=answer.read().decode())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def answers(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), LIMIT_S).close()
            return
        assert process.poll() is None, process.args
        assert time.monotonic() < deadline, process.args
        time.sleep(0.02)


@contextlib.contextmanager
def pebble(folder: Path, names: Names) -> Iterator[Pebble]:
    """Not started yet."""
    folder.mkdir()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server = ca.issue_cert("localhost", "127.0.0.1")
    server.private_key_pem.write_to_path(folder / "server.key")
    for blob in server.cert_chain_pems:
        blob.write_to_path(folder / "server.pem", append=True)
    made = Pebble(folder, names, folder / "ca.pem")
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def names_of_hosts(folder: Path) -> Iterator[Names]:
    names = Names(free_port(), free_port())
    command = [
        require("pebble-challtestsrv"), "-management", f"127.0.0.1:{names.management}",
        "-dns01", f"127.0.0.1:{names.dns}", "-http01", "", "-https01", "", "-tlsalpn01", "",
        "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
    ]  # fmt: skip
    with (folder / "names.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        answers(names.management, process)
        yield names
    finally:
        process.kill()
        process.wait()
