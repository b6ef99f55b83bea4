"""The user that the service runs as, and what its user id and groups may do with a file.

The permission bits decide, as for a process without capabilities; access control lists and the rules of a network
file system are not read.

Source: systemd.unit(5) for the directories and drop-ins of a unit; credentials(7).
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EXECUTE", "READ", "WRITE", "Account", "UnknownUser", "current", "named", "of_unit"]

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1

_UNITS: Final = ("moorage.service", "docker-registry.service", "registry.service")
_FOLDERS: Final = tuple(
    Path(place, "systemd/system") for place in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)


class UnknownUser(Exception):
    """The user or group does not exist on this host; the message names it."""


@dataclass(frozen=True, slots=True)
class Account:
    """`source` is how the user was found: an option, a unit file, or the process."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]
    source: str

    def may(self, status: os.stat_result, requested: int) -> bool:
        """Return whether the bits of `status` grant all of `requested` (READ | WRITE | EXECUTE)."""
        if self.uid == 0:
            return True
        if status.st_uid == self.uid:
            granted = status.st_mode >> 6
        elif status.st_gid in self.groups:
            granted = status.st_mode >> 3
        else:
            granted = status.st_mode
        return granted & requested == requested

    @property
    def owner(self) -> str:
        """Return the argument for chown: numbers, since a container has names of its own."""
        return f"{self.uid}:{self.gid}"


def named(text: str) -> Account:
    """Return the account for `NAME`, `UID`, `NAME:GROUP` or `UID:GID`.  Raises UnknownUser.

    A number needs no entry in the host's list of users, as with `docker run --user`; its group is then 0.
    """
    user, colon, group = text.partition(":")
    entry: pwd.struct_passwd | None
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        entry = None
    if entry is None and not user.isdecimal():
        raise UnknownUser(f"there is no user {user!r} on this host; name another one, or a number")
    uid = int(user) if entry is None else entry.pw_uid
    gid = _gid(group) if colon else (0 if entry is None else entry.pw_gid)
    groups = {gid} if entry is None or colon else {*os.getgrouplist(entry.pw_name, gid)}
    return Account(str(uid) if entry is None else entry.pw_name, uid, gid, frozenset(groups), "--user")


def _gid(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise UnknownUser(f"there is no group {text!r} on this host; name another one, or a number") from None


def current() -> Account:
    """Return the account of this process."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Account(name, uid, gid, frozenset({gid, *os.getgroups()}), "the current user")


def of_unit(folders: Sequence[Path] = _FOLDERS) -> Account | None:
    """Return the account that an installed unit file names in `User=`; None if there is no such unit or user."""
    for unit in _UNITS:
        for folder in folders:
            if not (folder / unit).is_file():
                continue
            user = _user_of(folder / unit, [place / f"{unit}.d" for place in reversed(folders)])
            if not user:
                break
            try:
                account = named(user)
            except UnknownUser:
                break
            return Account(account.name, account.uid, account.gid, account.groups, f"User= of {folder / unit}")
    return None


def _user_of(unit: Path, drop_ins: Sequence[Path]) -> str:
    """Return the last `User=` of the unit and its drop-ins, "" if there is none."""
    user = ""
    for path in (unit, *(path for folder in drop_ins for path in sorted(folder.glob("*.conf")))):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.strip().partition("=")
            if key.strip() == "User":
                user = value.strip()
    return user
