"""Crashes at every step, and two requests side by side, each interrupted by the other at every step.

The safety arguments are in `manifests.py` and `tags.py`; these are all cases of two small requests.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, T1, T2, T3, add_blobs, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import ManifestUnknown, PreconditionFailed, RegistryError, Unavailable
from moorage.registry import layout
from moorage.registry.interface import IfMatch, Pushed
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrer_links import decode
from moorage.registry.referrers import StoredReferrers
from moorage.registry.tag_list import StoredTags
from moorage.storage.driver import (
    ALWAYS,
    READ_LIMIT_BYTES,
    Conflict,
    Content,
    KeyMissing,
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, image
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from moorage.storage.driver import Driver, Key, When
    from moorage.testing.builders import Built
    from moorage.types import Tag

    Request = Callable[[StoredManifests], Awaitable[object]]

SUBJECT, OTHER, THIRD = image(seed=1), image(seed=2), artifact("c/d")
ONE = artifact("a/b", subject=SUBJECT)


@pytest.fixture
def driver() -> Driver:
    """Memory only: the order of steps is the registry's, and a thousand of them cost fsyncs on a disk."""
    return MemoryDriver()


class Crashing(InstrumentedDriver):
    """Dies before (odd) or after (even) one of its changes, and stays dead."""

    def __init__(self, driver: Driver, moment: int) -> None:
        super().__init__(driver)
        self._left = moment

    async def before(self, call: str) -> None:
        if self._left <= 0:
            raise StorageUnavailable(call)
        if call.startswith(("write", "delete", "clear")):
            self._step(call)

    async def after_change(self, call: str) -> None:
        self._step(call)

    def _step(self, call: str) -> None:
        self._left -= 1
        if self._left == 0:
            raise StorageUnavailable(call)


async def crash_everywhere(
    driver: Driver, prepare: Request, request: Request, check: Callable[[StoredManifests], Awaitable[None]]
) -> int:
    """Run `request` to each of its steps in turn, `check` what a new process sees; how many steps there are."""
    for moment in range(1, 200):
        await driver.clear(layout.ROOT)
        await add_blobs(driver, ONE, OTHER)
        await prepare(StoredManifests(driver, delete_enabled=True))
        crashing = Crashing(driver, moment)
        try:
            await request(StoredManifests(crashing, delete_enabled=True))
        except Unavailable:
            await check(StoredManifests(driver, delete_enabled=True))
        else:
            return moment - 1
    raise AssertionError("it never ends")


async def state(manifests: StoredManifests, tag: Tag) -> Digest | None:
    """Return what a client sees; every manifest that it gets is whole."""
    try:
        found = await manifests.get(NAME, tag)
    except ManifestUnknown:
        return None
    assert found.data in {ONE.data, OTHER.data}
    assert (await manifests.get(NAME, found.digest)).data == found.data
    return found.digest


async def referrers(driver: Driver) -> list[Digest]:
    """Those of the subject, each of which has its descriptor in its link."""
    page = await StoredReferrers(driver, StoredManifests(driver)).list(NAME, SUBJECT.digest)
    for entry in page.entries:
        content = (await driver.read(layout.referrer_link(NAME, SUBJECT.digest, entry.digest))).data
        assert decode(content, SUBJECT.digest, entry.digest) == entry
    return [entry.digest for entry in page.entries]


async def test_a_push_that_dies_leaves_the_old_tag_or_the_new_one(driver: Driver) -> None:
    """Kill -9 at any step: the tag is whole, and pushing again completes it."""

    async def prepare(manifests: StoredManifests) -> None:
        await push(driver, manifests, OTHER, tags=(T1, T2))

    async def request(manifests: StoredManifests) -> None:
        await manifests.put(NAME, T1, ONE.media_type, ONE.data, tags=(T3,))

    async def check(manifests: StoredManifests) -> None:
        assert await state(manifests, T1) in {OTHER.digest, ONE.digest}
        assert await state(manifests, T2) == OTHER.digest
        assert await state(manifests, T3) in {None, ONE.digest}
        await request(manifests)
        assert await state(manifests, T1) == await state(manifests, T3) == ONE.digest
        assert await referrers(driver) == [ONE.digest]

    assert await crash_everywhere(driver, prepare, request, check) == 2 * 7


