"""State of the model: one store, the listings that nodes hold, and what has been promised to clients.

The store maps keys to values.  Every object carries the runs for which it is old: a run takes the time of its
`running` object for now, and the grace period is zero, the worst case.  So what was stored before `running` was
written is old for the run, and what is written later is young.

Keys: ("data", DIGEST), ("layer", REPO, DIGEST), ("revision", REPO, DIGEST), ("tag", REPO, TAG),
("trash", REPO, TAG); state of collections: ("running", RUN), ("ended", RUN), ("condemned", RUN), ("doomed", RUN),
("rescued", DIGEST).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

__all__ = [
    "EMPTY",
    "REFERENCES",
    "Entries",
    "Ghost",
    "Key",
    "Object",
    "Snapshot",
    "State",
    "Store",
    "closure",
    "listed",
    "listing",
    "needs_of",
    "put",
    "read",
    "remove",
    "view",
]

Key = tuple[str, ...]
Runs = frozenset[str]
Entries = frozenset[tuple[str, str]]
"""Digests of a list, each with a repository, or "" for the bytes and all links."""

REFERENCES: Final[dict[str, tuple[str, ...]]] = {"I": ("M",), "M": ("L",), "N": ("L",)}
"""An index, two manifests, and the layers L and K."""


class Object(NamedTuple):
    key: Key
    value: Entries | str
    old: Runs = frozenset()


Store = frozenset[Object]
EMPTY: Final[Entries] = frozenset()
_CONTENT: Final = frozenset({"data", "layer", "revision", "tag", "trash"})


class Snapshot(NamedTuple):
    """One listing of the state of collections."""

    identity: frozenset[Key]
    idle: bool
    condemned: Entries
    doomed: Entries


class Ghost(NamedTuple):
    """Facts that only the model knows.

    `promises` hold until a client deletes what they name; `collected` are keys that a collector has removed and
    that nothing has written since; `heads` are clients between HEAD and the end of their push; those in `early`
    began before every process had seen the condemned list of a run, and those in `overdue` took longer than its
    wait.
    """

    promises: frozenset[tuple[str, str, str, str]] = frozenset()
    collected: frozenset[Key] = frozenset()
    heads: frozenset[int] = frozenset()
    early: frozenset[int] = frozenset()
    overdue: frozenset[int] = frozenset()


class State(NamedTuple):
    """`actors` are numbers of local states; `late` are DELETEs of dead collectors that may still arrive; `paging`
    are the actors between two pages of a listing that is young enough to be used; `expired` are the runs whose
    deadline is over by their own clock.
    """

    store: Store
    snapshots: tuple[Snapshot | None, ...]
    actors: tuple[int, ...]
    late: frozenset[tuple[str, Key]] = frozenset()
    paging: frozenset[int] = frozenset()
    expired: frozenset[str] = frozenset()
    crashes: int = 0
    ghost: Ghost = Ghost()


@cache
def view(store: Store) -> dict[Key, Object]:
    """Return the store as a dictionary, which is not changed."""
    return {found.key: found for found in store}


def put(store: Store, key: Key, value: Entries | str = "") -> Store:
    """Write an object.  Everything that is there becomes old for a run that begins."""
    before = view(store).get(key)
    changed = store if before is None else store - {before}
    if key[0] == "running":
        changed = frozenset(
            found._replace(old=found.old | {key[1]}) if found.key[0] in _CONTENT else found for found in changed
        )
    return changed | {Object(key, value)}


def remove(store: Store, key: Key) -> Store:
    """Remove an object, if it exists.  Without its `running` object a run has no time."""
    before = view(store).get(key)
    changed = store if before is None else store - {before}
    if key[0] == "running":
        changed = frozenset(found._replace(old=found.old - {key[1]}) for found in changed)
    return changed


@cache
def listing(store: Store) -> Snapshot:
    """Return the state of collections as one listing shows it."""
    names = [found for found in store if found.key[0] in {"running", "ended", "condemned", "doomed"}]
    lists: dict[str, Entries] = {"condemned": EMPTY, "doomed": EMPTY}
    for found in names:
        if not isinstance(found.value, str):
            lists[found.key[0]] |= found.value
    identity = frozenset(found.key for found in names if found.key[0] in {"running", "ended"})
    idle = all(found.key[0] == "ended" for found in names)
    return Snapshot(identity, idle, lists["condemned"], lists["doomed"])


def listed(entries: Entries, repository: str, digest: str) -> bool:
    """Return whether a list names the digest for requests in a repository."""
    return (digest, "") in entries or (digest, repository) in entries


@cache
def closure(digests: frozenset[str]) -> frozenset[str]:
    """Return the digests and everything that they name."""
    found = set(digests)
    waiting = list(digests)
    while waiting:
        for digest in REFERENCES.get(waiting.pop(), ()):
            if digest not in found:
                found.add(digest)
                waiting.append(digest)
    return frozenset(found)


@cache
def needs_of(kind: str, repository: str, name: str, digest: str) -> tuple[Key, ...]:
    """Return the keys without which an acknowledged object cannot be pulled."""
    keys: list[Key] = [("tag", repository, name)] if kind == "tag" else []
    for each in sorted(closure(frozenset({digest}))):
        keys.append(("data", each))
        keys.append(("revision" if each in REFERENCES else "layer", repository, each))
    return tuple(keys)


def read(store: Store, verb: str, key: Key) -> Any:
    """Return what a collector reads in one step: a repository, blobs, rescued digests, or names of state objects.

    For a repository and for blobs: key, digest and whether the object is old.
    """
    if verb == "repository":
        repository, token = key
        return tuple(
            sorted(
                (
                    found.key,
                    found.value if isinstance(found.value, str) and found.value else found.key[-1],
                    token in found.old,
                )
                for found in store
                if found.key[0] in {"layer", "revision", "tag", "trash"} and found.key[1] == repository
            )
        )
    if verb == "blobs":
        return tuple(
            sorted((found.key, found.key[1], key[0] in found.old) for found in store if found.key[0] == "data")
        )
    if verb == "rescued":
        return frozenset(found.key[1] for found in store if found.key[0] == "rescued")
    return frozenset(
        (found.key[0], found.key[1])
        for found in store
        if found.key[0] in {"running", "ended", "condemned", "doomed"}
    )
