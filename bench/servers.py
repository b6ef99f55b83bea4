"""Starts the registries under test and nginx on given cores, and measures them through /proc.

Moorage and the releases of CNCF Distribution get the same configuration and `addr: 127.0.0.1:0`; the port that the
kernel chose is read from the process's own listening socket.  zot has a different format (`_zot`).
Source of the /proc formats: proc(5).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "DISTRIBUTION",
    "MOORAGE",
    "NGINX",
    "PEER",
    "PROGRAMS",
    "ZOT",
    "Programs",
    "Server",
    "ServerFailed",
    "cpu_s",
    "listener",
    "start",
    "start_moto",
    "start_nginx",
]

MOORAGE: Final = "moorage"
PEER: Final = "docker-registry"
DISTRIBUTION: Final = "distribution"
ZOT: Final = "zot"
NGINX: Final = "nginx"
_MOTO: Final = "moto"

_START_LIMIT_S: Final = 20.0
_STOP_LIMIT_S: Final = 10.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Programs:
    """Commands of the peers of a run, by name."""

    def __init__(self) -> None:
        self._paths = {PEER: "docker-registry"}

    def add(self, name: str, path: str) -> None:
        self._paths[name] = path

    def command(self, side: str, config: Path) -> list[str]:
        """Return the command line of a side.  Raises KeyError for a peer that was not added."""
        if side == MOORAGE:
            return [str(Path(sys.executable).with_name("moorage")), "serve", str(config)]
        return [self._paths[side], "serve", str(config)]


PROGRAMS: Final = Programs()


class ServerFailed(Exception):
    """The server did not start or returned a wrong response; the message contains its log."""


@dataclass
class Server:
    """A running registry.  Leaving the context kills its whole process group."""

    side: str
    process: subprocess.Popen[bytes]
    root: Path
    log: Path
    first_answer_s: float = 0.0
    port: int = 0
    tls: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_STOP_LIMIT_S)

    @property
    def pids(self) -> list[int]:
        return [self.process.pid, *_descendants(self.process.pid)]

    @property
    def workers(self) -> list[int]:
        """The processes that serve requests: the children with the listening socket, or the only process."""
        return [pid for pid in self.pids[1:] if self.port in _listening_ports([pid])] or [self.process.pid]

    def cpu_s(self) -> float:
        """Return the user and system seconds of all its processes, in steps of 10 ms each."""
        return cpu_s(self.pids)

    def empty(self) -> None:
        """Delete all blobs from the disk, in the layout of this side, and sync it before the next push."""
        if self.side == ZOT:
            for blob in list(self.root.glob("**/blobs/*/*")):
                blob.unlink()
        else:
            shutil.rmtree(self.root / "docker/registry/v2/blobs", ignore_errors=True)
        os.sync()

    def forget_peak(self) -> None:
        """Reset the peak resident size (needs privileges over the processes)."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> dict[int, int]:
        """Return the peak resident size of each worker since `forget_peak`, shared pages included."""
        return {pid: _status_kib(pid, "VmHWM") * 1024 for pid in self.workers}


def start(
    side: str,
    root: Path,
    cpus: Sequence[int],
    *,
    workers: int = 1,
    sections: Mapping[str, Any] | None = None,
    tls: Mapping[str, str] | None = None,
) -> Server:
    """Start one registry over the storage in `root`, pinned to `cpus`.

    `sections` are added to its configuration, `tls` is for http.tls.  Raises ServerFailed.
    """
    root.mkdir(parents=True, exist_ok=True)
    config = root.with_name(f"{root.name}.{'json' if side == ZOT else 'yml'}")
    if side == ZOT:
        config.write_text(json.dumps(_zot(root, tls)))
    else:
        settings = {**_settings(side, root, workers), **(sections or {})}
        if tls is not None:
            settings["http"]["tls"] = dict(tls)
        config.write_text(yaml.safe_dump(settings))
    # Set explicitly: Go programs may count the machine's cores instead of the usable ones.
    environment = {} if side == MOORAGE else {"GOMAXPROCS": str(len(cpus)), "OTEL_TRACES_EXPORTER": "none"}
    program = PROGRAMS.command(side, config)
    return _started(side, program, root, cpus, tls=tls is not None, environment=environment)


