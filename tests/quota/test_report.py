"""The report of usage: shared and unique bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.quota.blob_table import BlobTable
from moorage.quota.limits import Limit
from moorage.quota.report import make_report
from moorage.registry import layout
from moorage.testing.builders import blob, image
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from tests.quota.conftest import StartNode

    from moorage.storage.driver import Driver


class Progress:
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.counts: list[int] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)
        self.counts.append(0)

    def advanced(self, count: int) -> None:
        self.counts[-1] += count


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
async def test_shared_and_unique_bytes(node: StartNode, driver: Driver) -> None:
    """An operator deletes the repository with the most unique bytes, and must get those bytes back."""
    client = node(Limit("none", tags=1)).client
    base, own = blob(size=1000), blob(size=300)
    one, two = image(base), image(base, own)
    await client.push(one, "v1", "v2", name="a/one")
    await client.push(one, "v1", name="b/two")
    await client.push(two, "v2", name="b/two")
    await client.push(image(blob(size=5, seed=7)), name="b/two/below")
    progress = Progress()
    report = await make_report(driver, progress)
    rows = {row.name: row for row in report.repositories()}
    shared = sum(part.size for part in one.closure)
    unique = sum(part.size for part in two.closure if part.digest not in {each.digest for each in one.closure})
    assert rows[RepoName("a/one")][1:] == (shared, 0, shared, 2, 0)
    assert rows[RepoName("b/two")][1:] == (shared + unique, unique, shared, 2, 0)
    assert next(report.repositories()).name == "b/two", "largest first"
    assert {row.name for row in report.repositories("b/two")} == {"b/two", "b/two/below"}
    assert report.distinct("a") == shared
    assert report.distinct() == report.stored
    assert progress.phases == ["blobs listed", "repositories read"]
    assert progress.counts[1] == 3


async def test_links_to_lost_bytes_and_to_other_digests(node: StartNode, driver: Driver) -> None:
    """CNCF Distribution links sha512 digests to sha256 content; a crash may have lost a blob."""
    client = node(Limit("none", tags=1)).client
    content = await client.push_blob(blob(size=100), "a/one")
    other = Digest.of(content.data, "sha512")
    await driver.write(layout.layer_link(RepoName("a/two"), other), str(content.digest).encode())
    lost = Digest.of(b"lost")
    await driver.write(layout.layer_link(RepoName("a/two"), lost), str(lost).encode())
    rows = {row.name: row for row in (await make_report(driver, Progress())).repositories()}
    assert rows[RepoName("a/two")][1:] == (100, 0, 100, 0, 1)


async def test_numbers_of_blobs_have_no_gaps(driver: Driver) -> None:
    """Sums are kept in arrays by number."""
    blobs = [blob(size=size) for size in range(1, 60)]
    for each in blobs:
        await driver.write(layout.blob_data(each.digest), each.data)
    table = await BlobTable.load(driver)
    numbers = [table.number(each.digest) for each in blobs]
    assert sorted(number for number in numbers if number is not None) == list(range(59))
    assert [table.sizes()[number] for number in numbers if number is not None] == list(range(1, 60))
    assert table.number(Digest.of(b"not there")) is None
    assert len(table) == 59
