"""Interface between master and worker: the job, the messages on the control socket, and the exit statuses.

    to the worker   RETIRE, CERTIFICATE      one byte each, over the control socket; CERTIFICATE comes with the
                                             descriptor of a sealed file with a pickled `Tls`
                    EXCLUDED                 the response to DRAINING: its queue gets no more connections
    to the master   READY, DRAINING; HEARTBEAT every HEARTBEAT_S seconds; for each CERTIFICATE either EXCHANGED or
                    EXCHANGE_FAILED, after which the master sends it again
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

__all__ = ["CERTIFICATE", "CUT_OFF", "DRAINING", "EXCHANGED", "EXCHANGE_FAILED", "EXCLUDED", "HEARTBEAT"]
__all__ += ["HEARTBEAT_S", "READY", "RETIRE", "START_FAILED", "Job", "die_with"]

READY: Final = b"R"
DRAINING: Final = b"D"
EXCLUDED: Final = b"E"
HEARTBEAT: Final = b"H"
HEARTBEAT_S: Final = 1.0
RETIRE: Final = b"T"
CERTIFICATE: Final = b"C"
EXCHANGED: Final = b"c"
EXCHANGE_FAILED: Final = b"f"
CUT_OFF: Final = 1
START_FAILED: Final = 3

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Job:
    """Arguments of a worker.  `number` counts from 0; `master` is the parent's process id.

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
