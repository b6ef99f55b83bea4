"""Registries behind a proxy come and go: what dies, what goes on, and what they must share."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import httpx
import pytest
from tests.clients.layouts import Layout, tar_of
from tests.deploying.conftest import start_node
from tests.deploying.proxies import KINDS, Proxy, running
from tests.deploying.test_proxies import pattern
from tests.live import require, start_moorage
from tests.ports import free_port
from tests.server.serving import until
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme
    from tests.clients.conftest import Run
    from tests.live import Live

pytestmark = [pytest.mark.slow, pytest.mark.proxy]

_TRIES: Final = 20
_FAILED: Final = {502, 503, 504}


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA) -> Iterator[Proxy]:
    """A proxy with two nodes of its own, one of which the test will end."""
    with ExitStack() as stack:
        # One of them comes back where it was.
        nodes = [stack.enter_context(start_node(tmp_path, number, port=free_port())) for number in (1, 2)]
        yield stack.enter_context(running(request.param, tmp_path / "proxy", nodes, authority))


class Patient:
    """A client that handles a failed request as Docker does: request the offset, and continue."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.failures = 0

    def send(self, method: str, target: str, content: bytes = b"", **headers: str) -> httpx.Response:
        for _ in range(_TRIES):
            try:
                answer = self.client.request(method, target, content=content, headers=headers)
            except httpx.TransportError:
                self.failures += 1
                continue
            if answer.status_code not in _FAILED:
                return answer
            self.failures += 1
        raise AssertionError(f"{method} {target} failed {_TRIES} times")

    def push(self, name: str, pieces: list[bytes], between: dict[int, threading.Event]) -> Digest:
        """A blob in pieces; before some of them it waits for an event."""
        location = self.send("POST", f"/v2/{name}/blobs/uploads/").headers["location"]
        data = b"".join(pieces)
        at = 0
        for number, piece in enumerate(pieces):
            if number in between:
                assert between[number].wait(60)
            while at < sum(map(len, pieces[: number + 1])):
                rest = piece[at - sum(map(len, pieces[:number])) :]
                span = f"{at}-{at + len(rest) - 1}"
                answer = self.send("PATCH", location, rest, **{"content-range": span})
                if answer.status_code != 202:
                    answer = self.send("GET", location)
                    assert answer.status_code == 204, answer.text
                location = answer.headers["location"]
                at = int(answer.headers["range"].partition("-")[2]) + 1
        digest = Digest.of(data)
        done = self.send("PUT", f"{location}&digest={digest}")
        assert done.status_code == 201, done.text
        return digest


def test_a_push_goes_on_when_a_node_is_killed(fresh: Proxy) -> None:
    """The other node has the volume and the secret, so nothing that was acknowledged is missing."""
    pieces = [pattern(1 << 20)[number : number + 200_000] for number in range(12)]
    killed = threading.Event()
    with fresh.client() as client:
        patient = Patient(client)
        result: list[Digest] = []
        thread = threading.Thread(target=lambda: result.append(patient.push("killed", pieces, {6: killed})))
        thread.start()
        fresh.live(0).kill()
        killed.set()
        thread.join()
        assert patient.send("GET", f"/v2/killed/blobs/{result[0]}").content == b"".join(pieces)
        assert patient.failures < 2 * _TRIES


def test_clients_copy_when_a_node_has_died_and_when_it_is_back(fresh: Proxy, tmp_path: Path, run: Run) -> None:
    """Without a single failed request: no proxy sends one to a node that is gone, nor on a connection kept to it.

    skopeo does not try a ping again, so one 502 would fail the copy.
    """
    layout = Layout(tmp_path / "layout")
    images = [layout.image([tar_of({"a": a.encode() * 100_000})], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("v1", layout.index(images))
    skopeo, dead = require("skopeo"), fresh.live(0)
    copy = [skopeo, "copy", "--all", "--dest-tls-verify=false", f"oci:{layout.path}:v1"]

    dead.kill()
    run(*copy, f"docker://{fresh.outer}/dies/image:v1")
    with start_node(tmp_path, 3, port=dead.port) as back, fresh.client() as client:

        def requested() -> bool:
            client.get("/v2/back/tags/list")
            return "/v2/back/tags/list" in back.logs()

        until(requested, "the node that came back to get requests", back.logs)
        run(*copy, f"docker://{fresh.outer}/back/image:v1")
    raw = Wire(fresh.live(1).host).manifest("back/image", "v1")
    assert [entry["platform"]["architecture"] for entry in json.loads(raw.body)["manifests"]] == ["amd64", "arm64"]


@pytest.fixture
def registry(fresh: Proxy) -> Live:
    """Whose log is shown when a client fails."""
    return fresh.live(1)


def test_nodes_without_a_common_secret_refuse_each_others_uploads(tmp_path: Path) -> None:
    """So a node without one logs a warning, as the reference does."""
    with (
        start_node(tmp_path, 1, http={"secret": ""}) as one,
        start_node(tmp_path, 2, http={"secret": ""}) as two,
    ):
        first, second = Wire(one.host), Wire(two.host)
        location = first.start_upload("secret").headers["location"]
        refused = second.patch(location, b"x")
        assert (refused.status, refused.codes) == (404, ["BLOB_UPLOAD_INVALID"])
        assert first.patch(location, b"x").status == 202
        for node in (one, two):
            assert "No HTTP secret provided - generated random secret." in node.logs()
            assert "behind a load-balancer" in node.logs()
            assert "REGISTRY_HTTP_SECRET" in node.logs()
    assert one.logs().count("No HTTP secret") == 1


def test_workers_of_one_node_always_share_a_secret(tmp_path: Path) -> None:
    """With any configuration: they are behind one address, and no client chooses between them."""
    with start_moorage(tmp_path / "data", http={"workers": 3, "secret": ""}) as live:
        wire = Wire(live.host)
        until(lambda: len(live.workers) == 3, "three workers", live.logs)
        for _ in range(10):
            # Each request is a connection of its own, and the kernel spreads them.
            location = wire.start_upload("workers").headers["location"]
            for _ in range(3):
                location = wire.patch(location, b"piece").headers["location"]
            assert wire.finish(location, Digest.of(b"piece" * 3)).status == 201
