"""Shared by the commands that delete, restore and erase: references, times, the user, confirmation."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.config.model import Settings
    from moorage.types import Reference, RepoName

__all__ = ["Target", "confirm_or_exit", "operator", "parse_target", "parse_time", "stored_settings"]


class Target(NamedTuple):
    """A repository, or a tag or digest in it; `str()` is how it is written."""

    name: RepoName
    reference: Reference | None

    def __str__(self) -> str:
        if self.reference is None:
            return self.name
        return f"{self.name}{'@' if ':' in str(self.reference) else ':'}{self.reference}"


def parse_target(text: str) -> Target:
    """Parse `REPOSITORY`, `REPOSITORY:TAG` or `REPOSITORY@DIGEST`; a parser of arguments.  Raises BadParameter."""
    from moorage.errors import RegistryError
    from moorage.types import Digest, parse_repo_name, parse_tag

    try:
        name, at, digest = text.partition("@")
        if at:
            return Target(parse_repo_name(name), Digest.parse(digest))
        name, colon, tag = text.partition(":")
        return Target(parse_repo_name(name), parse_tag(tag) if colon else None)
    except RegistryError as error:
        raise typer.BadParameter(
            f"{error}; expected REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST without a host"
        ) from None


def parse_time(text: str) -> datetime:
    """Parse a time of ISO 8601, by default UTC; a parser of options.  Raises BadParameter."""
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"expected a time such as 2026-11-29T21:30:00Z, found {text!r}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def stored_settings(config: object, *, writes: bool) -> Settings:
    """Load the configuration of a store that other processes can see, or exit with status 1.

    `writes`: read-only mode is refused as well.
    """
    from pathlib import Path

    from moorage.cli.problems import load_or_exit, require_data_directory

    settings = load_or_exit(config if isinstance(config, Path) else None).settings
    reason = ""
    if settings.storage.driver == "inmemory":
        reason = "storage.inmemory is the memory of one process; this command cannot see it"
    elif writes and settings.storage.maintenance.readonly.enabled:
        reason = "storage.maintenance.readonly is enabled, nothing was changed; disable it first"
    if reason:
        typer.echo(reason, err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    return settings


def operator() -> str:
    """Return the user of this host on whose behalf the command runs."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for the user
        return f"uid {os.getuid()}"


def confirm_or_exit(question: str, *, yes: bool) -> None:
    """Ask on the terminal; exit with status 1 unless the answer, or `yes`, is yes."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        typer.echo(f"{question} Nothing was changed: confirm with --yes", err=True)
        raise typer.Exit(1)
    if not typer.confirm(question, err=True):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)
