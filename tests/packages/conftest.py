"""Distributions built from this tree, and wheels of everything that they need: no test here asks an index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.live import everything_required, require
from tests.packages.wheelhouse import needed_by, pack

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist, wheel and SHA256SUMS of the working tree."""
    if not (ROOT / ".git").exists():
        reason = "this is no clone of the repository, from whose files the distributions are built"
        (pytest.fail if everything_required() else pytest.skip)(reason)
    require("git")
    folder = tmp_path_factory.mktemp("distributions") / "dist"
    build: list[str | Path] = [sys.executable, ROOT / "tools" / "build_distributions.py", folder, "--working-tree"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A folder for `pip --find-links`: our wheel and those of everything that `moorage[all]` leads to."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    for name, found in needed_by(["moorage[all]"]).items():
        if name != "moorage":
            pack(found, folder)
    shutil.copy(wheel, folder)
    return folder


def require_same_python(python: str) -> None:
    """The packed wheels are those of the tests' interpreter: another one must have the same ABI."""
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    theirs = subprocess.run(
        [require(python), "-c", version], capture_output=True, text=True, check=True
    ).stdout.strip()
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if theirs != ours:
        reason = f"{python} is Python {theirs}, and the tests run with {ours}: it cannot use the same wheels"
        (pytest.fail if everything_required() else pytest.skip)(reason)
