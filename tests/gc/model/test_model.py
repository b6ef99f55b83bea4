"""The quick search of the model; `python3 dev.py model` is the whole one."""

from __future__ import annotations

from typing import Final

import pytest
from tests.gc.model.explorer import Explorer
from tests.gc.model.mutations import MUTATIONS, Mutation
from tests.gc.model.scenarios import scenario

_LIMIT: Final = 160_000

_WHOLE: Final = [
    "push_of_a_dangling_layer",
    "mounting",
    "head_then_push",
    "undo",
    "late_deletion",
    "half_removed",
    "rounds_and_a_mount",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", _WHOLE)
def test_no_interleaving_loses_anything(name: str) -> None:
    """A loss here is a loss in production: an acknowledged image that cannot be pulled."""
    result = Explorer(scenario(name)).run(_LIMIT)
    assert not result.broken, "\n".join((result.broken, *result.trace))
    assert result.complete


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])
def test_each_part_of_the_protocol_is_needed(mutation: Mutation) -> None:
    """A model that finds no loss without a part of the protocol would not find a mistake in it either."""
    searched = scenario(mutation.scenario, **dict.fromkeys(mutation.off, False))
    result = Explorer(searched).run(_LIMIT, deep=mutation.deep)
    assert result.broken.startswith(mutation.breaks), result
    assert result.trace


def test_a_search_that_is_cut_is_not_complete() -> None:
    """A limit that is reached must not look like a proof."""
    result = Explorer(scenario("upload_and_push")).run(100)
    assert not result.complete
    assert not result.broken
