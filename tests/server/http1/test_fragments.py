"""The same bytes give the same result, however the network cuts them into segments."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.cases import CASES, MARKER
from tests.server.http1.generator import fragments
from tests.server.http1.harness import exchange, running

if TYPE_CHECKING:
    from collections.abc import Iterator


_WHOLE_BYTES: Final = 200
"""Longer cases are cut where a line ends, and at random."""

SMALL: Final = [case for case in CASES if not case.large]
LARGE: Final = [case for case in CASES if case.large]


def positions(data: bytes, source: random.Random) -> Iterator[int]:
    """Yield every place to cut `data` at, or some of a long one."""
    if len(data) <= _WHOLE_BYTES:
        yield from range(1, len(data) + 2)
        return
    ends = {at + step for at in range(len(data)) if data[at : at + 1] in b"\r\n" for step in (-1, 0, 1)}
    chosen = sorted(at for at in ends if 0 < at < len(data))
    yield from source.sample(chosen, min(20, len(chosen)))
    for _ in range(20):
        yield source.randrange(1, len(data))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
async def test_a_split_at_any_position_changes_nothing(part: int) -> None:
    """A request that is refused whole and accepted in two segments is the way round every check."""
    source = random.Random(part)
    async with running() as served:
        for case in SMALL[part::8]:
            data = case.data + MARKER
            whole = (await exchange(served, data)).meaning
            for at in positions(case.data, source):
                split = (await exchange(served, data[:at], data[at:])).meaning
                assert split == whole, f"{case.name}, split at {at}: {data[:at]!r} {data[at:]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
async def test_single_bytes_change_nothing(part: int) -> None:
    """As slow links and malicious clients send them."""
    async with running() as served:
        for case in SMALL[part::4]:
            data = case.data + MARKER
            if len(data) > 2 * _WHOLE_BYTES:
                continue
            whole = (await exchange(served, data)).meaning
            apart = (await exchange(served, *(data[at : at + 1] for at in range(len(data))))).meaning
            assert apart == whole, f"{case.name}, byte by byte"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_random_fragments_change_nothing(seed: int) -> None:
    """Several cuts at once: states of the parsers that two pieces do not reach."""
    source = random.Random(seed)
    async with running() as served:
        for case in SMALL:
            data = case.data + MARKER
            whole = (await exchange(served, data)).meaning
            pieces = fragments(source, data, 12)
            assert (await exchange(served, *pieces)).meaning == whole, f"{case.name}: {pieces}"


@pytest.mark.slow
async def test_large_requests_in_random_fragments() -> None:
    """Limits count the bytes of a request, not those of one segment."""
    source = random.Random(7)
    async with running() as served:
        for case in LARGE:
            data = case.data + MARKER
            whole = await exchange(served, data)
            for _ in range(3):
                pieces = fragments(source, data, 40)
                split = await exchange(served, *pieces)
                assert split.statuses == whole.statuses, f"{case.name}: {[len(piece) for piece in pieces]}"
                assert split.seen == whole.seen, case.name
