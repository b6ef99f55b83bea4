"""Checks of `sync` before the start: the library of the client, and the files of authorities."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from moorage import extras
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from moorage.config.model import Settings

__all__ = ["certificates_problem", "check_sync_files"]


def check_sync_files(settings: Settings) -> list[Problem]:
    """Return the problems of the jobs that run periodically.  Raises StartupError without the library."""
    found: list[Problem] = []
    if not settings.sync.enabled or not settings.sync.jobs:
        return found
    extras.require("mirror", "sync.enabled", "aiohttp")
    for index, job in enumerate(settings.sync.jobs):
        for end, remote in (("source", job.source), ("target", job.target)):
            if remote is None or not remote.ca:
                continue
            if (problem := certificates_problem(remote.ca)) is not None:
                found.append(Problem(problem, f"sync.jobs[{index}].{end}.ca"))
    return found


def certificates_problem(path: str) -> str | None:
    """Return why a file of certificates cannot be used; None if it can."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError included
        return f"{path} is not a readable file of certificates: {error.strerror or error}"
    return None
