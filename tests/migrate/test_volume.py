"""Commands that `moorage migrate check` prints: they are copied into a shell."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from moorage.migration import volume
from moorage.migration.accounts import Account

if TYPE_CHECKING:
    from pathlib import Path

STRANGER = Account("1234567", 1234567, 1234567, frozenset({1234567}), "--user")


def test_paths_are_quoted(tmp_path: Path) -> None:
    """`chown -R` of a path with a space would begin above the data."""
    above = tmp_path / "a b; c"
    root = above / "data"
    root.mkdir(parents=True)
    file = above / "htpasswd"
    file.touch(0o600)
    os.chmod(above, 0o700)  # noqa: PTH101
    advice = [
        *volume.ownership(root, volume.walk(root, STRANGER, 0, lambda _: None), STRANGER),
        *volume.files_to_read([("auth.htpasswd.path", str(file))], STRANGER),
    ]
    remedies = {line.kind: line.remedy for line in advice}
    assert shlex.quote(str(above)) in remedies["permission-above"]
    assert f"chown -R 1234567:1234567 {shlex.quote(str(root))}; or" in remedies["permission-directory"]
