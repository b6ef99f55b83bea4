"""docs/mirror.md: its messages, and its blocks by their captions."""

from __future__ import annotations

import re
from typing import Final

from tests.operations.pages import ROOT

__all__ = ["PAGE", "captioned", "explained", "messages"]

PAGE: Final = "docs/mirror.md"
_CAPTIONED: Final = re.compile(
    r"^```\{code-block\} \w+\n:caption: ([^\n]*)\n\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


def captioned(path: str, number: int = 0) -> str:
    """Return the text of the file of that name on the page; `number` counts those of the same name."""
    found = [text for caption, text in _CAPTIONED.findall((ROOT / PAGE).read_text()) if caption == path]
    return str(found[number])


def messages() -> list[str]:
    """Return the messages that the page explains."""
    _, _, table = (ROOT / PAGE).read_text().partition("\n## Troubleshooting\n")
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


def explained(message: str) -> str:
    """Return the message, which the page must explain."""
    assert message in messages()
    return message
