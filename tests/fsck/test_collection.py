"""Repairs beside a garbage collection: none, since the check has seen bytes that may be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.fsck.test_damage import checked
from tests.registry.collection_steps import Run
from tests.registry.images import NAME, T1, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.fsck.findings import Outcome
from moorage.registry import layout
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.manifests import StoredManifests
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

BUILT = image(seed=1)
LAYER = BUILT.blobs[0]
LINK = layout.layer_link(NAME, LAYER.digest)


@pytest.fixture
async def damaged() -> Driver:
    """An image whose layer its repository does not link: the repair writes the link."""
    driver = MemoryDriver()
    await push(driver, StoredManifests(driver), BUILT, T1)
    await driver.delete([LINK])
    return driver


async def test_nothing_is_repaired_during_a_run(damaged: Driver) -> None:
    """The link would come back to bytes that the collector is removing."""
    await Run(damaged).start()
    recorder, summary = await checked(damaged, repair=True)
    assert [(finding.kind, finding.outcome) for finding in recorder.findings] == [
        ("content-unlinked", Outcome.FOUND)
    ]
    assert "garbage collection runs or has run meanwhile" in recorder.findings[0].problem
    assert summary.repaired == 0
    assert await damaged.find(LINK) is None


async def test_nothing_is_repaired_after_a_run_that_ended_during_the_check(
    damaged: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check takes hours."""
    monkeypatch.setattr(CollectionGate, "recent", lambda _: None)  # as if each step took more than five seconds
    ended = False

    class Collected(InstrumentedDriver):
        async def before(self, call: str) -> None:
            nonlocal ended
            if call == f"read {LINK}" and not ended:
                ended = True
                await Run(damaged).whole()

    recorder, _ = await checked(Collected(damaged), repair=True)
    assert ended
    assert [finding.outcome for finding in recorder.findings] == [Outcome.FOUND]
    assert await damaged.find(LINK) is None


async def test_a_run_that_begins_during_a_repair_leaves_its_finding(
    damaged: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may have examined the repository before the link was there."""
    monkeypatch.setattr(CollectionGate, "recent", lambda _: None)

    class Collected(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if call == f"write {LINK}":
                await Run(damaged).start()

    recorder, _ = await checked(Collected(damaged), repair=True)
    assert [finding.outcome for finding in recorder.findings] == [Outcome.FOUND]
    assert "check again" in recorder.findings[0].problem


async def test_after_a_run_everything_is_repaired(damaged: Driver) -> None:
    await Run(damaged).whole()
    recorder, _ = await checked(damaged, repair=True)
    assert [finding.outcome for finding in recorder.findings] == [Outcome.REPAIRED]
    assert await damaged.find(LINK) is not None
