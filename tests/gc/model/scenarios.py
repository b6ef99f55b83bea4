"""Scenarios: what is stored in the beginning, and who acts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.gc.model.collector import Run, collect
from tests.gc.model.explorer import Scenario
from tests.gc.model.machine import Program
from tests.gc.model.protocol import (
    Protocol,
    Request,
    Site,
    delete,
    head_push,
    mount,
    push,
    restore,
    retag,
    upload,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["SCENARIOS", "scenario"]

_LAYER = (("data", "L"), ""), (("layer", "a", "L"), "")
_IMAGE = (*_LAYER, (("data", "M"), ""), (("revision", "a", "M"), ""))
_OTHER = (("data", "N"), ""), (("revision", "b", "N"), ""), (("tag", "b", "v"), "N"), (("layer", "b", "L"), "")


def collector(protocol: Protocol, token: str, repositories: tuple[str, ...] = ("a",)) -> Program:
    return Program(f"collector {token}", collect, (Run(protocol, token, repositories),))


def on(
    protocol: Protocol,
    node: int,
    begin: Callable[..., Generator[Request, Any, bool]],
    *arguments: object,
    client: int = -1,
    nodes: int = 1,
) -> Program:
    name = f"{begin.__name__} {' '.join(map(str, arguments))} on node {node}"
    return Program(name, begin, (Site(protocol, node, client, nodes), *arguments))


def upload_and_push(p: Protocol) -> Scenario:
    actors = (on(p, 0, push, "a", "M", "v"), on(p, 1, upload, "a", "L"), collector(p, "A"))
    return Scenario("upload and push", _LAYER, actors, p, nodes=2)


def uploads(p: Protocol) -> Scenario:
    """Two clients upload the same bytes, and one actor may die."""
    actors = (on(p, 0, upload, "a", "L"), on(p, 0, upload, "a", "L"), collector(p, "A"))
    return Scenario("two uploads", _LAYER, actors, p, crashes=1)


def deleted_and_pushed(p: Protocol) -> Scenario:
    """A client deletes a manifest that another one pushes again."""
    actors = (on(p, 0, push, "a", "M", "v"), on(p, 1, delete, ("revision", "a", "M")), collector(p, "A"))
    return Scenario("deleted and pushed", _IMAGE, actors, p, nodes=2)


def push_of_a_dangling_layer(p: Protocol) -> Scenario:
    """The bytes stay, since repository b needs them; the link of repository a goes."""
    actors = (on(p, 0, push, "a", "M", "v"), collector(p, "A", ("a", "b")))
    promise = frozenset({("tag", "b", "v", "N")})
    return Scenario("dangling layer", (*_LAYER, *_OTHER), actors, p, ("a", "b"), promises=promise)


def mounting(p: Protocol) -> Scenario:
    actors = (
        on(p, 0, mount, "a", "b", "L"),
        on(p, 0, delete, ("layer", "a", "L")),
        collector(p, "A", ("b", "a")),
    )
    return Scenario("mount", _LAYER, actors, p, ("b", "a"))


def head_then_push(p: Protocol) -> Scenario:
    """The HEAD reaches one node, the push another one."""
    actors = (on(p, 0, head_push, "a", "L", "M", "v", client=0, nodes=2), collector(p, "A"))
    return Scenario("HEAD, then push", _LAYER, actors, p, nodes=2)


def head_and_two_collectors(p: Protocol) -> Scenario:
    actors = (on(p, 0, head_push, "a", "L", "M", "v", client=0), collector(p, "A"), collector(p, "B"))
    return Scenario("HEAD, then push; two collectors", _LAYER, actors, p)


def retagging(p: Protocol) -> Scenario:
    p = replace(p, untagged=True)
    actors = (on(p, 0, retag, "a", "M", "v", nodes=2), collector(p, "A"))
    return Scenario("tag of an untagged manifest", _IMAGE, actors, p, nodes=2)


def indexing(p: Protocol) -> Scenario:
    """An index of a manifest that is being removed, which another client pushes."""
    p = replace(p, untagged=True)
    actors = (on(p, 0, push, "a", "M"), on(p, 0, push, "a", "I", "v"), collector(p, "A"))
    return Scenario("index of an untagged manifest", _IMAGE, actors, p)


def undo(p: Protocol) -> Scenario:
    p = replace(p, untagged=True)
    actors = (on(p, 0, delete, ("tag", "a", "v"), "M"), on(p, 0, restore, "a", "v"), collector(p, "A"))
    return Scenario(
        "undo", (*_IMAGE, (("tag", "a", "v"), "M")), actors, p, promises=frozenset({("tag", "a", "v", "M")})
    )


def dying_collector(p: Protocol) -> Scenario:
    """The first collector is about to remove the bytes; it may die or be stopped, and a second one follows."""
    actors = (on(p, 0, upload, "a", "L"), collector(p, "A"), collector(p, "B"))
    return Scenario("a collector dies", _LAYER, actors, p, crashes=1, prelude=((1, "collect"),))


def late_deletion(p: Protocol) -> Scenario:
    """The first collector has died, and its DELETE of the bytes has not arrived yet."""
    actors = (on(p, 0, upload, "a", "L"), collector(p, "A"), collector(p, "B"))
    prelude = ((1, "collect"), (1, "step"), (1, "crash"))
    return Scenario("a late DELETE", _LAYER, actors, p, prelude=prelude)


def stopped_collector(p: Protocol) -> Scenario:
    """The first collector has made its last mark; it may be stopped for a whole run of the second one."""
    actors = (on(p, 0, upload, "a", "L"), collector(p, "A"), collector(p, "B"))
    return Scenario("a collector is stopped", _LAYER, actors, p, prelude=((1, "put"), (1, "wait"), (1, "runs")))


def half_removed(p: Protocol) -> Scenario:
    """A collector dies while it removes a manifest that an index is about to name."""
    p = replace(p, untagged=True)
    actors = (on(p, 0, push, "a", "I", "v"), collector(p, "A"), collector(p, "B"))
    prelude = ((1, "collect"), (1, "step"), (1, "crash"))
    return Scenario("a manifest is half removed", _IMAGE, actors, p, prelude=prelude)


def rescued_for_two(p: Protocol) -> Scenario:
    """Two runs have condemned a layer when a client relies on it."""
    actors = (on(p, 0, head_push, "a", "L", "M", "v", client=0), collector(p, "A"), collector(p, "B"))
    return Scenario("rescued for two", _LAYER, actors, p, prelude=((1, "wait"), (2, "wait")))


def rounds(p: Protocol) -> Scenario:
    """An index of a later round gets a tag; an earlier one has removed its manifest from another repository."""
    p = replace(p, untagged=True, rounds=True)
    links = (("revision", "a", "M"), ("revision", "b", "I"), ("revision", "b", "M"), ("layer", "b", "L"))
    store = tuple((key, "") for key in (("data", "L"), ("data", "M"), ("data", "I"), *links))
    actors = (on(p, 0, retag, "b", "I", "v"), collector(p, "A", ("a", "b")))
    return Scenario("rounds", store, actors, p, ("a", "b"))


def rounds_and_a_mount(p: Protocol) -> Scenario:
    """The link of the source goes in a later round than one that the target had."""
    p = replace(p, rounds=True)
    store = (*_LAYER, (("layer", "b", "L"), ""))
    actors = (on(p, 0, mount, "a", "b", "L"), collector(p, "A", ("b", "a")))
    return Scenario("rounds and a mount", store, actors, p, ("b", "a"))


def torn_listing(p: Protocol) -> Scenario:
    p = replace(p, torn_listings=True)
    actors = (on(p, 0, push, "a", "M", "v"), collector(p, "A"))
    return Scenario("a listing of two pages", (*_LAYER, (("ended", "0"), "")), actors, p)


SCENARIOS = {
    made.__name__: made
    for made in (
        upload_and_push,
        uploads,
        deleted_and_pushed,
        push_of_a_dangling_layer,
        mounting,
        head_then_push,
        head_and_two_collectors,
        retagging,
        indexing,
        undo,
        dying_collector,
        late_deletion,
        stopped_collector,
        half_removed,
        rescued_for_two,
        rounds,
        rounds_and_a_mount,
        torn_listing,
    )
}


def scenario(name: str, **changes: bool) -> Scenario:
    """Return a scenario under the protocol, with some parts of it changed."""
    return SCENARIOS[name](replace(Protocol(), **changes))
