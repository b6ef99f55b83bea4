"""Settings of the allocator."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import resource
from moorage.server.allocator import keep_buffers
kept = keep_buffers()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        bytearray(512 << 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def test_buffers_are_reused() -> None:
    """Each piece of an upload would cost 128 page faults: three times the CPU time of receiving it."""
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)
    kept, faults = shown.stdout.split()
    assert kept == "True"
    assert int(faults) < 200, "without it there are more than 20,000"
