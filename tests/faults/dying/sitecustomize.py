"""Imported by a Python that has this folder on PYTHONPATH: it dies at a chosen step towards the disk.

While the file that MOORAGE_DIES_AT names holds a number N, the N-th call from now on of those below is this
process's last: SIGKILL before the call, or, for a write, after half of its bytes.  strace cannot do this: it
counts for each thread alone, so that no number names a step of a push.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from typing import Any

_ARMED = os.environ["MOORAGE_DIES_AT"]
_CALLS = (
    "fsync", "fdatasync", "rename", "replace", "link", "unlink", "rmdir", "mkdir", "mknod", "ftruncate", "pwritev",
)  # fmt: skip
_steps = itertools.count(1)
_lock = threading.Lock()


def _is_last() -> bool:
    with _lock:
        try:
            with open(_ARMED, encoding="ascii") as file:  # noqa: PTH123  pathlib would call what is wrapped here
                return next(_steps) == int(file.read())
        except FileNotFoundError:
            return False


def _dying(call: Any) -> Any:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if _is_last():
            if call is _pwritev:
                file, views, offset = arguments
                _pwritev(file, [bytes(views[0])[: len(views[0]) // 2]], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)

    return wrapped


_pwritev = os.pwritev
for _name in _CALLS:
    setattr(os, _name, _dying(getattr(os, _name)))
