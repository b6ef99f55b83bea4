"""Killed at any moment: what was acknowledged is there, what is served is whole.

    MOORAGE_KILLS=300 python3 dev.py test tests/faults/test_crash.py -k random      the run of record

A kill takes all processes of the server at once, as the power switch of its machine would; what the kernel holds
for the disk survives that, so the order of fsyncs is the business of `test_system_calls.py`.
`MOORAGE_SEED` (printed) repeats the pushes; the moments of death are the clock's.
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
import signal
import threading
import time
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.faults.ledger import Ledger, push_until_killed
from tests.live import start_tested
from tests.moments import sampled
from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from tests.live import Live

KILLS = int(os.environ.get("MOORAGE_KILLS") or sampled(6, 15))
LIMIT_S = 60 + 20 * KILLS
"""Each kill has up to two starts of a server, which take five seconds together where ten programs share a core."""
SEED = os.environ.get("MOORAGE_SEED", "1")
PUSHERS = 4

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.mark.timeout(LIMIT_S)
def test_random_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Invariant 1 of ARCHITECTURE.md: a registry that answers 201 and loses the image is not worth running."""
    moments, ledger, root = random.Random(SEED), Ledger.of(PUSHERS), tmp_path / "volume"
    for number in range(KILLS):
        with start_tested(root) as live:
            audit(live, ledger)
            label = f"{SEED}-{number}"
            shared = [f"a layer that everybody uses {label} {which}".encode() * 4000 for which in range(3)]
            # Every other time within the first images, else when there is something to lose, however slow all is.
            push_until_killed(live, ledger, label, moments.uniform(0.02, 0.5), shared, after=number % 2)
    with start_tested(root) as live:
        audit(live, ledger, everything=True)
    print(f"{KILLS} kills, seed {SEED}: {ledger.acknowledged} acknowledged manifests, all whole")  # noqa: T201
    assert ledger.acknowledged >= KILLS // 2


@pytest.mark.timeout(LIMIT_S)
def test_lists_of_tags_are_what_answers_200_after_every_kill(tmp_path: Path) -> None:
    """Issue 936 of Distribution: a push that dies between a tag's history and its link leaves a name for ever."""
    moments, root, name = random.Random(SEED), tmp_path / "volume", "crash/tags"
    config, layer = b"{}", b"a layer"
    listed: list[str] = []
    for number in range(KILLS):
        with start_tested(root) as live:
            wire = Wire(live.host, keep=True)
            for data in (config, layer):
                wire.push_blob(name, data)
            manifest = image(config, [layer], annotations={"of": str(number)})
            pushers = [_Tagger(live.host, name, f"k{number}-{pusher}", manifest) for pusher in range(PUSHERS)]
            for pusher in pushers:
                pusher.start()
            pushers[0].begun.wait()
            threading.Event().wait(moments.uniform(0.02, 0.3))
            live.kill()
            for pusher in pushers:
                pusher.join()
            wire.close()
        acknowledged = {tag for pusher in pushers for tag in pusher.acknowledged}
        tried = [tag for pusher in pushers for tag in pusher.tried]
        with start_tested(root) as live, closing(Wire(live.host, keep=True)) as wire:
            alive = [tag for tag in tried if wire.manifest(name, tag, "HEAD").status == 200]
            assert acknowledged <= set(alive)
            listed = sorted([*listed, *alive])
            assert wire.tags(name) == _tags_by_pages(wire, name) == listed
    directories = len(list((root / "docker/registry/v2/repositories" / name / "_manifests/tags").iterdir()))
    print(f"{KILLS} kills, seed {SEED}: {len(listed)} tags, {directories - len(listed)} half written")  # noqa: T201
    assert listed


def _tags_by_pages(wire: Wire, name: str) -> list[str]:
    """A fast machine pushes more tags than a page has."""
    found = page = wire.tags(name, "?n=500")
    while page:
        page = wire.tags(name, f"?n=500&last={page[-1]}")
        found = [*found, *page]
    return found


class _Tagger(threading.Thread):
    """Pushes one manifest under tag after tag until the server dies."""

    def __init__(self, host: str, name: str, prefix: str, manifest: bytes) -> None:
        super().__init__(name=prefix)
        self._wire, self._repository, self._prefix, self._manifest = Wire(host, keep=True), name, prefix, manifest
        self.begun = threading.Event()
        self.tried: list[str] = []
        self.acknowledged: list[str] = []

    def run(self) -> None:
        try:
            for number in itertools.count():
                self.tried.append(f"{self._prefix}-{number:05}")
                answer = self._wire.put_manifest(self._repository, self.tried[-1], self._manifest)
                if answer.status == HTTPStatus.CREATED:
                    self.acknowledged.append(self.tried[-1])
                self.begun.set()
        except (OSError, http.client.HTTPException):
            pass  # the server was killed
        finally:
            self.begun.set()
            self._wire.close()


def audit(live: Live, ledger: Ledger, *, everything: bool = False) -> None:
    wire = Wire(live.host, keep=True)
    ledger.audit(wire, everything=everything)
    wire.close()


def until_dead(pid: int) -> None:
    """A process that was killed may still take a connection before it is gone."""
    while Path(f"/proc/{pid}").exists() and state(pid) not in {"Z", "X", ""}:
        time.sleep(0.01)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_killed_worker_takes_nothing_with_it(tmp_path: Path) -> None:
    """One process of several dies (out of memory, say): uploads it had begun continue at the others."""
    data = b"begun at one worker, ended at another" * 1000
    with start_tested(tmp_path / "volume", http={"workers": 2}) as live:
        wire = Wire(live.host)
        begun = wire.start_upload("worker/dies").headers["location"]
        location = wire.patch(begun, data[:10_000]).headers["location"]
        for pid in live.workers[1:]:
            os.kill(pid, signal.SIGKILL)
            until_dead(pid)
            break
        done = wire.finish(location, Digest.of(data), data[10_000:])
        assert done.status == 201, done
        assert wire.blob("worker/dies", Digest.of(data)).body == data
