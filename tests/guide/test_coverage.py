"""Every command on the pages is performed by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.guide.pages import PAGES, blocks, headings, messages


@pytest.mark.parametrize("page", PAGES)
def test_every_section_with_commands_has_a_test(page: str) -> None:
    """A step that no test performs becomes wrong unnoticed."""
    with_commands = {
        heading for heading in headings(page) if any(block.language == "sh" for block in blocks(page, heading))
    }
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = {
        heading
        for of, found in re.findall(r'@section\(\s*"(\w+)",((?:\s*"[^"]+",?)+)\s*\)', sources)
        if of == page
        for heading in re.findall(r'"([^"]+)"', found)
    }
    assert with_commands
    assert tested == with_commands


def test_every_message_that_the_page_explains_is_provoked() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert {*messages()} == {*re.findall(r'explained\("([^"]+)"\)', sources)}
