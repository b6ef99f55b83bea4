"""Collections in a real bucket: moto, or the store that `dev.py stores` has started."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import FakeClock, run, state_of
from tests.s3 import a_bucket, front

from moorage.gc.options import CollectionOptions
from moorage.registry import layout
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.testing.builders import Built, blob, image
from moorage.testing.registry_fixtures import push
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.s3 import Bucket, Request

APP = RepoName("team/app")
NO_WAIT = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=0, wait_s=0)
PER_RUN = {"listing": 40, "HEAD": 20, "GET": 15, "PUT": 15, "removal": 15}
BASE = blob(size=200, seed=1)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(watched=True) as found:
        yield found


def kind(request: Request) -> str:
    if request.method == "GET" and "list-type" in request.query:
        return "listing"
    return "removal" if request.method == "DELETE" or "delete" in request.query.split("&") else request.method


async def collect_images(bucket: Bucket, images: int) -> Counter[str]:
    """Push an image that stays, and others that are deleted; collect; return the requests of the run."""
    registry = StoredRegistry(bucket.driver(), b"secret", StoredOptions(delete_enabled=True))
    live = image(BASE, blob(size=50, seed=2), seed=2)
    await push(registry, live, "v1", name=APP)
    dead = [image(BASE, blob(size=60, seed=10 + number), seed=10 + number) for number in range(images)]
    for built in dead:
        await push(registry, built, "dead", name=APP)
    await registry.manifests.delete(APP, Tag("dead"))
    await registry.manifests.delete(APP, dead[0].digest)
    await registry.close()
    driver = bucket.driver()
    front().requests.clear()
    report = await run(driver, NO_WAIT, clock=FakeClock(), now=lambda: datetime.now(UTC))
    requests = Counter(map(kind, front().requests))
    assert (report.outcome, report.reason) == ("finished", "")
    gone = [part for built in dead for part in built.closure if part.digest != BASE.digest]
    assert report.freed.objects == len(gone)
    await check_keys(bucket, live, gone)
    assert await state_of(driver) == {"ended", "reserve"}
    await driver.close()
    return requests


async def check_keys(bucket: Bucket, live: Built, gone: list[Built]) -> None:
    keys = set(bucket.keys())
    for part in live.closure:
        link = layout.revision_link if part.is_manifest else layout.layer_link
        assert {str(layout.blob_data(part.digest)), str(link(APP, part.digest))} <= keys
    for part in gone:
        left = [key for key in keys if part.digest.hex in key and "_deleted" not in key]
        assert not left, part


@pytest.mark.slow
async def test_requests_of_a_collection(bucket: Bucket) -> None:
    """An operator pays for each: docs/garbage-collection.md has these bounds."""
    few = await collect_images(bucket, 2)
    with a_bucket(watched=True) as other:
        many = await collect_images(other, 4)
    assert {name for name in many if few[name] > PER_RUN[name]} == set(), few
    # A manifest is read by the mark, and by the sweep, which removes parents before children.
    assert many - few <= Counter(GET=2 * 2), (few, many)