def start_nginx(root: Path, cpus: Sequence[int], tls: Mapping[str, str], port: int) -> Server:
    """Start one nginx worker that serves the files in `root` over TLS, pinned to `cpus`.  Raises ServerFailed.

    `port` is a free one: nginx does not support port 0.
    """
    config = root.with_name(f"{root.name}.conf")
    scratch = root.with_name(f"{root.name}.scratch")
    scratch.mkdir()
    folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{name}_temp_path {scratch}/{name};" for name in folders)
    # Larger output buffers than the default of 32 KiB, for the best throughput of nginx.
    config.write_text(
        f"user {pwd.getpwuid(os.geteuid()).pw_name}; worker_processes 1; daemon off; pid {scratch}/pid;\n"
        "error_log stderr error;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; output_buffers 2 512k; {temporary}\n"
        f"server {{ listen 127.0.0.1:{port} ssl; root {root}; ssl_protocols TLSv1.2 TLSv1.3;\n"
        f"ssl_certificate {tls['certificate']}; ssl_certificate_key {tls['key']};\n"
        "location /v2/ { return 200; } } }\n"
    )
    return _started(NGINX, ["nginx", "-c", str(config)], root, cpus, tls=True)


def start_moto(path: str, root: Path, cpus: Sequence[int]) -> Server:
    """An S3 store of one Python process, pinned to `cpus`, that keeps all in memory.  Raises ServerFailed."""
    root.mkdir(parents=True)
    program = [path, "--host", "127.0.0.1", "--port", "0"]
    in_memory = {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(4 << 30)}
    return _started(_MOTO, program, root, cpus, probe="/", environment=in_memory)


def cpu_s(pids: Sequence[int]) -> float:
    """Return the user and system seconds of processes, in steps of 10 ms each."""
    return sum(_cpu_ticks(pid) for pid in pids) / _TICKS_PER_S


def listener(port: int) -> int | None:
    """Return the local process that listens on TCP port `port`; None if there is none."""
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return next((pid for pid in pids if port in _listening_ports([pid])), None)


def _started(
    side: str,
    program: Sequence[str],
    root: Path,
    cpus: Sequence[int],
    *,
    tls: bool = False,
    probe: str = "/v2/",
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Run a program pinned to `cpus` and wait for its answer to `probe`.  Raises ServerFailed."""
    log = root.with_name(f"{root.name}.log")
    pin = ["taskset", "--cpu-list", ",".join(map(str, cpus))]
    began = time.perf_counter()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*pin, *program],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**_environment(), **(environment or {})},
            start_new_session=True,
        )
    server = Server(side, process, root, log, tls=tls)
    try:
        _wait(server, probe)
    except BaseException:
        server.__exit__()
        raise
    server.first_answer_s = time.perf_counter() - began
    return server


def _settings(side: str, root: Path, workers: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(root)},
            "cache": {"blobdescriptor": "inmemory"},
            "delete": {"enabled": True},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "the benchmark's"},
    }
    if side == MOORAGE:
        settings["http"]["workers"] = workers
    return settings


def _zot(root: Path, tls: Mapping[str, str] | None) -> dict[str, Any]:
    """Return zot's configuration: no deduplication, no garbage collection (both take its lock), synced writes."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    http: dict[str, Any] = {"address": "127.0.0.1", "port": str(port), "compat": ["docker2s2"]}
    if tls is not None:
        http["tls"] = {"cert": tls["certificate"], "key": tls["key"]}
    return {
        "distSpecVersion": "1.1.1",
        "storage": {"rootDirectory": str(root), "dedupe": False, "gc": False, "commit": True},
        "http": http,
        "log": {"level": "error"},
    }


def _environment() -> dict[str, str]:
    unwanted = ("REGISTRY_", "HTTP_PROXY", "HTTPS_PROXY", "OTEL_", "AWS_", "GOMAXPROCS")
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}


def _wait(server: Server, probe: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        ports = _listening_ports(server.pids)
        if ports:
            server.port = min(ports)
            if _answers(server.port, probe, tls=server.tls):
                return
        time.sleep(0.002)
    raise ServerFailed(f"{server.side} did not answer:\n{server.log.read_text(errors='replace')[-4000:]}")


def _answers(port: int, probe: str, *, tls: bool) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    if tls:
        # Only a readiness probe; the load generator verifies the certificate.
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=unchecked)
    try:
        connection.request("GET", probe)
        return connection.getresponse().status in {http.HTTPStatus.OK, http.HTTPStatus.UNAUTHORIZED}
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = [int(child) for child in children.read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from _descendants(child)


def _cpu_ticks(pid: int) -> int:
    """Return user and system time of all threads, ended ones included; 0 for a process that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _status_kib(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ServerFailed(f"no {name} for process {pid}")


def _listening_ports(pids: Sequence[int]) -> set[int]:
    """Return the TCP ports that processes listen on, from their open sockets."""
    held = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    held.add(os.readlink(entry.path))  # noqa: PTH115  hundreds of these before the first answer
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {
        int(line[1].partition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held
    }
