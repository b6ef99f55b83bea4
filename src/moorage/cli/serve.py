"""`moorage serve`: runs the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Config", "serve"]

_HELP = (
    "Configuration file; else the one that REGISTRY_CONFIGURATION_PATH names, /etc/docker/registry/config.yml, "
    "/etc/distribution/config.yml, or the built-in defaults. REGISTRY_* variables apply to all of them."
)

# Not checked by Click: a file that cannot be read is an error of the configuration (status 1), not of the command
# line (status 2).
Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help=_HELP, readable=False)]


def serve(
    config: Config = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Read no configuration file, not even one in a default location.")
    ] = False,
) -> None:
    """Run the registry until SIGTERM or SIGINT.

    Example: moorage serve /etc/docker/registry/config.yml
    """
    import gc
    import os

    gc.disable()  # until `run` has built everything
    from moorage.cli.problems import report
    from moorage.config.image_paths import in_image
    from moorage.config.load import load
    from moorage.config.problems import ConfigError
    from moorage.config.source import found

    if defaults and config is not None:
        raise typer.BadParameter("--defaults reads no file; leave out one of the two", param_hint="CONFIG")
    try:
        loaded = load(config, os.environ, defaults=defaults)
    except ConfigError as error:
        report(error.problems)
        unnamed = not (config or defaults or in_image(os.environ) or os.environ.get("REGISTRY_CONFIGURATION_PATH"))
        if unnamed and (place := found()):
            hint = "name another file, or start without one: moorage serve --defaults"
            typer.echo(f"{place} was found in a default location; {hint}", err=True)
        raise typer.Exit(1) from None
    report(loaded.warnings)
    if loaded.path is None:
        storage = loaded.settings.storage
        where = storage.filesystem.rootdirectory if storage.filesystem else storage.driver
        provider = loaded.settings.auth.provider
        access = "no authentication" if provider == "none" else f"authentication by {provider}"
        typer.echo(f"no configuration file; data in {where}, {access}", err=True)

    from moorage.wiring.serving import run

    raise typer.Exit(run(loaded))
