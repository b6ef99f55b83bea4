"""`moorage migrate check`: reports what a deployment of CNCF Distribution must change before Moorage serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.cli.progress import Meter
    from moorage.config.load import Examined
    from moorage.migration.accounts import Account
    from moorage.migration.advice import Advice

__all__ = ["app"]

app = typer.Typer(help="Move from CNCF Distribution.", no_args_is_help=True, rich_markup_mode=None)

_LIMIT: Final = 200_000
_TITLES: Final = {
    "kept": "Stays as it is",
    "changed": "Behaves differently",
    "ignored": "Is ignored",
    "refused": "Is refused: Moorage does not start, or does not serve it",
    "to-do": "Must be done first",
}


@app.callback()
def migrate() -> None:
    # Typer makes a group of one command the command itself, unless it has a callback.
    pass


@app.command("check", short_help="Report what must be changed before Moorage takes over.")
def check(
    config: Config = None,
    user: Annotated[
        str,
        typer.Option(
            metavar="NAME|UID[:GROUP]",
            help="User that the service runs as; default for root: User= of an installed unit, else this user.",
        ),
    ] = "",
    limit: Annotated[
        int, typer.Option(min=0, help="Maximum of files, and of objects, examined in the store; 0: all.")
    ] = _LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Read configuration and store of an existing registry, and report what a move to Moorage changes.

    Nothing is written. It may run beside the old registry, with its REGISTRY_* variables. Exit status 0
    if Moorage can take over, 1 if something must be done first.

    Example: moorage migrate check /etc/docker/registry/config.yml
    """
    import os

    from moorage.cli.problems import report
    from moorage.config.load import examine
    from moorage.config.problems import ConfigError
    from moorage.migration.accounts import UnknownUser

    try:
        account = _account(user)
    except UnknownUser as error:
        raise typer.BadParameter(str(error), param_hint="--user") from None
    try:
        examined = examine(config, os.environ)
    except ConfigError as error:
        report(error.problems)
        raise typer.Exit(1) from None
    found = [*_configuration(examined), *_store(examined, account, limit, quiet=quiet)]
    _show(found, examined, as_json=as_json)
    raise typer.Exit(1 if any(advice.required for advice in found) else 0)


def _account(user: str) -> Account:
    """Return the account that files are judged for.  Raises UnknownUser."""
    from moorage.migration import accounts

    if user:
        return accounts.named(user)
    current = accounts.current()
    return (accounts.of_unit() or current) if current.uid == 0 else current


def _configuration(examined: Examined) -> Iterator[Advice]:
    import os

    from moorage.migration.configuration import of_files, of_problems, of_settings
    from moorage.migration.differences import differences
    from moorage.migration.variables import newly_effective

    yield from of_files(examined)
    yield from of_settings(examined, os.environ)
    yield from differences(examined.settings, os.environ)
    yield from newly_effective(os.environ, [problem.origin.source for problem in examined.problems])
    problems = list(examined.problems)
    if not examined.refused:
        from moorage.wiring import serving

        # The data directory is examined by itself, in more detail.
        problems += serving.problems(examined.settings, data_directory=False)
    yield from of_problems(problems)


def _store(examined: Examined, account: Account, limit: int, *, quiet: bool) -> list[Advice]:
    """Return what the files and the store of the old registry show."""
    from moorage.cli.progress import run_with_progress
    from moorage.migration.configuration import files_of
    from moorage.migration.volume import files_to_read

    found = [*files_to_read(files_of(examined), account)]
    if examined.settings.storage.driver in {"filesystem", "s3", "gcs", "azure"}:
        found += run_with_progress(
            lambda meter: _collect_advice(examined, account, limit, meter),
            quiet=quiet,
            interrupted="nothing was changed",
        )
    return found


async def _collect_advice(examined: Examined, account: Account, limit: int, meter: Meter) -> list[Advice]:
    import asyncio

    from moorage.migration import volume

    settings = examined.settings
    if settings.storage.filesystem is None:
        return [] if examined.refused else await _contents(examined, limit, meter)
    root = volume.root_of(settings.storage.filesystem)
    found = [*volume.location(root, readonly=settings.storage.maintenance.readonly.enabled)]
    if any(advice.kind == "store-missing" for advice in found):
        return found
    found += volume.free_space(root)
    meter.begin("files examined", None)
    tree = await asyncio.to_thread(volume.walk, root, account, limit, meter.advance)
    found += volume.ownership(root, tree, account)
    if not any(advice.kind == "store-empty" for advice in found):
        found += await _contents(examined, limit, meter)
    return found


async def _contents(examined: Examined, limit: int, meter: Meter) -> list[Advice]:
    from datetime import UTC, datetime, timedelta

    from moorage.migration.advice import Advice, Group
    from moorage.migration.contents import describe, survey
    from moorage.startup import StartupError
    from moorage.storage.driver import StorageError
    from moorage.wiring.storage import make_driver

    settings = examined.settings
    purging = settings.storage.maintenance.uploadpurging
    before = datetime.now(UTC) - timedelta(seconds=purging.age) if purging.enabled and not purging.dryrun else None
    try:
        driver = make_driver(settings)
    except StartupError:
        return []  # the check of the configuration has reported it
    try:
        contents = await survey(driver, limit, lambda phase: meter.begin(phase, None), meter.advance)
    except StorageError as error:
        remedy = "correct what the message names, and run this again"
        return [Advice(Group.TO_DO, "store-unreadable", f"storage.{settings.storage.driver}", str(error), remedy)]
    finally:
        await driver.close()
    return list(describe(contents, purged_before=before, secret=bool(settings.http.secret)))


def _show(found: Sequence[Advice], examined: Examined, *, as_json: bool) -> None:
    """Print the report: groups in order, then what comes next."""
    import json

    from moorage.cli.problems import printable
    from moorage.migration.advice import Group

    required = sum(advice.required for advice in found)
    if as_json:
        for advice in found:
            fields = {
                "group": advice.group.value,
                "kind": advice.kind,
                "subject": advice.subject,
                "text": advice.text,
                "remedy": advice.remedy,
                "required": advice.required,
            }
            typer.echo(json.dumps(fields))
        counts = {group.value: sum(advice.group is group for advice in found) for group in Group}
        typer.echo(json.dumps({"summary": {**counts, "ready": not required}}))
        return
    for group in Group:
        lines = [advice for advice in found if advice.group is group]
        if lines:
            typer.echo(f"{_TITLES[group.value]}:")
        for advice in lines:
            typer.echo(f"  {printable(advice.subject)}: {printable(advice.text)}")
            if advice.remedy:
                typer.echo(f"      do: {printable(advice.remedy)}")
        if lines:
            typer.echo("")
    place = f" {examined.path}" if examined.path is not None else ""
    if required:
        typer.echo(
            f"{required} {'point' if required == 1 else 'points'} must be settled before Moorage takes over"
        )
    else:
        typer.echo(f"ready: moorage serve{place}")
    typer.echo(f"every blob and link of the store: moorage storage check --digests{place}")
