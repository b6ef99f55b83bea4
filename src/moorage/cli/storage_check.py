"""`moorage storage check`: finds damage in a store, with its consequence for clients, and repairs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.fsck.findings import Finding
    from moorage.fsck.store import CheckOptions, CheckSummary

__all__ = ["check"]

_SETTLED_MINUTES: Final = 60
"""Longer than the time between a push's writes of a tag's history and of the tag."""


def check(
    config: Config = None,
    digests: Annotated[bool, typer.Option("--digests", help="Read every blob and compute its digest.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what can be repaired without losing anything.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    notes: Annotated[bool, typer.Option("--notes", help="Report also what is only unusual.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Check everything that is stored; the registry may be serving meanwhile.

    Each line has what is wrong, where, what clients see of it and what --repair would do. Exit status 0 if nothing
    is wrong, or nothing is left wrong after --repair; 1 otherwise.

    Example: moorage storage check --digests /etc/docker/registry/config.yml
    """
    from datetime import UTC, datetime, timedelta

    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import run_with_progress
    from moorage.fsck.store import CheckOptions
    from moorage.wiring.validation import is_sparse_in

    settings = load_or_exit(config).settings
    if settings.storage.driver == "inmemory":
        typer.echo("storage.inmemory is the memory of one process; there is nothing to check", err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    now = datetime.now(UTC)
    options = CheckOptions(
        settled_before=now - timedelta(minutes=_SETTLED_MINUTES),
        stale_before=now - timedelta(seconds=settings.storage.maintenance.uploadpurging.age),
        digests=digests,
        repair=repair,
        is_sparse=is_sparse_in(settings),
    )
    summary = run_with_progress(
        lambda meter: _work(settings, options, meter, as_json=as_json, notes=notes),
        quiet=quiet,
        interrupted="what was reported holds",
    )
    _show_summary(summary, as_json=as_json)
    raise typer.Exit(0 if summary.clean else 1)


async def _work(
    settings: Settings, options: CheckOptions, meter: Meter, *, as_json: bool, notes: bool
) -> CheckSummary:
    from moorage.fsck import store
    from moorage.wiring.storage import opened_driver

    async with opened_driver(settings) as driver:
        return await store.check(driver, options, _Reporter(meter, as_json=as_json, notes=notes))


class _Reporter:
    """See `fsck.store.CheckReporter`."""

    def __init__(self, meter: Meter, *, as_json: bool, notes: bool) -> None:
        self._meter = meter
        self._json = as_json
        self._notes = notes

    def phase(self, name: str, total: int | None) -> None:
        self._meter.begin(name, total, is_bytes="bytes" in name)

    def advanced(self, count: int) -> None:
        self._meter.advance(count)

    def found(self, finding: Finding) -> None:
        from moorage.fsck.findings import Severity

        if finding.severity is not Severity.NOTE or self._notes:
            typer.echo(_as_json(finding) if self._json else _line(finding))


def _line(finding: Finding) -> str:
    from moorage.fsck.findings import KINDS, Outcome

    kind = KINDS[finding.kind]
    repaired = finding.outcome is Outcome.REPAIRED
    label = "repaired" if repaired else kind.severity.value
    repair = "" if repaired else f"; repair: {kind.repair or 'nothing'}"
    return f"{label}: {finding.key}: {finding.kind}: {finding.problem}; clients: {kind.clients}{repair}"


def _as_json(finding: Finding) -> str:
    import json

    from moorage.fsck.findings import KINDS

    kind = KINDS[finding.kind]
    return json.dumps(
        {
            "severity": kind.severity.value,
            "kind": finding.kind,
            "key": finding.key,
            "problem": finding.problem,
            "clients": kind.clients,
            "repair": kind.repair,
            "outcome": finding.outcome.value,
        }
    )


def _show_summary(summary: CheckSummary, *, as_json: bool) -> None:
    import json

    from moorage.cli.progress import format_bytes, format_count

    counts = {f"{severity.value}s": count for severity, count in summary.counts.items()}
    if as_json:
        facts = {
            "objects": summary.objects,
            "repositories": summary.repositories,
            "blobs": summary.blobs,
            "bytes": summary.blob_bytes,
            "unlinked": summary.unlinked,
            "unlinked_bytes": summary.unlinked_bytes,
            "repaired": summary.repaired,
            **counts,
        }
        typer.echo(json.dumps({"summary": facts}))
        return
    typer.echo(
        f"{format_count(summary.repositories, 'repository', 'repositories')}, "
        f"{format_count(summary.blobs, 'blob')} ({format_bytes(summary.blob_bytes)}), "
        f"{format_count(summary.objects, 'object')}; "
        f"{format_count(summary.unlinked, 'blob')} ({format_bytes(summary.unlinked_bytes)}) that nothing links"
    )
    found = ", ".join(format_count(count, severity.value) for severity, count in summary.counts.items())
    typer.echo(f"{found}{f', {summary.repaired} repaired' if summary.repaired else ''}")
