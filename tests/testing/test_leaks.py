"""The suite's own rules: a leak fails the test that makes it, and no example of hypothesis has a deadline."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import hypothesis
import pytest
from tests.leaks import collected
from tests.live import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_LEAKING = """
import socket

class Session:
    def __init__(self):
        self.me = self  # a cycle: only the collector finds it
        self.socket = socket.socket()

def test_leaks():
    Session()

def test_is_innocent():
    pass

def test_closes():
    Session().socket.close()
"""


@pytest.mark.slow
def test_a_leak_fails_the_test_that_makes_it(tmp_path: Path) -> None:
    """And not the one during which the collector happens to run, which has nothing to do with it."""
    (tmp_path / "test_them.py").write_text(_LEAKING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "tests.leaks", "-p", "no:asyncio", "-p", "no:cacheprovider",
         "-W", "error", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    summary = done.stdout[done.stdout.rindex("short test summary info") :]
    (error,) = [line for line in summary.splitlines() if line.startswith("ERROR")]
    assert "test_them.py::test_leaks" in error
    assert "ResourceWarning: unclosed <socket.socket" in done.stdout
    assert "3 passed, 1 error" in summary


def test_what_is_collected_is_named() -> None:
    """By the text of the warning; the object itself is gone."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            raise ResourceWarning("left open")

    gone = weakref.ref(Cycle())
    (text,) = collected()
    assert text.startswith("ResourceWarning: left open (in ")
    assert gone() is None
    assert collected() == []


def test_no_example_has_a_deadline() -> None:
    """A busy machine would make any test with @given fail."""
    assert hypothesis.settings().deadline is None
    assert hypothesis.settings().print_blob
