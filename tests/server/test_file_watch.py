"""Certificates renewed on disk: when a change is read, and when a problem is reported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from moorage.server.tls.file_watch import MISMATCH_GRACE_S, REREAD_S, FileWatcher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    certificate.write_text("certificate 1")
    key.write_text("key 1")
    return certificate, key


def watched(pair: tuple[Path, Path]) -> FileWatcher:
    return FileWatcher((str(path) for path in pair), 0)


def replace(path: Path, text: str) -> None:
    """As certbot does it: a new file under the old name."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def test_what_does_not_change_is_read_once(pair: tuple[Path, Path]) -> None:
    files = watched(pair)
    assert [files.due(0) for _ in range(3)] == [False, False, False]


def test_a_change_is_taken_once_it_stands_still(pair: tuple[Path, Path]) -> None:
    """A chain that is being written piece by piece would be served without its end."""
    files = watched(pair)
    replace(pair[0], "certificate 2")
    assert not files.due(0)
    with pair[0].open("a") as file:
        file.write(" and its chain")
    assert not files.due(0)
    assert files.due(0)
    files.accept(0)
    assert not files.due(0)


def test_the_files_changed_since_the_last_usable_state_are_returned(pair: tuple[Path, Path]) -> None:
    """Of several certificates the log names the renewed one, though its first half was refused before."""
    files = watched(pair)
    assert files.accept(0) == ()
    replace(pair[0], "certificate 2")
    files.due(0)
    files.refuse("does not match", 0)
    replace(pair[1], "key 2")
    files.due(0)
    assert files.accept(0) == (str(pair[0]), str(pair[1]))
    assert files.accept(0) == ()


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as links to links, and changes the one in the middle."""
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tls.crt").write_text("same size")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")
    files = FileWatcher([str(tmp_path / "tls.crt")], 0)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert not files.due(0)
    assert files.due(0)


def test_a_file_written_over_in_place_is_a_change(pair: tuple[Path, Path]) -> None:
    files = watched(pair)
    pair[1].write_text("key 2")
    os.utime(pair[1], ns=(1, 1))
    assert not files.due(0)
    assert files.due(0)


def test_files_that_do_not_fit_together_are_not_read_again_until_they_change(pair: tuple[Path, Path]) -> None:
    files = watched(pair)
    replace(pair[0], "certificate 2")
    files.due(0)
    assert files.due(0)
    files.refuse("does not belong", now=100)
    assert not files.due(0)
    replace(pair[1], "key 2")
    files.due(0)
    assert files.due(0)
    files.accept(0)
    assert files.reportable_cause(now=1000) == ""


def test_the_moment_between_certificate_and_key_is_not_complained_of(pair: tuple[Path, Path]) -> None:
    """Each renewal would leave an error in the log, and people would learn to overlook it."""
    files = watched(pair)
    files.refuse("does not belong", now=100)
    assert files.reportable_cause(now=100 + MISMATCH_GRACE_S - 1) == ""
    assert files.reportable_cause(now=100 + MISMATCH_GRACE_S) == "does not belong"


def test_a_complaint_that_lasts_is_made_once(pair: tuple[Path, Path]) -> None:
    files = watched(pair)
    files.refuse("does not belong", now=100)
    assert files.reportable_cause(now=200) == "does not belong"
    assert files.reportable_cause(now=300) == ""
    # Another try that failed is news, and the time of grace is long over.
    files.refuse("is encrypted", now=400)
    assert files.reportable_cause(now=400) == "is encrypted"


def test_what_does_not_change_is_read_once_a_day(pair: tuple[Path, Path]) -> None:
    """A certificate that expires soon is logged while the registry runs, not only at its start."""
    files = watched(pair)
    assert not files.due(REREAD_S - 1)
    assert files.due(REREAD_S)
    files.accept(REREAD_S)
    assert not files.due(REREAD_S + 1)


def test_a_file_that_is_gone_is_a_change(pair: tuple[Path, Path]) -> None:
    files = watched(pair)
    pair[0].unlink()
    assert not files.due(0)
    assert files.due(0)
