"""Local states of actors: generators become automata, one transition at a time.

A generator cannot be copied.  So a local state is kept as the answers that lead to it, and a new transition is
found by running the generator again from its start.  Two states are the same if position and local variables of
all frames are, so each transition is found once, and exploring costs no more than looking it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.gc.model.protocol import Request

__all__ = ["DEAD", "DONE", "Machine", "Program"]

DONE = 0
DEAD = 1


@dataclass(frozen=True)
class Program:
    """A generator with its arguments, and a name for traces."""

    name: str
    begin: Callable[..., Generator[Request, Any, bool]]
    arguments: tuple[Any, ...]

    @property
    def token(self) -> str:
        """The run, for a collector."""
        return str(getattr(self.arguments[0], "token", ""))


class Machine:
    """Local states by number.  States 0 and 1 are those of actors that have ended and that have died."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}
        self._starts: dict[Program, int] = {}
        self._histories: list[tuple[Program, tuple[Any, ...]] | None] = [None, None]
        self._requests: list[Request | None] = [None, None]
        self._transitions: dict[tuple[int, Any], int] = {}

    def start(self, program: Program) -> int:
        """Return the first state."""
        if program not in self._starts:
            self._starts[program] = self._find(program, ())
        return self._starts[program]

    def request(self, number: int) -> Request | None:
        """Return what an actor is about to do; None if it has ended or died."""
        return self._requests[number]

    def resume(self, number: int, answer: Any) -> int:
        """Return the state after an answer."""
        found = self._transitions.get((number, answer))
        if found is None:
            history = self._histories[number]
            assert history is not None
            program, answers = history
            found = self._transitions[number, answer] = self._find(program, (*answers, answer))
        return found

    def _find(self, program: Program, answers: tuple[Any, ...]) -> int:
        actor = program.begin(*program.arguments)
        try:
            request = next(actor)
            for answer in answers:
                request = actor.send(answer)
        except StopIteration:
            return DONE
        identity = (program, request, _frames(actor))
        number = self._numbers.get(identity)
        if number is None:
            number = self._numbers[identity] = len(self._histories)
            self._histories.append((program, answers))
            self._requests.append(request)
        return number


def _frames(actor: Generator[Request, Any, Any]) -> tuple[object, ...]:
    frames: list[object] = []
    inner: Any = actor
    while inner is not None:
        frame = inner.gi_frame
        frames.append((inner.gi_code, frame.f_lasti, tuple(sorted(frame.f_locals.items()))))
        inner = inner.gi_yieldfrom
    return tuple(frames)
