"""The protocol, as generators that yield one store request at a time: collectors.

See `protocol.py` for how generators are explored.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.gc.model.protocol import Protocol, Request
from tests.gc.model.state import EMPTY, Entries, Key, closure

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Run", "collect", "judge"]

Keys = frozenset[Key]
Seen = tuple[tuple[Key, str, bool], ...]
"""Key, value and whether the object is old, of everything in a repository."""


class Run(NamedTuple):
    protocol: Protocol
    token: str
    repositories: tuple[str, ...]


@cache
def judge(
    protocol: Protocol, seen: tuple[Seen, ...], blobs: Seen, rescued: frozenset[str], within: Keys | None = None
) -> Keys:
    """Return the keys that nothing needs.  With `within`, those of an earlier mark that are still dead.

    What is not in `within` is not removed, so it keeps what it names.
    """
    saved = closure(rescued)
    dead: set[Key] = set()
    linked: set[str] = set()
    for found in seen:
        needed = _needed(protocol, found, saved, within)
        for key, digest, old in found:
            kind = key[0]
            if kind == "trash" and old:
                dead.add(key)
            if kind not in {"revision", "layer"}:
                continue
            if digest in needed or not old or digest in saved or (within is not None and key not in within):
                linked.add(digest)
            else:
                dead.add(key)
    for key, digest, old in blobs:
        if old and digest not in linked and digest not in saved:
            dead.add(key)
    return frozenset(dead if within is None else dead & within)


def _needed(protocol: Protocol, found: Seen, saved: frozenset[str], within: Keys | None) -> frozenset[str]:
    """Return the digests that the manifests of one repository need, these included."""
    roots = {value for key, value, old in found if key[0] == "tag" or (key[0] == "trash" and not old)}
    for key, digest, old in found:
        kept = not protocol.untagged or not old or digest in saved or (within is not None and key not in within)
        if key[0] == "revision" and kept:
            roots.add(digest)
    return closure(frozenset(roots))


def _entries(protocol: Protocol, dead: Keys) -> Entries:
    """Return the list of what is going to be removed."""
    whole = {key[1] for key in dead if key[0] == "data"}
    entries = {(digest, "") for digest in whole}
    for key in dead:
        if key[0] in {"layer", "revision"} and key[2] not in whole:
            entries.add((key[2], key[1] if protocol.per_repository else ""))
    return frozenset(entries)


def _mark(run: Run, within: Keys | None) -> Generator[Request, Any, Keys]:
    """Read the repositories one after the other, then the blobs, then what has been rescued."""
    seen: tuple[Seen, ...] = ()
    repositories = run.repositories
    for repository in repositories:
        part: Seen = yield Request("repository", (repository, run.token))
        seen = (*seen, part)
    blobs: Seen = yield Request("blobs", (run.token,))
    rescued: frozenset[str] = EMPTY if within is None else (yield Request("rescued"))  # type: ignore[assignment]
    return judge(run.protocol, seen, blobs, rescued, within)


def _parents_first(protocol: Protocol, dead: Keys) -> tuple[Key, ...]:
    """Return revision links before layer links before bytes; an index before the manifests that it names."""

    def rank(key: Key) -> tuple[int, int, Key]:
        kinds = (
            ["trash", "revision", "layer", "data"]
            if protocol.parents_first
            else ["trash", "layer", "revision", "data"]
        )
        return kinds.index(key[0]), -len(closure(frozenset({key[-1]}))), key

    return tuple(sorted(dead, key=rank))


def collect(run: Run) -> Generator[Request, Any, bool]:
    """One run, from `running` to `ended`."""
    protocol, token = run.protocol, run.token
    yield Request("put", ("running", token))
    if protocol.settle:
        yield Request("wait", ("settle",))
    dead = yield from _mark(run, None)
    if dead:
        yield Request("put", ("condemned", token), _entries(protocol, dead))
        if protocol.wait:
            yield Request("wait", ("seen",))
            yield Request("wait", ("wait",))
        if protocol.second_mark:
            dead = yield from _mark(run, dead)
    for part in _rounds(run, dead):
        if protocol.own_lists and not (yield from _owns(run, "condemned")):
            return (yield from _give_up(run))
        dead = part.keys
        if protocol.doom:
            dead = yield from _doom(part.run, dead)
        if dead:
            done = yield from _remove(run, dead)
            if not done:
                return False
        if part.is_followed:
            yield Request("delete", ("doomed", token))
    yield from _end(run)
    return True


class Round(NamedTuple):
    """A round: its keys, the run with the repositories that its look reads, and whether another one follows."""

    keys: Keys
    run: Run
    is_followed: bool


def _rounds(run: Run, dead: Keys) -> tuple[Round, ...]:
    """Return one round; or, with `rounds`, one of links for each repository, and then one of bytes."""
    if not dead or not run.protocol.rounds:
        return (Round(dead, run, is_followed=False),) if dead else ()
    looks = run if run.protocol.bytes_looked_for_everywhere else run._replace(repositories=())
    parts = [
        (frozenset(key for key in dead if key[0] != "data" and key[1] == name), run._replace(repositories=(name,)))
        for name in run.repositories
    ]
    parts.append((frozenset(key for key in dead if key[0] == "data"), looks))
    found = [part for part in parts if part[0]]
    return tuple(Round(keys, each, place < len(found)) for place, (keys, each) in enumerate(found, 1))


def _owns(run: Run, kind: str) -> Generator[Request, Any, bool]:
    """Return whether the run has not been ended by a successor."""
    kinds: frozenset[tuple[str, str]] = yield Request("runs", (run.token,))
    return ("running", run.token) in kinds and (kind, run.token) in kinds


def _give_up(run: Run) -> Generator[Request, Any, bool]:
    """End a run that a successor has ended, before it has removed anything: no DELETE of it is under way."""
    kinds: frozenset[tuple[str, str]] = yield Request("runs")
    for kind in ("doomed", "condemned", "running"):
        if (kind, run.token) in kinds:
            yield Request("delete", (kind, run.token))
    return False


def _doom(run: Run, dead: Keys) -> Generator[Request, Any, Keys]:
    """Write the doomed list, look again, and withdraw what lives."""
    protocol, token = run.protocol, run.token
    listed = _entries(protocol, dead)
    yield Request("put", ("doomed", token), listed)
    if protocol.rescued_at_once:
        rescued: frozenset[str] = yield Request("rescued")
        saved = closure(rescued)
        dead = frozenset(key for key in dead if key[-1] not in saved or key[0] in {"trash", "tag"})
        if _entries(protocol, dead) != listed:
            listed = _entries(protocol, dead)
            yield Request("put", ("doomed", token), listed)
    yield Request("public", (token,))
    if protocol.last_mark:
        dead = yield from _mark(run, dead)
        if _entries(protocol, dead) != listed:
            listed = _entries(protocol, dead)
            yield Request("put", ("doomed", token), listed)
    return dead


def _remove(run: Run, dead: Keys) -> Generator[Request, Any, bool]:
    """Remove links, then bytes.  Armed: the process ends before the quarantine does, if it is stopped."""
    if run.protocol.timer:
        yield Request("arm", (run.token,))
    if run.protocol.own_lists and run.protocol.doom and not (yield from _owns(run, "doomed")):
        yield Request("disarm", (run.token,))
        return (yield from _give_up(run))
    keys = _parents_first(run.protocol, dead)
    for key in keys:
        yield Request("collect", key, run.token)
    yield Request("disarm", (run.token,))
    return True


def _end(run: Run) -> Generator[Request, Any, None]:
    """Remove the state of this run and of runs that have died, and end."""
    token = run.token
    kinds: frozenset[tuple[str, str]] = yield Request("runs")
    others = tuple(sorted({other for kind, other in kinds if kind != "ended" and other != token}))
    if others:
        if run.protocol.quarantine:
            yield Request("wait", ("quarantine", *others))
        for other in others:
            for kind in ("doomed", "condemned", "running"):
                if (kind, other) in kinds:
                    yield Request("delete", (kind, other))
    for kind in ("doomed", "condemned"):
        if (kind, token) in kinds:
            yield Request("delete", (kind, token))
    rescued: frozenset[str] = yield Request("rescued")
    kinds = yield Request("runs")
    alone = not {other for kind, other in kinds if kind != "ended" and other != token}
    saved = tuple(sorted(rescued)) if alone or not run.protocol.keep_rescued else ()
    for digest in saved:
        yield Request("delete", ("rescued", digest))
    older = tuple(sorted(other for kind, other in kinds if kind == "ended"))
    yield Request("put", ("ended", token))
    if run.protocol.torn_listings and run.protocol.settle_end:
        yield Request("wait", ("settle",))
    for other in older:
        yield Request("delete", ("ended", other))
    yield Request("delete", ("running", token))
