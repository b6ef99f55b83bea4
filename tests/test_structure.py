"""`tools/structure.py`: the figures by which two states of the source are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.structure import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_cycles_are_found_wherever_the_import_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cycle that only type checking closes is a cycle for a reader as well."""
    for name, text in {
        "http/__init__.py": '"""Whoever tells, tells."""\n',
        "http/app.py": "from moorage import types\nfrom moorage.registry import blobs\n",
        "registry/__init__.py": "",
        "registry/blobs.py": "if TYPE_CHECKING:\n    from moorage.http.app import create_app\n",
        "types.py": 'def parse() -> None:\n    """Parse a digest."""\n    import moorage.types\n',
    }.items():
        path = tmp_path / "src" / "moorage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "import cycles between modules: 1" in shown
    assert "    http.app registry.blobs" in shown
    assert "rooms: 3, arrows between them: 3" in shown
    assert "import cycles between rooms: 1" in shown
    assert "    told, tells, said, says: 333.3 (2)" in shown
    assert "docstrings that open with What, Who, Whoever, Whether or How: 50.0% (1)" in shown


def test_an_empty_checkout_is_refused(tmp_path: Path) -> None:
    """Zero cycles in zero files would look like a success."""
    assert main([str(tmp_path)]) == 1
