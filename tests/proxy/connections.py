"""Connections to the worker processes of a mirror, and the process that downloads a blob."""

from __future__ import annotations

import http.client
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from tests.live import Live

    from moorage.types import Digest

__all__ = ["BlobReader", "downloader", "part_of", "readers_of_all_workers", "written"]

_LIMIT_S: Final = 30.0
_ATTEMPTS: Final = 200


class BlobReader:
    """One connection, whose `worker` is known before the request is sent."""

    def __init__(self, live: Live) -> None:
        self._connection = http.client.HTTPConnection(live.host, timeout=_LIMIT_S)
        self._connection.connect()
        self.worker = _owner(live, self._connection.sock.getsockname()[1])
        self._response: http.client.HTTPResponse | None = None

    def begin(self, path: str) -> bytes:
        """Request a blob; return its first bytes, as soon as they come."""
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        return self._response.read1(1000)

    def rest(self) -> bytes:
        """Return the other bytes.  Raises http.client.IncompleteRead and OSError if the connection is cut."""
        assert self._response is not None
        return self._response.read()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def readers_of_all_workers(live: Live, each: int) -> list[BlobReader]:
    """Connect until each worker process has so many connections: the kernel chooses the worker of each."""
    workers = live.workers
    assert len(workers) > 1
    found: dict[int, list[BlobReader]] = {worker: [] for worker in workers}
    for _ in range(_ATTEMPTS):
        if all(len(readers) == each for readers in found.values()):
            return [reader for readers in found.values() for reader in readers]
        reader = BlobReader(live)
        if len(found[reader.worker]) < each:
            found[reader.worker].append(reader)
        else:
            reader.close()
    raise AssertionError(f"no {each} connections of each worker in {_ATTEMPTS}: {found}")


def part_of(live: Live, digest: Digest) -> Path:
    """Return the path of a blob on its way."""
    return live.root / "_moorage" / "spool" / f"{digest.algorithm}-{digest.hex}.part"


def written(part: Path, size: int) -> None:
    """Wait until so many bytes are in the file."""
    deadline = time.monotonic() + _LIMIT_S
    while part.stat().st_size < size:
        assert time.monotonic() < deadline, part.stat().st_size
        time.sleep(0.001)


def downloader(part: Path) -> int:
    """Return the process that has locked the file (flock)."""
    inode = part.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
            return int(fields[4])
    raise AssertionError(f"{part} is not locked")


def _owner(live: Live, client_port: int) -> int:
    """Return the worker that has accepted the connection from a local port; it may take a moment."""
    for _ in range(10_000):
        inode = _inode(live.port, client_port)
        for worker in live.workers if inode else ():
            if any(link.name == inode for link in _links(worker)):
                return worker
    raise AssertionError("no worker accepts the connection")


def _inode(port: int, client_port: int) -> str:
    """Return the name of the server's socket of a connection; empty while nothing has accepted it."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[index].rpartition(":")[2], 16) for index in (1, 2))
        if (local, remote) == (port, client_port) and fields[9] != "0":
            return f"socket:[{fields[9]}]"
    return ""


def _links(pid: int) -> list[Path]:
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(descriptor.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
    return found
