"""The registry itself, for `tests.server.serving.serving`.

python -m tests.server.registry CONFIG
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from moorage.config.load import load
    from moorage.wiring.serving import run

    sys.exit(run(load(Path(sys.argv[1]), os.environ)))