async def test_a_deletion_that_dies_happened_whole_or_not_at_all(driver: Driver) -> None:
    """Never some of the tags only; deleting again ends it; listings agree with pulls at every step."""

    async def prepare(manifests: StoredManifests) -> None:
        await push(driver, manifests, ONE, tags=(T1, T2))
        await push(driver, manifests, OTHER, T3)

    async def request(manifests: StoredManifests) -> None:
        await manifests.delete(NAME, ONE.digest)

    async def check(manifests: StoredManifests) -> None:
        alive = await state(manifests, T1) is not None
        assert await state(manifests, T2) == await state(manifests, T1)
        assert await referrers(driver) == ([ONE.digest] if alive else [])
        for limit in (None, 10):
            shown = (await StoredTags(driver).list(NAME, limit=limit)).names
            assert shown == ((T1, T2, T3) if alive else (T3,))
        with suppress(ManifestUnknown):
            await request(manifests)
        assert (await StoredTags(driver).list(NAME)).names == (T3,)
        assert await state(manifests, T1) is None

    assert await crash_everywhere(driver, prepare, request, check) == 2 * 3


async def test_a_push_after_a_deletion_that_dies_revives_no_dead_tag(driver: Driver) -> None:
    """Neither at the crash, nor by the next try."""

    async def prepare(manifests: StoredManifests) -> None:
        await push(driver, manifests, ONE, tags=(T1, T2))
        await manifests.delete(NAME, ONE.digest)

    async def request(manifests: StoredManifests) -> None:
        await manifests.put(NAME, T3, ONE.media_type, ONE.data)

    async def check(manifests: StoredManifests) -> None:
        assert await state(manifests, T1) is None
        assert await state(manifests, T2) is None
        assert set((await StoredTags(driver).list(NAME, limit=9)).names) <= {T3}
        await request(manifests)
        assert await state(manifests, T1) is None
        assert await state(manifests, T2) is None
        assert await state(manifests, T3) == ONE.digest
        for limit in (None, 9):
            assert (await StoredTags(driver).list(NAME, limit=limit)).names == (T3,)
        assert await referrers(driver) == [ONE.digest]

    assert await crash_everywhere(driver, prepare, request, check) >= 2 * 7


async def test_a_tag_deletion_that_dies_leaves_the_tag_or_nothing_to_pull(driver: Driver) -> None:
    """And deleting again removes what is left of it."""

    async def prepare(manifests: StoredManifests) -> None:
        await push(driver, manifests, ONE, tags=(T1, T2))

    async def request(manifests: StoredManifests) -> None:
        await manifests.delete(NAME, T1)

    async def check(manifests: StoredManifests) -> None:
        alive = await state(manifests, T1) is not None
        shown = (await StoredTags(driver).list(NAME, limit=9)).names
        assert shown == ((T1, T2) if alive else (T2,))
        with suppress(ManifestUnknown):
            await request(manifests)
        assert (await StoredTags(driver).list(NAME)).names == (T2,)
        assert await state(manifests, T2) == ONE.digest

    assert await crash_everywhere(driver, prepare, request, check) == 2 * 2


ACTOR: ContextVar[int] = ContextVar("actor")


class Interleaved(InstrumentedDriver):
    """Lets the steps of several requests happen in a given order."""

    def __init__(self, driver: Driver, actors: int) -> None:
        super().__init__(driver)
        self._turns = [asyncio.Semaphore(0) for _ in range(actors)]

    async def before(self, call: str) -> None:
        await self._turns[ACTOR.get()].acquire()

    async def run(self, requests: list[Awaitable[object]], *switches: int) -> tuple[list[object], list[bool]]:
        """Each request makes its number of steps; then each in turn goes to its end.

        Their results, and which of them had ended within its steps.
        """
        tasks: list[asyncio.Task[object]] = []
        for actor, request in enumerate(requests):
            ACTOR.set(actor)
            tasks.append(asyncio.ensure_future(_awaited(request)))
        for actor, steps in enumerate(switches):
            await self._steps(tasks[actor], actor, steps)
        ended = [task.done() for task in tasks]
        for actor, task in enumerate(tasks):
            await self._steps(task, actor, 1000)
        return list(await asyncio.gather(*tasks)), ended

    async def _steps(self, task: asyncio.Task[object], actor: int, steps: int) -> None:
        for _ in range(steps):
            if task.done():
                return
            self._turns[actor].release()
            for _ in range(8):  # all that the step wakes up runs until it asks for the next turn
                await asyncio.sleep(0)


class NamingBytes(MemoryDriver):
    """Its versions name bytes, not states, as those of the filesystem and of S3 do: the harder case."""

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        data = (await super().read(key, limit=limit)).data
        return Content(data, Version(str(Digest.of(data))))

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        if isinstance(when, Unchanged):
            try:
                same = (await self.read(key)).version == when.version
            except KeyMissing:
                same = False
            if not same:
                raise Conflict(key)
            when = ALWAYS
        await super().write(key, data, when)
        return Version(str(Digest.of(data)))


