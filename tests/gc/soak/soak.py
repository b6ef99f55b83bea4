"""Soak of garbage collection: clients push and delete, workers and collectors are killed, and nothing is lost.

One registry of two workers on a directory, a collector that never pauses (`collecting.py`), clients that change
their own repositories as fast as they can (`clients.py`), skopeo and crane.  Every few seconds a worker or the
collector gets SIGKILL.  In the end every acknowledged tag is pulled whole; after more runs without clients the
store has exactly the bytes that the tags need, and no object of a collection.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.clients.layouts import Layout, tar_of
from tests.gc.soak.clients import Pusher, SoakFailure
from tests.gc.soak.collecting import GRACE_S, RENEW_S
from tests.live import ROOT, Live, program, start_moorage, with_customized

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SoakResult", "soak"]

_CUSTOMIZED: Final = f"from moorage.registry import collection_state\ncollection_state.RENEW_S = {RENEW_S}\n"
_LIMIT_S: Final = 120.0
_QUIET_RUNS: Final = 2
_BROKEN: Final = ("EOF", "reset by peer", "connection refused", "503")
"""In messages of programs after a worker was killed, or when a layer is being removed."""


@dataclass
class SoakResult:
    """Numbers of a soak.  `runs` are those of the collector that ended, `freed` the objects that they removed."""

    changes: int = 0
    refusals: int = 0
    programs: int = 0
    kills: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def freed(self) -> int:
        return sum(int(run["freed"]["objects"]) for run in self.runs if "freed" in run)

    def __str__(self) -> str:
        return (
            f"{self.changes} changes and pulls, {self.refusals} answers of 503; "
            f"{self.programs} by skopeo and crane; {self.kills} kills; "
            f"{len(self.runs)} runs removed {self.freed} blobs"
        )


class _Collector:
    """The process that collects, started again when it is killed."""

    def __init__(self, root: Path, environment: dict[str, str], result: SoakResult) -> None:
        self._root, self._environment, self._result = root, environment, result
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.gc.soak.collecting", str(self._root),
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
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._reading
        await self.start()

    async def end(self, runs: int = 0) -> None:
        """Let it make some more runs, and end it.  Raises SoakFailure if it failed."""
        assert self._process is not None
        assert self._reading is not None
        until = time.monotonic() + _LIMIT_S
        done = len(self._finished()) + runs
        while len(self._finished()) < done and not self._reading.done():
            if time.monotonic() > until:
                raise SoakFailure(f"no {runs} runs in {_LIMIT_S:g} s; the last were {self._result.runs[-3:]}")
            await asyncio.sleep(0.05)
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._reading

    def _finished(self) -> list[dict[str, Any]]:
        return [run for run in self._result.runs if run.get("outcome") == "finished"]

    def abandon(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


async def soak(folder: Path, seconds: float, *, seed: int, clients: int = 6, kills: bool = True) -> SoakResult:
    """Run everything; raises SoakFailure."""
    custom = folder / "custom"
    custom.mkdir()
    (custom / "sitecustomize.py").write_text(_CUSTOMIZED)
    environment = with_customized(custom)
    storage = {"delete": {"enabled": True, "undo": "0s"}}
    result = SoakResult()
    root = folder / "data"
    live = await asyncio.to_thread(
        start_moorage, root, environment=environment, storage=storage, http={"workers": 2}
    )
    with live:
        collector = _Collector(root, environment, result)
        try:
            await collector.start()
            names = [f"soak/{number}" for number in range(clients)]
            pushers = [Pusher(live.host, name, seed, names) for name in names]
            await _act(folder, live, collector, pushers, result, seconds, random.Random(seed), kills=kills)
            result.changes = sum(pusher.count for pusher in pushers)
            result.refusals = sum(pusher.refusals for pusher in pushers)
            needed = await _check(live, pushers)
            await asyncio.sleep(GRACE_S)
            await collector.end(runs=_QUIET_RUNS + 1)
            assert needed == await _check(live, pushers)
        finally:
            collector.abandon()
    _compare(root, needed)
    return result


async def _act(
    folder: Path, live: Live, collector: _Collector, pushers: list[Pusher], result: SoakResult, seconds: float,
    source: random.Random, *, kills: bool,
) -> None:  # fmt: skip
    until = time.monotonic() + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for pusher in pushers:
                group.create_task(pusher.act(until))
            for name in ("skopeo", "crane"):
                if (path := program(name)) is not None:
                    group.create_task(_program(folder, name, path, live, until, result))
            if kills:
                group.create_task(_kill(live, collector, until, result, source))
    except* SoakFailure as errors:
        raise errors.exceptions[0] from None


async def _kill(
    live: Live, collector: _Collector, until: float, result: SoakResult, source: random.Random
) -> None:
    """Kill a worker or the collector, now and then.  The last one leaves time for a whole run."""
    while (rest := until - time.monotonic()) > 6:
        await asyncio.sleep(min(source.uniform(1.0, 5.0), rest - 6))
        if source.random() < 0.5:
            await collector.kill()
        else:
            workers = [pid for pid in await asyncio.to_thread(lambda: live.workers) if pid != live.pid]
            if not workers:  # both are being replaced
                continue
            with suppress(ProcessLookupError):
                os.kill(source.choice(workers), signal.SIGKILL)
        result.kills += 1


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
        await _call(rest, _BROKEN)
        result.programs += 3


async def _call(command: list[str], passing: tuple[str, ...]) -> None:
    """Run a program until it succeeds, ten times, and only while its message has one of `passing`.

    Raises SoakFailure.
    """
    for attempt in range(10):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        text = output.decode()
        if process.returncode == 0:
            return
        if attempt == 9 or not any(part in text for part in passing):
            raise SoakFailure(f"{' '.join(command)}: {text[-1000:]}")


async def _check(live: Live, pushers: list[Pusher]) -> set[str]:
    """Pull every acknowledged tag; return all digests that they need."""
    needed: set[str] = set()
    for pusher in pushers:
        reader = Pusher(live.host, pusher.ledger.name, 0, [])
        reader.ledger = pusher.ledger
        try:
            needed |= await reader.check_all()
        finally:
            await reader.aclose()
    return needed


def _compare(root: Path, needed: set[str]) -> None:
    """Raise SoakFailure unless the store has what is needed, what skopeo and crane have left, and nothing else."""
    registry = root / "docker/registry/v2"
    for name in ("skopeo/image", "crane/image", "crane/other"):
        for link in registry.glob(f"repositories/{name}/_layers/sha256/*/link"):
            needed = needed | {f"sha256:{link.parent.name}"}
        for link in registry.glob(f"repositories/{name}/_manifests/revisions/sha256/*/link"):
            needed = needed | {f"sha256:{link.parent.name}"}
    stored = {f"sha256:{path.parent.name}" for path in registry.glob("blobs/sha256/*/*/data")}
    if stored != needed:
        raise SoakFailure(f"stored and not needed: {sorted(stored - needed)}; needed: {sorted(needed - stored)}")
    state = [path.name for path in (registry / "_moorage/collection").glob("**/*") if path.is_file()]
    if left := [name for name in state if not name.startswith(("ended.", "reserve"))]:
        raise SoakFailure(f"objects of collections are left: {left}")
