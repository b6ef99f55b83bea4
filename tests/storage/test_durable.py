"""Removal and renaming below the filesystem driver, with other processes at work in between."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from moorage.storage.filesystem.durable import (
    create_empty,
    is_temporary_name,
    move_unless_there,
    remove_tree,
    sync_data,
    temporary_beside,
)

_RMTREE = shutil.rmtree


class Meanwhile:
    """Fails `shutil.rmtree` with `error` the first `times`, as the work of another process does."""

    def __init__(self, patch: pytest.MonkeyPatch, error: OSError, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0
        patch.setattr(shutil, "rmtree", self)

    def __call__(self, path: str, **options: Any) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        _RMTREE(path, **options)


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR])
def test_a_tree_goes_although_others_work_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A push beside the deletion adds a file after the directory was read, or another deletion is faster."""
    (tmp_path / "tree" / "below").mkdir(parents=True)
    meanwhile = Meanwhile(monkeypatch, OSError(number, os.strerror(number)), 19)
    remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()
    assert meanwhile.calls == 20


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.ENOENT])
def test_a_tree_that_others_fill_for_ever_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A deletion that reports success and leaves files would be worse."""
    (tmp_path / "tree").mkdir()
    meanwhile = Meanwhile(monkeypatch, OSError(number, os.strerror(number)), 100)
    with pytest.raises(OSError, match=os.strerror(number)):
        remove_tree(str(tmp_path / "tree"))
    assert meanwhile.calls == 20


def test_a_tree_that_may_not_be_removed_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    meanwhile = Meanwhile(monkeypatch, PermissionError(errno.EACCES, "Permission denied"), 1)
    with pytest.raises(PermissionError):
        remove_tree(str(tmp_path / "tree"))
    assert meanwhile.calls == 1


def test_what_is_gone_is_removed(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    remove_tree(str(tmp_path / "file"))
    assert (tmp_path / "file").exists()


def test_a_name_that_is_taken_is_kept_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some FUSE and SMB mounts have none; the blob that is there must not be replaced."""

    def no_links(source: str, target: str) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), source, None, target)

    monkeypatch.setattr(os, "link", no_links)
    target = tmp_path / "data"
    for number in range(2):
        (tmp_path / "temporary").write_text(str(number))
        if number == 0:
            move_unless_there(str(tmp_path / "temporary"), str(target))
            continue
        with pytest.raises(FileExistsError) as caught:
            move_unless_there(str(tmp_path / "temporary"), str(target))
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, str(target))
    assert target.read_text() == "0"


def test_a_failed_sync_names_the_call_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry logs both, and chooses the client's error by the errno."""

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OSError, match="fdatasync: Input/output error") as caught:
        sync_data(0, str(tmp_path / "data"))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "data"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_empty_files_without_mknod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Some network file systems do not have it: no upload could begin there."""

    def refuse(path: str, mode: int) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "mknod", refuse)
    create_empty(str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == b""
    (tmp_path / "there").write_bytes(b"text")
    create_empty(str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == b"text"


def test_an_empty_file_is_made_in_a_directory_that_is_there(tmp_path: Path) -> None:
    """An upload that was cancelled meanwhile is not brought back, and a second time is no failure."""
    with pytest.raises(FileNotFoundError):
        create_empty(str(tmp_path / "gone" / "new"))
    for _ in range(2):
        create_empty(str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644 & ~_umask()


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_temporary_names_are_told_from_objects(tmp_path: Path) -> None:
    """Listings leave them out, and a sweep removes them by age; two alike would fail a push."""
    names = {temporary_beside(str(tmp_path / "link")) for _ in range(1000)}
    assert len(names) == 1000
    assert all(is_temporary_name(Path(name).name) for name in names)
