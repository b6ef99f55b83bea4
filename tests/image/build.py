"""The container image in a Docker engine: built once for all engines, workers and runs.

    with dockerd() as engine:
        name = image(engine)            # "moorage:full"; image(engine, "slim")

The base comes from an archive that tools/install_test_programs.py has made, the wheels from a folder; nothing here
uses a network.  What was built is kept in `.tools/image` under the hash of everything it was made from: only
the first caller builds, about a minute on an idle machine; give its test a timeout to match (`BUILD_LIMIT_S`).

MOORAGE_TEST_IMAGES names a folder with images that were built elsewhere, on the official base for instance:
`docker save -o full.tar moorage:full`, and the same of slim.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pytest
from tests.live import ROOT, everything_required, require
from tools import image_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BASE", "BUILD_LIMIT_S", "build", "context", "image", "part", "run"]

BASE: Final = "python:3.13-slim-trixie"
"""The Dockerfile's base; a test compares."""

BUILD_LIMIT_S: Final = 900

_CONTEXT: Final = (
    "Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "deploy/image", "requirements", "src",
)  # fmt: skip
_KEPT: Final = 4
"""Archives of this many states of the repository stay."""


def image(engine: str, target: Literal["full", "slim"] = "full") -> str:
    """Return the name of the image in the engine at `engine` (a DOCKER_HOST), after building or loading it.

    Skips the test, or fails it where everything is required, if a part is missing.
    """
    name = f"moorage:{target}"
    elsewhere = os.environ.get("MOORAGE_TEST_IMAGES", "")
    folder = Path(elsewhere) if elsewhere else image_parts.PARTS / f"built-{_hash()}"
    archive = folder / f"{target}.tar"
    with _locked():
        if elsewhere or archive.exists():
            if not run(engine, "image", "ls", "--quiet", name).strip():
                run(engine, "load", "--quiet", "--input", str(archive))
        else:
            _build_both(engine, folder)
    return name


def build(engine: str, target: str, name: str, *arguments: str) -> None:
    """Run `docker build` for a target, as a user does, with the wheels in the context; the base must be there."""
    with context() as folder:
        offline = ("--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/build/wheels")
        run(
            engine, "build", "--quiet", "--network=none", "--target", target, "--tag", name, *offline, *arguments,
            str(folder),
        )  # fmt: skip


@contextmanager
def context() -> Iterator[Path]:
    """A build context: what of the repository the Dockerfile needs, and the wheels."""
    with tempfile.TemporaryDirectory(prefix="moorage-context-") as scratch:
        folder = Path(scratch)
        for name in _CONTEXT:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        shutil.copytree(part(image_parts.wheels()), folder / "wheels")
        yield folder


def import_base(engine: str) -> None:
    run(engine, "import", str(part(image_parts.base())), BASE)


def run(engine: str, *arguments: str, fails: bool = False, stdin: str | None = None) -> str:
    """Run a docker command; its output.  A failure (or, with `fails`, a success) ends the test."""
    with tempfile.TemporaryDirectory(prefix="moorage-docker-") as home:
        done = subprocess.run(
            [require("docker"), *arguments],
            check=False,
            env={"DOCKER_HOST": engine, "DOCKER_BUILDKIT": "1", "HOME": home, "PATH": os.defpath},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_LIMIT_S,
        )
    assert (done.returncode == 0) != fails, f"docker {' '.join(arguments)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def _build_both(engine: str, folder: Path) -> None:
    import_base(engine)
    older = sorted(image_parts.PARTS.glob("built-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in older[_KEPT - 1 :]:
        shutil.rmtree(path)
    with tempfile.TemporaryDirectory(prefix=".built-", dir=image_parts.PARTS) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        for target in ("full", "slim"):
            name = f"moorage:{target}"
            build(engine, target, name)
            run(engine, "save", "--output", str(made / f"{target}.tar"), name)
        made.replace(folder)


def part(path: Path) -> Path:
    if path.exists():
        return path
    reason = f"{path.relative_to(ROOT)} is missing (python3 tools/install_test_programs.py)"
    if everything_required():
        pytest.fail(reason)
    pytest.skip(reason)


def _hash() -> str:
    """Of everything that goes into the image."""
    found = hashlib.sha256(f"{part(image_parts.base()).name} {part(image_parts.wheels()).name}".encode())
    paths = [
        path
        for name in _CONTEXT
        for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])
    ]
    for path in sorted(paths):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(f"\0{path.relative_to(ROOT)}\0{path.stat().st_mode:o}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def _locked() -> Iterator[None]:
    """One process builds at a time, over all runs and workers."""
    image_parts.PARTS.mkdir(parents=True, exist_ok=True)
    with (image_parts.PARTS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
