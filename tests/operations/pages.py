"""Fenced blocks of the documentation, and how a block of shell commands is run with the paths of a test."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROOT", "Block", "adapted", "block", "blocks", "run_block"]

ROOT: Final = Path(__file__).resolve().parents[2]
_FENCED: Final = re.compile(
    r"^(?P<indent> *)```(?:\{code-block\} )?(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_LIMIT_S: Final = 120


@dataclass(frozen=True)
class Block:
    """A fenced block.  `page` is a path below the repository; `text` has neither caption nor indentation."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0] if self.text else ''}"


def blocks(page: str) -> list[Block]:
    """Every fenced block of the page, in its order; directives such as `{toctree}` are none."""
    found = []
    for match in _FENCED.finditer((ROOT / page).read_text()):
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        if lines and lines[0].startswith(":caption:"):
            lines = lines[2:]
        found.append(Block(page, match["language"], "\n".join(lines) + "\n"))
    return found


def block(page: str, beginning: str) -> Block:
    """The one block of the page that begins so."""
    found = [each for each in blocks(page) if each.text.startswith(beginning)]
    assert len(found) == 1, f"{page} has {len(found)} blocks that begin with {beginning!r}"
    return found[0]


def adapted(text: str, places: Mapping[str, str]) -> str:
    """Replace the page's places by the test's; one that is not there would be a test of something else."""
    for theirs, ours in places.items():
        assert theirs in text, f"{theirs!r} is not in the page's block:\n{text}"
        text = text.replace(theirs, ours)
    return text


def run_block(
    block: Block, places: Mapping[str, str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """Run a block of shell commands with `sh -eu`; its output.  Raises AssertionError if a command fails."""
    assert block.language == "sh", block
    script = adapted(block.text, places)
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder, env=None if environment is None else dict(environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout
