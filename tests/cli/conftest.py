"""Commands run in this process: a process of its own costs half a second."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from moorage.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    def __call__(self, *arguments: str | Path, name: str = "moorage", **environ: str) -> Result: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The entry point in this process (a process of its own costs half a second), in a clean environment."""

    def call(*arguments: str | Path, name: str = "moorage", **environ: str) -> Result:
        with monkeypatch.context() as patch:
            for variable in [variable for variable in os.environ if variable.startswith("REGISTRY_")]:
                patch.delenv(variable)
            for variable, value in environ.items():
                patch.setenv(variable, value)
            patch.setattr(sys, "argv", [f"/usr/bin/{name}", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        written = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Result(code, written.out, written.err)

    return call
