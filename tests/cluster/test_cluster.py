"""Two nodes, one store, one HTTP secret, a balancer without sticky sessions, nothing else shared.

Whatever runs at the same time, nothing acknowledged is lost, a tag ends at one of the manifests that were pushed
to it, and `moorage storage check` finds nothing wrong in the end.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.cluster.balancers import balanced
from tests.faults.ledger import Ledger, Pusher
from tests.fsck.test_damage import Recorder
from tests.live import Live, start_moorage
from tests.moments import sampled
from tests.s3 import a_bucket
from tests.wire import Answer, Wire

from moorage.fsck.store import CheckOptions, check
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from moorage.storage.driver import Driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAME = "cluster/app"
GATEWAY = {502, 503, 504}
LINKS = "400ms"
"""How long links are remembered, and so how long a deletion takes; the default would make these tests slow."""


@dataclass
class Cluster:
    """`host` is the balancer's; `nodes` can be killed and started again where they were."""

    host: str
    nodes: list[Live]
    start: Callable[[int, int], Live]
    open_driver: Callable[[], Driver]
    stack: ExitStack = field(repr=False)

    def revive(self, number: int) -> None:
        self.nodes[number] = self.stack.enter_context(self.start(number, self.nodes[number].port))

    def assert_clean(self) -> None:
        """Return the findings of a check of the whole store, digests included."""

        async def look() -> Recorder:
            driver, reported, now = self.open_driver(), Recorder(), datetime.now(UTC)
            try:
                options = CheckOptions(now - timedelta(hours=1), now - timedelta(hours=1), digests=True)
                summary = await check(driver, options, reported)
            finally:
                await driver.close()
            assert summary.clean, reported.findings
            return reported

        assert not asyncio.run(look()).findings


