"""The file that is made when there is none: by one of several, whole, on any file system."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import bcrypt
import pytest

from moorage.auth import htpasswd_write
from moorage.auth.password_file import parse
from moorage.startup import StartupError

if TYPE_CHECKING:
    from pathlib import Path


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(_: str, __: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False])
def test_of_several_starts_at_once_one_makes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Two registries on one volume: the logged password would not work."""
    if not links:
        refuse_links(monkeypatch)
    path = tmp_path / "auth" / "htpasswd"
    barrier, warnings = threading.Barrier(4), []
    lexists = os.path.lexists

    def together(requested: Path) -> bool:
        found = lexists(requested)
        barrier.wait(60)
        return found

    monkeypatch.setattr("moorage.auth.htpasswd_write.os.path.lexists", together)
    threads = [threading.Thread(target=lambda: warnings.extend(htpasswd_write.provide(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (warning,) = warnings
    password = warning.partition("and password ")[2].partition(",")[0]
    ((user, stored),) = parse(path.read_bytes()).hashes.items()
    assert user == b"docker"
    assert bcrypt.checkpw(password.encode(), stored)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["htpasswd"]


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(StartupError, match=r"cannot make the password file .*htpasswd: Read-only file system"):
        htpasswd_write.provide(tmp_path / "htpasswd")


def test_a_link_that_leads_nowhere_is_left_alone(tmp_path: Path) -> None:
    """Its target may not be mounted yet; creating it would hide that."""
    (tmp_path / "htpasswd").symlink_to(tmp_path / "absent")
    assert htpasswd_write.provide(tmp_path / "htpasswd") == []
    assert not (tmp_path / "absent").exists()
