"""`moorage restore`: brings back what was deleted, and tags to what they pointed to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation
from moorage.cli.undo import Target, parse_target, parse_time

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.quota.exceeded import ExceededLimit
    from moorage.quota.facts import UsedAmount
    from moorage.registry.restore import Restored
    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["restore"]

_SHOWN = 20


def restore(
    config: Config = None,
    target: Annotated[
        Target | None,
        typer.Argument(parser=parse_target, metavar="REPOSITORY[:TAG|@DIGEST]", help="Content to restore."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="State of this time, as 2026-11-29T21:30:00Z.")
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", help="The manifest to which an existing tag pointed before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as a JSON object.")] = False,
) -> None:
    """Bring back what was deleted, or move a tag back.

    Safe while the registry serves. A deleted tag needs no option; an existing one needs --previous or --at. A
    manifest comes back with the tags that still name it. A repository comes back as it was when it was deleted as
    a whole; with --at, all of its tags point to what they pointed to then, and what was pushed since stays.
    Nothing is changed unless all bytes are there: what garbage collection has removed cannot be restored. A quota
    that is exceeded then is a warning.

    Example: moorage restore /etc/docker/registry/config.yml library/app:v1 --at 2026-11-29T21:30:00Z
    """
    from moorage.cli.progress import run_with_progress
    from moorage.cli.undo import stored_settings
    from moorage.registry.restore import RestoreRefused
    from moorage.types import Digest

    if target is None:
        raise typer.BadParameter("expected CONFIG and REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST")
    moment = None if at is None else parse_time(at)
    is_tag = target.reference is not None and not isinstance(target.reference, Digest)
    if (previous and not is_tag) or (moment is not None and isinstance(target.reference, Digest)):
        raise typer.BadParameter("--previous is for a tag, --at for a tag or a repository")
    if previous and moment is not None:
        raise typer.BadParameter("--previous and --at exclude each other")
    settings = stored_settings(config, writes=True)
    try:
        result, over_quota = run_with_progress(
            lambda meter: _restore(settings, target, moment, meter, previous=previous),
            quiet=as_json,
            interrupted="what was restored stays; run it again for the rest",
        )
    except RestoreRefused as error:
        typer.echo(f"nothing was restored: {error}", err=True)
        raise typer.Exit(1) from None
    _show(result, over_quota, as_json=as_json)
    raise typer.Exit(1 if result.problems else 0)


async def _restore(
    settings: Settings, target: Target, at: datetime | None, meter: Meter, *, previous: bool
) -> tuple[Restored, list[ExceededLimit]]:
    """Return what was restored, and the limits of quotas that it exceeds."""
    from moorage.cli.undo import operator
    from moorage.quota.exceeded import exceeded, known_usage
    from moorage.registry.restore import Restorer
    from moorage.types import Digest
    from moorage.wiring.protection import make_protection
    from moorage.wiring.quota import limits_of, want_count
    from moorage.wiring.storage import opened_driver

    meter.begin("restoring", None)
    async with opened_driver(settings) as driver:
        before = await known_usage(driver, limits_of(settings), target.name)
        restorer = Restorer(driver, by=operator(), protection=make_protection(settings))
        try:
            if target.reference is None:
                result = await restorer.repository(target.name, at=at)
            elif isinstance(target.reference, Digest):
                result = await restorer.digest(target.name, target.reference)
            else:
                result = await restorer.tag(target.name, target.reference, at=at, previous=previous)
        finally:
            await restorer.close()
            await want_count(driver, settings)
        added = await _amount(driver, target.name, result) if before else None
        return result, [] if added is None else exceeded(before, added)


async def _amount(driver: Driver, name: RepoName, result: Restored) -> UsedAmount:
    """Return what a restore adds to the usage of a repository."""
    from moorage.concurrency import map_bounded
    from moorage.quota.count import stored_sizes
    from moorage.quota.facts import UsedAmount

    size_of = stored_sizes(driver)
    sizes = await map_bounded([*result.manifests, *result.layers], lambda digest: size_of(name, digest))
    return UsedAmount(sum(sizes), len(result.tags.keys() - result.moved))


def _show(result: Restored, over_quota: list[ExceededLimit], *, as_json: bool) -> None:
    import json

    from moorage.cli.progress import format_count

    for exceeded in over_quota:
        typer.echo(
            f"warning: quota exceeded: {exceeded}, with what was restored; pushes of new content are refused "
            "until something is deleted or the limit in quota.rules is raised",
            err=True,
        )
    if as_json:
        facts = {
            "tags": {tag: str(digest) for tag, digest in sorted(result.tags.items())},
            "manifests": [str(digest) for digest in result.manifests],
            "blobs": [str(digest) for digest in result.layers],
            "kept": sorted(result.kept),
            "problems": result.problems,
            "over_quota": [
                {"repositories": limit.pattern, "bytes": used.bytes, "tags": used.tags}
                for limit, used in over_quota
            ],
        }
        typer.echo(json.dumps(facts))
        return
    for tag, digest in sorted(result.tags.items())[:_SHOWN]:
        typer.echo(f"{tag} points to {digest}")
    if len(result.tags) > _SHOWN:
        typer.echo(f"... and {format_count(len(result.tags) - _SHOWN, 'more tag')}")
    for tag in sorted(result.kept):
        typer.echo(f"{tag} exists and was left as it is", err=True)
    for problem in result.problems:
        typer.echo(f"not restored: {problem}", err=True)
    if not (result.tags or result.manifests or result.layers or result.problems):
        typer.echo("nothing was restored: all of it is there already")
        return
    typer.echo(
        f"restored {format_count(len(result.tags), 'tag')}, {format_count(len(result.manifests), 'manifest')} "
        f"and {format_count(len(result.layers), 'blob')}"
    )
