"""Exchanges through a front end, and the criterion of request smuggling.

    every request that the server has executed was written by the front end, and its client has the answer
    other clients get their own answers, on every connection that the front end holds

A refusal by the front end is as good as one by the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.server.http1.fronts import FRONT_HEADER
from tests.server.http1.harness import until
from tests.server.http1.peer import LIMIT_S, Peer, read_answers

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.server.http1.fronts import Front
    from tests.server.http1.harness import Running

__all__ = ["HIDDEN", "HIDDEN_TARGET", "Handled", "check", "probe", "through"]

HIDDEN_TARGET: Final = b"/hidden"
HIDDEN: Final = b"GET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\n"
"""Part of a body, never a request."""

_SILENCE_S: Final = 0.5
"""A front end that sends nothing for so long waits for more of the message: the client ends its sending side.

Too early does no harm: all front ends answer what they have read before.
"""

_NUMBER: Final = re.compile(rb'"number": (\d+)')
_PROBE: Final = b"/meet/"
_PROBES: Final = 2
_numbers = itertools.count()


async def through(front: Front, data: bytes, *, half_close: bool = False) -> bytes:
    """Send on a connection of its own; return everything that came until its end."""
    async with await Peer.connect(front.port) as peer:
        reader = asyncio.ensure_future(peer.read_to_end())
        await peer.send(data)
        received = -1
        while not half_close and not reader.done() and received < len(peer.received):
            received = len(peer.received)
            await asyncio.wait([reader], timeout=_SILENCE_S)
        peer.half_close()
        async with asyncio.timeout(LIMIT_S):
            return await reader


async def probe(front: Front, served: Running) -> None:
    """Send requests of other clients at the same time, at least one for each connection to the back end.

    The back end answers when all of them have arrived, so no two can use the same connection.
    """
    app = served.app
    app.gate.clear()
    app.met = 0
    count = max(_PROBES, len(served.server.connections))
    count = min(count, front.pool or count)
    targets = [_PROBE + b"%d/%d" % (count, next(_numbers)) for _ in range(count)]
    request = b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    tasks = [asyncio.ensure_future(through(front, request % target)) for target in targets]
    # If one has an answer that it should not have, the others wait in vain.
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    app.gate.set()
    received = await asyncio.gather(*tasks)
    for target, data in zip(targets, received, strict=True):
        (answer,) = read_answers(data)
        assert answer.status == 200, f"{target!r}: {data[:500]!r}"
        assert json.loads(answer.body)["path"] == target.decode(), f"{target!r} got another client's answer"


@dataclass(frozen=True)
class Handled:
    """Requests of one client that reached the application; `executed` are those that it has read whole."""

    begun: list[bytes]
    executed: list[bytes]
    left: list[bytes]


async def check(front: Front, served: Running, exchange: Awaitable[bytes], *, refusals: int = 0) -> Handled:
    """Await one client's exchange, which returns what it has received, then send requests of others.

    `refusals`: how many requests the front end may have refused after it had sent them on.
    """
    app = served.app
    seen, begun, left = len(app.seen), len(app.begun), len(app.left)
    received = await exchange
    for _ in range(2):
        await probe(front, served)
    await until(lambda: not app.running, "the application to return")
    executed = {
        number: request
        for number, request in enumerate(app.seen[seen:], seen + 1)
        if not request.target.startswith(_PROBE)
    }
    answered = [int(number) for number in _NUMBER.findall(received)]
    shown = f"executed {[request.short for request in executed.values()]}, the client has {received[:2000]!r}"
    assert answered == list(executed)[: len(answered)], f"an answer has no request: {shown}"
    assert len(executed) - len(answered) <= refusals, f"a request has no answer: {shown}"
    for request in executed.values():
        written = [value.decode() for name, value in request.headers if name == FRONT_HEADER]
        assert written == [front.kind], f"{request.short} is not a request of the front end: {shown}"
    return Handled(
        [target for target in app.begun[begun:] if not target.startswith(_PROBE)],
        [request.target for request in executed.values()],
        app.left[left:],
    )
