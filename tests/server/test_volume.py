"""Volumes that the user of the container image may not write to; `tests/image/test_users.py` runs the image."""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import load_text

from moorage.server import volume

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def nobody() -> Iterator[None]:
    """Root as another user, also for access(2), which asks for the real one."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that no user may enter, below one that every user may."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        directory = Path(above, "closed")
        directory.mkdir()
        yield directory
        directory.chmod(0o700)


@pytest.mark.parametrize("name", ["data", "a b; c"])
def test_a_volume_below_a_closed_directory_is_refused_by_name(closed: Path, tmp_path: Path, name: str) -> None:
    root = closed / name
    root.mkdir()
    text = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{root}'}}}}\nhttp: {{addr: ':5000'}}\n"
    settings = load_text(tmp_path, text).settings
    closed.chmod(0)
    with nobody():
        message = volume.refusal(settings)
    assert message.startswith(f"{closed} belongs to ")
    assert message.endswith(f" {shlex.quote(str(root))}")


def test_a_file_system_that_fails_is_left_to_the_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: object) -> os.statvfs_result:
        raise OSError(errno.ESTALE, "Stale file handle", path)

    text = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: '{tmp_path}'}}}}\nhttp: {{addr: ':5000'}}\n"
    settings = load_text(tmp_path, text).settings
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).exists() and not mode & os.W_OK)
    monkeypatch.setattr(os, "statvfs", failing)
    assert volume.refusal(settings) == ""
