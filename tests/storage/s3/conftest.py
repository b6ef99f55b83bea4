"""Drivers on a module's bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.s3 import Bucket

    from moorage.storage.object_store.driver import ObjectDriver


@pytest.fixture
async def make(bucket: Bucket) -> AsyncIterator[Callable[..., ObjectDriver]]:
    """Drivers on the bucket, closed at the end; the module's own fixture makes the bucket."""
    made: list[ObjectDriver] = []

    def driver(**options: Any) -> ObjectDriver:
        made.append(bucket.driver(**options))
        return made[-1]

    yield driver
    for one in made:
        await one.close()
