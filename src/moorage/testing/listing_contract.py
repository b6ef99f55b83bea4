"""Contract suite of storage drivers, part two: `children`, `scan` and `clear`.

Above: `driver_contract.py`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest

from moorage.storage.driver import Driver, Key, KeyInvalid, KeyMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["ListingContract"]

TAGS: Final = (
    "1.0",
    "1.0-alpine",
    "1.0.1",
    "1",
    "10",
    "Z",
    "_x",
    "a",
    "a-b",
    "a.b",
    "a_b",
    "ab",
    "latest",
    "v1",
    "v10",
)


async def flat(pages: AsyncIterator[Sequence[str]]) -> list[str]:
    found: list[str] = []
    async for page in pages:
        assert page, "no names: no pages"
        found += page
    return found


async def keys_below(driver: Driver, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    async for page in driver.scan(Key(prefix)):
        assert page, "no objects: no pages"
        for stat in page:
            assert stat.key not in found
            found[stat.key] = stat.size
    return found


class ListingContract:
    """Listings of everything below a prefix."""

    async def test_many_keys_are_answered_at_once_and_in_order(self, driver: Driver, other: Driver) -> None:
        """A walk over a whole store must not read one object for another, or fail for a missing one."""
        keys = [Key(f"bulk/{i}/link") for i in range(5)]
        for key in keys[:3]:
            await driver.write(key, key.encode())
        assert await other.bulk.read(keys, limit=100) == [*(key.encode() for key in keys[:3]), None, None]
        assert await other.bulk.read(keys[:1], limit=3) == [None]
        found = await other.bulk.find(keys)
        assert [stat and (stat.key, stat.size) for stat in found] == [*((key, 11) for key in keys[:3]), None, None]
        names = await other.bulk.names([Key("bulk"), Key("nothing"), Key("bulk/1"), keys[0]])
        assert [sorted(found) for found in names] == [["0", "1", "2"], [], ["link"], []]
        assert not await other.bulk.read([], limit=1)
        assert not await other.bulk.find([])
        assert not await other.bulk.names([])
        with pytest.raises(KeyInvalid):
            await driver.bulk.find([keys[0], Key("a/../b")])

    async def test_a_fingerprint_changes_with_the_names_of_its_prefix(self, driver: Driver, other: Driver) -> None:
        """A collector that believed an old one would not see a link, and remove what it names."""
        prefix = Key("printed")
        await driver.write(Key("printed/a"), b"1")
        seen = await other.bulk.fingerprints([prefix, Key("nothing")])
        assert len(seen) == 2
        await driver.write(Key("printed/b"), b"1")
        (grown,) = await other.bulk.fingerprints([prefix])
        assert grown is None or grown != seen[0]
        await driver.delete([Key("printed/a")])
        (shrunk,) = await other.bulk.fingerprints([prefix])
        assert shrunk is None or shrunk not in (seen[0], grown)
        assert not await other.bulk.fingerprints([])

    async def test_names_come_in_byte_order(self, driver: Driver, other: Driver) -> None:
        """Tag lists are in the specification's order although object stores sort `1.0-x/` before `1.0/`."""
        for name in random.Random(1).sample(TAGS, len(TAGS)):  # noqa: S311  a fixed shuffle
            await driver.write(Key(f"tags/{name}/current/link"), b"text")
        assert await flat(other.children(Key("tags"))) == sorted(TAGS)

    async def test_objects_and_prefixes_are_listed_once(self, driver: Driver) -> None:
        """A repository `a` and another `a/b` share a directory; neither hides the other."""
        for key in ("r/a/_m/x", "r/a/_m/y", "r/a/b/_m/x", "r/a-b/_m/x", "r/a.b", "r/c", "s/d"):
            await driver.write(Key(key), b"text")
        assert await flat(driver.children(Key("r"))) == ["a", "a-b", "a.b", "c"]
        assert await flat(driver.children(Key("r/a"))) == ["_m", "b"]
        assert await flat(driver.children(Key("r/a/_m"))) == ["x", "y"]

    async def test_nothing_there_is_no_page(self, driver: Driver) -> None:
        """A repository without referrers answers an empty list, not an error."""
        await driver.write(Key("r/a"), b"text")
        for prefix in ("q", "r/b", "r/a", "r/a/b"):
            assert await flat(driver.children(Key(prefix))) == []
            assert await keys_below(driver, prefix) == {}

    async def test_pages_continue_after_the_last_name(self, driver: Driver) -> None:
        """A client that pages through tags sees each once, with any page size."""
        for name in TAGS:
            await driver.write(Key(f"tags/{name}/link"), b"text")
        for limit in (1, 2, 3, 7, 100):
            seen: list[str] = []
            while page := await flat(driver.children(Key("tags"), after=seen[-1] if seen else "", limit=limit)):
                assert len(page) <= limit
                seen += page
            assert seen == sorted(TAGS)

    async def test_after_need_not_exist(self, driver: Driver) -> None:
        """A page link stays good after the tag it names was deleted."""
        names = random.Random(2)  # noqa: S311  fixed cases
        for name in TAGS:
            await driver.write(Key(f"tags/{name}/link"), b"text")
        for _ in range(60):
            after = "".join(names.choices("01.-_avZz~", k=names.randint(0, 3)))
            limit = names.choice([None, 0, 1, 4, 50])
            expected = sorted(name for name in TAGS if name > after)[:limit]
            assert await flat(driver.children(Key("tags"), after=after, limit=limit)) == expected

    async def test_many_names(self, driver: Driver) -> None:
        """More than one page of any store's listing."""
        names = [f"{number:04d}" for number in range(1100)]
        for name in names:
            await driver.write(Key(f"many/{name}"), b"")
        assert await flat(driver.children(Key("many"))) == names
        assert await flat(driver.children(Key("many"), after="0999", limit=50)) == names[1000:1050]
        assert sorted(await keys_below(driver, "many")) == [f"many/{name}" for name in names]

    async def test_scan_finds_every_object_once(self, driver: Driver, other: Driver) -> None:
        """A collector would delete the content of an object that it does not see."""
        sizes = {f"r/{name}/{number}/data": number for number, name in enumerate(TAGS)} | {"r/x": 0, "r/y/z": 9}
        for key, size in sizes.items():
            await driver.write(Key(key), b"x" * size)
        await driver.write(Key("rr/other"), b"text")
        assert await keys_below(other, "r") == sizes
        assert await keys_below(other, "r/v1") == {
            key: size for key, size in sizes.items() if key.startswith("r/v1/")
        }

    async def test_a_deleted_object_is_not_listed(self, driver: Driver, other: Driver) -> None:
        """A deleted tag's history is gone for the next client that lists."""
        await driver.write(Key("r/a/1"), b"text")
        await driver.write(Key("r/a/2"), b"text")
        await other.delete([Key("r/a/1")])
        assert await flat(driver.children(Key("r/a"))) == ["2"]
        assert list(await keys_below(driver, "r")) == ["r/a/2"]

    async def test_clear_removes_all_below_and_nothing_else(self, driver: Driver, other: Driver) -> None:
        """Deleting tag `v1` leaves `v10` and `v1.0` alone, and `v1` is no longer listed."""
        kept = ["tags/v10/link", "tags/v1.0/link", "tags/v1-x/link", "tags/w"]
        gone = ["tags/v1/current/link", "tags/v1/index/sha256/a/link", "tags/v1/index/sha256/b/link"]
        for key in kept + gone:
            await driver.write(Key(key), b"text")
        await other.clear(Key("tags/v1"))
        assert await flat(driver.children(Key("tags"))) == ["v1-x", "v1.0", "v10", "w"]
        assert sorted(await keys_below(driver, "tags")) == sorted(kept)
        for key in gone:
            try:
                await driver.stat(Key(key))
            except KeyMissing:
                continue
            raise AssertionError(key)

    async def test_clearing_nothing_is_fine(self, driver: Driver) -> None:
        """Deleting twice is not an error of the store; an object is not below itself."""
        await driver.write(Key("r/a"), b"text")
        for prefix in ("q", "r/b/c", "r/a", "r/a/b"):
            await driver.clear(Key(prefix))
        assert (await driver.read(Key("r/a"))).data == b"text"

    async def test_what_was_cleared_can_be_written_again(self, driver: Driver, other: Driver) -> None:
        """A tag that is deleted and pushed again, by nodes in turn, is there."""
        for node, next_node in ((driver, other), (other, driver), (driver, other)):
            await node.write(Key("tags/v1/current/link"), b"text")
            await next_node.clear(Key("tags/v1"))
            assert await flat(node.children(Key("tags"))) == []
        await driver.write(Key("tags/v1/current/link"), b"text")
        assert await flat(other.children(Key("tags"))) == ["v1"]
