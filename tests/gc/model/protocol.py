"""The protocol, as generators that yield one store request at a time: the gate and the requests of clients.

Each generator is the program of an actor.  Between two `yield`s nothing else happens; at each, any other actor may
act for any time, or this one may die.  The explorer identifies the state of a generator by its position and its
local variables, so these are hashable, and a loop with a `yield` iterates over a local tuple of distinct values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.gc.model.state import REFERENCES, Key, Snapshot, listed

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "Acts",
    "Protocol",
    "Request",
    "Site",
    "confirm",
    "delete",
    "head_push",
    "mount",
    "push",
    "restore",
    "retag",
    "upload",
]


class Request(NamedTuple):
    """A request to the store, a wait, or an instant remark for the model."""

    verb: str
    key: Key = ()
    value: Any = ""


Acts = "Generator[Request, Any, bool]"


@dataclass(frozen=True)
class Protocol:
    """Parts of the protocol.  A mutation switches one off."""

    # Requests.
    rescue: bool = True
    confirm: bool = True
    check_data: bool = True
    check_links: bool = True
    check_after_listing: bool = True
    admit_first: bool = True
    settle_references: bool = True
    torn_listings: bool = False
    # Collectors.
    settle: bool = True
    wait: bool = True
    doom: bool = True
    second_mark: bool = True
    last_mark: bool = True
    rescued_at_once: bool = True
    per_repository: bool = True
    parents_first: bool = True
    own_lists: bool = True
    quarantine: bool = True
    timer: bool = True
    keep_rescued: bool = True
    settle_end: bool = True
    bytes_looked_for_everywhere: bool = True
    # Scenario.
    untagged: bool = False
    rounds: bool = False


class Site(NamedTuple):
    """The process of a request.  The next request of its client reaches the next of `nodes`."""

    protocol: Protocol
    node: int
    client: int = -1
    nodes: int = 1


Need = tuple[str, str, str]
"""Kind of link, repository, digest."""


def begin(site: Site) -> Generator[Request, Any, Snapshot]:
    """Return the listing that the node holds, or a new one if it has expired."""
    snapshot: Snapshot | None = yield Request("snapshot", (str(site.node),))
    return (yield from fresh(site)) if snapshot is None else snapshot


def fresh(site: Site) -> Generator[Request, Any, Snapshot]:
    """Return a new listing.  One that took longer than it may be used is not used."""
    snapshot: Snapshot | None = None
    while snapshot is None:
        ended: frozenset[Key] | None = None
        if site.protocol.torn_listings:
            ended = yield Request("page", (str(site.node),))
        snapshot = yield Request("list", (str(site.node),), ended)
    return snapshot


def admits(site: Site, begun: Snapshot, repository: str, digest: str) -> Generator[Request, Any, bool]:
    """Return False if the digest is doomed; rescue a condemned one."""
    if listed(begun.doomed, repository, digest):
        return False
    if site.protocol.rescue and listed(begun.condemned, repository, digest):
        yield Request("put", ("rescued", digest))
        snapshot = yield from fresh(site)
        return not listed(snapshot.doomed, repository, digest)
    return True


def confirm(site: Site, begun: Snapshot, needs: tuple[Need, ...]) -> Generator[Request, Any, tuple[Need, ...]]:
    """Return what is lost of that on which a link relies.  The link is durable."""
    if not site.protocol.confirm:
        return ()
    recent = yield from begin(site)
    if recent.idle and recent.identity == begun.identity:
        return ()
    if site.protocol.rescue:
        rescues = tuple(dict.fromkeys(need[2] for need in needs if listed(recent.condemned, need[1], need[2])))
        for digest in rescues:
            yield Request("put", ("rescued", digest))
    absent: tuple[Need, ...] = ()
    if not site.protocol.check_after_listing:
        absent = yield from _absent(site, needs)
    now = yield from fresh(site)
    missed: tuple[str, ...] = ()
    if site.protocol.rescue:
        missed = tuple(
            dict.fromkeys(
                need[2]
                for need in needs
                if listed(now.condemned, need[1], need[2]) and not listed(recent.condemned, need[1], need[2])
            )
        )
        for digest in missed:
            yield Request("put", ("rescued", digest))
        if missed:
            now = yield from fresh(site)
    doomed = tuple(need for need in needs if listed(now.doomed, need[1], need[2]))
    if doomed:
        return doomed
    if site.protocol.check_after_listing:
        absent = yield from _absent(site, needs)
    return absent


def _absent(site: Site, needs: tuple[Need, ...]) -> Generator[Request, Any, tuple[Need, ...]]:
    """Look at bytes and links."""
    absent: tuple[Need, ...] = ()
    for need in needs:
        there = True
        if site.protocol.check_data:
            there = yield Request("exists", ("data", need[2]))
        if there and site.protocol.check_links:
            there = yield Request("exists", need)
        if not there:
            absent = (*absent, need)
    return absent


def settled(site: Site, needs: tuple[Need, ...]) -> Generator[Request, Any, None]:
    """Ask the collector to withdraw, and list until nothing is doomed; the node holds the last listing."""
    for need in needs:
        yield Request("put", ("rescued", need[2]))
    yield Request("settled", (str(site.node),), needs)


def rely(site: Site, begun: Snapshot, need: Need) -> Generator[Request, Any, str]:
    """Return "there" if the repository has a link and the store the bytes, "doomed" or "absent"."""
    if not (yield Request("exists", need)):
        return "absent"
    if site.protocol.admit_first and not (yield from admits(site, begun, need[1], need[2])):
        return "doomed"
    there: bool = yield Request("exists", ("data", need[2]))
    if there and not site.protocol.admit_first and not (yield from admits(site, begun, need[1], need[2])):
        return "doomed"
    return "there" if there else "absent"


def upload(site: Site, repository: str, digest: str) -> Generator[Request, Any, bool]:
    """Publish bytes and link them; acknowledge."""
    need = ("layer", repository, digest)
    attempts = (1, 2)
    for _attempt in attempts:
        begun = yield from begin(site)
        if listed(begun.doomed, repository, digest):
            yield from settled(site, (need,))
            begun = yield from fresh(site)
        yield Request("put", ("data", digest))
        yield Request("put", need)
        active = yield Request("active")
        lost = yield from confirm(site, begun, (need,))
        if not lost:
            yield Request("promise", ("layer", repository, "", digest), active)
            return True
        yield from settled(site, lost)
    return False


def mount(site: Site, source: str, target: str, digest: str) -> Generator[Request, Any, bool]:
    """Link bytes of another repository; acknowledge."""
    begun = yield from begin(site)
    if listed(begun.doomed, target, digest):
        return False
    if (yield from rely(site, begun, ("layer", source, digest))) != "there":
        return False
    yield Request("put", ("layer", target, digest))
    active = yield Request("active")
    if (yield from confirm(site, begun, (("layer", target, digest),))):
        return False
    yield Request("promise", ("layer", target, "", digest), active)
    return True


def push(site: Site, repository: str, digest: str, tag: str = "") -> Generator[Request, Any, bool]:
    """PUT of a manifest, by its digest or a tag."""
    references: tuple[Need, ...] = tuple(
        ("revision" if each in REFERENCES else "layer", repository, each) for each in REFERENCES[digest]
    )
    needs = (*references, ("revision", repository, digest))
    attempts = (1, 2)
    for _attempt in attempts:
        begun = yield from begin(site)
        doomed: tuple[Need, ...] = ()
        for need in references:
            found = yield from rely(site, begun, need)
            if found == "absent" or (found == "doomed" and not site.protocol.settle_references):
                return False
            if found == "doomed":
                doomed = (*doomed, need)
        if doomed:
            # A client may have relied on it a moment before it was doomed; the collector withdraws it.
            yield from settled(site, doomed)
            continue
        yield Request("put", ("data", digest))
        yield Request("put", ("revision", repository, digest))
        active = yield Request("active")
        lost = yield from confirm(site, begun, needs)
        if not lost and tag:
            yield Request("put", ("tag", repository, tag), digest)
            lost = yield from confirm(site, begun, needs)
        if not lost:
            yield Request("promise", ("tag" if tag else "manifest", repository, tag, digest), active)
            return True
        yield from settled(site, lost)
    return False


def _next_node(site: Site) -> Site:
    return site._replace(node=(site.node + 1) % site.nodes)


def retag(site: Site, repository: str, digest: str, tag: str) -> Generator[Request, Any, bool]:
    """HEAD of a manifest by its digest, then PUT of it by a tag."""
    begun = yield from begin(site)
    if (yield from rely(site, begun, ("revision", repository, digest))) != "there":
        return False
    return (yield from push(_next_node(site), repository, digest, tag))


def head_push(site: Site, repository: str, layer: str, digest: str, tag: str) -> Generator[Request, Any, bool]:
    """HEAD of a blob, then PUT of a manifest that names it: it has to succeed within the wait of a collector."""
    begun = yield from begin(site)
    yield Request("head", value=site.client)
    doomed: bool = yield Request("doomed", value=(repository, layer))
    if (yield from rely(site, begun, ("layer", repository, layer))) != "there":
        yield Request("unhead", value=site.client)
        return False
    yield Request("answer", value=(doomed, repository, layer))
    doomed = False
    done = yield from push(_next_node(site), repository, digest, tag)
    yield Request("unhead" if done else "refused", value=site.client)
    return done


def delete(site: Site, key: Key, digest: str = "") -> Generator[Request, Any, bool]:
    """Deletion of a tag, which goes to the trash if it names `digest`, of a manifest or of a layer link."""
    if digest:
        yield Request("put", ("trash", *key[1:]), digest)
    yield Request("delete", key)
    return True


def restore(site: Site, repository: str, tag: str) -> Generator[Request, Any, bool]:
    """Undo the deletion of a tag: a tag again, and then the trash entry goes."""
    begun = yield from begin(site)
    digest: str = yield Request("read", ("trash", repository, tag))
    if not digest or (yield from rely(site, begun, ("revision", repository, digest))) != "there":
        return False
    yield Request("put", ("tag", repository, tag), digest)
    needs: tuple[Need, ...] = (
        ("revision", repository, digest),
        *(("layer", repository, each) for each in REFERENCES[digest]),
    )
    if (yield from confirm(site, begun, needs)):
        return False
    yield Request("promise", ("tag", repository, tag, digest), frozenset())
    yield Request("delete", ("trash", repository, tag))
    return True
