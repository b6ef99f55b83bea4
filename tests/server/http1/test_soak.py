"""The short run of the soak; `python3 dev.py soak` is the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.soak import Budget, soak

if TYPE_CHECKING:
    from pathlib import Path

_REQUESTS: Final = 3000
_GROWTH_MIB: Final = 32.0


@pytest.mark.slow
async def test_nothing_grows(tmp_path: Path) -> None:
    """A descriptor, a task or a buffer for each client that leaves would end the server after a day."""
    await soak(tmp_path, Budget(requests=_REQUESTS), seed=1, growth_mib=_GROWTH_MIB)
