"""Output and end of the commands that copy images: progress, rows, SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from moorage.cli.progress import Meter
    from moorage.replication.progress import CopyCounts
    from moorage.replication.report import SyncReport, SyncRow
    from moorage.upstream.errors import UpstreamError

__all__ = ["MeterProgress", "describe_counts", "report_row", "report_summary", "run_until_sigterm", "shown_digest"]

_TERMINATED: Final = 128 + signal.SIGTERM
_T = TypeVar("_T")


class MeterProgress:
    """See `replication.progress.ReplicationProgress`: bytes on a meter."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._begun = False

    def planned(self, size: int) -> None:
        if not self._begun:  # nothing is shown where nothing is sent
            self._begun = True
            self._meter.begin("copying", None, is_bytes=True)
        self._meter.grow(size)

    def moved(self, size: int) -> None:
        self._meter.advance(size)


class _Terminated(Exception):
    """SIGTERM was received."""


def run_until_sigterm(
    work: Callable[[Meter], Coroutine[Any, Any, _T]],
    *,
    quiet: bool,
    resume: str,
    hint: Callable[[UpstreamError], str] = lambda _: "",
) -> _T:
    """Run `work` as `run_with_progress`, and end it with status 143 after SIGTERM, with `resume` as message.

    Errors of registries end it with status 1; `hint` returns an option that may help, or an empty text.
    """
    from moorage.cli.progress import run_with_progress
    from moorage.errors import RegistryError
    from moorage.replication.errors import ReplicationError
    from moorage.upstream.errors import UpstreamError

    async def until_sigterm(meter: Meter) -> _T:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(work(meter))
        terminated = False

        def terminate() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await task
        except asyncio.CancelledError:
            if terminated:
                raise _Terminated from None
            raise
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return run_with_progress(until_sigterm, quiet=quiet, interrupted=resume)
    except _Terminated:
        typer.echo(f"terminated; {resume}", err=True)
        raise typer.Exit(_TERMINATED) from None
    except (ReplicationError, UpstreamError, RegistryError) as error:
        remedy = hint(error) if isinstance(error, UpstreamError) else ""
        typer.echo(f"error: {_printable('; '.join(filter(None, (str(error), remedy))))}", err=True)
        raise typer.Exit(1) from None


def _printable(text: str) -> str:
    from moorage.cli.problems import printable

    return printable(text)


def shown_digest(row: SyncRow) -> str:
    """Return the first characters of the digest, which are enough to compare two rows."""
    return "" if row.digest is None else f"{row.digest.algorithm}:{row.digest.hex[:12]}"


def describe_counts(counts: CopyCounts) -> str:
    """Return `3 blobs (1.2 MiB), 2 mounted, 1 manifest`."""
    from moorage.cli.progress import format_bytes, format_count

    parts = [f"{format_count(counts.blobs, 'blob')} ({format_bytes(counts.blob_bytes)})"]
    if counts.mounted:
        parts.append(f"{counts.mounted} mounted")
    if counts.present:
        parts.append(f"{counts.present} already there")
    parts.append(format_count(counts.manifests, "manifest"))
    if counts.referrers:
        parts.append(format_count(counts.referrers, "referrer"))
    return ", ".join(parts)


def report_row(row: SyncRow, *, every: bool, as_json: bool, dry_run: bool) -> None:
    """Print a row: results on standard output, problems on standard error; `every`: also what was there before."""
    from moorage.replication.report import SyncOutcome

    if as_json:
        typer.echo(_as_json(row))
        return
    if row.outcome is SyncOutcome.PRESENT and not every:
        return
    if row.outcome in {SyncOutcome.MISSING, SyncOutcome.FAILED, SyncOutcome.NOT_TRIED}:
        text = row.reason if row.reason.startswith(row.source.partition("/")[0]) else f"{row.source}: {row.reason}"
        typer.echo(_printable(f"{row.outcome.value}: {text}"), err=True)
        return
    verb = "would copy" if dry_run and row.outcome is SyncOutcome.COPIED else row.outcome.value
    if row.outcome is SyncOutcome.SKIPPED:
        typer.echo(_printable(f"{verb}: {row.reason}"))
        return
    counted = f", {describe_counts(row.counts)}" if row.outcome is SyncOutcome.COPIED else ""
    typer.echo(_printable(f"{verb} {row.source} -> {row.target} ({shown_digest(row)}{counted})"))


def _as_json(row: SyncRow) -> str:
    import json

    counts = row.counts
    return json.dumps(
        {
            "job": row.job,
            "outcome": row.outcome.value,
            "source": row.source,
            "target": row.target,
            "digest": None if row.digest is None else str(row.digest),
            "before": None if row.before is None else str(row.before),
            "reason": row.reason,
            "blobs": counts.blobs,
            "bytes": counts.blob_bytes,
            "mounted": counts.mounted,
            "manifests": counts.manifests,
            "referrers": counts.referrers,
        }
    )


def report_summary(report: SyncReport, *, as_json: bool, dry_run: bool) -> None:
    """Print the totals."""
    import json

    from moorage.cli.progress import format_bytes
    from moorage.replication.report import SyncOutcome

    totals = {outcome.value: count for outcome, count in report.outcomes.items()}
    if as_json:
        typer.echo(json.dumps({"summary": {**totals, "bytes": report.counts.blob_bytes, "dry_run": dry_run}}))
        return
    shown = [
        f"{count} {outcome.value}"
        for outcome, count in report.outcomes.items()
        if count or outcome in {SyncOutcome.COPIED, SyncOutcome.PRESENT}
    ]
    size = format_bytes(report.counts.blob_bytes)
    if dry_run:
        shown[0] = f"{report.outcomes[SyncOutcome.COPIED]} to copy"
    typer.echo(f"{', '.join(shown)}; {size} {'to send; nothing was copied' if dry_run else 'sent'}")
