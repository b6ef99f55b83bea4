"""The short soak of garbage collection; `python3 dev.py soak --collect` is the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from tests.gc.soak.soak import soak

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS: Final = 12.0


@pytest.mark.slow
@pytest.mark.client
async def test_nothing_acknowledged_is_lost_and_all_garbage_goes(tmp_path: Path) -> None:
    """A collector that loses a tag is worse than none, and one that leaves garbage is of no use."""
    result = await soak(tmp_path, _SECONDS, seed=1)
    assert result.freed > 0, result
    assert result.changes > 0, result
