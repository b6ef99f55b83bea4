"""The data directory of an existing registry: permissions for the service's user, free space.

    root and above  ──►  directories and files, at most `limit`  ──►  counts by owner, samples by problem

Symbolic links are followed, as the registry follows them.  Nothing is written or locked, and nothing is changed:
the remedy is a command for the operator.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.migration.accounts import EXECUTE, READ, WRITE
from moorage.migration.advice import Advice, Group
from moorage.storage.filesystem.data_directory import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moorage.config.sections.storage import Filesystem
    from moorage.migration.accounts import Account

__all__ = ["LAYOUT", "Tree", "files_to_read", "free_space", "location", "ownership", "root_of", "walk"]

_SAMPLES: Final = 3
_UPLOADS: Final = "_uploads"
_USUAL: Final = (Path("/var/lib/registry"), Path("/var/lib/docker-registry"))
_LEAST_BYTES: Final = 64 << 20
_LEAST_INODES: Final = 1000
_MIB: Final = 1 << 20
_STEP: Final = 1000

_TEXTS: Final = {
    "above": "directories above the data that the user cannot enter",
    "directory": "directories that the user cannot list and write to: pushes and deletions below them fail",
    "file": "files that the user cannot read: pulls of these images fail",
    "upload": "uploads in progress that the user cannot continue",
    "hidden": "paths that this command could not examine, for lack of permission or an error of the disk",
}


@dataclass(slots=True)
class Tree:
    """The result of a walk; `owners` counts entries by user id, `samples` has the first paths of each problem."""

    entries: int = 0
    complete: bool = True
    owners: Counter[int] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, problem: str, path: str) -> None:
        self.counts[problem] += 1
        found = self.samples.setdefault(problem, [])
        if len(found) < _SAMPLES:
            found.append(path)


def root_of(section: Filesystem) -> Path:
    """Return the data directory; a relative one begins at the working directory, as for the server."""
    return Path(section.rootdirectory).absolute()


def location(root: Path, *, readonly: bool) -> Iterator[Advice]:
    """Yield what keeps `root` from being a registry's data directory; nothing if it is one."""
    try:
        is_directory = stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        others = [str(place) for place in _USUAL if place != root and (place / LAYOUT).is_dir()]
        hint = f"; there is a registry in {' and in '.join(others)}" if others else ""
        text = f"there is no such directory{hint}"
        remedy = "mount the volume of the old registry, or correct storage.filesystem.rootdirectory"
        yield Advice(Group.TO_DO, "store-missing", str(root), text, remedy)
        return
    except OSError as error:
        text = f"this command cannot read it: {error.strerror}"
        yield Advice(Group.TO_DO, "store-missing", str(root), text, "run this command as root; nothing is written")
        return
    if not is_directory:
        text = "is not a directory"
        yield Advice(Group.TO_DO, "store-missing", str(root), text, "name the directory of the data")
    elif not _holds_registry(root):
        text = f"holds no registry (no {LAYOUT} in it)"
        remedy = "mount the volume of the old registry; if it never held an image, nothing is to be done for it"
        yield Advice(Group.TO_DO, "store-empty", str(root), text, remedy)
    elif not readonly and _is_read_only(root):
        text = "is on a file system that is mounted read-only: every push would be refused"
        remedy = "mount it read-write, for this check as well; or set storage.maintenance.readonly.enabled"
        yield Advice(Group.TO_DO, "store-read-only", str(root), text, remedy)


def _holds_registry(root: Path) -> bool:
    try:
        return (root / LAYOUT).is_dir()
    except PermissionError:
        return True  # reported by the walk


def _is_read_only(root: Path) -> bool:
    try:
        return bool(os.statvfs(root).f_flag & os.ST_RDONLY)
    except OSError:
        return False  # reported by `free_space`


def free_space(root: Path) -> Iterator[Advice]:
    """Yield free bytes and inodes of the file system that holds `root`."""
    try:
        status = os.statvfs(root)
    except OSError as error:
        text = f"the file system does not show its free space: {error.strerror}"
        yield Advice(Group.TO_DO, "space", str(root), text, "repair or mount the file system, and run this again")
        return
    free, inodes = status.f_bavail * status.f_frsize, status.f_favail
    counted = f", {inodes} inodes" if status.f_files else ""
    text = f"{free // _MIB} MiB{counted} free"
    if free < _LEAST_BYTES or (status.f_files and inodes < _LEAST_INODES):
        yield Advice(Group.TO_DO, "space", str(root), f"{text}: pushes will be refused soon", "free or add space")
    else:
        yield Advice(Group.KEPT, "space", str(root), text)


def walk(root: Path, account: Account, limit: int, advanced: Callable[[int], None]) -> Tree:
    """Examine `root`, the directories above it, and at most `limit` entries below it (0: all)."""
    tree = Tree()
    for above in reversed(root.parents):
        if not account.may(above.stat(), EXECUTE):
            tree.add("above", str(above))
    _Walk(tree, account, limit, advanced).run(str(root))
    return tree


