"""Contract suite that every storage driver passes.  It joins with one fixture:

    class TestMyDriver(DriverContract):
        @pytest.fixture
        def connect(self, tmp_path: Path) -> Callable[[], Driver]:
            return lambda: MyDriver(tmp_path)

`connect` makes a driver on the same, at first empty, store each time it is called, as every process of a
registry would; one that lives in a single process returns the same object again.

This file tests single objects; `removal_contract.py` their removal, `listing_contract.py` listings,
`upload_contract.py` uploads.  Promises of
filesystems only are tested in tests/storage.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Driver,
    Key,
    KeyInvalid,
    KeyMissing,
    ObjectTooLarge,
    RangeOutside,
    RequestCost,
    Stat,
    Unchanged,
    Version,
    Write,
)
from moorage.testing.listing_contract import ListingContract
from moorage.testing.removal_contract import RemovalContract
from moorage.testing.upload_contract import UploadContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from moorage.storage.driver import When

__all__ = ["DriverContract"]

KEY: Final = Key("docker/registry/v2/repositories/some/name/_manifests/tags/v1.0/current/link")
SIZES: Final = (0, 1, 71, 4096, (1 << 20) + 1)
INVALID: Final = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../a",
    "a b",
    "a\nb",
    "a\n",
    "ä",
    "a\0",
)


async def read_all(driver: Driver, key: Key, start: int = 0, stop: int | None = None) -> bytes:
    async with driver.open(key, start=start, stop=stop) as reader:
        return b"".join([piece async for piece in reader])


class ObjectContract:
    """`read`, `write`, `stat`, `find`, `delete`, `open`, `open_file`, `handover`, `create`."""

    exact_conditions = True
    """False for a store on which racing conditional writes may all win."""

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_is_written_is_read_back(self, driver: Driver, other: Driver, size: int) -> None:
        """A manifest of any size is the manifest that was pushed, on every node."""
        data = bytes(index % 251 for index in range(size))
        version = await driver.write(KEY, data)
        content = await other.read(KEY)
        assert content.data == data
        assert content.version == version

    async def test_stat_tells_size_and_time(self, driver: Driver) -> None:
        """Purging and collecting go by this time, so it must be of the write and aware."""
        before = datetime.now(UTC) - timedelta(seconds=2)
        await driver.write(KEY, b"12345")
        stat = await driver.stat(KEY)
        assert (stat.key, stat.size) == (KEY, 5)
        assert await driver.find(KEY) == stat
        assert before <= stat.modified <= datetime.now(UTC) + timedelta(seconds=2)

    async def test_writing_replaces(self, driver: Driver, other: Driver) -> None:
        """A tag that moves has its new manifest in the next request, at any node."""
        await driver.write(KEY, b"a longer old text")
        await driver.write(KEY, b"new")
        assert (await other.read(KEY)).data == b"new"
        assert (await other.stat(KEY)).size == 3

    @pytest.mark.parametrize(
        "key", [KEY, Key("a"), Key("docker/registry/v2"), Key(f"{KEY}/below"), Key(f"{KEY}2")]
    )
    async def test_what_was_not_written_is_missing(self, driver: Driver, key: Key) -> None:
        """Neither a prefix of an object nor something below or beside it is an object."""
        if key != KEY:
            await driver.write(KEY, b"text")
        with pytest.raises(KeyMissing):
            await driver.read(key)
        with pytest.raises(KeyMissing):
            await driver.stat(key)
        assert await driver.find(key) is None
        with pytest.raises(KeyMissing):
            await read_all(driver, key)

    async def test_reading_stops_at_the_limit(self, driver: Driver) -> None:
        """A client must not make the registry hold a layer in memory by requesting it as a manifest."""
        await driver.write(KEY, b"12345")
        assert (await driver.read(KEY, limit=5)).data == b"12345"
        with pytest.raises(ObjectTooLarge):
            await driver.read(KEY, limit=4)

    async def test_absent_refuses_what_is_there(self, driver: Driver, other: Driver) -> None:
        """An immutable tag is not moved by a second push."""
        await driver.write(KEY, b"first", ABSENT)
        with pytest.raises(Conflict):
            await other.write(KEY, b"second", ABSENT)
        assert (await driver.read(KEY)).data == b"first"
        await driver.delete([KEY])
        await other.write(KEY, b"third", ABSENT)
        assert (await driver.read(KEY)).data == b"third"

    async def test_unchanged_writes_over_exactly_that_version(self, driver: Driver, other: Driver) -> None:
        """`If-Match` on a tag keeps two pipelines from overwriting each other."""
        first = await driver.write(KEY, b"first")
        second = await other.write(KEY, b"2nd", Unchanged(first))
        assert second != first
        with pytest.raises(Conflict):
            await driver.write(KEY, b"third", Unchanged(first))
        assert (await driver.read(KEY)).data == b"2nd"

    async def test_unchanged_refuses_what_is_missing(self, driver: Driver) -> None:
        """A tag that was deleted meanwhile is not brought back."""
        version = await driver.write(KEY, b"first")
        await driver.delete([KEY])
        for stale in (version, Version("never given")):
            with pytest.raises(Conflict):
                await driver.write(KEY, b"second", Unchanged(stale))
        with pytest.raises(KeyMissing):
            await driver.read(KEY)

    async def test_groups_are_written_in_order(self, driver: Driver, other: Driver) -> None:
        """A manifest is stored as bytes, links and tag in one call; all of it is there afterwards, as written."""
        links = [Key(f"{KEY}.{number}") for number in range(3)]
        first = await driver.write(links[2], b"before")
        versions = await driver.write_ordered(
            [
                [Write(KEY, b"bytes")],
                [Write(links[0], b"0", ABSENT), Write(links[1], b"1", unless=Key(f"{KEY}.mark"))],
                [Write(links[2], b"2", Unchanged(first))],
            ]
        )
        found = [await other.read(key) for key in (KEY, *links)]
        assert [content.data for content in found] == [b"bytes", b"0", b"1", b"2"]
        assert [content.version for content in found] == list(versions)

    @pytest.mark.parametrize("obstacle", ["absent", "changed", "unless"])
    async def test_after_a_conflict_no_later_group_is_written(
        self, driver: Driver, other: Driver, obstacle: str
    ) -> None:
        """A tag that led to a manifest whose link was refused would be a pull that fails for ever."""
        link, tag, mark = Key(f"{KEY}.link"), Key(f"{KEY}.tag"), Key(f"{KEY}.mark")
        refused = {
            "absent": Write(link, b"new", ABSENT),
            "changed": Write(link, b"new", Unchanged(Version("never given"))),
            "unless": Write(link, b"new", unless=mark),
        }[obstacle]
        await driver.write(link, b"old")
        await driver.write(mark, b"deleted")
        with pytest.raises(Conflict):
            await other.write_ordered([[Write(KEY, b"bytes")], [refused], [Write(tag, b"tag")]])
        assert (await driver.read(KEY)).data == b"bytes"
        assert (await driver.read(link)).data == b"old"
        with pytest.raises(KeyMissing):
            await driver.read(tag)

    @pytest.mark.parametrize("condition", ["absent", "unchanged"])
    async def test_of_racing_conditional_writes_at_most_one_wins(
        self, driver: Driver, other: Driver, condition: str
    ) -> None:
        """Of two clients that create or move the same tag at once, one gets an error."""
        when: When = ABSENT
        if condition == "unchanged":
            when = Unchanged(await driver.write(KEY, b"before"))
        texts = [f"writer {number}".encode() for number in range(8)]
        writes = [node.write(KEY, text, when) for node, text in zip([driver, other] * 4, texts, strict=True)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        won = [text for text, result in zip(texts, results, strict=True) if not isinstance(result, BaseException)]
        assert all(isinstance(result, Conflict) for result in results if isinstance(result, BaseException))
        assert len(won) == 1 or (won and not self.exact_conditions)
        assert (await driver.read(KEY)).data in won

    async def test_readers_never_see_a_part(self, driver: Driver, other: Driver) -> None:
        """A pull during a push gets the old or the new manifest, never a mixture or a beginning."""
        texts = [b"a" * 70_000, b"b" * 300_000, b"c" * 10]
        await driver.write(KEY, texts[0])
        done = asyncio.Event()

        async def keep_writing() -> None:
            for number in range(30):
                await driver.write(KEY, texts[number % 3])
            done.set()

        async def keep_reading() -> int:
            count = 0
            while not done.is_set():
                assert (await other.read(KEY)).data in texts
                assert (await other.stat(KEY)).size in {len(text) for text in texts}
                count += 1
                await asyncio.sleep(0)
            return count

        counts = await asyncio.gather(keep_reading(), keep_reading(), keep_writing())
        assert counts[0]

    @pytest.mark.parametrize("key", INVALID)
    async def test_a_misspelt_key_is_refused(self, driver: Driver, key: str) -> None:
        """No name that a client sends reaches outside of the store, even if a check above it fails."""
        bad = Key(key)
        uploads = driver.uploads

        async def entering(context: Any) -> None:
            async with context:
                pass

        async def exhausting(pages: AsyncIterator[Any]) -> None:
            async for _ in pages:
                pass

        state = await uploads.begin(Key("a/_uploads/1"))
        calls: list[Awaitable[Any]] = [
            driver.read(bad),
            driver.write(bad, b""),
            driver.stat(bad),
            driver.find(bad),
            driver.remove_unchanged([Stat(bad, 0, 0.0)]),
            driver.delete([Key("a"), bad]),
            driver.clear(bad),
            driver.prune(bad, datetime.now(UTC)),
            driver.open_file(bad),
            driver.handover(bad, method="GET", expires_s=60),
            entering(driver.open(bad)),
            entering(driver.create(bad)),
            exhausting(driver.children(bad)),
            exhausting(driver.scan(bad)),
            uploads.begin(bad),
            uploads.state(bad),
            uploads.discard(bad),
            uploads.publish(bad, state, Key("a")),
            uploads.publish(Key("a/_uploads/1"), state, bad),
            entering(uploads.append(bad, state)),
            entering(uploads.read(bad, state)),
            exhausting(uploads.abandoned(bad, datetime.now(UTC))),
            uploads.sweep(bad, datetime.now(UTC)),
        ]
        for call in calls:
            with pytest.raises(KeyInvalid):
                await call

    @pytest.mark.parametrize(
        "key", ["a", "...", "a/.../b", "-", "_/__", "x.tmp", "0/1/2/3/4/5/6/7/8/9/a/b/c", "b" * 200]
    )
    async def test_odd_keys_are_keys(self, driver: Driver, key: str) -> None:
        """Every repository and tag that the specification allows can be stored."""
        await driver.write(Key(key), b"text")
        assert (await driver.read(Key(key))).data == b"text"
        await driver.delete([Key(key)])

    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, None),
            (0, 0),
            (0, 1),
            (5, 10),
            (5, 5),
            (2_499_999, None),
            (2_500_000, None),
            (7, 9_999_999),
            (1, 1_048_577),
        ],
    )
    async def test_open_streams_the_range(self, driver: Driver, start: int, stop: int | None) -> None:
        """A resumed download gets exactly the bytes that it lacks."""
        data = bytes(range(250)) * 10_000
        await driver.write(KEY, data)
        async with driver.open(KEY, start=start, stop=stop) as reader:
            assert (reader.stat.key, reader.stat.size) == (KEY, len(data))
            pieces = [piece async for piece in reader]
        assert b"".join(pieces) == data[start:stop]
        assert all(1 <= len(piece) <= 1 << 20 for piece in pieces)

    async def test_open_past_the_end_is_refused(self, driver: Driver) -> None:
        """Such a request is answered 416, which needs the refusal before the first byte."""
        await driver.write(KEY, b"12345")
        assert await read_all(driver, KEY, start=5) == b""
        with pytest.raises(RangeOutside):
            await read_all(driver, KEY, start=6)

    async def test_a_reader_may_stop_early(self, driver: Driver) -> None:
        """A client that hangs up in the middle of a layer costs nothing that lasts."""
        await driver.write(KEY, b"x" * 3_000_000)
        for _ in range(3):
            async with driver.open(KEY) as reader:
                assert await anext(aiter(reader))
        await driver.delete([KEY])

    async def test_an_opened_file_holds_these_bytes(self, driver: Driver) -> None:
        """The server sends it as it is: another file, or a size that is not its own, is a corrupt download."""
        await driver.write(KEY, b"12345")
        found = await driver.open_file(KEY)
        if found is not None:
            with found.file:
                await driver.delete([KEY])
                assert (found.file.read(), found.size) == (b"12345", 5)

    async def test_a_missing_object_is_not_opened(self, driver: Driver) -> None:
        """The client gets a 404 instead of the headers of a download without bytes."""
        if await self._hands_out_files(driver):
            for key in (Key("a/missing"), Key("a")):
                with pytest.raises(KeyMissing):
                    await driver.open_file(key)

    async def _hands_out_files(self, driver: Driver) -> bool:
        await driver.write(Key("a/file"), b"1")
        found = await driver.open_file(Key("a/file"))
        if found is not None:
            found.file.close()
        return found is not None

    async def test_facts_about_the_driver(self, driver: Driver) -> None:
        """Links of a local disk would be cached, or those of a bucket not, and no bucket would be swept."""
        assert driver.name
        assert isinstance(driver.request_cost, RequestCost)
        assert driver.signs_urls in {True, False}
        assert driver.lists_unfinished in {True, False}
        assert driver.removes_exactly in {True, False}
        assert driver.resent >= 0

    async def test_only_a_driver_that_signs_urls_returns_one(self, driver: Driver) -> None:
        """The registry skips its own look at a blob where a URL is to be expected."""
        await driver.write(KEY, b"12345")
        for method in ("GET", "HEAD"):
            url = await driver.handover(KEY, method=method, expires_s=60)
            assert url is None or driver.signs_urls

    async def test_a_new_object_is_invisible_until_commit(self, driver: Driver, other: Driver) -> None:
        """No client pulls half of a blob that is being copied."""
        async with driver.create(KEY) as writer:
            await writer.write([b"new ", b"", b"content"])
            await writer.write([b"!"] * 3000)
            with pytest.raises(KeyMissing):
                await other.stat(KEY)
            assert [page async for page in other.scan(Key("docker"))] == []
            await writer.commit()
            assert (await other.read(KEY)).data == b"new content" + b"!" * 3000
        assert (await other.read(KEY)).data == b"new content" + b"!" * 3000

    async def test_leaving_without_commit_leaves_nothing(self, driver: Driver) -> None:
        """A copy that fails halfway fills no disk and breaks nothing that was there."""
        async with driver.create(KEY) as writer:
            await writer.write([b"text"])
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  the refusal comes from inside the context
            async with driver.create(KEY) as writer:
                await writer.write([b"text"])
                raise ZeroDivisionError
        assert [page async for page in driver.scan(Key("docker"))] == []
        with pytest.raises(KeyMissing):
            await driver.stat(KEY)

    @pytest.mark.parametrize("size", [0, 5])
    async def test_racing_creators_of_the_same_content_all_succeed(
        self, driver: Driver, other: Driver, size: int
    ) -> None:
        """Two clients that push the same layer at once both get their 201."""

        async def create(node: Driver) -> None:
            async with node.create(KEY) as writer:
                await writer.write([b"x" * size])
                await writer.commit()

        await asyncio.gather(*(create(node) for node in (driver, other) * 4))
        assert (await driver.read(KEY)).data == b"x" * size
        assert [len(page) async for page in driver.scan(Key("docker"))] == [1]

    @pytest.mark.parametrize("size", [0, 1, 3 << 20])
    async def test_a_file_becomes_an_object(
        self, driver: Driver, other: Driver, tmp_path: Path, size: int
    ) -> None:
        """A cached download that is adopted wrongly is a blob that no client can use."""
        file = tmp_path / "part"
        file.write_bytes(b"x" * size)
        with file.open("rb") as reader:
            await driver.adopt(KEY, str(file))
            assert reader.read() == b"x" * size
        async with other.open(KEY) as found:
            assert b"".join([piece async for piece in found]) == b"x" * size

    async def test_a_missing_file_is_not_adopted(self, driver: Driver, tmp_path: Path) -> None:
        """A file that another process has adopted meanwhile must be known to be gone."""
        with pytest.raises(KeyMissing):
            await driver.adopt(KEY, str(tmp_path / "gone"))

    async def test_a_new_store_is_alive(self, driver: Driver) -> None:
        """A registry over an empty volume passes its health check."""
        await driver.probe()


class DriverContract(ObjectContract, RemovalContract, ListingContract, UploadContract):
    """All promises of `storage/driver.py`; see the module docstring."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def connect(self) -> Callable[[], Driver]:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def driver(self, connect: Callable[[], Driver]) -> AsyncIterator[Driver]:
        driver = connect()
        yield driver
        await driver.close()

    @pytest_asyncio.fixture
    async def other(self, connect: Callable[[], Driver]) -> AsyncIterator[Driver]:
        """Another process's driver on the same store."""
        driver = connect()
        yield driver
        await driver.close()
