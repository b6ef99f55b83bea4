"""Commands that `moorage migrate check` prints: they are copied into a shell."""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.migration import volume
from moorage.migration.accounts import Account

if TYPE_CHECKING:
    import pytest

STRANGER = Account("1234567", 1234567, 1234567, frozenset({1234567}), "--user")


def test_paths_are_quoted() -> None:
    """`chown -R` of a path with a space would begin above the data."""
    with tempfile.TemporaryDirectory(suffix=" b; c") as above:
        root, file = Path(above, "data"), Path(above, "htpasswd")
        root.mkdir()
        file.touch(0o600)
        advice = [
            *volume.ownership(root, volume.walk(root, STRANGER, 0, lambda _: None), STRANGER),
            *volume.files_to_read([("auth.htpasswd.path", str(file))], STRANGER),
        ]
    remedies = {line.kind: line.remedy for line in advice}
    assert remedies["permission-above"] == f"chmod o+x {shlex.quote(above)}"
    assert f"chown -R 1234567:1234567 {shlex.quote(str(root))}; or" in remedies["permission-directory"]
    assert remedies["file-permission"].endswith(f"chmod o+x {shlex.quote(above)}")


def test_the_directory_behind_a_link_is_named(tmp_path: Path) -> None:
    """`chown -R` of a symbolic link changes nothing below it."""
    (tmp_path / "disk").mkdir()
    root = tmp_path / "data"
    root.symlink_to("disk")
    (line, *_) = [
        line
        for line in volume.ownership(root, volume.walk(root, STRANGER, 0, lambda _: None), STRANGER)
        if line.kind == "permission-directory"
    ]
    assert f"chown -R 1234567:1234567 {tmp_path.resolve()}/disk; or" in line.remedy


def test_a_file_system_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: object) -> os.statvfs_result:
        raise OSError(errno.ESTALE, "Stale file handle", path)

    (tmp_path / volume.LAYOUT).mkdir(parents=True)
    monkeypatch.setattr(os, "statvfs", failing)
    assert [*volume.location(tmp_path, readonly=False)] == []
    (line,) = volume.free_space(tmp_path)
    assert (line.required, line.text) == (True, "the file system does not show its free space: Stale file handle")