@contextmanager
def a_cluster(balancer: str, store: str, tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        root = tmp_path / "data"
        storage: dict[str, Any] = {}
        if store == "s3":
            bucket = stack.enter_context(a_bucket())
            storage = {"filesystem": None, "s3": bucket.settings(), "redirect": {"disable": True}}
            storage["cache"] = {"links": LINKS}

        def open_driver() -> Driver:
            return bucket.driver() if store == "s3" else FilesystemDriver(root)

        def start(number: int, port: int) -> Live:
            return start_moorage(root, config=tmp_path / f"node{number}.yml", port=port, storage=storage)

        nodes = [stack.enter_context(start(number, 0)) for number in range(2)]
        host = stack.enter_context(balanced(balancer, tmp_path / "balancer", [node.host for node in nodes]))
        yield Cluster(host, nodes, start, open_driver, stack)


@pytest.fixture(params=["filesystem", "s3"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with a_cluster("haproxy", request.param, tmp_path) as found:
        yield found


def together(works: Iterable[Callable[[], None]]) -> None:
    """All at once, each in a thread; raises what surprised one of them."""
    surprises: list[BaseException] = []
    barrier_works = list(works)
    barrier = threading.Barrier(len(barrier_works))

    def run(work: Callable[[], None]) -> None:
        try:
            barrier.wait(30)
            work()
        except BaseException as error:  # noqa: BLE001  raised below, in the test's own thread
            surprises.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in barrier_works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if surprises:
        raise surprises[0]


@pytest.mark.parametrize(("store", "balancer"), [("filesystem", "haproxy"), ("s3", "nginx")])
def test_an_upload_takes_turns_between_the_nodes(balancer: str, store: str, tmp_path: Path) -> None:
    """Every chunk meets the other node; each request here is a connection of its own."""
    data = random.Random(1).randbytes(600_000)
    with a_cluster(balancer, store, tmp_path) as cluster:
        wire = Wire(cluster.host)
        location = wire.start_upload(NAME).headers["location"]
        for start in range(0, 500_000, 50_000):
            answer = wire.patch(location, data[start : start + 50_000], start)
            assert answer.status == 202, answer
            location = answer.headers["location"]
        assert wire.finish(location, Digest.of(data), data[500_000:]).status == 201
        for host in (cluster.host, *(node.host for node in cluster.nodes)):
            assert Wire(host).blob(NAME, Digest.of(data)).body == data
        cluster.assert_clean()


def test_the_same_blob_pushed_by_everybody_at_once(cluster: Cluster) -> None:
    """All get 201, and the blob is stored once, whole."""
    data = random.Random(2).randbytes(3_000_000)

    def push(number: int) -> Callable[[], None]:
        def work() -> None:
            wire = Wire(cluster.host)
            location = wire.start_upload(f"{NAME}-{number % 3}").headers["location"]
            half = wire.patch(location, data[:1_500_000])
            assert half.status == 202, half
            done = wire.finish(half.headers["location"], Digest.of(data), data[1_500_000:])
            assert done.status == 201, done

        return work

    together(push(number) for number in range(8))
    for node in cluster.nodes:
        for number in range(3):
            assert Wire(node.host).blob(f"{NAME}-{number}", Digest.of(data)).body == data
    cluster.assert_clean()


def test_the_same_tag_pushed_by_everybody_at_once(cluster: Cluster) -> None:
    """It ends at one of the manifests, at the same one through both nodes, and all manifests are there."""
    pushed: dict[Digest, bytes] = {}

    def push(number: int) -> Callable[[], None]:
        def work() -> None:
            wire = Wire(cluster.host)
            for turn in range(5):
                manifest = wire.push_image(NAME, "latest", [b"layer %d of %d" % (turn, number), b"shared" * 1000])
                pushed[Digest.of(manifest)] = manifest

        return work

    together(push(number) for number in range(6))
    assert len(pushed) == 30
    ends = {Wire(node.host).manifest(NAME, "latest").body for node in cluster.nodes}
    assert len(ends) == 1
    assert ends <= {*pushed.values()}
    for node, (digest, manifest) in itertools.product(cluster.nodes, pushed.items()):
        assert Wire(node.host).manifest(NAME, digest).body == manifest
    cluster.assert_clean()


def test_deletions_against_pushes(cluster: Cluster) -> None:
    """Manifests are deleted by digest, and a tag again and again, while others push.

    What was pushed and not deleted is there, what was deleted is not, and tags lead to something whole or nowhere.
    """
    kept: dict[Digest, bytes] = {}
    deleted: set[Digest] = set()
    retired: queue.SimpleQueue[Digest | None] = queue.SimpleQueue()
    pushers, turns = 4, 8

    def push(number: int) -> Callable[[], None]:
        def work() -> None:
            wire = Wire(cluster.host)
            try:
                for turn in range(turns):
                    tag = "moving" if turn % 2 else f"own-{number}"
                    manifest = wire.push_image(NAME, tag, [b"layer %d of %d" % (turn, number), b"shared" * 1000])
                    digest = Digest.of(manifest)
                    if turn % 2:
                        retired.put(digest)
                    else:
                        kept[digest] = manifest
            finally:
                retired.put(None)

        return work

    def delete() -> None:
        wire, ended = Wire(cluster.host), 0
        while ended < pushers:
            digest = retired.get(timeout=60)
            if digest is None:
                ended += 1
                continue
            assert wire.delete_manifest(NAME, digest).status == 202
            deleted.add(digest)
            assert wire.delete_manifest(NAME, "moving").status in {202, 404}

    together([*(push(number) for number in range(pushers)), delete])
    assert len(deleted) == pushers * turns // 2
    for node in cluster.nodes:
        wire = Wire(node.host)
        for digest, manifest in kept.items():
            assert wire.manifest(NAME, digest).body == manifest
        for digest in deleted:
            assert wire.manifest(NAME, digest).status == 404
        assert wire.manifest(NAME, "moving").status == 404, "all it ever pointed at was deleted"
        for number in range(pushers):
            assert Digest.of(wire.manifest(NAME, f"own-{number}").body) in kept
    cluster.assert_clean()


def test_a_deletion_that_was_acknowledged_shows_everywhere(cluster: Cluster) -> None:
    """Independent of what the nodes remember of the bucket, and while clients pull all the time."""
    for turn in range(6):
        layers = [b"layer of %d" % turn]
        manifest = Wire(cluster.host).push_image(NAME, "latest", layers)
        digest, layer = Digest.of(manifest), Digest.of(layers[0])
        with pulled(cluster, digest, layer):
            deleting = Wire(cluster.nodes[turn % 2].host)
            assert deleting.delete_manifest(NAME, digest).status == 202
            for node in (*cluster.nodes, *cluster.nodes):
                wire = Wire(node.host)
                assert wire.manifest(NAME, digest).status == 404
                assert wire.manifest(NAME, "latest").status == 404
                assert wire.blob(NAME, layer).status == 200
            assert deleting.send("DELETE", f"/v2/{NAME}/blobs/{layer}").status == 202
            for node in (*cluster.nodes, *cluster.nodes):
                assert Wire(node.host).blob(NAME, layer).status == 404


@contextmanager
def pulled(cluster: Cluster, manifest: Digest, layer: Digest) -> Iterator[None]:
    """Each node is asked for them all the time, and has given both before the context begins."""
    enough = threading.Event()

    def pull(node: Live, given: threading.Event) -> None:
        wire = Wire(node.host)
        while not enough.is_set():
            if (wire.manifest(NAME, manifest).status, wire.blob(NAME, layer).status) == (200, 200):
                given.set()

    pulls = [(node, threading.Event()) for node in cluster.nodes]
    threads = [threading.Thread(target=pull, args=one) for one in pulls]
    for thread in threads:
        thread.start()
    try:
        assert all(given.wait(30) for _, given in pulls)
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.fault
def test_a_node_killed_within_an_upload_whose_next_chunk_goes_to_the_other(cluster: Cluster) -> None:
    """Acknowledged bytes are in the store, not in a process; the chunk that was being sent is sent again."""
    data = random.Random(3).randbytes(6_000_000)
    first = Wire(cluster.nodes[0].host)
    location = first.start_upload(NAME).headers["location"]
    answer = first.patch(location, data[:2_000_000])
    assert answer.status == 202, answer
    halfway = threading.Event()

    def dying() -> Iterator[bytes]:
        yield data[2_000_000:3_000_000]
        halfway.set()
        killed.wait(60)
        yield data[3_000_000:4_000_000]

    killed = threading.Event()

    def send() -> None:
        with pytest.raises(OSError):
            first.patch(answer.headers["location"], dying())

    sender = threading.Thread(target=send)
    sender.start()
    assert halfway.wait(60)
    cluster.nodes[0].kill()
    killed.set()
    sender.join(60)

    wire = Wire(cluster.host)
    deadline = time.monotonic() + 60
    while True:
        status = wire.send("GET", answer.headers["location"])
        assert status.status == 204, status
        offset = int(status.headers["range"].partition("-")[2]) + 1
        assert offset >= 2_000_000
        more = wire.patch(status.headers["location"], data[offset:5_000_000], offset)
        # What the dead node had asked of the store may be done after we have looked: then the upload has grown.
        if more.status != 416 or time.monotonic() > deadline:
            break
    assert more.status == 202, more
    assert wire.finish(more.headers["location"], Digest.of(data), data[5_000_000:]).status == 201
    cluster.revive(0)
    for node in cluster.nodes:
        assert Wire(node.host).blob(NAME, Digest.of(data)).body == data
    cluster.assert_clean()


class Through(Wire):
    """The answer of a balancer whose node dies counts as a lost connection for the client."""

    def send(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = super().send(method, target, body, headers)
        if answer.status in GATEWAY:
            raise ConnectionError(str(answer))
        return answer


class ThroughBalancer(Pusher):
    """A pusher whose node may die under it."""

    def __init__(self, host: str, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self._wire = Through(host)


@pytest.mark.fault
def test_nodes_killed_by_turns_under_load_lose_nothing_acknowledged(cluster: Cluster) -> None:
    """Clients push through the balancer all the time; after each death all is audited through both nodes."""
    ledger = Ledger.of(4, "cluster/pusher")
    names = [account.name for account in ledger.accounts]
    for round_number in range(sampled(2, 4)):
        label = f"round {round_number}"
        shared = [f"a layer that everybody uses {label} {which}".encode() * 4000 for which in range(3)]
        pushers = [
            ThroughBalancer(cluster.host, account, f"{label}-{account.name}", shared, names)
            for account in ledger.accounts
        ]
        for pusher in pushers:
            pusher.start()
        threading.Event().wait(1.5)
        cluster.nodes[round_number % 2].kill()
        threading.Event().wait(0.5)
        for pusher in pushers:
            pusher.enough.set()
        for pusher in pushers:
            pusher.join(120)
            if pusher.surprise is not None:
                raise pusher.surprise
        cluster.revive(round_number % 2)
        for node in cluster.nodes:
            ledger.audit(Wire(node.host), everything=True)
        ledger.audit(Wire(cluster.host), everything=True)
    assert ledger.acknowledged
    cluster.assert_clean()
