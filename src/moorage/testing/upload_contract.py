"""Contract suite of storage drivers, part three: uploads.

Above: `driver_contract.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from moorage.storage.driver import (
    Driver,
    Key,
    KeyMissing,
    Note,
    Stored,
    UploadBusy,
    UploadChanged,
    UploadMissing,
    UploadState,
    Write,
)
from moorage.testing.listing_contract import flat, keys_below

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LockingContract", "ReplacingContract", "UploadContract"]

REPOSITORIES: Final = Key("docker/registry/v2/repositories")
HOME: Final = Key(f"{REPOSITORIES}/some/name/_uploads/0199a3c4-0000-7000-8000-000000000001")
TO: Final = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")


def note(offset: int, data: bytes = b"state", algorithm: str = "sha256") -> Note:
    return Note(f"hashstates/{algorithm}/{offset}", data)


async def extend(
    driver: Driver, state: UploadState, data: bytes, notes: Sequence[Note] = (), home: Key = HOME
) -> UploadState:
    """One whole request: append, checkpoint."""
    async with driver.uploads.append(home, state) as appender:
        await appender.write([data])
        return await appender.checkpoint(notes)


async def stored(driver: Driver, state: UploadState) -> bytes:
    async with driver.uploads.read(HOME, state) as reader:
        return b"".join([piece async for piece in reader])


class UploadContract:
    """Bytes that arrive in pieces, each perhaps at another process."""

    exact_conditions = True

    async def test_an_upload_begins_with_nothing(self, driver: Driver, other: Driver) -> None:
        """The POST may reach one node and the first PATCH another."""
        begun = await driver.uploads.begin(HOME)
        state = await other.uploads.state(HOME)
        assert (state.offset, state.notes) == (begun.offset, begun.notes) == (0, ())
        assert state.started == begun.started
        assert abs(datetime.now(UTC) - state.started) < timedelta(seconds=5)
        assert await stored(other, state) == b""

    async def test_a_checkpoint_is_where_any_process_goes_on(self, driver: Driver, other: Driver) -> None:
        """Chunks of one layer may arrive at different nodes, and the hash state travels with them."""
        state = await driver.uploads.begin(HOME)
        state = await extend(driver, state, b"first ", [note(6, b"one"), note(6, b"two", "sha512")])
        seen = await other.uploads.state(HOME)
        assert seen.offset == 6
        assert set(seen.notes) == set(state.notes) == {note(6, b"one"), note(6, b"two", "sha512")}
        await extend(other, seen, b"second", [note(12, b"three")])
        seen = await driver.uploads.state(HOME)
        assert (seen.offset, seen.notes) == (12, (note(12, b"three"),))
        assert await stored(driver, seen) == b"first second"

    async def test_without_notes_the_offset_counts_all_the_same(self, driver: Driver, other: Driver) -> None:
        """Without a hash state uploads still resume; the bytes are hashed again."""
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345", [note(5)])
        await extend(driver, state, b"678")
        seen = await other.uploads.state(HOME)
        assert (seen.offset, seen.notes) == (8, ())
        assert await stored(other, seen) == b"12345678"

    async def test_several_checkpoints_in_one_request(self, driver: Driver, other: Driver) -> None:
        """A request of hours loses minutes when its server dies."""
        state = await driver.uploads.begin(HOME)
        async with driver.uploads.append(HOME, state) as appender:
            for number in range(1, 4):
                await appender.write([b"ab", b"", b"c"])
                state = await appender.checkpoint([note(3 * number)])
                assert state.offset == 3 * number
                assert (await other.uploads.state(HOME)).notes == (note(3 * number),)
            state = await appender.checkpoint([note(9, b"again")])
        assert (await other.uploads.state(HOME)).notes == (note(9, b"again"),)

    @pytest.mark.parametrize("notes", ["with notes", "without"])
    async def test_bytes_past_the_checkpoint_do_not_count(self, driver: Driver, other: Driver, notes: str) -> None:
        """The offset that a client gets survives a crash; bytes of a request that died are dropped."""
        state = await driver.uploads.begin(HOME)
        for offset in (0, 5, 10):
            async with driver.uploads.append(HOME, state) as appender:
                await appender.write([b"torn and much longer"])
                assert (await other.uploads.state(HOME)).offset == offset
            assert (await other.uploads.state(HOME)).offset == offset
            state = await extend(other, state, b"12345", [note(offset + 5)] if notes == "with notes" else [])
        assert await stored(driver, state) == b"123451234512345"

    async def test_also_gets_the_chunks_off_the_event_loop(self, driver: Driver) -> None:
        """A layer is hashed beside its writing; on the loop it would hold up every other request."""
        seen: list[tuple[list[bytes], bool]] = []
        loop_thread = threading.get_ident()

        def also(chunks: Sequence[bytes]) -> None:
            seen.append((list(chunks), threading.get_ident() == loop_thread))

        state = await driver.uploads.begin(HOME)
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"ab", b"c"], also)
            await appender.write([b"d"], also)
            state = await appender.checkpoint()
        assert seen == [([b"ab", b"c"], False), ([b"d"], False)]
        assert await stored(driver, state) == b"abcd"

    async def test_an_error_keeps_the_last_checkpoint(self, driver: Driver) -> None:
        """A client that disconnects resumes at the reported offset."""
        state = await driver.uploads.begin(HOME)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  the refusal comes from inside the context
            async with driver.uploads.append(HOME, state) as appender:
                await appender.write([b"kept"])
                state = await appender.checkpoint([note(4)])
                await appender.write([b"lost"])
                raise ZeroDivisionError
        assert (await driver.uploads.state(HOME)).offset == 4
        state = await extend(driver, state, b"!")
        assert await stored(driver, state) == b"kept!"

    async def test_two_requests_never_both_write(self, driver: Driver, other: Driver) -> None:
        """Two writers never make a mixed blob: one of them gets an error, at once or at its checkpoint."""
        begun = await driver.uploads.begin(HOME)
        async with driver.uploads.append(HOME, begun) as appender:
            await appender.write([b"mine"])
            try:
                await extend(other, begun, b"theirs")
            except UploadBusy:
                await appender.checkpoint()
                expected = b"mine"
            else:
                with pytest.raises(UploadChanged):
                    await appender.checkpoint()
                expected = b"theirs"
        state = await other.uploads.state(HOME)
        assert await stored(driver, state) == expected
        state = await extend(other, state, b" and more")
        assert await stored(driver, state) == expected + b" and more"

    async def test_publishing_beside_a_writer_publishes_the_state_or_nothing(
        self, driver: Driver, other: Driver
    ) -> None:
        """A client that finishes an upload while its other connection still sends gets what it has hashed."""
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345")
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"mine"])
            try:
                await other.uploads.publish(HOME, state, TO)
            except UploadBusy:
                return
            await other.uploads.discard(HOME)
            with pytest.raises(UploadMissing):
                await appender.checkpoint()
        assert (await driver.read(TO)).data == b"12345"

    async def test_racing_writers_never_mix(self, driver: Driver, other: Driver) -> None:
        """The same chunk sent twice at once, as clients do after a timeout, is stored once."""
        state = await driver.uploads.begin(HOME)
        texts = [f"{number}".encode() * 1000 for number in range(8)]
        writes = [extend(node, state, text) for node, text in zip([driver, other] * 4, texts, strict=True)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        won = [text for text, result in zip(texts, results, strict=True) if isinstance(result, UploadState)]
        refused = [result for result in results if not isinstance(result, UploadState)]
        assert all(isinstance(result, (UploadBusy, UploadChanged)) for result in refused)
        assert len(won) == 1 or (won and not self.exact_conditions)
        assert await stored(driver, await driver.uploads.state(HOME)) in won

    async def test_a_stale_state_is_refused(self, driver: Driver, other: Driver) -> None:
        """A request that was overtaken by another must not write at the wrong place."""
        stale = await driver.uploads.begin(HOME)
        state = await extend(driver, stale, b"12345")
        ahead = UploadState(9, state.started)
        for wrong in (stale, ahead):
            with pytest.raises(UploadChanged):
                await extend(other, wrong, b"text")
        with pytest.raises(UploadChanged):
            await other.uploads.publish(HOME, ahead, TO)
        with pytest.raises(UploadChanged):
            await stored(other, ahead)
        try:
            await other.uploads.publish(HOME, stale, TO)
        except UploadChanged:
            with pytest.raises(KeyMissing):
                await driver.stat(TO)
        else:
            assert (await driver.read(TO)).data == b""
        assert await stored(other, state) == b"12345"

    async def test_a_missing_upload_is_missing(self, driver: Driver) -> None:
        """An upload that was purged is a 404, not an empty one."""
        state = UploadState(0, datetime.now(UTC))
        with pytest.raises(UploadMissing):
            await driver.uploads.state(HOME)
        with pytest.raises(UploadMissing):
            await extend(driver, state, b"text")
        with pytest.raises(UploadMissing):
            await stored(driver, state)
        with pytest.raises(UploadMissing):
            await driver.uploads.publish(HOME, state, TO)
        await driver.uploads.discard(HOME)
        assert await flat(driver.children(REPOSITORIES)) == []

    async def test_a_cancelled_request_lets_the_next_one_in(self, driver: Driver, other: Driver) -> None:
        """A client that hangs up at any moment never leaves its upload locked."""
        state = await driver.uploads.begin(HOME)
        for turns in range(12):
            task = asyncio.ensure_future(extend(driver, state, b"x" * 100_000))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            state = await extend(other, await other.uploads.state(HOME), b"y")
        assert state.offset in range(12, 13 + 12 * 100_000)
        assert len(await stored(driver, state)) == state.offset

    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    async def test_publish_moves_exactly_the_bytes(self, driver: Driver, other: Driver, size: int) -> None:
        """A layer that was acknowledged is the layer that was sent."""
        data = random.Random(size).randbytes(size)  # noqa: S311  the same bytes every time
        state = await driver.uploads.begin(HOME)
        if data:
            state = await extend(driver, state, data, [note(size)])
        with pytest.raises(KeyMissing):
            await other.stat(TO)
        await other.uploads.publish(HOME, state, TO)
        assert (await driver.stat(TO)).size == size
        async with driver.open(TO) as reader:
            assert b"".join([piece async for piece in reader]) == data
        await driver.uploads.discard(HOME)
        assert await keys_below(driver, "docker") == {TO: size}

    async def test_a_blob_is_published_with_its_link(self, driver: Driver, other: Driver) -> None:
        """The end of a push in one call: the bytes, then the link, and nothing is left of the upload."""
        link = Key(f"{REPOSITORIES}/some/name/_layers/sha256/abcd/link")
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345", [note(5)])
        assert (await other.publish(HOME, state, TO, Write(link, b"sha256:abcd"))).discard_error is None
        assert (await driver.read(TO)).data == b"12345"
        assert (await driver.read(link)).data == b"sha256:abcd"
        assert await keys_below(driver, "docker") == {TO: 5, link: 11}

    async def test_without_the_bytes_there_is_no_link(self, driver: Driver, other: Driver) -> None:
        """A link whose blob is missing makes a client skip the upload of the layer, and every pull fail."""
        link = Key(f"{REPOSITORIES}/some/name/_layers/sha256/abcd/link")
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345", [note(5)])
        await driver.uploads.discard(HOME)
        expected: dict[str, int] = {}
        with contextlib.suppress(UploadMissing):  # a store may have the bytes in the state
            await other.publish(HOME, state, TO, Write(link, b"sha256:abcd"))
            expected = {TO: 5, link: 11}
        assert await keys_below(driver, "docker") == expected

    async def test_publish_leaves_out_what_no_checkpoint_covers(self, driver: Driver) -> None:
        """Bytes that were not hashed are never part of a blob."""
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345", [note(5)])
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"torn"])
        await driver.uploads.publish(HOME, state, TO)
        assert (await driver.read(TO)).data == b"12345"

    async def test_two_publishers_of_one_blob_both_succeed(self, driver: Driver, other: Driver) -> None:
        """Two clients push the same layer: one blob, two successes."""
        second = Key(f"{HOME}2")
        for home in (HOME, second):
            state = await driver.uploads.begin(home)
            await extend(driver, state, b"12345", home=home)
        await asyncio.gather(
            driver.uploads.publish(HOME, await driver.uploads.state(HOME), TO),
            other.uploads.publish(second, await other.uploads.state(second), TO),
        )
        assert (await driver.read(TO)).data == b"12345"

    @pytest.mark.parametrize("torn", [b"", b"1234", b"1234567"])
    @pytest.mark.parametrize("size", [5, 3_000])
    async def test_a_torn_blob_is_replaced(self, driver: Driver, other: Driver, torn: bytes, size: int) -> None:
        """A crash of another registry left an object of another size: the next push of the layer repairs it."""
        await driver.write(TO, torn)
        data = b"12345" * (size // 5)
        state = await extend(driver, await driver.uploads.begin(HOME), data[:3])
        state = await extend(other, state, data[3:])
        await other.uploads.publish(HOME, state, TO)
        assert (await driver.read(TO)).data == data

    @pytest.mark.parametrize("size", [0, 5, 3_000])
    async def test_a_store_reports_whether_it_kept_an_object(
        self, driver: Driver, other: Driver, size: int
    ) -> None:
        """An object that was kept is as old as before: a collector may be about to remove it, and the layer with
        it, although the push was answered with a 201.
        """
        data = b"12345" * (size // 5)

        async def published() -> Stored:
            state = await extend(driver, await driver.uploads.begin(HOME), data)
            stored = await other.uploads.publish(HOME, state, TO)
            await other.uploads.discard(HOME)
            return stored

        async def created() -> Stored:
            async with other.create(TO) as writer:
                await writer.write([data])
                return await writer.commit()

        for store in (published, created):
            await driver.delete([TO])
            assert await store() is Stored.WRITTEN
            assert (await driver.read(TO)).data == data
            await driver.write(TO, b"!" * size)
            kept = await store() is Stored.KEPT
            assert (await driver.read(TO)).data == (b"!" * size if kept else data)

    async def test_a_published_blob_is_beyond_the_uploads_reach(self, driver: Driver, other: Driver) -> None:
        """A client that still has the upload's URL cannot change what others pull."""
        state = await extend(driver, await driver.uploads.begin(HOME), b"12345")
        await driver.uploads.publish(HOME, state, TO)
        with contextlib.suppress(UploadMissing, UploadChanged):
            await extend(other, state, b"evil")
        assert (await driver.read(TO)).data == b"12345"

    async def test_discard_removes_everything(self, driver: Driver, other: Driver) -> None:
        """A cancelled upload leaves nothing that would have to be purged."""
        await extend(driver, await driver.uploads.begin(HOME), b"12345", [note(5)])
        await other.uploads.discard(HOME)
        with pytest.raises(UploadMissing):
            await driver.uploads.state(HOME)
        assert await keys_below(driver, "docker") == {}
        assert await flat(driver.children(Key(HOME.rpartition("/")[0]))) == []

    async def test_what_was_discarded_stays_gone(self, driver: Driver, other: Driver) -> None:
        """Cancelling while a chunk arrives does not bring the upload back (the reference's does, for ever)."""
        state = await driver.uploads.begin(HOME)
        with pytest.raises(UploadMissing):  # noqa: PT012  the refusal comes from inside the context
            async with driver.uploads.append(HOME, state) as appender:
                await appender.write([b"12345"])
                await other.uploads.discard(HOME)
                await appender.checkpoint([note(5)])
        assert await keys_below(driver, "docker") == {}
        with pytest.raises(UploadMissing):
            await driver.uploads.state(HOME)

    async def test_abandoned_are_those_that_began_before(self, driver: Driver) -> None:
        """Purging by age takes the old uploads of every repository below, and no others."""
        homes = [
            Key(f"{REPOSITORIES}/{name}/_uploads/{number}")
            for name in ("a", "a/b", "a-b", "_layers-like.name".lstrip("_"))
            for number in (1, 2)
        ]
        for home in homes:
            await driver.uploads.begin(home)
        await driver.write(Key(f"{REPOSITORIES}/a/_layers/sha256/ab/link"), b"text")
        later = datetime.now(UTC) + timedelta(seconds=1)
        assert sorted([home async for home in driver.uploads.abandoned(REPOSITORIES, later)]) == sorted(homes)
        below = [home async for home in driver.uploads.abandoned(Key(f"{REPOSITORIES}/a"), later)]
        assert sorted(below) == sorted(homes[:4])
        earlier = datetime.now(UTC) - timedelta(hours=1)
        assert [home async for home in driver.uploads.abandoned(REPOSITORIES, earlier)] == []

    async def test_any_pieces_by_any_process_make_the_same_blob(self, driver: Driver, other: Driver) -> None:
        """With any size of pieces, at any process, torn or whole, the layer is the same."""
        dice = random.Random(5)  # noqa: S311  fixed cases
        expected = b""
        await driver.uploads.begin(HOME)
        for _ in range(25):
            node = dice.choice([driver, other])
            state = await node.uploads.state(HOME)
            assert state.offset == len(expected)
            async with node.uploads.append(HOME, state) as appender:
                pieces = [dice.randbytes(dice.randint(0, 5000)) for _ in range(dice.randint(0, 4))]
                await appender.write(pieces)
                if dice.random() < 0.7:
                    expected += b"".join(pieces)
                    await appender.checkpoint([note(len(expected))] if dice.random() < 0.5 else [])
                    if dice.random() < 0.5:
                        await appender.write([b"torn"])
        await other.uploads.publish(HOME, await driver.uploads.state(HOME), TO)
        assert (await driver.read(TO)).data == expected

    async def test_what_is_sealed_is_published(self, driver: Driver, other: Driver) -> None:
        """A blob that comes in one request is written once."""
        for number, pieces in enumerate(([b"12345"], [], [b"x" * 700_000, b"y" * 700_000])):
            home, to = Key(f"{HOME}{number}"), Key(f"{TO}{number}")
            state = await extend(driver, await driver.uploads.begin(home), b"begun ", home=home)
            async with driver.uploads.append(home, state) as appender:
                await appender.write(pieces)
                state = await appender.seal([b"!"])
            assert state.offset == 7 + sum(map(len, pieces))
            await driver.uploads.publish(home, state, to)
            assert (await other.read(to)).data == b"begun " + b"".join(pieces) + b"!"
            await driver.uploads.discard(home)
        assert len(await keys_below(driver, "docker")) == 3

    async def test_nothing_is_left_to_sweep_of_what_went_well(self, driver: Driver) -> None:
        """A bucket in which every push succeeded pays for no part of anything."""
        await self.test_what_is_sealed_is_published(driver, driver)
        later = datetime.now(UTC) + timedelta(seconds=1)
        assert list(await driver.uploads.sweep(Key("docker"), later, dry_run=True)) == []
        assert list(await driver.uploads.sweep(Key("docker"), later)) == []


