"""`moorage history`: what a tag pointed to, when, by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation
from moorage.cli.undo import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.config.model import Settings
    from moorage.registry.history import TagEvent

__all__ = ["history"]


def history(
    config: Config = None,
    target: Annotated[
        Target | None, typer.Argument(parser=parse_target, metavar="REPOSITORY:TAG", help="The tag.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
) -> None:
    """Print what a tag pointed to, when, and by whom.

    The newest change is first. Users are known of changes that Moorage made with storage.delete.undo above 0.
    Earlier ones, also those of CNCF Distribution, are known by the time of their files.

    Example: moorage history /etc/docker/registry/config.yml library/app:v1
    """
    import asyncio

    from moorage.cli.problems import log_errors_only
    from moorage.cli.undo import stored_settings
    from moorage.startup import StartupError
    from moorage.storage.driver import StorageError
    from moorage.types import Digest

    if target is None or target.reference is None or isinstance(target.reference, Digest):
        raise typer.BadParameter("expected CONFIG and REPOSITORY:TAG")
    settings = stored_settings(config, writes=False)
    log_errors_only()
    try:
        events = asyncio.run(_read(settings, target))
    except (StorageError, StartupError) as error:
        typer.echo(f"stopped: {error}", err=True)
        raise typer.Exit(1) from None
    if not events:
        typer.echo(f"nothing is known of {target}", err=True)
        raise typer.Exit(1)
    for event in reversed(events):
        typer.echo(_as_json(event) if as_json else _line(event))


async def _read(settings: Settings, target: Target) -> Sequence[TagEvent]:
    from moorage.registry.timeline import tag_timeline
    from moorage.types import Tag
    from moorage.wiring.storage import opened_driver

    async with opened_driver(settings) as driver:
        return await tag_timeline(driver, target.name, Tag(str(target.reference)))


def _line(event: TagEvent) -> str:
    from moorage.cli.problems import printable

    what = "deleted" if event.digest is None else str(event.digest)
    user = f"  by {event.by}" if event.by else ""
    reason = f"  ({event.reason})" if event.reason else ""
    return printable(f"{event.at:%Y-%m-%dT%H:%M:%SZ}  {what}{user}{reason}")


def _as_json(event: TagEvent) -> str:
    import json

    digest = None if event.digest is None else str(event.digest)
    facts = {"at": event.at.isoformat(), "digest": digest, "by": event.by, "reason": event.reason}
    return json.dumps(facts)
