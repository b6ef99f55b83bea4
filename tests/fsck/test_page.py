"""docs/storage/checking.md lists every finding as it is reported."""

from __future__ import annotations

from pathlib import Path

from moorage.fsck.findings import KINDS


def test_the_page_has_every_kind() -> None:
    """An operator looks up a finding there."""
    page = (Path(__file__).parents[2] / "docs" / "storage" / "checking.md").read_text()
    rows = [
        line.strip("| ").split(" | ")
        for line in page.splitlines()
        if line.startswith("| `") and line.count("|") == 5
    ]
    documented = {row[0].strip("`"): tuple(row[1:]) for row in rows}
    reported = {
        name: (kind.severity.value, kind.clients, kind.repair or "nothing") for name, kind in KINDS.items()
    }
    assert documented == reported
