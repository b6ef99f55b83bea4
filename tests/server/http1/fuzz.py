"""Fuzzer of the HTTP/1.1 server: seeded byte streams in seeded fragments, compared with h11.

    python3 dev.py fuzz                           one minute
    python3 dev.py fuzz --minutes 60 --seed 7     longer, and from another seed

For each stream: nothing raises in the event loop, the connection ends without a reset, the responses are well
formed, whole and in fragments it means the same, and h11 reads the same requests (`oracle.py`).  A failure prints
the stream; add it to `cases.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import TYPE_CHECKING

import uvloop
from tests.server.http1 import oracle
from tests.server.http1.generator import fragments, mutated, stream
from tests.server.http1.harness import exchange, running

if TYPE_CHECKING:
    from tests.server.http1.harness import Running

__all__ = ["Found", "one"]


class Found(Exception):
    """A stream with a wrong result; the message has its bytes."""


async def one(served: Running, source: random.Random) -> None:
    """Try one stream.  Raises Found."""
    data = stream(source, source.choice((0.02, 0.1, 0.3))) if source.random() < 0.5 else mutated(source)
    pieces = fragments(source, data)
    try:
        whole = await exchange(served, data)
        apart = await exchange(served, *pieces)
        assert not whole.reset, "the connection ended by a reset"
        assert not apart.reset, f"the connection ended by a reset in fragments {pieces}"
        # A stream with two faults may be refused for the one that comes first, or for the one that weighs more.
        same = apart.seen == whole.seen and len(apart.statuses) == len(whole.statuses)
        assert same, f"in fragments {pieces}: {apart.meaning} instead of {whole.meaning}"
        assert len(whole.statuses) - len(whole.seen) in {0, 1}, f"{whole.statuses} for {len(whole.seen)} requests"
        assert not served.failures, served.failures
        oracle.compare(data, whole)
    except Exception as error:
        raise Found(f"{error!r}: {data!r}") from error
    served.app.seen.clear()
    served.app.begun.clear()
    served.app.left.clear()


async def _run(seed: int, minutes: float) -> int:
    deadline = time.monotonic() + 60 * minutes
    source = random.Random(seed)
    count = 0
    async with running() as served:
        while time.monotonic() < deadline:
            await one(served, source)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(f"{runner.run(_run(given.seed, given.minutes))} streams, nothing found")


if __name__ == "__main__":
    main()
