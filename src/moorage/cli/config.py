"""`moorage config`: checks and shows the configuration without serving with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.config.load import Loaded
    from moorage.config.model import Settings
    from moorage.config.problems import Problem

__all__ = ["app"]

app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True, rich_markup_mode=None)


@app.command("check", short_help="Report every mistake; exit status 1 if there is one.")
def check(
    config: Config = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also bind each address briefly, write to the data directory, query store and Redis."
        ),
    ] = False,
) -> None:
    """Report every error at once; exit status 1 if there is one.

    An error has file and line (or the variable), the key, and what was expected. A key or variable that nothing
    reads is an error here. The files that the configuration names are read as `serve` does before it starts.

    Example: moorage config check /etc/docker/registry/config.yml
    """
    import os

    from moorage.cli.problems import report
    from moorage.config.load import load
    from moorage.config.problems import ConfigError

    loaded: Loaded | None = None
    try:
        loaded = load(config, os.environ)
    except ConfigError as error:
        problems = list(error.problems)
    else:
        from moorage.wiring import serving

        problems = [*loaded.warnings, *serving.problems(loaded.settings)]
    report(problems, unknown_as="error")
    refused = any(problem.kind == "error" for problem in problems)
    if deep and refused:
        typer.echo("--deep was skipped; correct the errors first", err=True)
    elif deep and loaded is not None:
        problems += _probed(loaded.settings)
    wrong = sum(problem.kind != "warning" for problem in problems)
    if wrong or loaded is None:
        typer.echo(f"{wrong} {'error' if wrong == 1 else 'errors'}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{loaded.source}: no errors")


def _probed(settings: Settings) -> list[Problem]:
    """Print a line for each probe as soon as it has ended; return those that failed."""
    from moorage.cli import config_check_deep
    from moorage.cli.problems import log_errors_only, report
    from moorage.config.problems import Problem

    log_errors_only()
    failed = []
    for probe in config_check_deep.probes(settings):
        result = config_check_deep.run(probe)
        if result.ok:
            typer.echo(f"ok: {result.key}: {result.text}")
        else:
            failed.append(Problem(result.text, result.key))
            report(failed[-1:])
    return failed


@app.command("show")
def show(config: Config = None) -> None:
    """Print the settings in force as YAML, with secrets masked.

    Example: REGISTRY_LOG_LEVEL=debug moorage config show
    """
    from moorage.cli.problems import load_or_exit, report
    from moorage.config.show import render

    loaded = load_or_exit(config)
    report(loaded.warnings)
    typer.echo(f"# from {loaded.source} and the environment\n{render(loaded.settings)}", nl=False)
