"""Registry client with little overhead: blocking sockets, prepared bytes, checked responses.

Below: `content.py` makes what is pushed.  The load of many small requests has its own loop, `load.py`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from bench.content import Blob, Image

__all__ = ["ACCEPT", "MANIFEST_TYPE", "Answer", "Client", "Refused", "target_of"]

_DOCKER: Final = "application/vnd.docker.distribution.manifest"
_OCI: Final = "application/vnd.oci.image"
ACCEPT: Final = (
    f"application/json, {_DOCKER}.v2+json, {_DOCKER}.list.v2+json, {_OCI}.manifest.v1+json, {_OCI}.index.v1+json"
)
"""`Accept` of Docker."""

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CREATED: Final = 201
_ACCEPTED: Final = 202
_HEAD_LIMIT: Final = 64 << 10


class Refused(Exception):
    """Unexpected response; the message has it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers (lower-case names); the body unless it was left in the socket."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Client:
    """One keep-alive connection to 127.0.0.1:`port`, over TLS if `secure`.

    Every method raises Refused or OSError.
    """

    def __init__(
        self,
        port: int,
        *,
        timeout_s: float = 600.0,
        receive_buffer: int | None = None,
        secure: ssl.SSLContext | None = None,
    ) -> None:
        self._socket: socket.socket = socket.socket()
        self._socket.settimeout(timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect(("127.0.0.1", port))
        if secure is not None:
            self._socket = secure.wrap_socket(self._socket, server_hostname="localhost")
        # MSG_TRUNC lets the kernel drop the bytes of a TCP stream without copying them here, see tcp(7); what is
        # encrypted must come here all the same.
        self._flags = 0 if secure else socket.MSG_TRUNC
        self._scratch = bytearray(1 << 20)
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, method: str, target: str, body: bytes | memoryview = b"", media_type: str = "") -> Answer:
        """Send a request and read the complete response."""
        self.send(method, target, len(body), media_type)
        if body:
            self._socket.sendall(body)
        return self.answer(bodiless=method == "HEAD")

    def answer(self, *, bodiless: bool = False) -> Answer:
        """Read the complete response."""
        answer = self.head()
        if bodiless:
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self._take(int(answer.headers.get("content-length", "0")))
        return Answer(answer.status, answer.headers, body)

    def _chunk(self) -> bytes:
        """Return one chunk of a body, RFC 9112 section 7.1; empty at the end (trailers are not sent)."""
        while (end := self._left.find(b"\r\n")) < 0:
            self._receive()
        size = int(self._left[:end], 16)
        self._left = self._left[end + 2 :]
        return self._take(size + 2)[:-2]

    def _take(self, length: int) -> bytes:
        parts = [self._left[:length]]
        self._left = self._left[length:]
        missing = length - len(parts[0])
        while missing:
            part = self._socket.recv(min(missing, 1 << 20))
            if not part:
                raise Refused(f"connection closed {missing} bytes before an answer's end")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _receive(self) -> None:
        part = self._socket.recv(64 << 10)
        if not part or len(self._left) > _HEAD_LIMIT:
            raise Refused(f"connection closed within an answer's head: {self._left[:200]!r}")
        self._left += part

    def expect(
        self, status: int, method: str, target: str, body: bytes | memoryview = b"", media_type: str = ""
    ) -> Answer:
        """Send a request; any other status is an error."""
        answer = self.request(method, target, body, media_type)
        if answer.status != status:
            raise Refused(f"{method} {target}: {answer.status} instead of {status}: {answer.body[:400]!r}")
        return answer

    def send(self, method: str, target: str, length: int | None = 0, media_type: str = "") -> None:
        """Send the head of a request; without a length the body follows in chunks."""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: moorage-bench\r\nAccept: {ACCEPT}\r\n"
        )
        if length is None:
            head += "Transfer-Encoding: chunked\r\n"
        elif method not in {"GET", "HEAD"}:
            head += f"Content-Length: {length}\r\n"
        if media_type:
            head += f"Content-Type: {media_type}\r\n"
        self._socket.sendall(f"{head}\r\n".encode())

    def write(self, data: bytes | memoryview) -> None:
        """Send a piece of the body announced with `send`."""
        self._socket.sendall(data)

    def head(self) -> Answer:
        """Read the head of a response; received bytes of the body are kept for `pieces` or `request`."""
        while (end := self._left.find(b"\r\n\r\n")) < 0:
            self._receive()
        data, self._left = self._left[:end], self._left[end + 4 :]
        status, *lines = data.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines)
        return Answer(int(status.split()[1]), {name.lower(): value.strip() for name, _, value in fields})

    def download(self, target: str, size: int) -> None:
        """GET `size` bytes and discard them in the kernel, so that only the server is measured."""
        self.send("GET", target)
        for _ in self.pieces(target, size):
            pass

    def pieces(self, target: str, size: int, piece: int = 1 << 20) -> Iterator[int]:
        """Yield the lengths of the received pieces of a body of `size` bytes."""
        answer = self.head()
        if answer.status != 200 or int(answer.headers["content-length"]) != size:
            raise Refused(f"GET {target}: {answer.status} with {answer.headers}")
        missing = size - len(self._left)
        self._left = b""
        while missing:
            got = self._socket.recv_into(self._scratch, min(piece, missing), self._flags)
            if not got:
                raise Refused(f"GET {target}: connection closed {missing} bytes too early")
            missing -= got
            yield got

    def begin(self, name: str) -> str:
        """Start an upload; return its location."""
        return target_of(self.expect(202, "POST", f"/v2/{name}/blobs/uploads/"))

    def finish(self, place: str, digest: str) -> None:
        """Finish an upload by its digest."""
        self.expect(_CREATED, "PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}")

    def push(self, name: str, blob: Blob) -> None:
        """Push by POST, PATCH and PUT, with Content-Length."""
        place = self.begin(name)
        place = target_of(self.expect(202, "PATCH", place, blob.data, "application/octet-stream"))
        self.finish(place, blob.digest)

    def push_in_chunks(self, name: str, blob: Blob, chunk: int = 32 << 10) -> None:
        """Push by POST, PATCH and PUT, the body in HTTP chunks, each written separately, as Docker does."""
        place = self.begin(name)
        self.send("PATCH", place, None, "application/octet-stream")
        data = memoryview(blob.data)
        for start in range(0, len(data), chunk):
            piece = data[start : start + chunk]
            self.write(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        self.write(b"0\r\n\r\n")
        answer = self.answer()
        if answer.status != _ACCEPTED:
            raise Refused(f"PATCH {place}: {answer.status}: {answer.body[:400]!r}")
        self.finish(target_of(answer), blob.digest)

    def push_manifest(self, name: str, tag: str, data: bytes) -> None:
        self.expect(_CREATED, "PUT", f"/v2/{name}/manifests/{tag}", data, MANIFEST_TYPE)

    def push_image(self, name: str, tag: str, image: Image) -> None:
        """Push an image as Docker does: HEAD of each blob, missing blobs, then the manifest."""
        for blob in image.blobs:
            self.expect(404, "HEAD", f"/v2/{name}/blobs/{blob.digest}")
            self.push(name, blob)
        self.push_manifest(name, tag, image.manifest)


def target_of(answer: Answer) -> str:
    """Return path and query of Location, which may be absolute."""
    place = urlsplit(answer.headers["location"])
    return f"{place.path}?{place.query}" if place.query else place.path
