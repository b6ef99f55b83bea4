"""Real proxies in front of two registries, configured as the pages say."""

from __future__ import annotations

import hashlib
import re
import threading
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest
from tests.server.serving import until
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from tests.deploying.proxies import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.proxy]

MIB: Final = 1 << 20
CLIENT: Final = "127.0.0.77"
"""Where the client connects from: another address than the proxy's, which is 127.0.0.1."""


def pattern(size: int) -> bytes:
    return hashlib.shake_128(b"moorage").digest(MIB) * (size // MIB)


def begin(client: httpx.Client, name: str) -> str:
    answer = client.post(f"/v2/{name}/blobs/uploads/")
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def finish(client: httpx.Client, location: str, data: bytes) -> httpx.Response:
    answer = client.put(f"{location}&digest={Digest.of(data)}", content=b"")
    assert answer.status_code == 201, answer.text
    return answer


def data_of(proxy: Proxy, location: str) -> Path:
    """The file that holds what has come of an upload."""
    _, _, name, _, _, uuid = urlsplit(location).path.split("/")
    return proxy.nodes[0].root / f"docker/registry/v2/repositories/{name}/_uploads/{uuid}/data"


def lines(proxy: Proxy, text: str, expected: int) -> list[list[str]]:
    """The lines of each node's access log that hold `text`, once there are `expected` in all.

    A line is written after its answer, which a client may have read before.
    """

    def found() -> list[list[str]]:
        return [[line for line in node.logs().splitlines() if text in line] for node in proxy.nodes]

    until(lambda: sum(map(len, found())) >= expected, f"{expected} lines with {text}")
    return found()


@pytest.mark.parametrize("http2", [False, True])
def test_places_are_told_as_the_client_sees_them(proxy: Proxy, http2: bool) -> None:
    """`https`, and the port that the client used; the client's own stories about that are not repeated."""
    claims = {"x-forwarded-host": "evil.example", "x-forwarded-proto": "http", "forwarded": "host=evil.example"}
    with proxy.client(http2=http2) as client:
        for headers in ({}, claims):
            answer = client.post("/v2/places/blobs/uploads/", headers=headers)
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert answer.headers["location"].startswith(f"{proxy.url}/v2/places/blobs/uploads/")
        moved = client.get("/v2/places/tags/list/")
        assert moved.status_code == 301
        assert urlsplit(str(moved.headers["location"])).path == "/v2/places/tags/list"


@pytest.mark.parametrize("http2", [False, True])
def test_the_client_is_known_by_its_own_address(proxy: Proxy, http2: bool) -> None:
    """And not by the one it would like to have."""
    claims = {"x-forwarded-for": "6.6.6.6", "x-real-ip": "6.6.6.6", "forwarded": "for=6.6.6.6"}
    with proxy.client(http2=http2, address=CLIENT) as client:
        for number in range(4):
            client.get(f"/v2/who{number}-{http2}/tags/list", headers=claims if number % 2 else {})
    for number in range(4):
        (found,) = [line for node in lines(proxy, f"/v2/who{number}-{http2}/tags/list ", 1) for line in node]
        assert found.startswith(f"{CLIENT} - - "), found


class Held:
    """A body that stops in the middle until the test lets it continue."""

    def __init__(self, data: bytes) -> None:
        self.data, self.go = data, threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        half = len(self.data) // 2
        for at in range(0, half, MIB):
            yield self.data[at : at + MIB]
        assert self.go.wait(60), "nobody let it go on"
        for at in range(half, len(self.data), MIB):
            yield self.data[at : at + MIB]


@pytest.mark.parametrize(("http2", "announced"), [(False, True), (False, False), (True, True), (True, False)])
def test_a_large_upload_goes_through_while_it_comes_in(proxy: Proxy, http2: bool, announced: bool) -> None:
    """A proxy that collects a layer first doubles the time of a push and fills its own disk."""
    body = Held(pattern(32 * MIB))
    with proxy.client(http2=http2) as client:
        location = begin(client, "stream")
        headers = {"content-length": str(len(body.data))} if announced else {}
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(client.patch(location, content=body, headers=headers))
        )
        thread.start()
        try:
            file = data_of(proxy, location)
            # All of the first half but what may be on its way in buffers, before the second is sent.
            until(lambda: file.exists() and file.stat().st_size >= 12 * MIB, "the first half", proxy.logs)
            assert proxy.files_written() == []
        finally:
            body.go.set()
            thread.join()
        assert answers[0].status_code == 202, answers[0].text
        finish(client, answers[0].headers["location"], body.data)


