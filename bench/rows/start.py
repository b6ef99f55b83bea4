"""From the exec of the server to its first 200 on /v2/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench import servers
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ROWS"]


def _start(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    with servers.start(side, root, [bench.server_cpu]) as server:
        return {"seconds": server.first_answer_s}


ROWS: Final = (
    Row(
        "start",
        "start to first answer, on one core",
        (Metric("seconds", "s", "lower", 0.4, "value"),),
        alone=_start,
    ),
)
