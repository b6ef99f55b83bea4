"""The directory of caches: private to the user, and another file for each store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from moorage.config.model import Settings
from moorage.wiring.cache_directory import cache_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def _settings(root: str = "/data", **more: Any) -> Settings:
    return Settings.model_validate({"storage": {"filesystem": {"rootdirectory": root}, **more}})


def _directory(**environ: str) -> str:
    found = cache_file(_settings(), "collection", environ)
    assert found is not None
    return str(found.parent)


def test_the_first_directory_that_can_be_used_is_taken(tmp_path: Path) -> None:
    """systemd's, then XDG's, then that of the home directory, then a private one below the temporary directory."""
    (tmp_path / "file").write_text("")
    places = {
        "CACHE_DIRECTORY": f"{tmp_path}/systemd:{tmp_path}/second",
        "XDG_CACHE_HOME": f"{tmp_path}/xdg",
        "HOME": f"{tmp_path}/home",
        "TMPDIR": f"{tmp_path}/tmp",
    }
    expected = ["systemd", "xdg/moorage", "home/.cache/moorage", f"tmp/moorage-{os.geteuid()}"]
    for name, directory in zip(list(places), expected, strict=True):
        assert _directory(**places) == f"{tmp_path}/{directory}"
        places[name] = f"{tmp_path}/file/x"
    assert cache_file(_settings(), "collection", places) is None


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    """What is read there decides what a run examines."""
    home, shared = tmp_path / "home", tmp_path / "shared"
    shared.mkdir(mode=0o700)
    shared.chmod(0o777)
    (tmp_path / "link").symlink_to(shared)
    for place in (shared, tmp_path / "link"):
        assert _directory(CACHE_DIRECTORY=str(place), HOME=str(home)) == f"{home}/.cache/moorage"
    assert _directory(CACHE_DIRECTORY="relative", HOME=str(home)) == f"{home}/.cache/moorage"


def test_a_directory_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In /tmp anybody can make one of our name first."""
    private = tmp_path / f"moorage-{os.geteuid() + 1}"
    private.mkdir(mode=0o700)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert cache_file(_settings(), "collection", {"TMPDIR": str(tmp_path)}) is None


def test_each_store_has_its_file_and_read_only_mode_is_no_other_store(tmp_path: Path) -> None:
    environ = {"CACHE_DIRECTORY": str(tmp_path)}
    one = cache_file(_settings(), "collection", environ)
    assert one is not None
    assert one.name.startswith("collection-")
    assert cache_file(_settings("/other"), "collection", environ) != one
    readonly = _settings(maintenance={"readonly": {"enabled": True}})
    assert cache_file(readonly, "collection", environ) == one