class _Walk:
    def __init__(self, tree: Tree, account: Account, limit: int, advanced: Callable[[int], None]) -> None:
        self._tree, self._account, self._limit, self._advanced = tree, account, limit, advanced
        self._followed: set[tuple[int, int]] = set()

    def run(self, root: str) -> None:
        self._judge(root, Path(root).stat(), in_upload=False)
        waiting = [(root, False)]
        unreported = 0
        while waiting:
            directory, in_upload = waiting.pop()
            for path, status, linked in self._entries(directory):
                if self._limit and self._tree.entries >= self._limit:
                    self._tree.complete = False
                    waiting.clear()
                    break
                upload = in_upload or path.endswith(f"/{_UPLOADS}")
                self._judge(path, status, in_upload=upload)
                if stat.S_ISDIR(status.st_mode) and self._enters(status, linked=linked):
                    waiting.append((path, upload))
                unreported += 1
                if unreported == _STEP:
                    self._advanced(unreported)
                    unreported = 0
        self._advanced(unreported)

    def _enters(self, status: os.stat_result, *, linked: bool) -> bool:
        """Return whether to enter a directory: one behind a symbolic link only once."""
        if not linked:
            return True
        identity = (status.st_dev, status.st_ino)
        visited = identity in self._followed
        self._followed.add(identity)
        return not visited

    def _entries(self, directory: str) -> Iterator[tuple[str, os.stat_result, bool]]:
        """Yield path, status and whether it is a symbolic link; what vanishes meanwhile is left out."""
        try:
            with os.scandir(directory) as found:
                entries = list(found)
        except FileNotFoundError:
            return
        except OSError:
            self._tree.add("hidden", directory)
            return
        for entry in entries:
            try:
                yield entry.path, entry.stat(), entry.is_symlink()
            except FileNotFoundError:
                continue
            except OSError:
                self._tree.add("hidden", entry.path)

    def _judge(self, path: str, status: os.stat_result, *, in_upload: bool) -> None:
        self._tree.entries += 1
        self._tree.owners[status.st_uid] += 1
        if stat.S_ISDIR(status.st_mode):
            if not self._account.may(status, READ | WRITE | EXECUTE):
                self._tree.add("directory", path)
        elif in_upload:
            if not self._account.may(status, READ | WRITE):
                self._tree.add("upload", path)
        elif not self._account.may(status, READ):
            self._tree.add("file", path)


def ownership(root: Path, tree: Tree, account: Account) -> Iterator[Advice]:
    """Yield what the walk found for the service's user."""
    looked = f"{tree.entries} entries examined" + ("" if tree.complete else "; --limit 0 examines all")
    who = f"{account.name} (uid {account.uid}, from {account.source})"
    problems = [kind for kind in ("directory", "file", "upload") if tree.counts[kind]]
    if tree.counts["above"]:
        subject, text = _counted(tree, "above")
        remedy = f"chmod o+x {shlex.join(tree.samples['above'])}"
        yield Advice(Group.TO_DO, "permission-above", subject, f"{text} (user {who})", remedy)
    if tree.counts["hidden"]:
        remedy = "run this command as root; nothing is written"
        yield Advice(Group.TO_DO, "not-looked-at", *_counted(tree, "hidden"), remedy)
    for kind in problems:
        # chown -R does not enter the directory behind a symbolic link.
        subject, text = _counted(tree, kind)
        remedy = (
            f"with both registries stopped: chown -R {account.owner} {shlex.quote(str(root.resolve()))}; "
            f"or run Moorage as {_owners(tree)}"
        )
        yield Advice(Group.TO_DO, f"permission-{kind}", subject, f"{text} (user {who})", remedy)
    if not problems and not tree.counts["above"]:
        yield Advice(Group.KEPT, "permissions", str(root), f"{who} can read and write it; {looked}")
    elif not tree.complete:
        yield Advice(Group.KEPT, "permissions", str(root), looked)


def _counted(tree: Tree, kind: str) -> tuple[str, str]:
    """Return the first paths, and how many there are of them."""
    count, samples = tree.counts[kind], tree.samples[kind]
    more = f" and {count - len(samples)} more" if count > len(samples) else ""
    return ", ".join(samples) + more, f"{count} {_TEXTS[kind]}"


def _owners(tree: Tree) -> str:
    owners = [f"uid {uid} ({count} entries)" for uid, count in tree.owners.most_common(_SAMPLES)]
    return "the owner: " + ", ".join(owners)


def files_to_read(files: Sequence[tuple[str, str]], account: Account) -> Iterator[Advice]:
    """Yield the files that the configuration names and the service's user cannot read; `files` are (key, path).

    A missing file is left to the check of the configuration.
    """
    for key, path in files:
        try:
            blocked = next((above for above in reversed(Path(path).absolute().parents)
                            if not account.may(above.stat(), EXECUTE)), None)  # fmt: skip
            readable = blocked is None and account.may(Path(path).stat(), READ)
        except OSError:
            continue
        if not readable:
            reason = f"cannot be read by {account.name} (uid {account.uid}, from {account.source})"
            where = (
                f"move it to a directory that the user may enter, or chmod o+x {shlex.quote(str(blocked))}"
                if blocked
                else f"chgrp {account.gid} {shlex.quote(path)} && chmod g+r {shlex.quote(path)}"
            )
            yield Advice(Group.TO_DO, "file-permission", f"{key} {path}", reason, where)
