"""The page about other registries quotes errors as they are."""

from __future__ import annotations

from pathlib import Path

import moorage

ROOT = Path(__file__).parents[2]


def test_quoted_errors_exist() -> None:
    """A reader searches the page for the message."""
    page = (ROOT / "docs" / "other-registries.md").read_text()
    rows = page.partition("## Errors")[2].splitlines()
    quoted = [row.split("`")[1] for row in rows if row.startswith("| `")]
    assert len(quoted) > 10
    sources = sorted((Path(moorage.__file__).parent / "upstream").glob("*.py"))
    # Texts that go over two lines of source are two literals.
    text = "".join(path.read_text() for path in sources).replace('"\n                f"', "").replace('"\n', "")
    for message in quoted:
        for part in message.split("..."):
            assert part.strip() in text, message
