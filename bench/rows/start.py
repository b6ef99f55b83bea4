"""From the exec of the server to its first 200 on /v2/.

Moorage is compiled to bytecode before, as pip and the image do at the installation.  A checkout is compiled by its
first run, but never where PYTHONDONTWRITEBYTECODE is set: then each start would compile everything again.
"""

from __future__ import annotations

import compileall
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import servers
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROWS"]

_SOURCE: Final = Path(__file__).parents[2] / "src" / "moorage"


def _start(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    if side == servers.MOORAGE:
        compileall.compile_dir(_SOURCE, quiet=1)
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
