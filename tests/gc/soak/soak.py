"""Soak of garbage collection: clients push and delete, workers and collectors are killed, and nothing is lost.

One registry of two workers on a directory, or two registries on a bucket (`stores.py`), collectors that never
pause (`collecting.py`), clients that change their own repositories as fast as they can (`clients.py`), skopeo and
crane.  Every few seconds a worker or a collector gets SIGKILL, on a bucket often while a removal is under way.
In the end every acknowledged tag is pulled whole; after more runs without clients the store has exactly the bytes
that the tags need, no link to others, no upload, and no object of a collection.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.clients.layouts import Layout, tar_of
from tests.gc.soak.clients import Pusher, SoakFailure
from tests.gc.soak.collecting import GRACE_S, QUARANTINE_S, RENEW_S, UPLOAD_AGE_S
from tests.gc.soak.stores import opened_store, removals_after
from tests.live import ROOT, Live, program, start_moorage, with_customized

from moorage.registry import layout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.gc.soak.stores import Store

__all__ = ["SoakResult", "soak"]

_CUSTOMIZED: Final = f"from moorage.registry import collection_state\ncollection_state.RENEW_S = {RENEW_S}\n"
_LIMIT_S: Final = 120.0
_MARGIN_S: Final = 0.5
_QUIET_RUNS: Final = 2
_LAST_KILL_S: Final = 6.0
_REMOVAL_LIMIT_S: Final = 10.0
_AT_A_REMOVAL: Final = 0.7
"""Share of the kills of collectors that wait for a removal; the others are at any moment."""
_PUSHERS: Final = "soak/"
_Link = tuple[str, str]
"""Repository and digest."""
_HEX: Final = r"(?P<hex>[0-9a-f]{64})"
_DATA: Final = re.compile(rf"{layout.BLOBS}/sha256/../{_HEX}/data")
_LINK: Final = re.compile(rf"{layout.REPOSITORIES}/(?P<name>.+)/(_layers|_manifests/revisions)/sha256/{_HEX}/link")
_STATE: Final = f"{layout.COLLECTION}/"
_BROKEN: Final = ("EOF", "reset by peer", "connection refused", "503")
"""In messages of programs after a worker was killed, or when a layer is being removed."""


@dataclass
class SoakResult:
    """Numbers of a soak.

    `runs` are those of collectors that ended, `freed` the objects that they removed; `deaths` the times at which
    collectors were killed, by process id; `posthumous` the seconds after which their removals were carried out.
    """

    changes: int = 0
    refusals: int = 0
    late: int = 0
    programs: int = 0
    kills: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)
    deaths: dict[int, float] = field(default_factory=dict)
    posthumous: list[float] = field(default_factory=list)

    @property
    def freed(self) -> int:
        return sum(int(run["freed"]["objects"]) for run in self.runs if "freed" in run)

    def __str__(self) -> str:
        kinds = Counter(str(run.get("outcome", "refused" if "refused" in run else "failed")) for run in self.runs)
        return (
            f"{self.changes} changes and pulls, {self.refusals} answers of 503, {self.late} slow pushes refused; "
            f"{self.programs} by skopeo and crane; {self.kills} kills; "
            f"runs: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}, which removed "
            f"{self.freed} blobs; {len(self.posthumous)} removals were carried out after the collector was killed"
            + (f", at most {max(self.posthumous):.2f} s" if self.posthumous else "")
        )


class _Collector:
    """A process that collects, started again when it is killed."""

    def __init__(self, store: Store, environment: dict[str, str], result: SoakResult) -> None:
        self._store, self._environment, self._result = store, environment, result
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self, upload_age_s: float = UPLOAD_AGE_S) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.gc.soak.collecting", self._store.as_json(), str(upload_age_s),
            cwd=ROOT, env={**os.environ, **self._environment},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        while line := await process.stdout.readline():
            self._result.runs.append(json.loads(line))
        status = await process.wait()
        if status not in {0, -signal.SIGKILL}:
            raise SoakFailure(f"the collector ended with {status}: {(await errors).decode()[-3000:]}")
        await errors

    async def kill(self) -> None:
        """SIGKILL, and another one."""
        assert self._process is not None
        assert self._reading is not None
        self._result.deaths[self.pid] = time.monotonic()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._reading
        await self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def finish(self, runs: int) -> None:
        """Wait for some more runs.  Raises SoakFailure if it failed."""
        assert self._reading is not None
        until = time.monotonic() + _LIMIT_S
        done = len(self._finished()) + runs
        while len(self._finished()) < done and not self._reading.done():
            if time.monotonic() > until:
                raise SoakFailure(f"no {runs} runs in {_LIMIT_S:g} s; the last were {self._result.runs[-3:]}")
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Let it end.  Raises SoakFailure if it failed."""
        assert self._process is not None
        assert self._reading is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._reading

    def _finished(self) -> list[dict[str, Any]]:
        return [run for run in self._result.runs if run.get("outcome") == "finished"]

    def abandon(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def soak(
    folder: Path, seconds: float, *, seed: int, clients: int = 6, kills: bool = True, kind: str = "filesystem"
) -> SoakResult:
    """Run everything over a store of a kind of `stores.STORES`; raises SoakFailure."""
    custom = folder / "custom"
    custom.mkdir()
    (custom / "sitecustomize.py").write_text(_CUSTOMIZED)
    environment = with_customized(custom)
    result = SoakResult()
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(kind, folder, seed))
        lives = [
            stack.enter_context(await asyncio.to_thread(_start, folder, number, store, environment))
            for number in range(store.nodes)
        ]
        collectors = [_Collector(store, environment, result) for _ in range(store.collectors)]
        try:
            for collector in collectors:
                await collector.start()
            names = [f"{_PUSHERS}{number}" for number in range(clients)]
            pushers = [
                Pusher(lives[number % len(lives)].host, name, seed, names, store.quick_s)
                for number, name in enumerate(names)
            ]
            await _act(
                folder, store, lives, collectors, pushers, result, seconds, random.Random(seed), kills=kills
            )
            result.changes = sum(pusher.count for pusher in pushers)
            result.refusals = sum(pusher.refusals for pusher in pushers)
            result.late = sum(pusher.late for pusher in pushers)
            needed = await _check(lives[-1], pushers)
            await _finish(collectors)
            for live in lives:
                if await _check(live, pushers) != needed:
                    raise SoakFailure("a tag has changed without a client")
        finally:
            for collector in collectors:
                collector.abandon()
        _compare(store.keys(), needed)
        result.posthumous = removals_after(store, result.deaths)
    if result.posthumous and max(result.posthumous) > QUARANTINE_S - _MARGIN_S:
        raise SoakFailure(
            f"the store carried out a removal {max(result.posthumous):.1f} s after its collector was killed; the "
            "quarantine of the soak is too short for this machine, and its result worth nothing"
        )
    return result


