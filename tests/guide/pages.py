"""Sections of the pages in docs/deploying, whose commands the tests run in the order of the page.

    @section("docker", "Stop and remove it")
    def test_...(steps: Steps) -> None:
        steps.run()          # the section's next block of shell commands

Every `sh` block of a section must have been run when its test ends, and `test_coverage` asserts that every section
with such a block has a test.  Blocks in another language are not commands: output, alternatives, files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.image.build import BUILD_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.guide.machine import Machine

__all__ = [
    "MARKS", "PAGES", "Block", "Steps", "blocks", "explained", "headings", "messages", "section", "substituted",
]  # fmt: skip

# The first test may have to wait until the image is built.
MARKS: Final = [
    pytest.mark.docker, pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("guide"),
    pytest.mark.timeout(BUILD_LIMIT_S),
]  # fmt: skip
PAGES: Final = ("docker", "compose", "swarm")
_FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "deploying"
_FENCE: Final = re.compile(
    r"^```(?:\{code-block\} )?(\w+)\n(?::caption: ([^\n]*)\n\n)?(.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    language: str
    caption: str
    text: str


@dataclass
class Steps:
    """Blocks of a page, of which `run` takes the commands one after the other."""

    machine: Machine
    blocks: tuple[Block, ...]
    done: int = field(default=0)

    @property
    def commands(self) -> list[str]:
        return [block.text for block in self.blocks if block.language == "sh"]

    def run(self, changes: Mapping[str, str] | None = None, *, fails: bool = False) -> str:
        """Run the next block of commands, with the page's text replaced as in `changes`; its output."""
        assert self.done < len(self.commands), "there are no further commands"
        script = substituted(self.commands[self.done], changes or {})
        self.done += 1
        return self.machine.run(script, fails=fails)

    def write(self, caption: str) -> None:
        """Write the file of that caption to the path that the caption is."""
        (text,) = [block.text for block in self.blocks if block.caption == caption]
        self.machine.command("sh", "-eu", "-c", 'printf %s "$1" > "$0"', caption, text)


def section(page: str, *headings: str) -> pytest.MarkDecorator:
    """Parametrize a test with the steps of a section, or of several that belong together."""
    return pytest.mark.parametrize("steps", [(page, *headings)], indirect=True, ids=[headings[0]])


def headings(page: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = re.split(r"^## (.*)$", (_FOLDER / f"{page}.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(page: str, *expected: str) -> tuple[Block, ...]:
    """The blocks of these sections."""
    found = headings(page)
    assert found.keys() >= {*expected}, f"docs/deploying/{page}.md lacks a section of {expected}"
    return tuple(Block(*match) for heading in expected for match in _FENCE.findall(found[heading]))


def messages() -> list[str]:
    """What the table of docs/deploying/docker.md explains."""
    return re.findall(r"^\| `([^`]+)` \|", headings("docker")["When it does not work"], re.MULTILINE)


def explained(message: str) -> str:
    """The message, which the table must have."""
    assert message in messages()
    return message


def substituted(text: str, changes: Mapping[str, str]) -> str:
    """Replace what the test does not have; each text must be on the page."""
    for theirs, ours in changes.items():
        assert theirs in text, f"{theirs} is not in the page's block:\n{text}"
        text = text.replace(theirs, ours)
    return text
