"""Soak of the server: all that clients do, broken off at random, without growth.

    python3 dev.py soak                           ten minutes
    python3 dev.py soak --seconds 3600 --seed 7   longer, and other clients
    python3 dev.py soak --requests 100000

Seeded clients (`soak_clients.py`, `soak_pushes.py`) against two registries and the bare HTTP/1.1 server, each
without TLS and with it (`soak_servers.py`).  After a warm-up of a fifth, and at the end, every client leaves and
each server is measured.  The soak fails when descriptors or tasks do not return to their number, when memory has
grown by more than the bound, or when an answer is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from tests.server.http1.soak_clients import Actor, scenarios
from tests.server.http1.soak_servers import Growth, fleet

if TYPE_CHECKING:
    from tests.server.http1.soak_servers import Fleet, Reading

__all__ = ["Budget", "Wrong", "soak"]

_SECONDS: Final = 600.0
_CLIENTS: Final = 6
_PROGRESS_S: Final = 10.0
_GROWTH_MIB: Final = 16.0
_WARM_UP: Final = 0.2
_SCENARIO_S: Final = 120.0


class Wrong(Exception):
    """A scenario that did not end as it should; the message names it."""


class Budget:
    """Duration of the clients' work: some seconds, or a number of requests."""

    def __init__(self, *, seconds: float | None = None, requests: int | None = None) -> None:
        self._seconds, self._requests = seconds, requests

    def part(self, part: float) -> Budget:
        return Budget(
            seconds=None if self._seconds is None else self._seconds * part,
            requests=None if self._requests is None else int(self._requests * part),
        )

    async def spend(self, actors: list[Actor]) -> None:
        """Let the clients act.  Raises Wrong."""
        end = None if self._seconds is None else time.monotonic() + self._seconds
        most = None if self._requests is None else _total(actors) + self._requests
        try:
            async with asyncio.TaskGroup() as group:
                for actor in actors:
                    group.create_task(self._act(actor, actors, end, most))
        except* Wrong as errors:
            raise errors.exceptions[0] from None

    async def _act(self, actor: Actor, actors: list[Actor], end: float | None, most: int | None) -> None:
        choices, weights = scenarios(actor.target)
        while (end is None or time.monotonic() < end) and (most is None or _total(actors) < most):
            (scenario,) = actor.source.choices(choices, weights)
            try:
                async with asyncio.timeout(_SCENARIO_S):
                    await scenario(actor)
            except Exception as error:
                raise Wrong(f"{scenario.__name__} at the {actor.target.name}: {error!r}") from error


def _total(actors: list[Actor]) -> int:
    return sum(actor.requests for actor in actors)


def made_actors(servers: Fleet, seed: int, clients: int) -> list[Actor]:
    return [
        Actor(f"soak/{place}-{number}", target, random.Random(f"{seed} {place} {number}"))
        for place, target in enumerate(servers.targets)
        for number in range(clients)
    ]


async def soak(folder: Path, budget: Budget, *, seed: int, growth_mib: float, shows: bool = False) -> str:
    """Run everything; return the report.  Raises Wrong, Growth."""
    async with fleet(folder) as servers:
        actors = made_actors(servers, seed, _CLIENTS)
        shown = asyncio.create_task(_show(servers, actors)) if shows else None
        try:
            await budget.part(_WARM_UP).spend(actors)
            warm = _total(actors)
            before = await servers.idle()
            begun = time.monotonic()
            await budget.part(1 - _WARM_UP).spend(actors)
            took = time.monotonic() - begun
        finally:
            if shown is not None:
                shown.cancel()
        after = await servers.returned(before)
    done = _total(actors) - warm
    text = f"{warm} requests to warm up, then {done} in {took:.0f} s\n" + "\n".join(
        f"{name}:\n    after the warm-up {reading}\n    at the end        {after[name]}"
        for name, reading in before.items()
    )
    if large := [name for name in before if _grown_mib(before[name], after[name]) > growth_mib]:
        raise Growth(f"{text}\nmemory grew by more than {growth_mib:g} MiB: {', '.join(large)}")
    return text


def _grown_mib(before: Reading, after: Reading) -> float:
    return (after.anonymous_kib - before.anonymous_kib) / 1024


async def _show(servers: Fleet, actors: list[Actor]) -> None:
    """Print a line of progress now and then."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(_PROGRESS_S)
        readings = await servers.readings(tasks=False)
        held = ", ".join(
            f"{name} {reading.anonymous_kib / 1024:.1f} MiB {reading.descriptors} fds"
            for name, reading in readings.items()
        )
        print(f"{time.monotonic() - begun:5.0f} s {_total(actors):8} requests; {held}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help=f"duration, warm-up included (default {_SECONDS:g})")
    length.add_argument("--requests", type=int, help="number of requests in place of a duration")
    parser.add_argument("--seed", type=int, default=1, help="of the clients (default 1)")
    parser.add_argument(
        "--growth", type=float, default=_GROWTH_MIB, metavar="MIB", help="permitted growth of memory"
    )
    given = parser.parse_args()
    seconds = given.seconds if given.seconds or given.requests else _SECONDS
    budget = Budget(seconds=seconds, requests=given.requests)
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        work = soak(Path(folder), budget, seed=given.seed, growth_mib=given.growth, shows=True)
        try:
            print(runner.run(work))
        except (Growth, Wrong) as error:
            sys.exit(f"{type(error).__name__.lower()}: {error}")


if __name__ == "__main__":
    main()