def _start(folder: Path, number: int, store: Store, environment: dict[str, str]) -> Live:
    return start_moorage(
        folder / "data",
        config=folder / f"node{number}.yml",
        environment=environment,
        storage={"delete": {"enabled": True, "undo": "0s"}, **store.settings},
        http={"workers": store.workers},
    )


async def _finish(collectors: list[_Collector]) -> None:
    """Let the collectors end, and one of them remove the rest, also every upload."""
    await asyncio.sleep(GRACE_S)
    for collector in collectors:
        await collector.end()
    last = collectors[0]
    await last.start(upload_age_s=0)
    await last.finish(_QUIET_RUNS + 1)
    await last.end()


async def _act(
    folder: Path, store: Store, lives: list[Live], collectors: list[_Collector], pushers: list[Pusher],
    result: SoakResult, seconds: float, source: random.Random, *, kills: bool,
) -> None:  # fmt: skip
    until = time.monotonic() + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for pusher in pushers:
                group.create_task(pusher.act(until))
            for name in ("skopeo", "crane"):
                if (path := program(name)) is not None:
                    group.create_task(_program(folder, name, path, lives[0], until, result))
            if kills:
                group.create_task(_kill(store, lives, collectors, until, result, source))
    except* SoakFailure as errors:
        raise errors.exceptions[0] from None


async def _kill(
    store: Store,
    lives: list[Live],
    collectors: list[_Collector],
    until: float,
    result: SoakResult,
    source: random.Random,
) -> None:
    """Kill a worker or a collector, now and then.  The last one leaves time for a whole run."""
    while (rest := until - time.monotonic()) > _LAST_KILL_S:
        await asyncio.sleep(min(source.uniform(1.0, 5.0), rest - _LAST_KILL_S))
        if source.random() < 0.5:
            collector = source.choice(collectors)
            if store.removals_take_time and source.random() < _AT_A_REMOVAL:
                collector = await _removing(store, collectors, until - _LAST_KILL_S) or collector
            await collector.kill()
        else:
            live = source.choice(lives)
            workers = [pid for pid in await asyncio.to_thread(_workers, live) if pid != live.pid]
            if not workers:  # both are being replaced
                continue
            with suppress(ProcessLookupError):
                os.kill(source.choice(workers), signal.SIGKILL)
        result.kills += 1


