"""Pushes and pulls through a load balancer that never stop, and every failure among them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import httpx
from tests.server.serving import until
from tests.wire import OCI_MANIFEST, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Load", "SlowUpload", "loaded"]

NAME: Final = "upgrade/app"
_STATUS: Final = {"POST": 202, "PATCH": 202, "PUT": 201, "GET": 200}


@dataclass
class Load:
    """`done` counts the rounds of each client; `failures` has what was answered or raised instead of a success."""

    client: Callable[[], httpx.Client]
    failures: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    pushed: dict[str, bytes] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    used: WeakSet[httpx.Client] = field(default_factory=WeakSet)
    reopened: int = 0

    def expect(
        self, client: httpx.Client, method: str, url: str, content: bytes = b"", **headers: str
    ) -> httpx.Response:
        """Send one request.  Raises AssertionError for any other status than that of success.

        A connection that was closed while it was idle is no failure: the request is sent on a new one, as Go's
        net/http does ("server closed idle connection").  `reopened` counts these.
        """
        try:
            answer = client.request(method, url, content=content, headers=headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if client not in self.used:
                raise
            self.reopened += 1
            answer = client.request(method, url, content=content, headers=headers)
        self.used.add(client)
        assert answer.status_code == _STATUS[method], f"{method} {url}: {answer.status_code} {answer.text[:300]}"
        return answer

    def push(self, client: httpx.Client, tag: str, layer: bytes) -> None:
        """Push an image as Docker does: each blob by POST, PATCH and PUT."""
        for data in (b"{}", layer):
            location = self.expect(client, "POST", f"/v2/{NAME}/blobs/uploads/").headers["location"]
            location = self.expect(client, "PATCH", location, data).headers["location"]
            self.expect(client, "PUT", f"{location}&digest={Digest.of(data)}")
        manifest = image(b"{}", [layer])
        self.expect(client, "PUT", f"/v2/{NAME}/manifests/{tag}", manifest, **{"content-type": OCI_MANIFEST})
        self.pushed[tag] = manifest

    def pull(self, client: httpx.Client, tag: str, layer: bytes) -> None:
        assert self.expect(client, "GET", f"/v2/{NAME}/manifests/{tag}").content == self.pushed[tag]
        assert self.expect(client, "GET", f"/v2/{NAME}/blobs/{Digest.of(layer)}").content == layer
        self.expect(client, "GET", f"/v2/{NAME}/tags/list")

    def further(self, rounds: int = 2) -> None:
        """Wait until every client has finished so many more rounds, or one has failed."""
        before = dict(self.done)

        def reached() -> bool:
            return bool(self.failures) or all(self.done[name] >= count + rounds for name, count in before.items())

        until(reached, "further pushes and pulls", lambda: f"{before} {self.done}")
        assert not self.failures, self.failures


class SlowUpload:
    """A layer whose second half is sent when `release` or `release_patch` is called."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self._release, self._half = threading.Event(), threading.Event()
        self._patched, self._finish = threading.Event(), threading.Event()
        self._data = b"slow layer %d " % number * 40_000
        self._thread = threading.Thread(target=self._run, args=(load,))
        self._thread.start()
        assert self._half.wait(60), load.failures

    def _body(self) -> Iterator[bytes]:
        yield self._data[: len(self._data) // 2]
        self._half.set()
        self._release.wait(60)
        yield self._data[len(self._data) // 2 :]

    def _run(self, load: Load) -> None:
        try:
            with load.client() as client:
                location = load.expect(client, "POST", f"/v2/{NAME}/blobs/uploads/").headers["location"]
                answer = client.patch(location, content=self._body())
                assert answer.status_code == 202, f"slow PATCH: {answer.status_code} {answer.text[:300]}"
                self._patched.set()
                self._finish.wait(60)
            with load.client() as client:
                load.expect(client, "PUT", f"{answer.headers['location']}&digest={Digest.of(self._data)}")
        except Exception as error:  # noqa: BLE001  reported by the test
            load.failures.append(f"slow upload: {error!r}")
            self._half.set()
            self._patched.set()

    def release_patch(self) -> None:
        """Let the request end that sends the layer, and wait until it is answered."""
        self._release.set()
        assert self._patched.wait(60), self.load.failures

    def release(self) -> None:
        """Let the upload end, and wait until it has."""
        self._finish.set()
        self.release_patch()
        self._thread.join(60)


@contextmanager
def loaded(client: Callable[[], httpx.Client]) -> Iterator[Load]:
    """Run clients until the block is left: two that keep their connections, two that make new ones."""
    load = Load(client)
    base = b"base layer " * 10_000
    with client() as first:
        load.push(first, "base", base)

    def kept(work: Callable[[httpx.Client, int], None]) -> Iterator[None]:
        with client() as own:
            for turn in range(1_000_000):
                work(own, turn)
                yield

    def new(work: Callable[[httpx.Client, int], None]) -> Iterator[None]:
        for turn in range(1_000_000):
            with client() as own:
                work(own, turn)
            yield

    def pull(own: httpx.Client, _: int) -> None:
        load.pull(own, "base", base)

    def push(prefix: str) -> Callable[[httpx.Client, int], None]:
        return lambda own, turn: load.push(own, f"{prefix}-{turn}", f"{prefix} {turn} ".encode() * 5000)

    rounds = {
        "pulls": kept(pull),
        "pulls on new connections": new(pull),
        "pushes": kept(push("kept")),
        "pushes on new connections": new(push("new")),
    }
    load.done = dict.fromkeys(rounds, 0)

    def run(name: str) -> None:
        try:
            for _ in rounds[name]:
                load.done[name] += 1
                if load.stopping.is_set():
                    break
        except Exception as error:  # noqa: BLE001  reported by the test
            load.failures.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=run, args=(name,)) for name in rounds]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopping.set()
        for thread in threads:
            thread.join(60)
        for work in rounds.values():
            work.close()  # type: ignore[attr-defined]  # a generator
