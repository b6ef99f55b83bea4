"""An upload to Azure, step by step: it dies at any request, loses any answer, meets another writer anywhere.

On azurite.  The first tests take every fourth request, and each another one; `python3 dev.py moments` takes all.
Blocks are four bytes and small ones less than two, so that a few bytes cross every edge.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.azure import Container, Request, a_container
from tests.moments import moments

from moorage.storage.azure.connection import AzureConnection
from moorage.storage.azure.requests import AzureRequests
from moorage.storage.azure.store import AzureStore
from moorage.storage.azure.uploads import AzureUploads
from moorage.storage.driver import Key, KeyMissing, Note, UploadBusy, UploadChanged, UploadMissing, UploadState
from moorage.storage.object_store.driver import ObjectDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

pytestmark = pytest.mark.slow

HOME = Key("docker/registry/v2/repositories/name/_uploads/0199a3c4-0000-7000-8000-000000000001")
TO = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")
PIECES = (b"a", b"bcdefghij", b"k", b"lmno", b"", b"pqrstuvwx")
WHOLE = b"".join(PIECES)
EVERY = 4
EDGES = {0, *itertools.accumulate(map(len, PIECES))}


class Died(BaseException):
    """The process is gone: not even its cleanups run to their end."""


class Stepped(AzureRequests):
    """Calls `before` and `after` around every request."""

    before: Callable[[], Awaitable[int]]
    after: Callable[[int], Awaitable[None]]

    async def _retried(self, operation: str, key: str, request: Callable[[], Awaitable[Any]]) -> Any:
        number = await self.before()
        try:
            return await super()._retried(operation, key, request)
        finally:
            await self.after(number)


class Steps(AzureStore):
    """A node that does `what` at request `at`, before it is made or when it is done."""

    def __init__(
        self, container: Container, at: int = 0, *, late: bool = False, what: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(AzureConnection(container.options(chunk=4, small=2)))
        self.count, self._at, self._late, self._what = 0, at, late, what
        self.dead = False
        place = Stepped(self.connection, "")
        place.before, place.after = self._before, self._after
        self._found = (place,)

    async def _before(self) -> int:
        if self.dead:
            raise Died
        self.count += 1
        if self.count == self._at and not self._late:
            await self._what()
        return self.count

    async def _after(self, number: int) -> None:
        if number == self._at and self._late:
            await self._what()

    async def die(self) -> None:
        self.dead = True
        raise Died


async def _nothing() -> None:
    pass


@pytest.fixture
def container() -> Iterator[Container]:
    with a_container() as found:
        yield found


def note(offset: int) -> Note:
    return Note(f"hashstates/sha256/{offset}", str(offset).encode())


async def push(driver: ObjectDriver, home: Key = HOME, reported: int = -1) -> None:
    """Send a request for each of PIECES from the upload's offset on, then the last."""
    if reported < 0:
        await driver.uploads.begin(home)
    while True:
        state = await driver.uploads.state(home)
        assert state.offset in EDGES, "an upload stands where a request ended"
        assert state.offset >= reported, "what was acknowledged is there"
        async with driver.uploads.read(home, state) as reader:
            assert b"".join([piece async for piece in reader]) == WHOLE[: state.offset]
        assert state.notes in {(), (note(state.offset),)}
        reported = state.offset
        if state.offset == len(WHOLE):
            break
        end = min(edge for edge in EDGES if edge > state.offset)
        async with driver.uploads.append(home, state) as appender:
            await appender.write([WHOLE[state.offset : end]])
            await appender.checkpoint([note(end)])
    await driver.uploads.publish(home, state, TO)
    await driver.uploads.discard(home)


async def requests_of_a_push() -> int:
    with a_container() as container:
        steps = Steps(container, what=_nothing)
        driver = ObjectDriver(steps, AzureUploads(steps))
        await push(driver)
        await driver.close()
        return steps.count


