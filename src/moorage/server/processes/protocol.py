"""Interface between master and worker: start parameters, messages on the control socket, exit statuses.

    to the worker   RETIRE                one byte each, over the control socket
                    CERTIFICATE           with the descriptor of a sealed file with a pickled `Tls`
                    NO_NEW_CONNECTIONS    the response to DRAINING: its queue gets no more connections
    to the master   READY, DRAINING
                    HEARTBEAT             every HEARTBEAT_S seconds
                    CERTIFICATE_LOADED    the response to CERTIFICATE
                    CERTIFICATE_FAILED    the response to CERTIFICATE, which the master sends again
    exit status     0 (all requests were answered), CUT_OFF (some were not in time), START_FAILED

No worker outlives the master: `die_with`.
Above: `worker_pool.py` on the master's side, `worker.py` on the other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from structlog.typing import Processor

    from moorage.config.model import Settings
    from moorage.metrics.board import Board
    from moorage.server.application import Application, WorkerContext
    from moorage.server.options import ServerOptions
    from moorage.server.processes.shared_count import SharedCount
    from moorage.server.processes.storage_report import SharedReport

__all__ = ["CERTIFICATE", "CERTIFICATE_FAILED", "CERTIFICATE_LOADED", "CUT_OFF", "DRAINING", "HEARTBEAT"]
__all__ += ["HEARTBEAT_LIMIT_S", "HEARTBEAT_S", "NO_NEW_CONNECTIONS", "READY", "RETIRE", "START_FAILED"]
__all__ += ["WorkerStartup", "die_with"]

READY: Final = b"R"
DRAINING: Final = b"D"
NO_NEW_CONNECTIONS: Final = b"E"
HEARTBEAT: Final = b"H"
HEARTBEAT_S: Final = 1.0
HEARTBEAT_LIMIT_S: Final = 5.0
"""Seconds without a heartbeat after which new connections go to other workers."""
RETIRE: Final = b"T"
CERTIFICATE: Final = b"C"
CERTIFICATE_LOADED: Final = b"c"
CERTIFICATE_FAILED: Final = b"f"
CUT_OFF: Final = 1
START_FAILED: Final = 3

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class WorkerStartup:
    """Start parameters of a worker.  `number` counts from 0; `master` is the parent's process id.

    `build` builds the application.  `debug` is the debug listener's socket, for worker 0;
    `board` and `place` are where the worker publishes its metrics, if there is a debug listener.  `storage` is the
    last report of the storage monitor, `in_flight` the number of the worker's running requests, for the master.
    `processors` are those of the log.
    """

    number: int
    settings: Settings
    build: Callable[[WorkerContext], Application]
    listening: socket.socket
    control: socket.socket
    options: ServerOptions
    instance: str
    master: int
    debug: socket.socket | None = None
    board: Board | None = None
    place: int | None = None
    storage: SharedReport | None = None
    in_flight: SharedCount | None = None
    processors: Sequence[Processor] = ()


def die_with(master: int) -> None:
    """Have the kernel send SIGKILL when the master ends; acknowledged data is durable, so nothing is lost."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != master:
        os._exit(CUT_OFF)
