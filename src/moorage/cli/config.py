"""`moorage config`: look at a configuration without serving with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import CONFIG_HELP

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.config.problems import Problem

__all__ = ["app"]

app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True, rich_markup_mode=None)

Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP)]


@app.command("check")
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
        settings = loaded.settings
        found = (*loaded.warnings, *_policy_problems(settings), *_of_certificates(settings))
        problems, source = found, loaded.source
    tell(problems, unknown_as="error")
    wrong = sum(problem.kind != "warning" for problem in problems)
    if wrong:
        typer.echo(f"{wrong} {'error' if wrong == 1 else 'errors'}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{source}: no errors")


def _policy_problems(settings: Settings) -> list[Problem]:
    """What is wrong with the files that `auth.local` names."""
    local = settings.auth.local
    if local is None:
        return []
    from moorage.auth.local.build import problems_of

    return problems_of(local.policy, local.users)


def _of_certificates(settings: Settings) -> list[Problem]:
    """What `serve` would say of them."""
    from moorage.config.problems import Problem
    from moorage.server import tls
    from moorage.server.cannot import Cannot

    try:
        _, warnings = tls.check(settings.http.tls)
    except tls.Awaited:
        # `serve` asks an authority for it.
        return []
    except Cannot as error:
        return [Problem(str(error))]
    return [Problem(warning, kind="warning") for warning in warnings]


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
