"""The quick search of the model; `python3 dev.py model` is the whole one."""

from __future__ import annotations

from typing import Final

import pytest
from tests.gc.model.explorer import Explorer
from tests.gc.model.scenarios import scenario

_LIMIT: Final = 60_000

_WHOLE: Final = ["push_of_a_dangling_layer", "mounting", "head_then_push", "undo"]

_MUTATIONS: Final = [
    ("no rescue", ["rescue"], "head_then_push", "P2"),
    ("no confirm after the link", ["confirm"], "push_of_a_dangling_layer", "P1"),
    ("no look at the bytes", ["check_data"], "mounting", "P1"),
    ("no look at the links", ["check_links"], "mounting", "P1"),
    ("bytes looked at before the listing", ["check_after_listing"], "mounting", "P1"),
    ("bytes looked at before the rescue", ["admit_first"], "head_then_push", "P2"),
    ("no wait", ["wait"], "head_then_push", "P2"),
    ("no doomed state", ["doom"], "mounting", "P1"),
    ("no second look", ["second_mark", "last_mark"], "mounting", "P1"),
    ("doomed in all repositories", ["per_repository"], "push_of_a_dangling_layer", "P1"),
    ("a doomed reference is refused at once", ["settle_references"], "head_then_push", "P2"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", _WHOLE)
def test_no_interleaving_loses_anything(name: str) -> None:
    """A loss here is a loss in production: an acknowledged image that cannot be pulled."""
    result = Explorer(scenario(name)).run(_LIMIT)
    assert not result.broken, "\n".join((result.broken, *result.trace))
    assert result.complete


@pytest.mark.slow
@pytest.mark.parametrize(
    ("off", "name", "expected"), [each[1:] for each in _MUTATIONS], ids=[each[0] for each in _MUTATIONS]
)
def test_each_part_of_the_protocol_is_needed(off: list[str], name: str, expected: str) -> None:
    """A model that finds no loss without a part of the protocol would not find a mistake in it either."""
    result = Explorer(scenario(name, **dict.fromkeys(off, False))).run(_LIMIT)
    assert result.broken.startswith(expected), result
