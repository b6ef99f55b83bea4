"""Deadline of deletions: ends this process when it was stopped between its last check and a DELETE.

A process may be stopped by a signal, a debugger or its scheduler between any two instructions, so no check before
a DELETE can prove that it is sent in time.  The kernel's timer can: it counts while the process is stopped
(ITIMER_REAL), and its signal, whose default action ends the process, is delivered before the process executes
another instruction.

It does not count while the whole machine sleeps or a virtual machine is suspended; `gc/__init__.py` has the
consequence.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moorage.gc.errors import CollectionRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["process_deadline"]


@contextmanager
def process_deadline(seconds: float) -> Iterator[None]:
    """Context that must be left within `seconds`, or the process ends by SIGALRM.

    Raises CollectionRefused where another part of the process uses this timer.
    """
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL or signal.getitimer(signal.ITIMER_REAL)[0]:
        raise CollectionRefused(
            "the timer of this process (SIGALRM) is in use; run garbage collection in a process of its own"
        )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