@pytest.mark.parametrize("http2", [False, True])
def test_a_large_download_is_not_put_on_the_proxys_disk(proxy: Proxy, http2: bool) -> None:
    """A client that reads slowly makes a proxy collect what the registry sends."""
    data = pattern(64 * MIB)
    Wire(proxy.nodes[0].host).push_blob("down", data)
    with proxy.client(http2=http2) as client:
        digest, seen = hashlib.sha256(), 0
        with client.stream("GET", f"/v2/down/blobs/{Digest.of(data)}") as answer:
            assert answer.headers["content-length"] == str(len(data))
            for piece in answer.iter_raw(MIB):
                if seen < 8 * MIB:
                    assert proxy.files_written() == []
                digest.update(piece)
                seen += len(piece)
        assert digest.hexdigest() == Digest.of(data).hex


def test_an_upload_hops_between_the_registries(proxy: Proxy) -> None:
    """No sticky sessions: any node continues with the next request, and finishes with the hash of all of it."""
    pieces = [pattern(MIB)[number : number + 300_000] for number in range(10)]
    with proxy.client() as client:
        location = begin(client, "hop")
        uuid = urlsplit(location).path.rpartition("/")[2]
        for piece in pieces:
            answer = client.patch(location, content=piece)
            assert answer.status_code == 202, answer.text
            location = answer.headers["location"]
        finish(client, location, b"".join(pieces))
    per_node = lines(proxy, uuid, 11)
    assert sum(map(len, per_node)) == 11
    # Round robin: no node may have had two in a row more than now and then (a health check between).
    assert min(map(len, per_node)) >= 4, per_node
    assert {re.sub(r'.*"(\w+) .*', r"\1", line) for node in per_node for line in node} == {"PATCH", "PUT"}


def test_names_and_digests_pass_as_they_are_written(proxy: Proxy) -> None:
    """A proxy that decodes or tidies a path asks for something else."""
    with proxy.client() as client:
        layer = b"x" * 100
        location = begin(client, "paths")
        answer = client.put(f"{location}&digest={Digest.of(layer)}", content=layer)
        assert answer.status_code == 201
        quoted = str(Digest.of(layer)).replace(":", "%3A")
        assert client.get(f"/v2/paths/blobs/{quoted}").content == layer
        client.get("/v2/a%2Fb/tags/list?n=1&last=x%2By")
        (seen,) = [line for node in lines(proxy, "/v2/a%2Fb/tags/list", 1) for line in node]
        assert '"GET /v2/a%2Fb/tags/list?n=1&last=x%2By HTTP/1.1"' in seen


def test_what_the_registry_says_comes_through(proxy: Proxy) -> None:
    """Errors with their JSON, ranges, HEAD with a length, and long tokens."""
    with proxy.client(http2=True) as client:
        missing = client.get("/v2/none/tags/list", headers={"authorization": "Bearer " + "x" * 7000})
        assert (missing.status_code, missing.json()["errors"][0]["code"]) == (404, "NAME_UNKNOWN")
        layer = pattern(MIB)
        answer = client.put(f"{begin(client, 'through')}&digest={Digest.of(layer)}", content=layer)
        target = answer.headers["location"]
        assert client.head(target).headers["content-length"] == str(MIB)
        part = client.get(target, headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, layer[10:20])
        assert client.options("/v2/").status_code == 204
