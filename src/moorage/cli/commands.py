"""The table of all commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moorage import __version__
from moorage.cli import (
    auth,
    config,
    copy,
    erase,
    export,
    garbage_collect,
    health,
    history,
    htpasswd,
    import_,
    migrate,
    repository,
    restore,
    retention,
    serve,
    storage,
    sync,
    usage,
    version,
    why,
)
from moorage.cli.go_flags import GoFlags

__all__ = ["app"]

_HELP = """A container registry server, drop-in for CNCF Distribution.

Try: moorage serve
"""

app = typer.Typer(
    name="moorage",
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        # CNCF Distribution's form: the name of the program as it was called, its package, its version.
        typer.echo(f"{Path(sys.argv[0]).name} moorage {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", "-v", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    # Declares --version; the help is an argument of `typer.Typer` above.
    pass


app.command("serve")(serve.serve)
app.command("health")(health.health)
app.add_typer(auth.app, name="auth")
app.add_typer(config.app, name="config")
app.add_typer(storage.app, name="storage")
app.add_typer(migrate.app, name="migrate")
app.add_typer(repository.app, name="repository")
app.command("history")(history.history)
app.command("export", short_help="Write images into one file.")(export.export)
app.command("import", short_help="Store the images of a file.")(import_.import_images)
app.command("restore")(restore.restore)
app.command("erase")(erase.erase)
app.command("htpasswd", cls=htpasswd.Unparsed, short_help="Make and change password files.")(htpasswd.htpasswd)
app.command("usage")(usage.usage)
app.command("why")(why.why)
app.command("retention", short_help="Delete tags by the retention rules.")(retention.retention)
app.command("copy", short_help="Copy an image from one registry to another.")(copy.copy)
app.command("sync", short_help="Copy repositories by the jobs of the configuration.")(sync.sync)
app.command("version")(version.version)
app.command("garbage-collect", cls=GoFlags, short_help="Remove what nothing needs any more.")(
    garbage_collect.garbage_collect
)


@app.command("help")
def show_help(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(help="The command to explain.")] = None,
) -> None:
    """Explain a command.

    Example: moorage help config check
    """
    app([*(command or []), "--help"], prog_name=context.find_root().info_name)
