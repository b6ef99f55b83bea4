"""The two registries under test: started on given cores with the same configuration, watched through /proc.

Both get `addr: 127.0.0.1:0`; the port the kernel chose is read from the process's own listening socket.
Source of the /proc formats: proc(5).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["OURS", "PEER", "Server", "ServerFailed", "start"]

OURS: Final = "moorage"
PEER: Final = "docker-registry"

_START_LIMIT_S: Final = 20.0
_STOP_LIMIT_S: Final = 10.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """The server did not start or answered wrongly; the message holds its log."""


@dataclass
class Server:
    """A running registry.  Leaving the context ends its whole process group."""

    side: str
    process: subprocess.Popen[bytes]
    root: Path
    log: Path
    first_answer_s: float = 0.0
    port: int = 0

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
        """The processes that answer: the children that hold the listening socket, or the only process."""
        return [pid for pid in self.pids[1:] if self.port in _listening_ports([pid])] or [self.process.pid]

    def cpu_s(self) -> float:
        """User and system seconds that all its processes have used, in steps of 10 ms each."""
        return sum(_cpu_ticks(pid) for pid in self.pids) / _TICKS_PER_S

    def forget_peak(self) -> None:
        """Start the search for the highest resident size anew (needs the rights over its processes)."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> dict[int, int]:
        """Highest resident size of each worker since `forget_peak`, shared pages included."""
        return {pid: _status_kib(pid, "VmHWM") * 1024 for pid in self.workers}


def start(
    side: str, root: Path, cpus: Sequence[int], *, workers: int = 1, sections: Mapping[str, Any] | None = None
) -> Server:
    """Start one registry over the storage in `root`, pinned to `cpus`; `sections` are added to its configuration.

    Raises ServerFailed.
    """
    root.mkdir(parents=True, exist_ok=True)
    config = root.with_name(f"{root.name}.yml")
    log = root.with_name(f"{root.name}.log")
    config.write_text(yaml.safe_dump({**_settings(side, root, workers), **(sections or {})}))
    program = {
        OURS: [str(Path(sys.executable).with_name("moorage")), "serve", str(config)],
        PEER: ["docker-registry", "serve", str(config)],
    }[side]
    pin = ["taskset", "--cpu-list", ",".join(map(str, cpus))]
    began = time.perf_counter()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*pin, *program],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )
    server = Server(side, process, root, log)
    try:
        _wait(server)
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
    if side == OURS:
        settings["http"]["workers"] = workers
    return settings


def _environment() -> dict[str, str]:
    unwanted = ("REGISTRY_", "OTEL_", "GOMAXPROCS")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _wait(server: Server) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        ports = _listening_ports(server.pids)
        if ports:
            server.port = min(ports)
            if _answers(server.port):
                return
        time.sleep(0.002)
    raise ServerFailed(f"{server.side} did not answer:\n{server.log.read_text(errors='replace')[-4000:]}")


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/")
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
    """User and system time of all threads, ended ones too; a process that is gone counts nothing."""
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
    """TCP ports that these processes listen on, from the sockets they hold open."""
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
