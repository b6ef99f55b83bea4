"""The seeded, short run of the fuzzer; `python3 dev.py fuzz` is the long one."""

from __future__ import annotations

import random

import pytest
from tests.server.http1.fuzz import one
from tests.server.http1.harness import running


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_streams_of_a_seed(seed: int) -> None:
    """A stream that means one thing whole and another in pieces passes every check in front of the registry."""
    source = random.Random(1000 + seed)
    async with running() as served:
        for _ in range(300):
            await one(served, source)
