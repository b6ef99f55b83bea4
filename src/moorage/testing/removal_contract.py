"""Contract suite of drivers: removal of objects, and of what removals leave.

See `driver_contract.py`, which joins it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from moorage.storage.driver import Key, KeyMissing

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

__all__ = ["RemovalContract"]

KEY: Final = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")


class RemovalContract:
    """`delete`, `remove_unchanged`, `prune`."""

    async def test_delete_removes_these_keys_only(self, driver: Driver, other: Driver) -> None:
        """Deleting one tag spares those whose names begin like it."""
        keys = [Key(f"a/{name}") for name in ("v1", "v10", "v1.0", "v1-x", "w/link", "w/other")]
        for key in keys:
            await driver.write(key, b"text")
        await other.delete([keys[0], keys[4], Key("a/missing"), Key("b/missing/too"), Key("a/v10/below")])
        await other.delete([])
        for key in keys:
            if key in {keys[0], keys[4]}:
                with pytest.raises(KeyMissing):
                    await driver.stat(key)
            else:
                assert (await driver.read(key)).data == b"text"

    async def test_only_the_examined_object_is_removed(self, driver: Driver, other: Driver) -> None:
        """A collector's DELETE that arrives late must not remove what a push has stored meanwhile."""
        names = ("same", "rewritten", "gone", "untouched")
        same, rewritten, gone, untouched = (Key(f"a/{name}/data") for name in names)
        for key in (same, rewritten, gone, untouched):
            await driver.write(key, b"text")
        examined = [await driver.stat(key) for key in (same, rewritten, gone)]
        listed = {stat.key: stat async for page in driver.scan(Key("a")) for stat in page}
        assert [listed[stat.key] for stat in examined] == examined
        await other.delete([gone])
        await other.write(rewritten, b"longer text")
        changed = list(await driver.remove_unchanged(examined))
        assert changed == ([rewritten] if driver.removes_exactly else [])
        assert not await driver.remove_unchanged([])
        assert not await driver.remove_unchanged(examined[:1])
        assert await other.find(same) is None
        assert (await other.read(untouched)).data == b"text"
        if driver.removes_exactly:
            assert (await other.read(rewritten)).data == b"longer text"
        await driver.write(same, b"pushed again")
        assert (await other.read(same)).data == b"pushed again"

    async def test_writers_survive_a_collector(self, driver: Driver, other: Driver) -> None:
        """A blob that is pushed while it is being removed is there afterwards."""
        if not driver.removes_exactly:
            return
        for size in range(20):
            await driver.write(KEY, b"x" * size)
            examined = await driver.stat(KEY)
            await asyncio.gather(driver.remove_unchanged([examined]), other.write(KEY, b"y" * (size + 1)))
            found = await other.find(KEY)
            assert found is not None
            assert found.size == size + 1

    async def test_deleting_a_prefix_deletes_nothing(self, driver: Driver) -> None:
        """`delete` removes objects, `clear` everything below a prefix."""
        await driver.write(KEY, b"text")
        await driver.delete([Key(KEY.rpartition("/")[0])])
        assert (await driver.read(KEY)).data == b"text"

    async def test_pruning_removes_no_object(self, driver: Driver) -> None:
        """A prefix without objects is no longer a child, also on a filesystem."""
        later = datetime.now(UTC) + timedelta(seconds=5)
        for key in ("a/b/full/deep/one", "a/b/empty/deep/one", "a/b/empty/two"):
            await driver.write(Key(key), b"text")
        await driver.delete([Key("a/b/empty/deep/one"), Key("a/b/empty/two")])
        for name in ("full", "empty", "absent"):
            await driver.prune(Key(f"a/b/{name}"), later)
        assert [name async for page in driver.children(Key("a/b")) for name in page] == ["full"]
        assert (await driver.read(Key("a/b/full/deep/one"))).data == b"text"

    async def test_writers_survive_pruning(self, driver: Driver, other: Driver) -> None:
        """A push into a place that another node is just pruning is no error, and the push stays."""

        async def keep_pruning() -> None:
            for _ in range(40):
                await other.prune(Key("a/b"), datetime.now(UTC) - timedelta(hours=1))

        async def keep_writing() -> None:
            for number in range(20):
                await driver.write(Key(f"a/b/{number}/c/d"), b"text")
                assert (await other.read(Key(f"a/b/{number}/c/d"))).data == b"text"
                await driver.delete([Key(f"a/b/{number}/c/d")])

        await asyncio.gather(keep_pruning(), keep_writing())

    async def test_writers_survive_deleters(self, driver: Driver, other: Driver) -> None:
        """Pushing into a place that another node is just emptying is no error, and the push stays."""

        async def keep_deleting() -> None:
            for _ in range(40):
                await other.delete([Key("a/b/gone")])

        async def keep_writing() -> None:
            for number in range(40):
                await driver.write(Key("a/b/gone"), b"text")
                await driver.write(Key(f"a/b/{number}"), b"text")
                await driver.delete([Key(f"a/b/{number}")])

        await asyncio.gather(keep_deleting(), keep_writing())
        await driver.write(Key("a/b/last"), b"text")
        assert (await other.read(Key("a/b/last"))).data == b"text"
