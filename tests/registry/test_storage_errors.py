"""Each errno has its refusal, its line in the log and its remedy, as in the table of the documentation."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from moorage.errors import RegistryError
from moorage.http.errors import status_of
from moorage.registry.storage_errors import refusing
from moorage.storage.filesystem.errors import storage_error

OPERATIONS: Final = Path(__file__).parents[2] / "docs/operations.md"
ROW: Final = re.compile(r"\| ([^|]+) \| ([0-9]{3}) \| ([^|]+) \| ([^|]+) \|")


def documented() -> dict[int, tuple[int, str, str]]:
    """Errno, 0 for any other -> status, text for the client, event in the log."""
    section = OPERATIONS.read_text().partition("## Storage errors\n")[2].partition("\n## ")[0]
    found: dict[int, tuple[int, str, str]] = {}
    for names, status, text, event in ROW.findall(section):
        row = (int(status), text, event)
        numbers = [getattr(errno, name) for name in re.findall(r"`(E[A-Z]+)`", names)]
        found.update(dict.fromkeys([0, *numbers] if names.startswith("any other") else numbers, row))
    return found


TABLE: Final = documented()


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_each_errno_is_refused_as_documented(number: int) -> None:
    """An operator looks the line up; a client's text must neither name a path nor ask for room on a good disk."""
    status, text, event = TABLE.get(number, TABLE[0])
    error = OSError(number, os.strerror(number))
    with capture_logs() as logs, pytest.raises(RegistryError) as caught, refusing():
        raise storage_error(error, "write", "/var/lib/registry/docker/link")
    assert status_of(caught.value) == status
    assert caught.value.entries() == [{"code": "UNAVAILABLE", "message": "service unavailable", "detail": text}]
    (line,) = logs
    assert (line["event"], line["log_level"]) == (event, "error")
    output = f"write /var/lib/registry/docker/link: {os.strerror(number)} ({errno.errorcode[number]})"
    assert line["cause"].startswith(output)


def test_the_table_is_the_one_that_was_decided() -> None:
    """A row that is lost would make every errno in it one of the others."""
    assert len(TABLE) >= 12
    assert {TABLE[number][0] for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)} == {507}
    assert TABLE[errno.EIO] == TABLE[0]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "df -i"),
        (errno.EROFS, "mount it writable"),
        (errno.EMFILE, "LimitNOFILE="),
        (errno.ENFILE, "fs.file-max"),
        (errno.EACCES, "owner and mode"),
        (errno.EIO, "kernel's log"),
    ],
)
def test_the_remedy_is_in_the_log(number: int, remedy: str) -> None:
    """The one who reads the line at night should not have to guess which limit it was."""
    assert remedy in str(storage_error(OSError(number, os.strerror(number)), "write", "/var/lib/registry"))


@pytest.mark.parametrize(
    ("other", "output"),
    [
        ("/srv/docker/link.0f.tmp", "write /srv/docker/link.0f.tmp: "),
        ("/srv/docker", "write /srv/docker/link: /srv/docker: "),
        ("relative", "write /srv/docker/link: "),
    ],
)
def test_the_path_that_the_system_names_is_told(other: str, output: str) -> None:
    """The operator has to look at the directory that cannot be made, not at the file that belongs in it."""
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), other)
    assert str(storage_error(error, "write", "/srv/docker/link")).startswith(f"{output}Permission denied (EACCES)")
