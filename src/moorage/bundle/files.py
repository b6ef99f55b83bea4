"""Files of a bundle by their names in it: members of a tar file or of its volumes, or files below a directory.

Names are relative, without `.` and `..`.  What a file contains is not trusted; `reader.py` proves it by digest.

Above: `reader.py`, `docker_archive.py`.  Below: `archive.py`, `volumes.py`.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorage.bundle.archive import MemberKind, members
from moorage.bundle.errors import BundleError, BundleInvalid
from moorage.bundle.volumes import VolumeReader, find_volumes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["BundleFiles", "DirectoryFiles", "TarFiles", "open_files", "read_json"]

_LINKS_LIMIT: Final = 8
_BRACKETS_LIMIT: Final = 500_000
"""Empty lists take thirty times their text in memory; a bundle of 90,000 blobs has 200,000 brackets."""


class BundleFiles(Protocol):
    """Files of a bundle, or of another archive of images.  Reads may run in several threads."""

    @property
    def title(self) -> str:
        """Return the name of the file in messages."""

    @property
    def has_links(self) -> bool:
        """Return whether a file is a link to another one."""

    def size_of(self, name: str) -> int | None:
        """Return the size of a file in bytes, None if there is no such file."""

    def opened(self, name: str) -> AbstractContextManager[Callable[[int, int], bytes]]:
        """Yield a function of an offset and a size that returns these bytes, fewer at the end."""

    def names_below(self, folder: str) -> Iterator[str]:
        """Yield the names of all files in a folder and the folders in it."""

    def close(self) -> None:
        """Close the files."""


class TarFiles:
    """Members of a tar file, or of the volumes of one.  Raises BundleInvalid."""

    def __init__(self, path: Path) -> None:
        self.title: Final = str(path)
        self._links: dict[str, str] = {}
        self._members: dict[str, tuple[int, int]] = {}
        self._volumes = VolumeReader(find_volumes(path))
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def _scan(self) -> None:
        for member in members(self._volumes.read_at, self._volumes.length, self.title):
            if member.kind is MemberKind.FOLDER:
                continue
            if member.name in self._members or member.name in self._links:
                raise BundleInvalid(
                    f"{self.title} has {member.name!a} twice, so that readers disagree about it; the file is not "
                    "to be trusted"
                )
            if member.kind is MemberKind.LINK:
                self._links[member.name] = member.target
            else:
                self._members[member.name] = member.offset, member.size

    @property
    def has_links(self) -> bool:
        return bool(self._links)

    def _find(self, name: str) -> tuple[int, int] | None:
        for _ in range(_LINKS_LIMIT):
            if name not in self._links:
                break
            name = self._links[name]
        return self._members.get(name)

    def size_of(self, name: str) -> int | None:
        found = self._find(name)
        return None if found is None else found[1]

    @contextmanager
    def opened(self, name: str) -> Iterator[Callable[[int, int], bytes]]:
        found = self._find(name)
        if found is None:
            raise BundleInvalid(f"{self.title} has no {name}")
        start, length = found
        yield lambda offset, size: self._volumes.read_at(start + offset, max(0, min(size, length - offset)))

    def names_below(self, folder: str) -> Iterator[str]:
        for name in (*self._members, *self._links):
            if name.startswith(f"{folder}/"):
                yield name

    def close(self) -> None:
        self._volumes.close()


class DirectoryFiles:
    """Regular files below a directory; links are treated as absent."""

    has_links: Final[bool] = False

    def __init__(self, root: Path) -> None:
        self.title: Final = str(root)
        self._root = root

    def size_of(self, name: str) -> int | None:
        try:
            found = (self._root / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    @contextmanager
    def opened(self, name: str) -> Iterator[Callable[[int, int], bytes]]:
        descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield lambda offset, size: os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def names_below(self, folder: str) -> Iterator[str]:
        for path in sorted((self._root / folder).rglob("*")):
            yield str(path.relative_to(self._root))

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_files(path: Path) -> BundleFiles:
    """Open a tar file, its volumes, or a directory.  Raises BundleError."""
    try:
        return DirectoryFiles(path) if path.is_dir() else TarFiles(path)
    except FileNotFoundError:
        raise BundleError(f"there is no file {path}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def read_json(files: BundleFiles, name: str, limit_bytes: int) -> Any:
    """Return a JSON document of the bundle.  Raises BundleInvalid."""
    size = files.size_of(name)
    if size is None:
        raise BundleInvalid(f"{files.title} has no {name}")
    if size > limit_bytes:
        raise BundleInvalid(f"{files.title}: {name} has {size} bytes; at most {limit_bytes} are read")
    with files.opened(name) as read_at:
        data = read_at(0, size)
    if data.count(b"{") + data.count(b"[") > _BRACKETS_LIMIT:
        raise BundleInvalid(
            f"{files.title}: {name} has more than {_BRACKETS_LIMIT} objects; no bundle has as many"
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleInvalid(f"{files.title}: {name} is not JSON; the file is damaged, copy it again") from error
