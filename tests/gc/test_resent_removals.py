"""Removals in a bucket that were sent twice, since the first attempt had no good answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import FakeClock, collection_of
from tests.s3 import Trouble, a_bucket, front

from moorage.gc.options import CollectionOptions
from moorage.gc.run import QUARANTINE_S, collect
from moorage.registry import layout
from moorage.testing.builders import blob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.s3 import Bucket, Request

NO_WAIT = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=0, wait_s=0)
DEAD = [blob(size=90 + number, seed=number) for number in range(2)]


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(watched=True) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
async def test_bytes_whose_removal_was_sent_twice_stay_doomed_for_the_quarantine(
    bucket: Bucket, count: int
) -> None:
    """S3 removes on no condition: the first attempt, carried out late, would remove the bytes of a later push."""
    driver = bucket.driver()
    for part in DEAD[:count]:
        await driver.write(layout.blob_data(part.digest), part.data)
    removals: list[Request] = []
    doomed: list[bool] = []

    def trouble(request: Request) -> Trouble | None:
        one = request.method == "DELETE" and "/blobs/" in request.path
        if not one and not (request.method == "POST" and "delete" in request.query):
            return None
        removals.append(request)
        # The first one is of marks of torn blobs.
        return Trouble(500, "InternalError") if len(removals) == 2 else None

    async def look(seconds: float) -> None:
        if not doomed and seconds > QUARANTINE_S * 0.9:
            doomed.append(any("collection/doomed." in key for key in bucket.keys()))  # noqa: SIM118  no dictionary

    clock = FakeClock(look)
    front().trouble = trouble
    report = await collect(collection_of(driver, NO_WAIT, clock=clock, now=lambda: datetime.now(UTC)))
    await driver.close()
    assert len(removals) == 3
    assert (report.outcome, report.freed.objects) == ("finished", count)
    assert not [key for key in bucket.keys() if "/blobs/" in key]  # noqa: SIM118
    assert clock.seconds > QUARANTINE_S
    assert doomed == [True]
