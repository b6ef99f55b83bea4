"""Request smuggling through real front ends: the table of cases, sent through nginx, HAProxy and Apache httpd.

A front end and a server that read the same bytes as different requests let one client speak with another one's
voice, or give one client another one's answer.  After each case

    every request that the server has executed was written by the front end, and its client has the answer
    other clients get their own answers, on every connection that the front end holds

A refusal by the front end is as good as one by the server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import TYPE_CHECKING, Final

import pytest
import pytest_asyncio
from tests.server.http1.cases import CASES, MARKER, MARKER_TARGET
from tests.server.http1.fronts import FRONT_HEADER, FRONTS, front_end
from tests.server.http1.harness import running, until
from tests.server.http1.peer import LIMIT_S, Peer, read_answers

from moorage.server.http1 import connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.server.http1.cases import Case
    from tests.server.http1.fronts import Front
    from tests.server.http1.harness import Running

    from moorage.server.http1.options import Http1Options
    from moorage.server.http1.request_head import RequestHead

pytestmark = [pytest.mark.proxy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

_SILENCE_S: Final = 0.5
"""A front end that sends nothing for so long waits for more of the message: the client ends its sending side.

Too early does no harm: all front ends answer what they have read before.
"""

_NUMBER: Final = re.compile(rb'"number": (\d+)')
_PROBE: Final = b"/wait/"
_probes = itertools.count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Running]:
    """The back end of all front ends."""
    async with running() as served:
        yield served


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, served: Running
) -> Iterator[Front]:
    with front_end(request.param, tmp_path_factory.mktemp(request.param), served.port) as front:
        yield front


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
    """Send requests of other clients at the same time, one for each connection to the back end.

    The back end answers when all of them have arrived, so no two can use the same connection.
    """
    app = served.app
    app.gate.clear()
    count = max(1, min(len(served.server.connections), front.pool or len(CASES)))
    targets = [_PROBE + b"%d" % next(_probes) for _ in range(count)]
    request = b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    tasks = [asyncio.ensure_future(through(front, request % target)) for target in targets]
    begun = len(app.begun)
    await until(lambda: set(targets) <= set(app.begun[begun:]) or any(task.done() for task in tasks), "the probes")
    app.gate.set()
    for target, task in zip(targets, tasks, strict=True):
        data = await task
        (answer,) = read_answers(data)
        assert answer.status == 200, f"{target!r}: {data[:500]!r}"
        assert json.loads(answer.body)["path"] == target.decode(), f"{target!r} got the answer of another client"


async def check(front: Front, served: Running, data: bytes, *, half_close: bool = False) -> list[bytes]:
    """Send one client's bytes, then requests of others; return the targets that the first one has executed."""
    app = served.app
    seen, begun, left = len(app.seen), len(app.begun), len(app.left)
    received = await through(front, data, half_close=half_close)
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
    assert list(executed) == answered, f"a request has no answer, or an answer no request: {shown}"
    for request in executed.values():
        written = [value.decode() for name, value in request.headers if name == FRONT_HEADER]
        assert written == [front.kind], f"{request.short} is not a request of the front end: {shown}"
    targets = [request.target for request in executed.values()]
    expected = sorted([*targets, *app.left[left:]])
    assert sorted(target for target in app.begun[begun:] if not target.startswith(_PROBE)) == expected, shown
    return targets


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_no_case_reaches_another_client(case: Case, front: Front, served: Running) -> None:
    """A request that only the server sees is executed with the rights of the next client."""
    targets = await check(front, served, case.data + MARKER, half_close=case.swallows)
    assert not (case.swallows and MARKER_TARGET in targets), "a part of a body was executed"
