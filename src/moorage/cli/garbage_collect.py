"""`moorage garbage-collect`: removes what nothing needs any more, beside a serving registry.

The command line is that of CNCF Distribution, whose cron jobs call it: `registry garbage-collect [-dmq] CONFIG`.

Exit status: 0 done, also with objects that were reported and skipped; 1 nothing or not everything was done, with
the reason on standard error; 2 a mistake on the command line; 130 interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.durations import parse_seconds
from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.config.model import Settings

__all__ = ["garbage_collect"]

_Grace = Annotated[
    float | None,
    typer.Option(
        "--grace",
        parser=parse_seconds,
        metavar="DURATION",
        help="Age below which unreferenced content is kept; by default that of the configuration.",
    ),
]
_Wait = Annotated[
    float | None,
    typer.Option(
        "--wait",
        parser=parse_seconds,
        metavar="DURATION",
        help="Time between announcement and removal; by default that of the configuration.",
    ),
]


def garbage_collect(
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Only report what would be removed; changes nothing.")
    ] = False,
    delete_untagged: Annotated[
        bool,
        typer.Option("--delete-untagged", "-m", help="Also manifests that no tag, index or subject leads to."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No output but that of --json, and no progress.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
    grace: _Grace = None,
    wait: _Wait = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Keep all nodes from collecting, until --resume.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="End the pause.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show whether a run is in progress, and where.")
    ] = False,
) -> None:
    """Remove what no tag, manifest, push in progress or undo period needs; the registry may be serving.

    A run announces what it will remove, waits (10m by default), and removes what no request has needed meanwhile.
    Ctrl-C is safe at any moment; the next run continues.

    Example: moorage garbage-collect --dry-run /etc/docker/registry/config.yml

    Example: moorage garbage-collect --delete-untagged --wait 1h /etc/docker/registry/config.yml
    """
    _refuse_combinations(
        {"--pause": pause, "--resume": resume, "--status": status},
        {
            "--dry-run": dry_run,
            "--delete-untagged": delete_untagged,
            "--grace": grace is not None,
            "--wait": wait is not None,
        },
    )
    settings = _load(config, changes=not (dry_run or status))
    if status:
        from moorage.cli.garbage_collect_state import show_status

        show_status(settings, as_json=as_json)
    elif pause or resume:
        from moorage.cli.garbage_collect_state import change_pause

        change_pause(settings, pause=pause)
    else:
        from moorage.cli.garbage_collect_run import run
        from moorage.wiring.garbage_collection import collection_options

        options = collection_options(
            settings, delete_untagged=delete_untagged or None, grace_s=grace, wait_s=wait, dry_run=dry_run
        )
        run(settings, options, quiet=quiet, as_json=as_json)


def _load(config: Config, *, changes: bool) -> Settings:
    """Return the settings; exit unless the store can be examined, and changed if `changes`."""
    from moorage.cli.problems import load_or_exit, require_data_directory

    settings = load_or_exit(config).settings
    if settings.storage.driver == "inmemory":
        _stop("storage.inmemory is the memory of one process; there is nothing to collect")
    if changes:
        _require_writable(settings)
    require_data_directory(settings)
    return settings


def _refuse_combinations(actions: dict[str, bool], options: dict[str, bool]) -> None:
    """Refuse two actions, and an action with options of a run."""
    given = [name for name, is_given in actions.items() if is_given]
    if not given:
        return
    beside = [*given[1:], *(name for name, is_given in options.items() if is_given)]
    if beside:
        raise typer.BadParameter(f"cannot be combined with {beside[0]}", param_hint=given[0])


def _require_writable(settings: Settings) -> None:
    """Exit unless this store may be changed by a run."""
    maintenance = settings.storage.maintenance
    if maintenance.readonly.enabled:
        _stop("storage.maintenance.readonly is enabled, nothing was removed; use --dry-run, or disable it")
    if maintenance.garbagecollection.foreignwriters:
        _stop(
            "storage.maintenance.garbagecollection.foreignwriters is true, nothing was removed: another registry "
            "writes to this store and does not know what a run removes; use --dry-run, or stop it and set this to "
            "false"
        )


def _stop(reason: str) -> None:
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(1)
