"""The registry that real clients talk to, and how their commands are run.

`MOORAGE_TEST_REGISTRY=reference` runs the same tests against Debian's docker-registry: a test that fails there
and passes here (or the other way round) is a difference worth knowing.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.live import Live, start_tested
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Run(Protocol):
    def __call__(
        self,
        *command: str | Path,
        fails: bool = False,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a client; its stdout and stderr.  A failure (or, with `fails`, a success) ends the test."""


@pytest.fixture(scope="session")
def reference_in_place() -> bool:
    return os.environ.get("MOORAGE_TEST_REGISTRY") == "reference"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_tested(tmp_path_factory.mktemp("clients") / "data") as live:
        yield live


@pytest.fixture
def reg(registry: Live) -> str:
    """`127.0.0.1:PORT`, as in an image's name."""
    return registry.host


@pytest.fixture
def wire(registry: Live) -> Wire:
    return Wire(registry.host)


@pytest.fixture
def run(tmp_path: Path, registry: Live) -> Run:
    """Runs clients in an empty home of their own, two minutes at most each."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "auth.json").write_text("{}")

    def run(
        *command: str | Path, fails: bool = False, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        settings = {
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / "docker"),
            "REGISTRY_AUTH_FILE": str(home / "auth.json"),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **(env or {}),
        }
        done = subprocess.run(
            [str(part) for part in command],
            check=False,
            env=settings,
            cwd=home,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        if (done.returncode == 0) == fails:
            raise AssertionError(
                f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout}\n"
                f"--- the registry's log:\n{registry.logs()[-3000:]}"
            )
        return done.stdout

    return run
