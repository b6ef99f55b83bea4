"""Names in order from stores that sort keys, against sorted(), with pages of every size."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.storage.driver import Key
from moorage.storage.object_store import listing
from moorage.storage.object_store.listing import names
from moorage.testing.listing_contract import flat
from moorage.testing.memory_objects import Bucket, MemoryObjects

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = Key("r/tags")
NAMES = st.text("a1-._", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})
ENTRIES = st.lists(st.tuples(NAMES, st.sampled_from(["", "/link", "/x/y"])), max_size=30)


async def listed(objects: MemoryObjects, after: str, limit: int | None) -> list[str]:
    return await flat(names(objects, PREFIX, after=after, limit=limit))


@pytest.mark.slow
@pytest.mark.parametrize("page", [1, 2, 3, 1000])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(entries=ENTRIES, after=st.just("") | NAMES, limit=st.none() | st.integers(0, 12))
def test_every_page_is_what_sorting_the_names_gives(
    page: int, entries: list[tuple[str, str]], after: str, limit: int | None
) -> None:
    """No tag is lost, repeated or out of order, wherever the store's pages end."""
    bucket = Bucket()
    for name, rest in entries:
        bucket.store(f"{PREFIX}/{name}{rest}", b"")
    bucket.store("r/tags-beside/link", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "_PAGE", page)
        patch.setattr(listing, "_SMALL_PAGE", page)
        found = asyncio.run(listed(MemoryObjects(bucket), after, limit))
    assert found == sorted({name for name, _ in entries if name > after})[:limit]


async def requests_for(count: int, limit: int | None, after: str = "") -> int:
    calls: list[str] = []

    async def before(name: str, keys: Sequence[Key]) -> None:
        calls.append(name)

    bucket = Bucket()
    for number in range(count):
        bucket.store(f"{PREFIX}/v1.{number:06d}-alpine/current/link", b"")
        bucket.store(f"{PREFIX}/v1.{number:06d}-alpine/index/sha256/a/link", b"")
    found = await listed(MemoryObjects(bucket, before=before), after, limit)
    assert len(found) == min(count, count if limit is None else limit)
    return len(calls)


async def test_a_page_costs_what_it_shows() -> None:
    """Ten tags of twenty thousand are a request, and one for each beginning that might come before them."""
    assert await requests_for(5_000, 10) <= 3
    assert await requests_for(5_000, 10, after="v1.002") <= 3
    assert await requests_for(50, None) == 1
    assert await requests_for(5_000, None) <= 5 * 3


async def test_names_that_no_key_can_have_are_left_out() -> None:
    """Folder markers and what administrators put there are no tags."""
    bucket = Bucket()
    for key in ("a/link", "", "b c/link", "ü", "d"):
        bucket.store(f"{PREFIX}/{key}", b"")
    assert await listed(MemoryObjects(bucket), "", None) == ["a", "d"]