async def _removing(store: Store, collectors: list[_Collector], until: float) -> _Collector | None:
    """Return the collector that sends the next removal, when the store has got it; None if there is none soon."""
    began = time.monotonic()
    until = min(until, began + _REMOVAL_LIMIT_S)
    while time.monotonic() < until:
        pids = {pid for at, pid in store.removals("began") if at > began}
        for collector in collectors:
            if collector.pid in pids:
                return collector
        await asyncio.sleep(0.02)
    return None


def _workers(live: Live) -> list[int]:
    return live.workers


async def _program(folder: Path, name: str, path: str, live: Live, until: float, result: SoakResult) -> None:
    """Push an image with a real client, pull it and delete it, again and again."""
    layout = Layout(folder / name)
    layout.tag("v", layout.image([tar_of({"file": name.encode() * 1000})], architecture="amd64"))
    image = f"{live.host}/{name}/image:v"
    if name == "skopeo":
        push = [
            path,
            "copy",
            "-q",
            "--retry-times=8",
            "--dest-tls-verify=false",
            f"oci:{folder / name}:v",
            f"docker://{image}",
        ]
        pull = [
            path,
            "copy",
            "-q",
            "--retry-times=8",
            "--src-tls-verify=false",
            f"docker://{image}",
            f"oci:{folder / 'pulled'}:v",
        ]
        rest = [path, "delete", "--tls-verify=false", f"docker://{image}"]
    else:
        push = [path, "push", "--insecure", str(folder / name), image]
        pull = [path, "validate", "--insecure", "--remote", image]
        rest = [path, "copy", "--insecure", image, f"{live.host}/{name}/other:w"]
    while time.monotonic() < until:
        await _call(push, (*_BROKEN, "unknown"))  # a program that waits for longer than the collector begins anew
        await _call(pull, _BROKEN)
        await _call(rest, _BROKEN, done="may not exist" if name == "skopeo" else "")
        result.programs += 3


async def _call(command: list[str], passing: tuple[str, ...], *, done: str = "") -> None:
    """Run a program until it succeeds, ten times, and only while its message has one of `passing`.

    `done` is in its message if an earlier attempt, whose answer was lost, has succeeded.  Raises SoakFailure.
    """
    texts: list[str] = []
    for _ in range(10):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        text = output.decode()
        if process.returncode == 0 or (texts and done and done in text):
            return
        texts.append(text[-1000:])
        if not any(part in text for part in passing):
            break
    raise SoakFailure(f"{' '.join(command)}: {texts}")


async def _check(live: Live, pushers: list[Pusher]) -> set[_Link]:
    """Pull every acknowledged tag; return all repositories and digests that they need."""
    needed: set[_Link] = set()
    for pusher in pushers:
        name = pusher.ledger.name
        reader = Pusher(live.host, name, 0, [])
        reader.ledger = pusher.ledger
        try:
            needed |= {(name, digest) for digest in await reader.check_all()}
        finally:
            await reader.aclose()
    return needed


def _compare(keys: list[str], needed: set[_Link]) -> None:
    """Raise SoakFailure unless the store has what is needed, what skopeo and crane have left, and nothing else."""
    links = {(str(match["name"]), f"sha256:{match['hex']}") for match in filter(None, map(_LINK.fullmatch, keys))}
    of_pushers = {link for link in links if link[0].startswith(_PUSHERS)}
    stored = {f"sha256:{match['hex']}" for match in filter(None, map(_DATA.fullmatch, keys))}
    linked = {digest for _, digest in needed | links}
    left = [
        *(f"link {link} that no tag needs" for link in sorted(of_pushers - needed)),
        *(f"bytes of {digest} that nothing needs" for digest in sorted(stored - linked)),
        *(key for key in keys if "/_uploads/" in key),
        *(key for key in keys if _STATE in key and not key.partition(_STATE)[2].startswith(("ended.", "reserve"))),
    ]
    if left:
        raise SoakFailure(f"left in the store: {left}")
    if lost := [*sorted(needed - of_pushers), *sorted(linked - stored)]:
        raise SoakFailure(f"needed, and not in the store: {lost}")
