"""Ports for programs that cannot be told to choose one, and for servers that go and come back.

A port that the kernel chose and that was let go may be what it gives to the next who asks: a server of the test
that runs beside, or one end of a connection.  These come from below what it gives away, and no two processes of
one test run look at the same ones.  Whoever can bind port 0 and keep it needs none of this.
"""

from __future__ import annotations

import os
import random
import socket
from typing import Final

__all__ = ["free_port"]

_LOW: Final = 12_000
_HIGH: Final = 32_000
"""Linux gives away 32768 to 60999 unless configured otherwise."""

_workers: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_worker: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Where to begin is by chance, for the sake of other test runs on the same machine.
_next = random.SystemRandom().randrange((_HIGH - _LOW) // _workers)


def free_port() -> int:
    """A port of loopback that is free, and that this process has not been given for long."""
    global _next  # noqa: PLW0603  each is given once
    for _ in range(1000):
        _next = (_next + 1) % ((_HIGH - _LOW) // _workers)
        port = _LOW + _next * _workers + _worker
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port between {_LOW} and {_HIGH}")
