"""Drivers on a module's bucket; and which tests there are: none about signatures on moto, which verifies none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.s3 import is_moto

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.s3 import Bucket

    from moorage.storage.object_driver import ObjectDriver

collect_ignore = ["test_signed.py"] if is_moto() else []
"""`python3 dev.py stores` runs them (docs/testing.md)."""


@pytest.fixture
async def make(bucket: Bucket) -> AsyncIterator[Callable[..., ObjectDriver]]:
    """Drivers on the bucket, closed at the end; how the bucket is reached says the module's own fixture."""
    made: list[ObjectDriver] = []

    def driver(**options: Any) -> ObjectDriver:
        made.append(bucket.driver(**options))
        return made[-1]

    yield driver
    for one in made:
        await one.close()
