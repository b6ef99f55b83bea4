"""Commands that install an extra's libraries: they must work in a clone, where `moorage[s3]` does not."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from moorage import extras
from moorage.extras import install_command


@pytest.mark.parametrize("extra", ["s3", "gcs", "azure", "redis", "letsencrypt", "tracing"])
def test_the_command_names_the_libraries(extra: str) -> None:
    """For the interpreter that runs, wherever its package came from."""
    python, *rest = shlex.split(install_command(extra))
    assert python == sys.executable
    assert rest[:3] == ["-m", "pip", "install"]
    assert len(rest) > 3
    assert all(re.match(r"[a-z-]+(\[\w+\])?[<>=]", requirement) for requirement in rest[3:]), rest


def test_without_metadata_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree on the path that was never installed."""

    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", missing)
    assert shlex.split(install_command("s3"))[-1] == "moorage[s3]"
