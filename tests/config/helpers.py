"""Loads configurations that a test writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.config.load import Loaded, load
from moorage.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["BASE", "PLAIN", "errors_of", "load_text", "warnings_of"]

BASE = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: /srv/registry
http:
  addr: 127.0.0.1:5000
"""
"""A file without problems."""

PLAIN = "version: 0.1\nhttp: {addr: ':5000'}\n"
"""A file that lacks only a storage driver."""


def load_text(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    path = directory / "config.yml"
    path.write_text(text)
    return load(path, environ or {})


def errors_of(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """The errors of a configuration that must be refused."""
    with pytest.raises(ConfigError) as caught:
        load_text(directory, text, environ)
    return [problem for problem in caught.value.problems if problem.kind == "error"]


def warnings_of(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in load_text(directory, text, environ).warnings]
