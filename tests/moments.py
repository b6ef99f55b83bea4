"""The moments at which a test interferes: a sample in each run, every one by `python3 dev.py moments`.

The sample is the same in every run, so that a failure is seen again.  Tests that differ in one parameter take
different moments (`shift`): together they interfere at more of them.
"""

from __future__ import annotations

import os

__all__ = ["moments", "sampled"]


def sampled(sample: int, everything: int) -> int:
    """Return a step, or a number of rounds: `sample`, or `everything` by `dev.py moments`."""
    return everything if "MOORAGE_EVERY_MOMENT" in os.environ else sample


def moments(calls: int, step: int, shift: int = 0) -> range:
    """Return the calls of a run at which to interfere: every `step`th up to the last but `shift`, or all."""
    step = sampled(step, 1)
    return range(1 + (calls - 1 - shift) % step, calls + 1, step)
