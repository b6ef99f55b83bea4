"""The command line: `moorage`, and `registry`, the name of CNCF Distribution's program.

One file per command, named after it (`storage_check.py`); `commands.py` joins them.  Shared: `problems.py`,
`progress.py`.  A command imports what it needs when it runs, so that `moorage version` and the help are quick.

Exit status: 0 done; 1 a problem with the configuration, the storage or the address, reported on standard error
without a traceback; 2 a mistake on the command line (CNCF Distribution exits with 0 then).

Source: docs/reference/storage-layout.md, section 9.
"""

from __future__ import annotations

import gc
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point of both names."""
    if sys.argv[1:2] == ["health"]:
        # Run every few seconds by orchestrators: without Typer it costs half the CPU time.
        from moorage.cli import liveness

        if arguments := liveness.parse(sys.argv[2:]):
            sys.exit(liveness.run(*arguments))
    from pathlib import Path

    # A process that only imports makes no garbage: collections would take a tenth of the start.
    gc.disable()
    if sys.argv[1:2] == ["serve"]:
        _import_structlog()
    from moorage.cli.commands import app

    gc.enable()
    app(prog_name=Path(sys.argv[0]).name)


def _import_structlog() -> None:
    """Import structlog without rich, which it would load for tracebacks that are not used: 50 ms per start."""
    if {"rich", "structlog"} & sys.modules.keys():
        return
    # None makes its import fail.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401  for its modules alone
    finally:
        del sys.modules["rich"]
