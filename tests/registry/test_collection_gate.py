"""The gate between requests and collectors: when it looks, and its answers at each step of a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.registry.collection_steps import Clock, Run, Sleep
from tests.registry.instrumented import InstrumentedDriver

from moorage.caches import TTLCache
from moorage.errors import Unavailable
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.collection_state import DOOMED, RENEW_S, ListEntry, StateName, encode_entries
from moorage.registry.digest_list import DigestList, contains
from moorage.registry.sizes import MemorySizes
from moorage.storage.driver import (
    READ_LIMIT_BYTES,
    KeyMissing,
    StorageDenied,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
)
from moorage.storage.memory import MemoryDriver
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Content, Driver, Key, Stat, StorageError

NAME, OTHER = RepoName("library/app"), RepoName("library/other")
DATA = b"a layer"
X, Y = Digest.of(DATA), Digest.of(b"another")
LINK = layout.layer_link(NAME, X)


class Counting(InstrumentedDriver):
    """Records every call, raises `fails` for those that begin with `at`, and waits in `pause` if there is one."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.calls: list[str] = []
        self.at = "nothing"
        self.fails: StorageError = StorageUnavailable("injected")
        self.pause: asyncio.Event | None = None
        self.paused = asyncio.Event()

    async def before(self, call: str) -> None:
        self.calls.append(call.replace(f"{layout.ROOT}/", ""))
        if call.startswith(self.at):
            raise self.fails
        if self.pause is not None:
            self.paused.set()
            await self.pause.wait()


class House:
    """A gate with a clock, over a store with one blob."""

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.driver = Counting(inner)
        self.clock = Clock()
        self.sleep = Sleep(self.clock)
        self.sizes = MemorySizes(10)
        self.store = BlobStore(self.driver, sizes=self.sizes)
        self.gate = CollectionGate(self.driver, self.store, clock=self.clock, sleep=self.sleep)
        self.run = Run(inner)

    def calls(self) -> list[str]:
        """Return the calls since the last look."""
        calls, self.driver.calls = self.driver.calls, []
        return calls

    async def admits(self, digest: Digest = X, name: RepoName = NAME) -> bool:
        return await self.gate.admits(await self.gate.begin(), name, digest)


@pytest.fixture
async def house(driver: Driver) -> House:
    await driver.write(layout.blob_data(X), DATA)
    await driver.write(LINK, str(X).encode())
    return House(driver)


LISTING = "children _moorage/collection"


async def test_while_no_run_is_in_progress_the_state_is_listed_once_in_five_seconds(house: House) -> None:
    """A HEAD must not cost a request to the store for what happens once a day."""
    begun = await house.gate.begin()
    assert house.calls() == [LISTING]
    house.clock.now += RENEW_S - 0.01
    assert await house.gate.begin() is begun is house.gate.recent()
    assert await house.gate.admits(begun, NAME, X)
    assert await house.gate.confirm(begun, NAME, (X, Y)) == frozenset()
    assert house.calls() == []
    house.clock.now += 0.01
    assert house.gate.recent() is None
    assert await house.gate.confirm(begun, NAME, (Y,)) == frozenset(), "its listing is newer than the link"
    assert house.calls() == [LISTING]


async def test_a_run_is_seen_within_five_seconds_and_its_steps_within_one(house: House) -> None:
    """A collector waits longer than that before it examines anything."""
    assert not (await house.gate.begin()).in_progress
    await house.run.start()
    assert not (await house.gate.begin()).in_progress
    house.clock.now += RENEW_S
    assert (await house.gate.begin()).in_progress
    await house.run.condemn(X)
    house.clock.now += 0.99
    assert not (await house.gate.begin()).is_condemned(NAME, X)
    house.clock.now += 0.01
    assert (await house.gate.begin()).is_condemned(NAME, X)


async def test_a_condemned_digest_is_rescued_once(house: House) -> None:
    """From then on the collector leaves it, so that the client need not send it."""
    await house.run.start()
    await house.run.condemn(X)
    assert await house.admits()
    assert await house.run.rescued(X)
    house.calls()
    assert await house.admits()
    assert house.calls() == []
    assert await house.admits(Y)
    assert not await house.run.rescued(Y)


