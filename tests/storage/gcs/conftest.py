"""Fixtures of the tests of the Google driver; some tests make a bucket of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.storage.gcs.bucket import Bucket, a_bucket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from moorage.storage.gcs.store import GcsStore


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket() as bucket:
        bucket.server.quantum = 1000
        yield bucket


@pytest.fixture
async def make(bucket: Bucket) -> AsyncIterator[Callable[..., GcsStore]]:
    """Stores on the bucket, closed at the end."""
    made: list[GcsStore] = []

    def store(**options: Any) -> GcsStore:
        made.append(bucket.store(**{"chunksize": 1000, "sources": 3, **options}))
        return made[-1]

    yield store
    for one in made:
        await one.close()
