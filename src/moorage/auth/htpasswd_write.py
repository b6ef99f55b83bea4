"""Writes password files: makes lines, creates a missing file, replaces a file atomically.

Used by: `cli/htpasswd.py`; `wiring/authentication.py`, which makes a file that is missing.
Source: docs/reference/auth.md, section 2.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import bcrypt

from moorage.auth.password_file import PASSWORD_LIMIT_BYTES
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_provision", "entry", "provide", "replace"]

FIRST_USER: Final = "docker"
_FIRST_COST: Final = 10


def entry(user: bytes, password: bytes, cost: int) -> bytes:
    """Return the line of a user, without line end.  `2y` is Apache's name for `2b`."""
    salt = bcrypt.gensalt(cost, b"2b")
    return user + b":$2y$" + bcrypt.hashpw(password[:PASSWORD_LIMIT_BYTES], salt).removeprefix(b"$2b$")


def provide(path: Path) -> list[str]:
    """Create a missing file with one user and a random password, as CNCF Distribution does.

    Return the warning with the password, none if the file exists.  Of several processes that start together one
    creates it.  Raises StartupError.
    """
    if os.path.lexists(path):
        return []
    password = secrets.token_urlsafe(32)
    try:
        _make_folders(path.parent)
        # With the final newline that CNCF Distribution leaves out, so that `htpasswd ... >> FILE` adds a user.
        line = entry(FIRST_USER.encode(), password.encode(), _FIRST_COST) + b"\n"
        _write(path, line, _put_first)
    except FileExistsError:
        return []
    except OSError as error:
        raise StartupError(f"cannot make the password file {path}: {error.strerror}") from error
    warning = (
        f"the password file {path} was missing; it was made with user {FIRST_USER} and password {password}, which "
        "is shown only now: log in with it, then make users of your own with `moorage htpasswd`"
    )
    return [warning]


def check_provision(path: Path) -> str:
    """Return the warning for a missing file that `provide` would create; nothing is changed.

    Raises StartupError if it could not be created.
    """
    above = path.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise StartupError(f"cannot make the password file {path}: {above} is not a directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise StartupError(
            f"cannot make the password file {path}: no permission to write in {above}; make it with "
            "`moorage htpasswd -Bc`, or correct the path or mount"
        )
    return f"{path} does not exist; at start it is made with a user {FIRST_USER} and a random password"


def replace(path: Path, data: bytes) -> None:
    """Replace the content of a file atomically; its mode and owner stay.

    A symbolic link is followed, and stays.  Raises OSError.
    """
    _write(Path(os.path.realpath(path)), data, os.replace)


def _put_first(name: str, path: Path) -> None:
    """Move the file to `path` unless that exists by now; raises FileExistsError."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has hard links.  The process that creates the empty file replaces it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        Path(name).replace(path)


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)


def _write(path: Path, data: bytes, put: Callable[[str, Path], None]) -> None:
    """Write a temporary file, fsync it, and move it to `path` with `put`.

    Mode and owner are those of the old file; 0600 if there is none.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                old = path.stat()
                os.fchmod(descriptor, old.st_mode & 0o7777)
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        put(name, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
