"""The repositories of a store, and the names in their directories.

On a filesystem every directory below `repositories/` is listed once and again when its fingerprint has changed; in
a bucket all keys are listed, and repositories come in batches with their keys (`scanned.py`).

Above: `mark.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import NameInvalid
from moorage.gc.cache import Directory
from moorage.gc.scanned import ScannedKeys
from moorage.registry import layout
from moorage.storage.driver import Key
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from moorage.gc.cache import MarkCache
    from moorage.storage.driver import Driver, Stat

__all__ = ["RepositoryNames", "list_repositories", "lost_directories", "scan_repositories"]

_PATH_LIMIT: Final = 2_000
"""Characters; a loop of symbolic links ends here."""
_BATCH_KEYS: Final = 20_000


@dataclass(frozen=True, slots=True)
class RepositoryNames:
    """A repository, and the names in its directory that begin with `_`.

    `valid` is False for a name that no client can send (CNCF Distribution once allowed others): nothing is removed
    from such a directory, and what it links is needed.
    """

    name: str
    reserved: tuple[str, ...]
    valid: bool = True


async def list_repositories(driver: Driver, cache: MarkCache) -> list[RepositoryNames]:
    """Return the repositories, by the directories of the cache as far as they have not changed."""
    bulk = driver.bulk
    before = cache.directories
    current: dict[str, Directory] = {}
    same: dict[str, str] = {}
    level = [""]
    while level:
        keys = [_key(path) for path in level]
        prints = await bulk.fingerprints(keys)
        asked: list[int] = []
        for i, path in enumerate(level):
            known = before.get(path)
            if prints[i] and _is_loop(path, prints[i], current):
                continue
            if known is not None and prints[i] is not None and known.fingerprint == prints[i]:
                current[path] = known
            else:
                asked.append(i)
        for i, names in zip(asked, await bulk.names([keys[i] for i in asked]), strict=True):
            reserved = sorted(name for name in names if name.startswith("_"))
            current[level[i]] = Directory(
                prints[i],
                tuple(sorted(name for name in names if not name.startswith("_"))),
                tuple(same.setdefault(name, name) for name in reserved),
            )
        level = [
            f"{path}/{name}" if path else name
            for path in level
            if path in current and len(path) < _PATH_LIMIT
            for name in current[path].components
        ]
    if current != before:
        cache.is_changed = True
    cache.directories = current
    return [
        RepositoryNames(path, found.reserved, _is_valid(path))
        for path, found in current.items()
        if path and found.reserved
    ]


def _is_loop(path: str, found: str | None, current: Mapping[str, Directory]) -> bool:
    """Return whether a directory is one that it is in: a symbolic link leads back, and all of it is known.

    Two such links in one directory would lead to a million paths.
    """
    while path:
        path = path.rpartition("/")[0]
        if current[path].fingerprint == found:
            return True
    return False


async def lost_directories(driver: Driver, cache: MarkCache) -> list[Key]:
    """Return directories that are listed by the one above them and cannot be listed themselves.

    Operators move a large directory to another disk and leave a symbolic link: while that disk is not mounted, its
    repositories must not look deleted.  A file of an operator is none.
    """
    doubtful = [
        path
        for path, found in cache.directories.items()
        if found.fingerprint == "" and not found.components and not found.reserved
    ]
    keys = [_key(path) for path in doubtful]
    files = await driver.bulk.find(keys)
    prints = await driver.bulk.fingerprints(keys)
    lost: list[Key] = []
    for key, file, found in zip(keys, files, prints, strict=True):
        if file is None and found == "":
            above, _, name = key.rpartition("/")
            (names,) = await driver.bulk.names([Key(above)])
            if name in names:
                lost.append(key)
    return lost


async def scan_repositories(driver: Driver) -> AsyncIterator[tuple[Sequence[RepositoryNames], ScannedKeys]]:
    """Yield batches of repositories with all their keys, of one listing of the whole store.

    Stores list in order of keys, which has all keys of one repository together.  One whose keys come apart all the
    same is listed again at the end, and replaces what was yielded before.
    """
    batch = _Batch(driver)
    done: set[str] = set()
    apart: set[str] = set()
    current = ""
    async for page in driver.scan(layout.REPOSITORIES):
        for stat in page:
            name = _name_of(stat.key)
            if not name:
                continue
            if name != current:
                if name in done:
                    apart.add(name)
                done.add(current)
                current = name
                if len(batch.keys) >= _BATCH_KEYS:
                    yield batch.take()
            batch.add(name, stat)
    yield batch.take()
    for name in sorted(apart):
        async for page in driver.scan(_key(name)):
            for stat in page:
                if _name_of(stat.key) == name:
                    batch.add(name, stat)
        yield batch.take()


class _Batch:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.keys = ScannedKeys(driver.bulk)
        self._names: dict[str, set[str]] = {}

    def add(self, name: str, stat: Stat) -> None:
        root = _key(name)
        self.keys.add(stat, root)
        self._names.setdefault(name, set()).add(stat.key[len(root) + 1 :].partition("/")[0])

    def take(self) -> tuple[Sequence[RepositoryNames], ScannedKeys]:
        found = [
            RepositoryNames(name, tuple(sorted(names)), _is_valid(name)) for name, names in self._names.items()
        ]
        keys = self.keys
        self.keys = ScannedKeys(self._driver.bulk)
        self._names = {}
        return found, keys


def _name_of(key: str) -> str:
    """Return the repository of a key: the path up to the first component that begins with `_`."""
    rest = key[len(layout.REPOSITORIES) :]
    end = rest.find("/_")
    return rest[1:end] if end > 0 else ""


def _key(path: str) -> Key:
    return Key(f"{layout.REPOSITORIES}/{path}") if path else layout.REPOSITORIES


def _is_valid(path: str) -> bool:
    try:
        parse_repo_name(path)
    except NameInvalid:
        return False
    return True
