"""Files that are read again when they change."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from moorage import reloading
from moorage.reloading import Reload, ReloadedFile, read_regular, reason_of, stamp_of
from tests.special_files import SPECIAL, make_special

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


class Wall:
    """A clock of seconds since the epoch, by default long after the files were written."""

    now = 1e12

    def __call__(self) -> float:
        return self.now


def opened(path: Path, wall: Wall | None = None) -> ReloadedFile[int]:
    return ReloadedFile(str(path), int, 0, wall=wall or Wall())


def put(path: Path, text: str) -> None:
    """A new file under the old name."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def test_a_file_that_did_not_change_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request with a password would read the whole file."""
    put(path, "1")
    file = opened(path)
    assert file.load() == 1
    monkeypatch.setattr(reloading, "read_regular", lambda *_: pytest.fail("read"))
    assert not file.is_changed()
    assert file.reload() is Reload.NOTHING


@pytest.mark.parametrize("way", ["replaced", "overwritten", "linked"])
def test_each_way_to_change_a_file_is_noticed(path: Path, way: str) -> None:
    """A withdrawn key would stay valid until the next restart."""
    for number in (1, 2):
        path.with_name(f"version{number}").write_text(str(number))
    path.symlink_to("version1")
    file = opened(path)
    assert file.load() == 1
    if way == "replaced":
        put(path, "2")
    elif way == "overwritten":
        path.write_text("2")
    else:
        path.with_name("link").symlink_to("version2")
        path.with_name("link").replace(path)
    assert file.is_changed()
    assert file.reload() is Reload.CHANGED
    assert file.value == 2
    assert file.reload() is Reload.NOTHING


def test_a_young_file_is_read_although_its_times_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second edit within one tick of the file system's clock would never be noticed."""
    put(path, "1")
    status, wall = path.stat(), Wall()
    monkeypatch.setattr("moorage.reloading.os.stat", lambda _: status)
    wall.now = status.st_mtime + 1.9
    file = opened(path, wall)
    assert file.load() == 1
    path.write_text("2")
    assert file.is_changed()
    wall.now = status.st_mtime + 2
    assert file.reload() is Reload.CHANGED
    path.write_text("3")
    assert not file.is_changed()
    assert file.reload() is Reload.NOTHING


def test_content_that_cannot_be_parsed_leaves_the_old_value_and_is_reported_once(path: Path) -> None:
    """A half-finished edit would lock out every user, or fill the log."""
    put(path, "1")
    file = opened(path)
    file.load()
    put(path, "one")
    assert file.reload() is Reload.FAILED
    assert file.reload() is Reload.NOTHING
    assert (file.value, type(file.problem)) == (1, ValueError)
    put(path, "1")
    assert file.reload() is Reload.CHANGED
    assert file.problem is None


def test_a_malformed_file_that_was_touched_is_parsed_again(path: Path) -> None:
    """A policy that names a missing key file stays broken after the key file was added."""
    usable = False

    def parse(data: bytes) -> bytes:
        if not usable:
            raise ValueError("names a missing file")
        return data

    put(path, "same")
    file = ReloadedFile(str(path), parse, b"", wall=Wall())
    assert file.reload() is Reload.FAILED
    usable = True
    assert file.reload() is Reload.NOTHING
    os.utime(path, (1, 1))
    assert file.reload() is Reload.CHANGED
    assert file.value == b"same"


def test_a_file_that_is_gone_leaves_the_old_value_and_is_reported_once(path: Path) -> None:
    """Between the unlink and the rename of a careless script."""
    put(path, "1")
    file = opened(path)
    file.load()
    path.unlink()
    assert file.reload() is Reload.FAILED
    assert not file.is_changed()
    assert file.reload() is Reload.NOTHING
    assert (file.value, reason_of(file.problem or ValueError())) == (1, "No such file or directory")
    path.mkdir()
    assert file.reload() is Reload.FAILED
    path.rmdir()
    put(path, "1")
    assert file.reload() is Reload.SAME
    assert file.problem is None


def test_the_first_reading_raises_what_is_wrong(path: Path) -> None:
    """A server that cannot let anyone in would start."""
    with pytest.raises(FileNotFoundError):
        opened(path).load()
    put(path, "one")
    with pytest.raises(ValueError, match="invalid literal"):
        opened(path).load()


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_is_refused_without_waiting(path: Path, kind: str) -> None:
    """The process would wait for a writer for ever, or fill its memory."""
    put(path, "1")
    file = opened(path)
    file.load()
    make_special(kind, path)
    with pytest.raises(OSError, match=SPECIAL[kind]):
        read_regular(str(path))
    assert file.reload() is Reload.FAILED
    assert reason_of(file.problem or ValueError()) == SPECIAL[kind]
    assert file.value == 1


def test_a_file_larger_than_its_limit_is_refused(path: Path) -> None:
    """A disk image in the place of a file of keys would fill the memory."""
    path.write_bytes(bytes(11))
    assert read_regular(str(path), 11) == bytes(11)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_regular(str(path), 10)


def test_an_impossible_path_has_no_stamp() -> None:
    """A setting with a NUL byte is an error of the setting, not a crash."""
    assert stamp_of("a\0b") is None
    assert ReloadedFile("a\0b", int, 0).reload() is Reload.FAILED
