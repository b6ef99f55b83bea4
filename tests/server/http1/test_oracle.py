"""h11 as the second opinion about seeded streams of requests; see `oracle.py`."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.server.http1 import oracle
from tests.server.http1.cases import CASES, MARKER
from tests.server.http1.generator import mutated, stream
from tests.server.http1.harness import exchange, running


def test_h11_reads_well_formed_streams_whole() -> None:
    """An oracle that refuses everything would agree with everything."""
    source = random.Random(1)
    readings = [oracle.read(stream(source, 0)) for _ in range(300)]
    assert sum(not reading.refused for reading in readings) > 250
    assert sum(len(reading.requests) for reading in readings) > 300


async def test_the_table_against_h11() -> None:
    """Each case that we accept is the same request for h11, and those that it alone accepts have a reason."""
    async with running() as served:
        for case in CASES:
            if not case.large:
                data = case.data + MARKER
                try:
                    oracle.compare(data, await exchange(served, data))
                except oracle.Difference as error:
                    raise AssertionError(f"{case.name}: {error}: {data!r}") from error


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_generated_streams_against_h11(seed: int) -> None:
    """Requests and bodies end where another parser sees their end, and nothing more is accepted."""
    source = random.Random(seed)
    reasons: Counter[str] = Counter()
    executed = 0
    async with running() as served:
        for _ in range(400):
            data = stream(source, 0.06) if seed % 2 else mutated(source)
            outcome = await exchange(served, data)
            executed += len(outcome.seen)
            try:
                reasons[oracle.compare(data, outcome)] += 1
            except oracle.Difference as error:
                raise AssertionError(f"{error}: {data!r}") from error
    # Most cases of the table are refusals.
    assert executed > (300 if seed % 2 else 60), "too few requests are accepted to compare anything"
    assert reasons[""] > 150, reasons
