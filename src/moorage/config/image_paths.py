"""Chooses the configuration file inside the container image, which has two locations for it.

`registry:2` reads /etc/docker/registry/config.yml, `registry:3` /etc/distribution/config.yml, and commands,
Compose files and mounts name either.  The image has its own file at both locations, so a file that differs from it
was mounted there (or copied, by a Dockerfile that begins with `FROM moorage`):

    mounted           named on the command line    read
    one of them       none, or either              the mounted one
    both              one                          that one; a warning names the other
    both              none                         the first; a warning names the other

A directory, or a file that cannot be read, counts as mounted, so that it is refused by name and never replaced by
the defaults; so does a location that is missing because a directory was mounted above it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config.problems import Origin, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SHIPPED", "choose", "in_image"]

SHIPPED: Final = Path("/usr/share/moorage/config.yml")
"""The image's own file, outside of all mounts."""

_VARIABLE: Final = "MOORAGE_IMAGE"
"""Set by the Dockerfile, to the name of its target."""


def in_image(environ: Mapping[str, str]) -> str:
    """Return "full" or "slim" inside the container image, "" outside of it."""
    return environ.get(_VARIABLE, "")


def choose(named: Path | None, places: Sequence[Path], shipped: Path = SHIPPED) -> tuple[Path, list[Problem]]:
    """Return the file to read, and warnings about the one that is not read; `named` is on the command line."""
    own = _bytes(shipped)
    there = [place for place in places if os.path.lexists(place)]
    mounted = [place for place in there if own is None or _bytes(place) != own]
    if named is None:
        missing = [place for place in places if place not in there]
        chosen = [*mounted, *missing, *places][0]
        return chosen, [_not_read(place, f"{chosen} comes first") for place in mounted if place != chosen]
    if named not in places:
        return named, []
    others = [place for place in mounted if place != named]
    if others and named not in mounted:
        message = f"is the image's own file; {others[0]} was mounted and is read"
        return others[0], [Problem(message, origin=Origin(str(named)), kind="warning")]
    return named, [_not_read(place, f"{named} was named") for place in others]


def _not_read(place: Path, reason: str) -> Problem:
    return Problem(f"not read: {reason}", origin=Origin(str(place)), kind="warning")


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