async def test_another_run_needs_another_rescue(house: House) -> None:
    """A collector removes what its own run was asked to leave."""
    await house.run.start()
    condemned = await house.run.condemn(X)
    assert await house.admits()
    await house.run.end(condemned)
    await house.inner.delete([layout.rescued(X)])
    second = Run(house.inner, "0000000000002-bb")
    await second.start()
    await second.condemn(X)
    house.clock.now += RENEW_S
    assert await house.admits()
    assert await second.rescued(X)


async def test_a_doomed_digest_is_absent(house: House) -> None:
    """Its bytes may go at any moment."""
    await house.run.start()
    await house.run.doom(X)
    assert not await house.admits()
    assert await house.admits(Y)
    assert not await house.gate.admits(await house.gate.begin(), NAME, Y, X)


async def test_a_digest_that_is_doomed_while_it_is_rescued_is_absent(house: House) -> None:
    """The collector may have read the rescued ones a moment before."""
    await house.run.start()
    await house.run.condemn(X)
    begun = await house.gate.begin()
    await house.run.doom(X)
    assert not await house.gate.admits(begun, NAME, X)
    assert not await house.gate.admits(begun, NAME, X), "nor is it remembered as rescued"


@pytest.mark.parametrize("error", [StorageExhausted, StorageReadOnly, StorageDenied])
async def test_what_cannot_be_rescued_is_absent(house: House, error: type[StorageError]) -> None:
    """A full disk must not turn a HEAD into a 500; nor may it promise bytes that go."""
    await house.run.start()
    await house.run.condemn(X)
    begun = await house.gate.begin()
    house.driver.at, house.driver.fails = f"write {layout.rescued(X)}", error("no space")
    with capture_logs() as logs:
        assert not await house.gate.admits(begun, NAME, X)
    assert [entry["cause"] for entry in logs] == ["no space"]
    with pytest.raises(error):
        await house.gate.settled(NAME, (X,))
    house.driver.at = "nothing"
    assert await house.gate.admits(begun, NAME, X)


async def test_a_store_that_fails_is_no_answer(house: House) -> None:
    """Neither present nor absent; and the next request asks again."""
    house.driver.at = "children"
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await house.gate.begin()
    house.driver.at = "nothing"
    assert not (await house.gate.begin()).in_progress


async def test_a_writer_that_was_stopped_for_a_whole_run_finds_its_bytes_missing(house: House) -> None:
    """SIGSTOP for an hour between the look at the bytes and the link: nothing of the run is left but its end."""
    begun = await house.gate.begin()
    await house.run.whole(X)
    house.clock.now += 3600
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == {X}


async def test_a_writer_that_was_stopped_finds_its_links_missing(house: House) -> None:
    """Another repository may keep the bytes."""
    begun = await house.gate.begin()
    await house.run.whole(Y)
    await house.inner.delete([LINK])
    house.clock.now += 3600
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == {X}
    await house.inner.write(LINK, str(X).encode())
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == frozenset(), "what is there is not lost"


async def test_confirming_during_a_run_rescues_and_finds_what_is_doomed(house: House) -> None:
    """Condemned after the request began, and doomed after that."""
    begun = await house.gate.begin()
    await house.run.start()
    await house.run.condemn(X)
    house.clock.now += RENEW_S
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == frozenset()
    assert await house.run.rescued(X)
    await house.run.doom(X)
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == {X}, "whatever the age of the last listing"


async def test_bytes_are_looked_at_after_the_listing(house: House) -> None:
    """The other way round, a run could end between the two."""
    await house.run.start()
    begun = await house.gate.begin()
    house.calls()
    await house.gate.confirm(begun, NAME, (X,), {LINK: X})
    calls = house.calls()
    assert calls[0] == LISTING
    assert {call.partition(" ")[0] for call in calls[1:]} == {"stat"}
    assert len(calls) == 3


