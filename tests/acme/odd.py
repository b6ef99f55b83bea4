"""`tests.server.serving` in a hurry for certificates; with PATIENT in the environment it tries once an hour.

python -m tests.acme.odd CONFIG
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from tests.acme.serving import TIMINGS
from tests.server.serving import service


def _main() -> int:
    from moorage.config.load import load
    from moorage.server import run

    path = Path(sys.argv[1])
    timings = replace(TIMINGS, first_retry_s=3600, last_retry_s=3600) if "PATIENT" in os.environ else TIMINGS
    return run(load(path, os.environ), service(path.parent), timings)


if __name__ == "__main__":
    sys.exit(_main())
