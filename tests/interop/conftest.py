"""Which tests of this folder there are: those of programs that no package has are none without the programs."""

from __future__ import annotations

from tests.live import program

collect_ignore = [] if program("registry-2") or program("registry-3") else ["test_stores.py"]
"""docs/testing.md says where to take them from; what they wrote is in `recorded/`, for every run."""
