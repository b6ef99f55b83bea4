"""Make another process's system calls fail, or kill it inside one: strace's fault injection, attached for a while.

Source: strace(1), "Tampering".
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.live import require, require_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["tampering", "tracing"]

_ATTACH_LIMIT_S = 60.0
_DETACH_LIMIT_S = 1.0


@contextmanager
def tampering(pids: Sequence[int], calls: str, what: str) -> Iterator[None]:
    """While inside, `calls` (`fsync,fdatasync`, `/rename`) of these processes meet `what` (`error=EIO`,
    `signal=KILL:when=3`; strace counts for each thread and call on its own).
    """
    with _attached(pids, ["-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:{what}"]):
        yield


@contextmanager
def tracing(pids: Sequence[int], calls: str, log: Path) -> Iterator[None]:
    """While inside, `calls` of these processes are written to `log`, file descriptors with their paths."""
    with _attached(pids, ["-qq", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls}"]):
        yield


@contextmanager
def _attached(pids: Sequence[int], options: Sequence[str]) -> Iterator[None]:
    require_root()
    command = [require("strace"), "-f", *options, *(part for pid in pids for part in ("-p", str(pid)))]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        _wait_until_traced(strace, pids)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            strace.send_signal(signal.SIGINT)  # detach; it ends by itself when all it traced are dead
        try:
            strace.communicate(timeout=_DETACH_LIMIT_S)
        except subprocess.TimeoutExpired:
            # Seen with strace 6.1: it waits for ever for the last thread of a process it killed.
            strace.kill()
            strace.communicate()


def _wait_until_traced(strace: subprocess.Popen[bytes], pids: Sequence[int]) -> None:
    """Until every thread of every process has strace as its tracer."""
    deadline = time.monotonic() + _ATTACH_LIMIT_S
    while not all(_traced_by(pid, strace.pid) for pid in pids):
        if strace.poll() is not None or time.monotonic() > deadline:
            assert strace.stderr is not None
            ready, _, _ = select.select([strace.stderr], [], [], 0)
            output = os.read(strace.stderr.fileno(), 4096) if ready else b""
            raise AssertionError(f"strace did not attach: {output!r}")
        time.sleep(0.01)


def _traced_by(pid: int, tracer: int) -> bool:
    with contextlib.suppress(OSError):
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
        return bool(states) and all(f"TracerPid:\t{tracer}\n" in state for state in states)
    return False