class ReplacingContract:
    """Beside the contract: drivers whose `publish` and `commit` replace an object of the same size."""

    @pytest.mark.parametrize("size", [5, 3_000])
    async def test_wrong_bytes_of_the_right_size_are_replaced(
        self, driver: Driver, other: Driver, size: int
    ) -> None:
        """A disk changed four bytes of a layer: the next push of it brings proven ones."""
        data = b"12345" * (size // 5)
        await driver.write(TO, b"!" * size)
        state = await extend(driver, await driver.uploads.begin(HOME), data)
        assert await other.uploads.publish(HOME, state, TO) is Stored.WRITTEN
        assert (await driver.read(TO)).data == data
        await driver.write(TO, b"!" * size)
        async with other.create(TO) as writer:
            await writer.write([data])
            assert await writer.commit() is Stored.WRITTEN
        assert (await driver.read(TO)).data == data

    async def test_an_open_reader_survives_the_replacement(self, driver: Driver, other: Driver) -> None:
        """A pull beside a push of the same layer is not torn."""
        data = b"12345" * 600_000
        await driver.write(TO, data)
        state = await extend(driver, await driver.uploads.begin(HOME), data)
        async with driver.open(TO) as reader:
            pieces = aiter(reader)
            read = await anext(pieces)
            await other.uploads.publish(HOME, state, TO)
            read += b"".join([piece async for piece in pieces])
        assert read == data


class LockingContract:
    """Beside the contract: what drivers promise that let only one request write.  An object store cannot."""

    async def test_only_one_request_writes(self, driver: Driver, other: Driver) -> None:
        """Two writers never make a mixed blob: the second gets an error."""
        state = await driver.uploads.begin(HOME)
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"mine"])
            for node in (driver, other):
                with pytest.raises(UploadBusy):
                    await extend(node, state, b"theirs")
                with pytest.raises(UploadBusy):
                    await node.uploads.publish(HOME, state, TO)
            state = await appender.checkpoint()
        state = await extend(other, state, b" and theirs")
        assert await stored(driver, state) == b"mine and theirs"
