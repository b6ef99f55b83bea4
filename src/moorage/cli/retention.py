"""`moorage retention`: deletes the tags that the rules of the configuration do not keep, or lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.retention.run import RepositoryResult
    from moorage.wiring.retention import RetentionSummary

__all__ = ["retention"]


def retention(
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Only list what goes, and which rule decides.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", "-a", help="List also the tags that stay, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Delete tags that the retention rules do not keep, each with its family of manifests.

    The registry may be serving meanwhile. What goes can be restored for storage.delete.undo; its bytes are freed
    by garbage collection after that time.

    Example: moorage retention --dry-run /etc/docker/registry/config.yml
    """
    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import run_with_progress

    settings = load_or_exit(config).settings
    if problem := _refusal(settings, dry_run=dry_run):
        typer.echo(problem, err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    summary = run_with_progress(
        lambda meter: _work(settings, meter, dry_run=dry_run, every=every, as_json=as_json),
        quiet=quiet,
        interrupted="what was deleted is gone; run it again for the rest",
    )
    _show_summary(summary, dry_run=dry_run, as_json=as_json)


def _refusal(settings: Settings, *, dry_run: bool) -> str:
    """Return the reason why there is nothing to do; "" if there is something."""
    if settings.storage.driver == "inmemory":
        return "storage.inmemory is the memory of one process; there is nothing to delete"
    if not settings.retention.rules and settings.retention.untagged.after is None:
        return "there are no rules; set retention.rules or retention.untagged.after in the configuration"
    if settings.storage.maintenance.readonly.enabled and not dry_run:
        return "storage.maintenance.readonly is enabled, so nothing is deleted; use --dry-run, or disable it"
    return ""


async def _work(
    settings: Settings, meter: Meter, *, dry_run: bool, every: bool, as_json: bool
) -> RetentionSummary:
    from moorage.wiring.retention import apply_retention
    from moorage.wiring.storage import opened_driver

    def done(result: RepositoryResult) -> None:
        meter.advance(1)
        for row in _rows(result, dry_run=dry_run, every=every):
            typer.echo(_as_json(row) if as_json else _line(row))

    if not as_json:
        typer.echo(f"{'ACTION':<8}  {'REPOSITORY':<32}  {'TAG OR DIGEST':<24}  {'RULE':<16}  REASON")
    meter.begin("repositories", None)
    async with opened_driver(settings) as driver:
        return await apply_retention(driver, settings, dry_run=dry_run, done=done)


def _rows(result: RepositoryResult, *, dry_run: bool, every: bool) -> list[dict[str, Any]]:
    """Return what is printed of one repository, tags before manifests."""
    name = result.plan.name
    gone = result.plan.removed_tags if dry_run else result.tags
    rows: list[dict[str, Any]] = []
    for decision in result.plan.tags:
        action = "delete" if decision in gone else "changed" if decision in result.changed else "keep"
        if action != "keep" or every:
            rows.append(
                {
                    "action": action,
                    "repository": name,
                    "tag": decision.state.tag,
                    "digest": str(decision.state.digest),
                    "pushed": decision.state.modified.isoformat(timespec="seconds"),
                    "rule": decision.rule,
                    "reason": decision.reason if action != "changed" else "a push has changed it meanwhile: kept",
                }
            )
    rows += [
        {
            "action": "delete",
            "repository": name,
            "digest": str(removed.digest),
            "rule": removed.rule,
            "reason": removed.reason,
        }
        for removed in (result.plan.manifests if dry_run else result.manifests)
    ]
    return rows


def _line(row: dict[str, Any]) -> str:
    reference = row.get("tag") or f"{row['digest'][:19]}..."
    return (
        f"{row['action']:<8}  {row['repository']:<32}  {reference:<24}  {row['rule'] or '-':<16}  {row['reason']}"
    )


def _as_json(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row)


def _show_summary(summary: RetentionSummary, *, dry_run: bool, as_json: bool) -> None:
    import json

    from moorage.cli.progress import format_bytes, format_count

    for owner, pattern in summary.unmatched:
        typer.echo(f"warning: {owner}: the pattern {pattern} matches no repository", err=True)
    if summary.unreadable:
        damaged = format_count(summary.unreadable, "repository", "repositories")
        message = (
            f"warning: no manifest is deleted from {damaged} in which one cannot be read; "
            "moorage storage check names it"
        )
        typer.echo(message, err=True)
    for name, digest in summary.restored:
        typer.echo(f"warning: {name}@{digest} was tagged while it was deleted, and is back", err=True)
    if as_json:
        facts = {
            "dry_run": dry_run,
            "repositories": summary.repositories,
            "tags": summary.tags,
            "manifests": summary.manifests,
            "freeable_bytes": summary.freeable_bytes,
            "changed": summary.changed,
        }
        typer.echo(json.dumps({"summary": facts}))
        return
    verb = "would go" if dry_run else "deleted"
    typer.echo(
        f"{format_count(summary.repositories, 'repository', 'repositories')}: {format_count(summary.tags, 'tag')} "
        f"and {format_count(summary.manifests, 'manifest')} {verb}; "
        f"at most {format_bytes(summary.freeable_bytes)} become freeable"
    )
