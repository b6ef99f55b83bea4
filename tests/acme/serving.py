"""A registry in a hurry: the real one, with short pauses where an authority would want long ones.

python -m tests.acme.serving CONFIG
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from moorage.acme.order_spec import Timings

TIMINGS: Final = Timings(
    first_retry_s=0.5,
    last_retry_s=2.0,
    poll_s=0.2,
    spread_s=0.5,
    rest_s=0.2,
    order_limit_s=60.0,
    # An authority on a busy machine is slow, not silent.
    request_limit_s=2.0 if "HASTY" in os.environ else 30.0,
)


def _main() -> int:
    from moorage.config.load import load
    from moorage.wiring.serving import run

    return run(load(Path(sys.argv[1]), os.environ), timings=TIMINGS)


if __name__ == "__main__":
    sys.exit(_main())
