"""Every case of the table: what is executed, what is refused, and what becomes of the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.server.http1.cases import CASES, MARKER, MARKER_TARGET
from tests.server.http1.harness import exchange, running

if TYPE_CHECKING:
    from tests.server.http1.cases import Case
    from tests.server.http1.harness import Outcome


def check(case: Case, outcome: Outcome) -> None:
    """Compare with the table."""
    statuses = outcome.statuses
    shown = f"{case.name}: {statuses}, executed {[seen.short for seen in outcome.seen]}"
    assert not outcome.reset, f"{shown}: the connection ended by a reset"
    executed = [seen.short for seen in outcome.seen if seen.target != MARKER_TARGET]
    marked = MARKER_TARGET in outcome.begun
    if case.may_accept and not (case.statuses and statuses and statuses[-1] in case.statuses):
        assert executed == list(case.requests), shown
        assert statuses == [200] * (len(case.requests) + (not case.ends)), shown
        assert marked != case.ends, f"{shown}: the connection has to {'end' if case.ends else 'stay open'}"
        return
    assert not marked, f"{shown}: what follows a refused request was executed"
    if case.swallows:
        assert not executed, shown
        assert statuses in ([], *([status] for status in case.statuses)), shown
        return
    assert statuses[-1:], f"{shown}: no answer"
    assert statuses[-1] in case.statuses, shown
    assert outcome.answers[-1].header("connection") == "close", shown
    before = len(statuses) - 1
    assert len(executed) == before, f"{shown}: a refused request was executed"


def test_cases_have_different_names() -> None:
    """One with the name of another would hide which of them fails."""
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_each_case_is_taken_or_refused(case: Case) -> None:
    """A front end that reads a request in another way sends one client's requests with another one's rights."""
    async with running() as served:
        # Only a body that never becomes complete needs the end of what the client sends.
        check(case, await exchange(served, case.data + MARKER, half_close=case.swallows))
