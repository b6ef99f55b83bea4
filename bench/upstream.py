"""An upstream registry for mirrors: serves images from a folder, at a limited rate, and counts downloads.

    python -m bench.upstream FOLDER BYTES_PER_SECOND        0: unlimited; prints its port

    FOLDER/manifests/REFERENCE     the bytes of a manifest, for every repository
    FOLDER/blobs/DIGEST
    FOLDER/downloads               one line for each GET of a blob

Each connection has the whole rate, as several do at Docker Hub.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.client import MANIFEST_TYPE
from bench.content import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.content import Image

__all__ = ["Upstream", "started"]

_PIECE_BYTES: Final = 64 << 10
_TARGET: Final = re.compile(r"/v2/.+/(manifests|blobs)/([^/?]+)")
_RANGE: Final = re.compile(r"bytes=(\d+)-", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream registry."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, tag: str, image: Image) -> None:
        """Add an image under a tag, in every repository."""
        for blob in image.blobs:
            (self.folder / "blobs" / blob.digest).write_bytes(blob.data)
        for name in (tag, digest_of(image.manifest)):
            (self.folder / "manifests" / name).write_bytes(image.manifest)

    def downloads(self) -> int:
        """Return the number of GETs of blobs so far."""
        return len((self.folder / "downloads").read_text().splitlines())


@contextmanager
def started(folder: Path, cpus: Sequence[int], rate: int) -> Iterator[Upstream]:
    """Run an upstream registry on `cpus`, each connection limited to `rate` bytes per second (0: unlimited)."""
    for name in ("manifests", "blobs"):
        (folder / name).mkdir(parents=True)
    (folder / "downloads").touch()
    pin = ["taskset", "--cpu-list", ",".join(map(str, cpus))]
    command = [*pin, sys.executable, "-m", "bench.upstream", str(folder), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        try:
            yield Upstream(folder, int(process.stdout.readline()))
        finally:
            process.kill()


class _Connection:
    """One connection, served by a thread."""

    def __init__(self, connection: socket.socket, folder: Path, rate: int) -> None:
        self._socket = connection
        self._folder = folder
        self._rate = rate
        self._received = b""

    def serve(self) -> None:
        with self._socket, contextlib.suppress(OSError):
            while (head := self._head()) is not None:
                self._respond(head)

    def _head(self) -> str | None:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            part = self._socket.recv(64 << 10)
            if not part:
                return None
            self._received += part
        head, self._received = self._received[:end].decode("latin-1"), self._received[end + 4 :]
        return head

    def _respond(self, head: str) -> None:
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        match = _TARGET.match(target)
        if match is None:
            self._socket.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            return
        kind, name = match.groups()
        path = self._folder / kind / name
        if not path.exists():
            self._socket.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        size = path.stat().st_size
        asked = _RANGE.search(head)
        start = int(asked[1]) if asked is not None else 0
        digest = name if ":" in name else digest_of(path.read_bytes())
        lines = [
            "HTTP/1.1 206 Partial Content" if start else "HTTP/1.1 200 OK",
            f"Content-Length: {size - start}",
            f"Docker-Content-Digest: {digest}",
            f"Content-Type: {MANIFEST_TYPE if kind == 'manifests' else 'application/octet-stream'}",
            *([f"Content-Range: bytes {start}-{size - 1}/{size}"] if start else ()),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        if method == "GET":
            if kind == "blobs":
                with (self._folder / "downloads").open("a") as log:
                    log.write(f"{name}\n")
            self._send(path, start, size)

    def _send(self, path: Path, start: int, size: int) -> None:
        began = time.perf_counter()
        with path.open("rb") as file:
            offset = start
            while offset < size:
                offset += os.sendfile(
                    self._socket.fileno(), file.fileno(), offset, min(_PIECE_BYTES, size - offset)
                )
                if self._rate:
                    ahead = (offset - start) / self._rate - (time.perf_counter() - began)
                    if ahead > 0:
                        time.sleep(ahead)


def _main(folder: Path, rate: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        print(listening.getsockname()[1], flush=True)
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_Connection(connection, folder, rate).serve, daemon=True).start()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