@pytest.mark.parametrize(("late", "shift"), [(False, 0), (True, 2)], ids=["before", "after"])
@pytest.mark.timeout(600)
async def test_a_node_that_dies_at_any_request_tears_nothing(late: bool, shift: int) -> None:
    """Another node continues after the acknowledged bytes, or there is nothing; no object is left behind."""
    for at in moments(await requests_of_a_push(), EVERY, shift):
        with a_container() as container:
            steps = Steps(container, at, late=late, what=_nothing)
            steps._what = steps.die
            driver = ObjectDriver(steps, AzureUploads(steps))
            with pytest.raises(Died):
                await push(driver)
            await driver.close()
            other = container.driver(("",), chunk=4, small=2)
            try:
                assert (await other.read(TO)).data == WHOLE
            except KeyMissing:
                try:
                    await push(other, reported=0)
                except UploadMissing:
                    await push(other)
            assert (await other.read(TO)).data == WHOLE
            later = datetime.now(UTC) + timedelta(hours=1)
            async for home in other.uploads.abandoned(Key("docker"), later):
                await other.uploads.discard(home)
            await other.uploads.sweep(Key("docker"), later)
            await other.close()
            assert container.blobs(begun=True) == {TO: len(WHOLE)}, f"after request {at}"


@pytest.mark.parametrize(("how", "shift"), [("lost", 1), ("busy", 3)], ids=["lost", "busy"])
@pytest.mark.timeout(600)
async def test_any_answer_may_be_lost_or_come_later(how: str, shift: int) -> None:
    """A condition that our own lost attempt made false is no conflict."""
    for at in moments(await requests_of_a_push(), EVERY, shift):
        with a_container() as container:
            count = 0

            def chosen(_: Request, at: int = at) -> bool:
                nonlocal count
                count += 1
                return count == at

            if how == "lost":
                container.server.lost = chosen
            else:
                container.server.trouble = lambda request: (503, "ServerBusy") if chosen(request) else None
            driver = container.driver(("",), chunk=4, small=2)
            await push(driver)
            assert (await driver.read(TO)).data == WHOLE
            await driver.close()
            assert container.blobs(begun=True) == {TO: len(WHOLE)}, f"request {at}"


@pytest.mark.timeout(600)
async def test_another_writer_at_any_request_mixes_nothing() -> None:
    """The same chunk sent twice, as clients do after a timeout, at any moment of the first."""
    at = 0
    while True:
        at += 1
        with a_container() as container:
            other = container.driver(("",), chunk=4, small=2)
            begun = await other.uploads.begin(HOME)
            begun = await extend(other, begun, b"begun")

            async def meet(other: ObjectDriver = other) -> None:
                await extend(other, await other.uploads.state(HOME), b" THEIRS")

            steps = Steps(container, at, what=meet)
            driver = ObjectDriver(steps, AzureUploads(steps))
            state = await other.uploads.state(HOME)
            mine = True
            try:
                await extend(driver, UploadState(state.offset, state.started), b" mine, in blocks")
            except (UploadChanged, UploadBusy):
                mine = False
            ended = await other.uploads.state(HOME)
            async with other.uploads.read(HOME, ended) as reader:
                data = b"".join([piece async for piece in reader])
            # In the last round the other came before anything was read, or not at all.
            assert data in {b"begun THEIRS", b"begun mine, in blocks", b"begun mine, in blocks THEIRS"}
            assert mine == (b"mine" in data)
            await other.uploads.discard(HOME)
            await driver.close()
            await other.close()
            assert container.blobs(begun=True) == {}
            if steps.count < at:
                return


async def test_a_discard_at_any_request_stays(container: Container) -> None:
    """Cancelling an upload while it is written leaves nothing, not even blocks that no listing shows."""
    other = container.driver(("",), chunk=4, small=2)
    for at in itertools.count(1):
        await other.uploads.begin(HOME)

        async def cancel() -> None:
            await other.uploads.discard(HOME)

        steps = Steps(container, at, what=cancel)
        driver = ObjectDriver(steps, AzureUploads(steps))
        try:
            await extend(driver, await driver.uploads.state(HOME), b"mine, in blocks")
        except UploadMissing:
            pass
        else:
            await other.uploads.discard(HOME)
        await driver.close()
        assert container.blobs(begun=True) == {}, f"request {at}"
        if steps.count < at:
            break
    await other.close()


async def extend(driver: ObjectDriver, state: UploadState, data: bytes) -> UploadState:
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([data])
        return await appender.checkpoint()
