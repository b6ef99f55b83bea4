"""`moorage storage purge-uploads`: by age, on request, and never in read-only mode."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

UPLOADS = "docker/registry/v2/repositories/team/app/_uploads"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A volume with an upload of 2020 and one of 2999."""
    for name, begun in (("0000-old", "2020-01-01T00:00:00Z"), ("1111-new", "2999-01-01T00:00:00Z")):
        home = tmp_path / "data" / UPLOADS / name
        home.mkdir(parents=True)
        (home / "startedat").write_text(begun)
        (home / "data").write_bytes(b"bytes")
    return tmp_path / "data"


def _config(root: Path, maintenance: str = "") -> Path:
    file = root.parent / "config.yml"
    storage = f"filesystem: {{rootdirectory: '{root}'}}, maintenance: {{{maintenance}}}"
    file.write_text(f"version: 0.1\nstorage: {{{storage}}}\nhttp: {{addr: ':0'}}\n")
    return file


def test_old_uploads_are_removed_and_named(run: Run, root: Path) -> None:
    """Also where the registry itself does not purge."""
    result = run("storage", "purge-uploads", "-q", _config(root, "uploadpurging: {enabled: false}"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "1 upload and 0 half-written tags removed\n"
    assert [path.name for path in (root / UPLOADS).iterdir()] == ["1111-new"]
    again = run("storage", "purge-uploads", _config(root))
    assert again.stdout == "0 uploads and 0 half-written tags removed\n"


def test_a_dry_run_names_and_removes_nothing(run: Run, root: Path) -> None:
    config = _config(root, "readonly: {enabled: true}")
    result = run("storage", "purge-uploads", "--dry-run", config)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        f"would remove upload: {UPLOADS}/0000-old",
        "1 upload and 0 half-written tags would be removed",
    ]
    lines = run("storage", "purge-uploads", "--dry-run", "--json", "-q", config).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"kind": "upload", "key": f"{UPLOADS}/0000-old", "removed": False},
        {"summary": {"uploads": 1, "tags": 0, "removed": False}},
    ]
    assert len(list((root / UPLOADS).iterdir())) == 2


def test_the_age_of_the_command_line_counts(run: Run, root: Path) -> None:
    """Two centuries: nothing is that old.  A minute: a warning, since pushes in progress are hit."""
    assert run("storage", "purge-uploads", "-q", "--older-than", "1752000h", _config(root)).stdout.startswith(
        "0 up"
    )
    short = run("storage", "purge-uploads", "-q", "--older-than", "1m", _config(root))
    assert "warning: pushes in progress that began more than 1m ago have to be repeated" in short.stderr
    assert short.stdout.startswith("1 upload ")


def test_read_only_mode_refuses_to_remove(run: Run, root: Path) -> None:
    result = run("storage", "purge-uploads", _config(root, "readonly: {enabled: true}"))
    assert (result.returncode, result.stdout) == (1, "")
    assert "storage.maintenance.readonly is enabled, nothing was removed; use --dry-run" in result.stderr
    assert len(list((root / UPLOADS).iterdir())) == 2


@pytest.mark.parametrize("age", ["5", "-1h", "soon"])
def test_an_age_without_meaning_is_a_mistake_on_the_command_line(run: Run, root: Path, age: str) -> None:
    result = run("storage", "purge-uploads", f"--older-than={age}", _config(root))
    assert (result.returncode, result.stdout) == (2, "")
    assert "expected a duration" in result.stderr
    assert len(list((root / UPLOADS).iterdir())) == 2


def test_what_cannot_be_purged_is_named(run: Run, root: Path, tmp_path: Path) -> None:
    """A volume that is not mounted is no registry without uploads."""
    memory = tmp_path / "memory.yml"
    memory.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: ':0'}\n")
    result = run("storage", "purge-uploads", memory)
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is nothing to purge" in result.stderr
    missing = run("storage", "purge-uploads", _config(tmp_path / "gone"))
    assert missing.returncode == 1
    assert "is its volume mounted?" in missing.stderr
