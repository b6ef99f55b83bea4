"""Exhaustive search of all interleavings of a scenario, breadth first, with crashes of every actor at every step.

One step is one store request of one actor.  Time is abstracted: any number of steps of others may come between two
of an actor, which is also how a stopped process behaves.  A wait of a collector is a step that ends what cannot be
true any more after it:

    settle, seen   no process holds a listing that it made before
    wait           clients that began before the list was seen, and have not ended, are slower than promised
    quarantine     an armed collector that was stopped has died, and its DELETE requests have arrived or never will
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.gc.model.machine import DEAD, DONE, Machine, Program
from tests.gc.model.quiet import left_over
from tests.gc.model.state import (
    Ghost,
    Key,
    Object,
    Snapshot,
    State,
    Store,
    closure,
    listed,
    listing,
    needs_of,
    put,
    read,
    remove,
    view,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.gc.model.protocol import Protocol, Request

__all__ = ["Broken", "Explorer", "Result", "Scenario"]

_INSTANT = frozenset(
    {"active", "promise", "head", "unhead", "refused", "answer", "doomed", "public", "arm", "disarm"}
)


@dataclass(frozen=True)
class Scenario:
    """Objects that are stored in the beginning, actors, and how many of them may die.

    `prelude`: actors that act alone before, each until its next request is the named one; "step" is one request,
    "crash" a death during it.
    """

    name: str
    store: tuple[tuple[Key, str], ...]
    actors: tuple[Program, ...]
    protocol: Protocol
    repositories: tuple[str, ...] = ("a",)
    nodes: int = 1
    crashes: int = 0
    promises: frozenset[tuple[str, str, str, str]] = frozenset()
    prelude: tuple[tuple[int, str], ...] = ()


class Result(NamedTuple):
    states: int
    complete: bool
    broken: str
    trace: tuple[str, ...]


class Broken(Exception):
    """A property that does not hold in a state."""


@dataclass
class Explorer:
    scenario: Scenario
    machine: Machine = field(default_factory=Machine)
    quiet: set[Store] = field(default_factory=set)
    _alike: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        programs = self.scenario.actors
        groups = (tuple(place for place, each in enumerate(programs) if each == program) for program in programs)
        self._alike = tuple(dict.fromkeys(group for group in groups if len(group) > 1))

    def first(self) -> State:
        """Return the state in the beginning, after the prelude."""
        state = self._stored()
        for place, verb in self.scenario.prelude:
            name = self.scenario.actors[place].name
            while (request := self.machine.request(state.actors[place])) is not None and request.verb != verb:
                if verb == "crash":
                    *_, (_, state) = self._crash(state, place, request, name)
                    break
                _, after, answer = next(self._answers(state, place, request))
                state = self._advance(after, place, state.actors[place], answer, name)
                if verb == "step":
                    break
        return state

    def _stored(self) -> State:
        store: Store = frozenset(Object(key, value) for key, value in self.scenario.store)
        return State(
            store,
            (None,) * self.scenario.nodes,
            tuple(self.machine.start(program) for program in self.scenario.actors),
            ghost=Ghost(promises=self.scenario.promises),
        )

    def run(self, limit: int, *, deep: bool = False) -> Result:
        """Search until a property is broken, everything is searched, or `limit` states are found.

        Breadth first, so that a trace is a shortest one; or depth first, which finds a long one sooner.

        States are remembered by their hash, of 61 bits: ten million states share one with a probability of 2e-5.
        """
        first = self.first()
        parents: dict[int, int] = {hash(first): 0}
        waiting = deque([first])
        while waiting:
            state = waiting.pop() if deep else waiting.popleft()
            number = hash(state)
            moved = False
            steps = self.steps(state)
            while True:
                try:
                    step = next(steps, None)
                    if step is None:
                        break
                    label, after = step
                    moved = moved or not label.startswith("crash")
                    after = self._canonical(after)
                    if (found := hash(after)) not in parents:
                        parents[found] = number
                        waiting.append(after)
                except Broken as error:
                    return Result(len(parents), True, str(error), self._trace(parents, number))
            if not moved and (problem := self._ended(state)):
                return Result(len(parents), True, problem, self._trace(parents, number))
            if len(parents) > limit:
                return Result(len(parents), False, "", ())
        return Result(len(parents), True, "", ())

    def _trace(self, parents: dict[int, int], number: int) -> tuple[str, ...]:
        """Return the labels of the steps to a state, by taking them again."""
        path: list[int] = []
        while number:
            path.append(number)
            number = parents[number]
        state = self.first()
        labels: list[str] = []
        for number in path[-2::-1]:
            steps = ((label, self._canonical(after)) for label, after in self.steps(state))
            label, state = next(step for step in steps if hash(step[1]) == number)
            labels.append(label)
        return tuple(labels)

    def _canonical(self, state: State) -> State:
        """Return the state in which actors with the same program are ordered."""
        actors = state.actors
        for places in self._alike:
            numbers = sorted(actors[place] for place in places)
            for place, number in zip(places, numbers, strict=True):
                if actors[place] != number:
                    actors = _replaced(actors, place, number)
        return state if actors is state.actors else state._replace(actors=actors)

    def _ended(self, state: State) -> str:
        """Return what is wrong when no actor can act: one that waits for ever, or garbage that stays."""
        for place, number in enumerate(state.actors):
            if number not in {DONE, DEAD}:
                request = self.machine.request(number)
                dead = any(other == DEAD for other in state.actors)
                if not dead or request is None or request.verb != "settled":
                    return f"{self.scenario.actors[place].name} waits for ever: {request}"
        if state.store in self.quiet:
            return ""
        self.quiet.add(state.store)
        return left_over(self.scenario.protocol, self.scenario.repositories, state.store)

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Return each step that is possible, with a label.  Raises Broken."""
        for place, number in enumerate(state.actors):
            request = self.machine.request(number)
            if request is None:
                continue
            name = self.scenario.actors[place].name
            for label, after, answer in self._answers(state, place, request):
                yield f"{name}: {label}", self._advance(after, place, number, answer, name)
            if state.crashes < self.scenario.crashes:
                yield from self._crash(state, place, request, name)
        for token, key in state.late:
            after = self._collected(state, key)
            yield f"late DELETE of {token}: {key}", after._replace(late=after.late - {(token, key)})

    def _crash(self, state: State, place: int, request: Request, name: str) -> Iterator[tuple[str, State]]:
        after = self._killed(state, place)._replace(crashes=state.crashes + 1)
        yield f"crash of {name} before {request.verb} {request.key}", after
        if request.verb == "collect":
            late = (str(request.value), request.key)
            yield f"crash of {name} in DELETE of {request.key}", after._replace(late=after.late | {late})

    def _killed(self, state: State, place: int) -> State:
        ghost = state.ghost
        ghost = ghost._replace(
            heads=ghost.heads - {place}, early=ghost.early - {place}, overdue=ghost.overdue - {place}
        )
        return state._replace(actors=_replaced(state.actors, place, DEAD), ghost=ghost)

    def _advance(self, state: State, place: int, number: int, answer: Any, name: str) -> State:
        """Give the answer, and do everything that takes no time."""
        number = self.machine.resume(number, answer)
        while (request := self.machine.request(number)) is not None and request.verb in _INSTANT:
            state, answer = self._instant(state, request, name)
            number = self.machine.resume(number, answer)
        if number == DONE and (token := self.scenario.actors[place].token):
            store = frozenset(found._replace(old=found.old - {token}) for found in state.store)
            state = state._replace(store=store, expired=state.expired - {token})
        return state._replace(actors=_replaced(state.actors, place, number))

    # Requests to the store.

    def _answers(self, state: State, place: int, request: Request) -> Iterator[tuple[str, State, Any]]:
        verb, key, value = request
        store = state.store
        if verb == "snapshot":
            held = state.snapshots[int(key[0])]
            if held is not None:
                yield f"uses the listing {_short(held)}", state, held
            if held is None or held != listing(store):
                yield "has no listing", state, None
        elif verb == "page":
            ended = frozenset(found for found in listing(store).identity if found[0] == "ended")
            yield "lists the first page", state._replace(paging=state.paging | {place}), ended
        elif verb == "list":
            now = listing(store)
            if value is not None:
                now = now._replace(identity=value | {found for found in now.identity if found[0] != "ended"})
            after = state._replace(paging=state.paging - {place})
            if value is not None and place not in state.paging:
                yield "lists too slowly", after, None
            else:
                yield f"lists {_short(now)}", self._listed(after, int(key[0]), now), now
        elif verb == "exists":
            there = key in view(store)
            yield f"stat {key}: {there}", state, there
        elif verb == "read":
            found = view(store).get(key)
            yield f"read {key}", state, "" if found is None else found.value
        elif verb == "put":
            yield f"writes {key} {_text(value)}", self._put(state, key, value), None
        elif verb == "delete":
            yield f"deletes {key}", self._deleted(state, key), None
        elif verb == "collect":
            yield f"DELETE {key}", self._collected(state, key), None
        elif verb == "wait":
            yield f"waits: {key}", self._waited(state, key), None
        elif verb == "settled":
            now = listing(store)
            if not any(listed(now.doomed, need[1], need[2]) for need in value):
                yield f"lists {_short(now)}: nothing is doomed", self._listed(state, int(key[0]), now), None
        elif verb == "runs" and key and key[0] in state.expired and self.scenario.protocol.timer:
            yield "is past its deadline", state, frozenset()
        else:
            yield f"reads {verb} {key}", state, read(store, verb, key)

    def _listed(self, state: State, node: int, now: Snapshot) -> State:
        return state._replace(snapshots=_replaced(state.snapshots, node, now))

    def _alive(self, state: State, tokens: tuple[str, ...]) -> frozenset[str]:
        """Return the runs among `tokens` whose collector has neither ended nor died."""
        pairs = zip(self.scenario.actors, state.actors, strict=True)
        return frozenset(program.token for program, number in pairs if number not in {DONE, DEAD}) & {*tokens}

    def _put(self, state: State, key: Key, value: Any) -> State:
        ghost = state.ghost
        if key[0] == "running":
            # What is only a blob or an untagged manifest may be collected by later runs.
            kept = {"tag"} if self.scenario.protocol.untagged else {"tag", "manifest"}
            ghost = ghost._replace(promises=frozenset(each for each in ghost.promises if each[0] in kept))
        if key in ghost.collected:
            ghost = ghost._replace(collected=ghost.collected - {key})
        if key[0] == "tag":
            ghost = ghost._replace(promises=_untagged(ghost.promises, key))
        return state._replace(store=put(state.store, key, value), ghost=ghost)

    def _deleted(self, state: State, key: Key) -> State:
        ghost = state.ghost
        if key[0] == "tag":
            ghost = ghost._replace(promises=_untagged(ghost.promises, key))
        elif key[0] in {"revision", "layer"}:
            kept = frozenset(
                each for each in ghost.promises if key not in needs_of(each[0], each[1], each[2], each[3])
            )
            ghost = ghost._replace(promises=kept)
        return state._replace(store=remove(state.store, key), ghost=ghost)

    def _collected(self, state: State, key: Key) -> State:
        """Remove what a collector removes.  Raises Broken if a client was promised it (P1)."""
        if key not in view(state.store):
            return state
        for kind, repository, name, digest in state.ghost.promises:
            if key in needs_of(kind, repository, name, digest):
                raise Broken(f"P1: {key} is removed; {kind} {repository} {name} {digest} was acknowledged")
        ghost = state.ghost._replace(collected=state.ghost.collected | {key})
        return state._replace(store=remove(state.store, key), ghost=ghost)

    def _waited(self, state: State, key: Key) -> State:
        ghost = state.ghost
        expired = state._replace(snapshots=(None,) * len(state.snapshots), paging=frozenset())
        if key[0] == "settle":
            return expired
        if key[0] == "seen":
            return expired._replace(ghost=ghost._replace(early=ghost.early | ghost.heads))
        if key[0] == "wait":
            return state._replace(ghost=ghost._replace(overdue=ghost.overdue | ghost.early))
        after = expired._replace(
            late=frozenset(each for each in state.late if each[0] not in key[1:]),
            expired=state.expired | self._alive(state, key[1:]),
            ghost=ghost._replace(overdue=ghost.overdue | ghost.heads),
        )
        for place, program in enumerate(self.scenario.actors):
            number = after.actors[place]
            request = self.machine.request(number)
            armed = program.token in key[1:] and request is not None and request.verb == "collect"
            if armed and self.scenario.protocol.timer:
                after = self._killed(after, place)
        return after

    # What takes no time.

    def _instant(self, state: State, request: Request, name: str) -> tuple[State, Any]:
        verb, _, value = request
        ghost = state.ghost
        if verb == "promise":
            if self._promises(state, request.value, *request.key):
                missing = [key for key in needs_of(*request.key) if key in ghost.collected]
                if missing:
                    raise Broken(f"P1: {name} acknowledged {request.key}; a collector has removed {missing}")
                ghost = ghost._replace(promises=ghost.promises | {request.key})  # type: ignore[arg-type]
            return state._replace(ghost=ghost), None
        if verb == "active":
            return state, _active(state.store)
        if verb == "doomed":
            return state, listed(listing(state.store).doomed, *value)
        if verb == "answer":
            if value[0] and listed(listing(state.store).doomed, *value[1:]):
                raise Broken(f"P3: {name} got 200 for {value[2]}, which is doomed")
            return state, None
        if verb == "head":
            return state._replace(ghost=ghost._replace(heads=ghost.heads | {value})), None
        if verb in {"unhead", "refused"}:
            if verb == "refused" and value not in ghost.overdue:
                raise Broken(f"P2: {name} is refused; HEAD was a 200, and the client was quick")
            return state._replace(
                ghost=ghost._replace(
                    heads=ghost.heads - {value}, early=ghost.early - {value}, overdue=ghost.overdue - {value}
                )
            ), None
        if verb == "public":
            self._available(state)
        return state, None

    def _promises(
        self, state: State, active: frozenset[str], kind: str, repository: str, name: str, digest: str
    ) -> bool:
        """Return whether an acknowledgement is a promise.

        Not if another client has deleted the object meanwhile.  Nor for a blob or an untagged manifest if a run
        has begun since the link was written, when the runs `active` were in progress: it is past the grace period.
        """
        keys: list[Key] = [("layer" if kind == "layer" else "revision", repository, digest)]
        if kind == "tag":
            keys.append(("tag", repository, name))
        store = view(state.store)
        if not all(key in store or key in state.ghost.collected for key in keys):
            return False
        if kind == "tag":
            return ("tag", repository, name) in store and store["tag", repository, name].value == digest
        return (kind == "manifest" and not self.scenario.protocol.untagged) or _active(state.store) <= active

    def _available(self, state: State) -> None:
        """Raise Broken if an acknowledged tag is absent to requests, since something that it needs is doomed."""
        doomed = listing(state.store).doomed
        for kind, repository, _, digest in state.ghost.promises:
            for each in closure(frozenset({digest})):
                if kind == "tag" and listed(doomed, repository, each):
                    raise Broken(f"P1: {each} is doomed; a tag of repository {repository} needs it")


def _active(store: Store) -> frozenset[str]:
    """Return the runs in progress."""
    return frozenset(found.key[1] for found in store if found.key[0] == "running")


def _untagged(promises: frozenset[tuple[str, str, str, str]], key: Key) -> frozenset[tuple[str, str, str, str]]:
    return frozenset(each for each in promises if each[0] != "tag" or each[1:3] != key[1:])


def _replaced(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _short(snapshot: Snapshot) -> str:
    names = ", ".join(sorted(".".join(key) for key in snapshot.identity))
    parts = [names or "nothing"]
    if snapshot.condemned:
        parts.append(f"condemned {_text(snapshot.condemned)}")
    if snapshot.doomed:
        parts.append(f"doomed {_text(snapshot.doomed)}")
    return "; ".join(parts)


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else "{" + ", ".join(sorted(f"{d}{'@' * bool(r)}{r}" for d, r in value)) + "}"
    )
