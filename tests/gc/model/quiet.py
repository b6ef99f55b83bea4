"""Runs of a collector without other actors: everything dead is gone in the end, and no marker stays (P4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.gc.model.collector import Run, collect, judge
from tests.gc.model.state import Store, put, read, remove, view

if TYPE_CHECKING:
    from tests.gc.model.protocol import Protocol, Request

__all__ = ["left_over"]

_RUNS = ("X", "Y")
"""The second one removes what the first one found to be young, or rescued."""


def left_over(protocol: Protocol, repositories: tuple[str, ...], store: Store) -> str:
    """Return what two quiet runs leave that nothing needs; "" if there is nothing."""
    for token in _RUNS:
        store = _run(Run(protocol, token, repositories), store)
    aged = put(store, ("running", "Z"))
    seen = tuple(read(aged, "repository", (repository, "Z")) for repository in repositories)
    dead = judge(protocol, seen, read(aged, "blobs", ("Z",)), frozenset())
    if dead:
        return f"P4: dead, and not removed by two runs: {sorted(dead)}"
    markers = [key for key in view(store) if key[0] in {"running", "condemned", "doomed", "rescued"}]
    if markers or sum(key[0] == "ended" for key in view(store)) != 1:
        return f"P4: markers stay after two runs: {sorted(markers)}"
    return ""


def _run(run: Run, store: Store) -> Store:
    actor = collect(run)
    answer: Any = None
    try:
        while True:
            request: Request = actor.send(answer)
            answer = None
            if request.verb == "put":
                store = put(store, request.key, request.value)
            elif request.verb in {"delete", "collect"}:
                store = remove(store, request.key)
            elif request.verb in {"repository", "blobs", "rescued", "runs"}:
                answer = read(store, request.verb, request.key)
    except StopIteration:
        return store
