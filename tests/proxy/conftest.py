"""Clients that run before a mirror of real processes."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.live import require

if TYPE_CHECKING:
    from pathlib import Path


class Skopeo(Protocol):
    def __call__(self, *arguments: str, fails: bool = False, conf: str | None = None) -> str:
        """Run skopeo; its stdout and stderr.  A failure (or, with `fails`, a success) ends the test."""


@pytest.fixture
def skopeo(tmp_path: Path) -> Skopeo:
    """Skopeo with an empty home; `conf` is the text of its registries.conf."""
    program = require("skopeo")
    home = tmp_path / "home"
    home.mkdir()
    (home / "auth.json").write_text("{}")

    def skopeo(*arguments: str, fails: bool = False, conf: str | None = None) -> str:
        environment = {"HOME": str(home), "REGISTRY_AUTH_FILE": str(home / "auth.json"), "PATH": "/usr/bin:/bin"}
        if conf is not None:
            (home / ".config" / "containers").mkdir(parents=True, exist_ok=True)
            (home / ".config" / "containers" / "registries.conf").write_text(conf)
        done = subprocess.run(
            [program, *arguments], env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode != 0) is fails, f"{arguments} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    return skopeo
