"""`moorage config`: look at a configuration without serving with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.config.problems import Problem

__all__ = ["app"]

app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check", short_help="Report every mistake; exit status 1 if there is one.")
def check(config: Config = None) -> None:
    """Tell everything that is wrong, at once; exit status 1 if anything is.

    Each line has file and line (or the variable), the key, and what was expected. A key or variable that nothing
    reads is an error here. Certificates and keys of http.tls are read as well.

    Example: moorage config check /etc/docker/registry/config.yml
    """
    import os

    from moorage.cli.output import tell
    from moorage.config.load import load
    from moorage.config.problems import ConfigError

    try:
        loaded = load(config, os.environ)
    except ConfigError as error:
        problems, source = error.problems, None
    else:
        problems, source = (*loaded.warnings, *_start_problems(loaded.settings)), loaded.source
    tell(problems, unknown_as="error")
    wrong = sum(problem.kind != "warning" for problem in problems)
    if wrong:
        typer.echo(f"{wrong} {'error' if wrong == 1 else 'errors'}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{source}: no errors")


def _start_problems(settings: Settings) -> list[Problem]:
    """What `serve` would find."""
    from moorage.server import preflight

    secret = settings.http.secret.encode() or bytes(32)
    return [*preflight.problems(settings, secret), *preflight.warning_of_an_open_registry(settings)]


@app.command("show")
def show(config: Config = None) -> None:
    """Print the settings in force as YAML, with secrets masked.

    Example: REGISTRY_LOG_LEVEL=debug moorage config show
    """
    from moorage.cli.loading import load_or_exit
    from moorage.cli.output import tell
    from moorage.config.show import render

    loaded = load_or_exit(config)
    tell(loaded.warnings)
    typer.echo(f"# from {loaded.source} and the environment\n{render(loaded.settings)}", nl=False)
