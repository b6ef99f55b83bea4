"""Any sequence of operations on any driver does what it would do to a dict."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.storage.driver import ABSENT, Conflict, Driver, Key, KeyMissing
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.listing_contract import flat, keys_below

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ["a", "a-b", "a.b", "a0", "B", "v1", "v10", "_x"]
PREFIXES = [Key(prefix) for prefix in ("r", "r/a", "r/a-b", "r/v1", "r/v1/a", "q")]
# Every key has three components, so that no object is below another: what a directory cannot hold.
KEYS = st.builds(lambda one, two: Key(f"r/{one}/{two}"), st.sampled_from(NAMES), st.sampled_from(NAMES))
AFTER = st.sampled_from(["", *NAMES, "a-", "~"])
STEP = st.one_of(
    st.tuples(st.just("write"), KEYS, st.binary(max_size=8)),
    st.tuples(st.just("absent"), KEYS, st.binary(max_size=8)),
    st.tuples(st.just("delete"), st.lists(KEYS, max_size=3)),
    st.tuples(st.just("clear"), st.sampled_from(PREFIXES)),
    st.tuples(st.just("children"), st.sampled_from(PREFIXES), AFTER, st.none() | st.integers(0, 9)),
    st.tuples(st.just("scan"), st.sampled_from(PREFIXES)),
    st.tuples(st.just("read"), KEYS),
)


class Model:
    """The dict, and the driver beside it; each step is taken by both and compared."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.objects: dict[str, bytes] = {}

    def below(self, prefix: Key) -> dict[str, bytes]:
        return {key: data for key, data in self.objects.items() if key.startswith(f"{prefix}/")}

    async def write(self, key: Key, data: bytes) -> None:
        await self.driver.write(key, data)
        self.objects[key] = data

    async def absent(self, key: Key, data: bytes) -> None:
        if key in self.objects:
            with pytest.raises(Conflict):
                await self.driver.write(key, data, ABSENT)
        else:
            await self.driver.write(key, data, ABSENT)
            self.objects[key] = data

    async def delete(self, keys: list[Key]) -> None:
        await self.driver.delete(keys)
        for key in keys:
            self.objects.pop(key, None)

    async def clear(self, prefix: Key) -> None:
        await self.driver.clear(prefix)
        for key in self.below(prefix):
            del self.objects[key]

    async def children(self, prefix: Key, after: str, limit: int | None) -> None:
        expected = {key[len(prefix) + 1 :].split("/")[0] for key in self.below(prefix)}
        found = await flat(self.driver.children(prefix, after=after))
        assert found == sorted(set(found))
        assert [name for name in found if name in expected] == sorted(name for name in expected if name > after)
        # A filesystem also lists directories that were left empty (`driver.Driver.children`).
        for name in set(found) - expected:
            assert await keys_below(self.driver, f"{prefix}/{name}") == {}
        assert await flat(self.driver.children(prefix, after=after, limit=limit)) == found[:limit]

    async def scan(self, prefix: Key) -> None:
        expected = {key: len(data) for key, data in self.below(prefix).items()}
        assert await keys_below(self.driver, prefix) == expected

    async def read(self, key: Key) -> None:
        if key in self.objects:
            assert (await self.driver.read(key)).data == self.objects[key]
        else:
            with pytest.raises(KeyMissing):
                await self.driver.read(key)


async def play(driver: Driver, steps: list[tuple[object, ...]]) -> None:
    model = Model(driver)
    for name, *arguments in steps:
        await getattr(model, str(name))(*arguments)
    await model.scan(Key("r"))
    await driver.close()


@pytest.mark.slow
@pytest.mark.parametrize("make", [FilesystemDriver, lambda _: MemoryDriver()], ids=["filesystem", "memory"])
@settings(max_examples=120, deadline=None, derandomize=True)
@given(steps=st.lists(STEP, max_size=25))
def test_any_sequence_of_steps(make: Callable[[Path], Driver], steps: list[tuple[object, ...]]) -> None:
    """In every order of calls of clients, collectors and purgers, nothing is lost, kept or listed wrongly."""
    with tempfile.TemporaryDirectory() as root:
        asyncio.run(play(make(Path(root)), steps))
