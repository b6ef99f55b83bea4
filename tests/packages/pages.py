"""Shell commands of docs/installing.md, to be run as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["commands"]

_PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "installing.md"


def commands(heading: str, places: Mapping[str, str] | None = None) -> list[str]:
    """Return the shell blocks of the section, with `places` replaced; each of them must be there."""
    found = re.search(
        rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", _PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"no section {heading!r}"
    blocks = re.findall(r"^```sh\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)
    assert blocks, f"no commands in {heading!r}"
    for theirs, ours in (places or {}).items():
        assert any(theirs in block for block in blocks), f"no {theirs!r} in {heading!r}"
        blocks = [block.replace(theirs, ours) for block in blocks]
    return blocks