async def test_a_confirmation_shares_no_listing_that_began_before_it(house: House) -> None:
    """It would show the state before the link was written."""
    await house.run.start()
    begun = await house.gate.begin()
    house.clock.now += 1
    house.driver.pause = asyncio.Event()
    first = asyncio.create_task(house.gate.begin())
    house.calls()
    await house.driver.paused.wait()
    others = [asyncio.create_task(house.gate.confirm(begun, NAME, ())) for _ in range(20)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert house.driver.calls.count(LISTING) == 1
    house.driver.pause.set()
    await asyncio.gather(first, *others)
    assert house.driver.calls.count(LISTING) == 2, "all of them share the next one"


async def test_a_client_that_goes_away_takes_no_listing_with_it(house: House) -> None:
    """Others wait for the same one."""
    house.driver.pause = asyncio.Event()
    leaving, staying = (asyncio.create_task(house.gate.begin()) for _ in range(2))
    await house.driver.paused.wait()
    leaving.cancel()
    house.driver.pause.set()
    assert not (await staying).in_progress
    assert leaving.cancelled()
    assert house.driver.calls == [LISTING]
    await house.gate.close()


async def test_settled_waits_until_a_collector_withdraws(house: House) -> None:
    """The rescue asks it to."""
    await house.run.start()
    doomed = await house.run.doom(X, Y)
    house.sleep.steps = [_no_step, lambda: house.run.withdraw(doomed, Y)]
    await house.gate.settled(NAME, (X,))
    assert house.sleep.slept == 2
    assert await house.run.rescued(X)
    assert await house.admits(X)
    assert not await house.admits(Y)


async def test_settled_rescues_what_is_only_condemned(house: House) -> None:
    """A request that could not rescue it before, since the disk was full, tries again."""
    await house.run.start()
    await house.run.condemn(X)
    await house.gate.settled(NAME, (X, Y))
    assert house.sleep.slept == 0
    assert await house.run.rescued(X)


async def test_settled_gives_up_with_an_invitation_to_come_back(house: House) -> None:
    """No request hangs for as long as a collector needs for a million blobs."""
    await house.run.start()
    await house.run.doom(X)
    with pytest.raises(Unavailable) as refused:
        await house.gate.settled(NAME, (X,))
    assert str(X) in str(refused.value)
    assert refused.value.retry_after_s > 0
    assert 30 <= house.clock.now - 100 < 31


async def test_sizes_are_forgotten_when_a_run_has_ended(house: House) -> None:
    """A remembered size would answer a HEAD for bytes that are gone, for ever."""
    await house.gate.begin()
    await house.store.rely(X)
    assert await house.sizes.get(X) == len(DATA)
    await house.run.whole(X)
    house.clock.now += RENEW_S
    await house.gate.begin()
    assert await house.sizes.get(X) is None
    assert await house.store.rely(X) is None


async def test_sizes_are_forgotten_when_doomed_digests_are_gone(house: House) -> None:
    """The last lists go before the run ends; a GET may have remembered a size until then."""
    await house.run.start()
    doomed = await house.run.doom(X)
    await house.gate.begin()
    await house.store.rely(X)
    await house.run.remove(X)
    await house.run.withdraw(doomed)
    house.clock.now += 1
    await house.gate.begin()
    assert await house.store.rely(X) is None


@pytest.mark.parametrize("purpose", Purpose)
async def test_a_size_that_arrives_after_a_run_is_not_remembered(house: House, purpose: Purpose) -> None:
    """It was requested before."""
    await house.gate.begin()
    release, reached = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def stat(self, key: Key) -> Stat:
            found = await super().stat(key)
            reached.set()
            await release.wait()
            return found

    recent: TTLCache[Digest, int] = TTLCache(10, 60)
    store = BlobStore(Slow(house.inner), sizes=house.sizes, recent=recent)
    looking = asyncio.create_task(store.rely(X, purpose))
    await reached.wait()
    store.forget_all()
    release.set()
    assert await looking == len(DATA)
    assert await house.sizes.get(X) is None
    assert recent.get(X) is None


async def test_a_list_that_goes_while_it_is_read_is_no_failure(house: House) -> None:
    """A collector replaced it: the new one is read instead."""
    await house.run.start()
    doomed = await house.run.doom(X, Y)
    withdrawn = False

    class Racing(Counting):
        async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
            nonlocal withdrawn
            if not withdrawn:
                withdrawn = True
                await house.run.withdraw(doomed, Y)
            return await super().read(key, limit=limit)

    found = await CollectionGate(Racing(house.inner), clock=house.clock).begin()
    assert withdrawn
    assert found.is_doomed(NAME, Y)
    assert not found.is_doomed(NAME, X)


async def test_lists_that_change_for_ever_are_an_error(house: House) -> None:
    """No request hangs in a loop; its client repeats it."""
    numbers = iter(range(1000))
    await house.inner.write(layout.collection(f"doomed.t.{next(numbers):05}"), b"")

    class Gone(Counting):
        async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
            await house.inner.delete([key])
            await house.inner.write(layout.collection(f"doomed.t.{next(numbers):05}"), b"")
            raise KeyMissing(key)

    with pytest.raises(StorageUnavailable, match="faster than they can be read"):
        await CollectionGate(Gone(house.inner), clock=house.clock).begin()


async def test_a_large_directory_is_listed_until_two_listings_agree() -> None:
    """A list that is replaced in between is missed with both of its names."""
    inner = MemoryDriver()
    old, new = StateName(DOOMED, "t", 3), StateName(DOOMED, "t", 99)
    for number in range(60):
        await inner.write(layout.collection(str(StateName(DOOMED, "u", number))), encode_entries([ListEntry(Y)]))
    await inner.write(layout.collection(str(new)), encode_entries([ListEntry(X)]))

    class Hashed(Counting):
        """A directory whose order is not that of names: the first listing reads `new` before it is there."""

        async def children(
            self, prefix: Key, *, after: str = "", limit: int | None = None
        ) -> AsyncIterator[Sequence[str]]:
            first = LISTING not in self.calls
            async for names in super().children(prefix, after=after, limit=limit):
                yield [name for name in names if not (first and name in {str(old), str(new)})]

    driver = Hashed(inner)
    assert (await CollectionGate(driver, clock=Clock()).begin()).is_doomed(NAME, X)
    assert driver.calls.count(LISTING) == 3


async def test_a_link_that_is_dead_in_one_repository_is_none_of_another(house: House) -> None:
    """Base layers are shared: one repository drops the image, and others are pulled and pushed meanwhile."""
    await house.run.start()
    await house.run.condemn(ListEntry(X, OTHER))
    assert await house.admits(X, NAME)
    assert not await house.run.rescued(X), "nor is it asked for"
    begun = await house.gate.begin()
    await house.run.doom(ListEntry(X, OTHER))
    assert await house.gate.confirm(begun, NAME, (X,), {LINK: X}) == frozenset()
    assert await house.gate.confirm(begun, OTHER, (X,)) == {X}
    assert await house.admits(X, NAME)
    assert not await house.admits(X, OTHER)
    await house.gate.settled(NAME, (X,))
    assert house.sleep.slept == 0
    with pytest.raises(Unavailable):
        await house.gate.settled(OTHER, (X,))


async def test_each_repository_needs_its_own_rescue(house: House) -> None:
    """The first may come when the link of the second one is doomed already."""
    await house.run.start()
    await house.run.condemn(ListEntry(X, NAME), ListEntry(X, OTHER))
    begun = await house.gate.begin()
    await house.run.doom(ListEntry(X, OTHER))
    assert await house.gate.admits(begun, NAME, X)
    assert not await house.gate.admits(begun, OTHER, X)


async def test_the_attempt_after_a_wait_sees_the_state_that_the_wait_has_seen(house: House) -> None:
    """An older one, of the same second, would refuse it."""
    await house.run.start()
    doomed = await house.run.doom(X)
    assert not await house.admits()
    await house.run.withdraw(doomed)
    assert not await house.admits(), "the snapshot is recent"
    await house.gate.settled(NAME, (X,))
    assert await house.admits()


def test_a_packed_list_knows_repositories() -> None:
    entries = [ListEntry(X), ListEntry(Y, NAME), ListEntry(Digest.of(DATA, "sha512"), OTHER)]
    lists = [DigestList(encode_entries(entries))]
    for digest, name in entries:
        assert contains(lists, NAME, digest) == (name in {"", NAME})
        assert contains(lists, OTHER, digest) == (name in {"", OTHER})


def test_a_packed_list_has_its_digests_and_no_others() -> None:
    """Of a million digests in as little memory as it takes."""
    digests = [Digest.of(bytes([number]), algorithm) for number in range(50) for algorithm in ("sha256", "sha512")]
    part = DigestList(encode_entries(map(ListEntry, digests[:60])) + b"sha256:torn\nmd5:00\n\xff\n")
    assert [contains([part], NAME, digest) for digest in digests] == [True] * 60 + [False] * 40
    assert not contains([], NAME, X)
    assert not contains([DigestList(b"")], NAME, X)
    assert contains(
        [DigestList(encode_entries([ListEntry(Y)])), DigestList(encode_entries([ListEntry(X)]))], NAME, X
    )


async def _no_step() -> None:
    pass