async def _awaited(request: Awaitable[object]) -> object:
    try:
        return await request
    except RegistryError as error:
        return error


async def interleave(
    prepare: Request, first: Request, second: Request
) -> AsyncIterator[tuple[Driver, list[object]]]:
    """Every order of steps in which the first request is interrupted once, and so is the second."""
    for a in itertools.count():
        for b in itertools.count():
            driver = NamingBytes()
            await add_blobs(driver, ONE, OTHER)
            await prepare(StoredManifests(driver, delete_enabled=True))
            turns = Interleaved(driver, 2)
            requests = [request(StoredManifests(turns, delete_enabled=True)) for request in (first, second)]
            results, ended = await turns.run(requests, a, b)
            yield driver, results
            if ended[1]:
                break
        if ended[0]:
            return


def put(tag: Tag) -> Request:
    return lambda manifests: manifests.put(NAME, tag, ONE.media_type, ONE.data)


def delete(manifests: StoredManifests) -> Awaitable[object]:
    return manifests.delete(NAME, ONE.digest)


@pytest.mark.slow
async def test_two_pushes_of_a_deleted_manifest_both_keep_their_tags() -> None:
    """Both clients got 201: neither push may unset the tag that the other has just set."""

    async def prepare(manifests: StoredManifests) -> None:
        await manifests.put(NAME, T1, ONE.media_type, ONE.data, tags=(T2,))
        await manifests.delete(NAME, ONE.digest)

    async for driver, _ in interleave(prepare, put(T1), put(T2)):
        manifests = StoredManifests(driver)
        assert await state(manifests, T1) == await state(manifests, T2) == ONE.digest
        assert await referrers(driver) == [ONE.digest]


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
async def test_of_two_pushes_on_one_condition_one_wins(*, exists: bool) -> None:
    """Two clients add an entry each to the index they both read: the second to write must learn of the first."""
    condition = IfMatch(match=(THIRD.digest,)) if exists else IfMatch(none_match=())

    async def prepare(manifests: StoredManifests) -> None:
        if exists:
            await manifests.put(NAME, T1, THIRD.media_type, THIRD.data)

    def conditional(built: Built) -> Request:
        return lambda manifests: manifests.put(NAME, T1, built.media_type, built.data, condition=condition)

    winners = set()
    async for driver, results in interleave(prepare, conditional(ONE), conditional(OTHER)):
        (won,) = [result for result in results if isinstance(result, Pushed)]
        (lost,) = [result for result in results if isinstance(result, RegistryError)]
        assert isinstance(lost, PreconditionFailed)
        assert await state(StoredManifests(driver), T1) == won.digest
        winners.add(won.digest)
    assert winners == {ONE.digest, OTHER.digest}


async def test_a_tag_set_elsewhere_while_dead_tags_are_turned_stays_there() -> None:
    """Its push found nothing deleted; its client got 201."""

    async def prepare(manifests: StoredManifests) -> None:
        await manifests.put(NAME, T1, ONE.media_type, ONE.data)
        await manifests.delete(NAME, ONE.digest)

    def other(manifests: StoredManifests) -> Awaitable[object]:
        return manifests.put(NAME, T1, OTHER.media_type, OTHER.data)

    async for driver, _ in interleave(prepare, put(T2), other):
        assert await state(StoredManifests(driver), T1) == OTHER.digest
        assert await state(StoredManifests(driver), T2) == ONE.digest


@pytest.mark.slow
async def test_a_push_beside_a_deletion_ends_as_if_one_came_first() -> None:
    """Alive, with its referrer link, or gone with every tag; a tag that was deleted stays so."""

    async def prepare(manifests: StoredManifests) -> None:
        await manifests.put(NAME, T1, ONE.media_type, ONE.data)

    outcomes = set()
    for first, second in ((put(T2), delete), (delete, put(T2))):
        async for driver, (left, right) in interleave(prepare, first, second):
            assert not isinstance(left, RegistryError)
            assert not isinstance(right, RegistryError)
            manifests = StoredManifests(driver)
            tags = await state(manifests, T1), await state(manifests, T2)
            outcomes.add(tags)
            assert tags in {(None, None), (None, ONE.digest)}
            assert await referrers(driver) == ([ONE.digest] if tags[1] else [])
            assert (await StoredTags(driver).list(NAME)).names == ((T2,) if tags[1] else ())
    assert len(outcomes) == 2
