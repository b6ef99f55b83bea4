"""Runs of garbage collection as settings make them, and the jobs of the housekeeper around them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from moorage import __version__
from moorage.config.model import Settings
from moorage.gc.errors import CollectionRefused
from moorage.gc.mark import SkippedObject
from moorage.gc.options import CollectionOptions
from moorage.gc.report import Report
from moorage.gc.run import LEASE
from moorage.registry import layout
from moorage.registry.collection_state import RESERVE
from moorage.registry.lease import Lease
from moorage.server.housekeeper.jobs import JobContext
from moorage.storage.driver import ALWAYS, KeyMissing, StorageDenied
from moorage.storage.memory import MemoryDriver
from moorage.wiring import garbage_collection, storage
from moorage.wiring.collection_job import GarbageCollectionJob, NodeRecordJob
from moorage.wiring.garbage_collection import collection_options, log_fields, run_collection
from moorage.wiring.housekeeping import jobs

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Key, Version, When


def _settings(collection: dict[str, Any] | None = None, **storage: Any) -> Settings:
    maintenance = {
        "garbagecollection": {"enabled": True} | (collection or {}),
        "uploadpurging": {"enabled": False},
    }
    sections = {"filesystem": {"rootdirectory": "/data"}, "maintenance": maintenance} | storage
    return Settings.model_validate({"storage": sections})


def test_settings_become_options_and_the_command_line_counts() -> None:
    settings = _settings({"deleteuntagged": True, "grace": 7200, "wait": 60}, delete={"undo": 3600})
    expected = CollectionOptions(
        delete_untagged=True, grace_s=7200, undo_s=3600, wait_s=60, upload_age_s=168 * 3600, dry_run=False
    )
    assert collection_options(settings) == expected
    given = collection_options(settings, delete_untagged=False, grace_s=0, wait_s=0, dry_run=True)
    assert (given.delete_untagged, given.grace_s, given.wait_s, given.dry_run) == (False, 0, 0, True)


async def test_a_run_that_is_refused_names_the_process_that_collects() -> None:
    """An operator has to know on which host to look."""
    driver = MemoryDriver()
    assert await Lease(driver, LEASE, "host-b, process 7", term_s=120).acquire()
    with pytest.raises(CollectionRefused, match="host-b, process 7, which extended the lease at 20"):
        await run_collection(_settings(), driver, CollectionOptions(), owner="host-a, process 1")


def test_the_log_line_has_counts_and_the_reason() -> None:
    report = Report("token", outcome="paused", reason="collections are paused")
    report.freed.add(7)
    fields = log_fields(report)
    assert (fields["removed_blobs"], fields["removed_bytes"], fields["outcome"]) == (1, 7, "paused")
    assert fields["reason"] == "collections are paused"
    assert "reason" not in log_fields(Report("token"))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> MemoryDriver:
    """The driver of the jobs."""
    found = MemoryDriver()
    monkeypatch.setattr(storage, "make_driver", lambda _: found)
    return found


@pytest.fixture
async def filled(driver: MemoryDriver) -> MemoryDriver:
    """The same, of a registry that has content."""
    await driver.write(layout.lease("any"), b"")
    return driver


async def test_background_work_begins_with_the_first_content(driver: MemoryDriver) -> None:
    """Before that it would create a data directory that was lost a moment ago."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            await driver.write(layout.lease("any"), b"")

    await storage.wait_for_content(_settings(), sleep)
    assert slept == [10, 10]
    assert [stat.key async for page in driver.scan(layout.ROOT) for stat in page] == [layout.lease("any")]


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeps of a job: the first returns at once, the second cancels it."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 1:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


async def _run(job: GarbageCollectionJob | NodeRecordJob) -> None:
    with pytest.raises(asyncio.CancelledError):
        await job.run(JobContext(lambda _: None))


def _job(settings: Settings, kind: type) -> Any:
    (job,) = (job for job in jobs(settings, "instance-1") if isinstance(job, kind))
    return job


async def test_the_job_collects_logs_and_keeps_a_reserve(
    filled: MemoryDriver, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = [Report("t", problems=[SkippedObject(layout.COLLECTION, "is torn")] * 12, problem_count=12)]
    calls: list[CollectionOptions] = []

    async def collect(_: Settings, __: Driver, options: CollectionOptions, **___: Any) -> Report:
        calls.append(options)
        return reports[0]

    monkeypatch.setattr(garbage_collection, "run_collection", collect)
    with capture_logs() as logs:
        await _run(_job(_settings({"interval": 60.0, "grace": 7200.0}), GarbageCollectionJob))
    assert [options.grace_s for options in calls] == [7200]
    assert [line["event"] for line in logs].count("skipped by garbage collection, and kept") == 10
    assert logs[-1]["event"] == "garbage collected"
    assert logs[-1]["problems"] == 12
    assert sleeps[1] == 60
    assert (await filled.stat(layout.collection(RESERVE))).size == 2**20


async def test_each_node_publishes_its_release_until_it_ends(
    filled: MemoryDriver, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector of another release would remove what this node relies on."""
    key = layout.node("instance-1")
    seen: list[object] = []
    write = filled.write

    async def noting(key: Key, data: bytes, when: When = ALWAYS) -> Version:
        seen.append(json.loads(data)["release"])
        return await write(key, data, when)

    monkeypatch.setattr(filled, "write", noting)
    await _run(_job(_settings(), NodeRecordJob))
    assert seen == [__version__, __version__]
    assert sleeps == [300, 300]
    with pytest.raises(KeyMissing):
        await filled.stat(key)


async def test_a_store_that_refuses_the_record_is_logged_once(
    filled: MemoryDriver, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def denied(*_: object) -> Version:
        raise StorageDenied("write: AccessDenied")

    monkeypatch.setattr(filled, "write", denied)
    with capture_logs() as logs:
        await _run(_job(_settings(), NodeRecordJob))
    assert len(sleeps) == 2
    assert [line["event"] for line in logs] == ["this node cannot publish its release in the store"]


def test_another_hold_or_another_interval_makes_another_job() -> None:
    """The running collector must not remove what a new hold names."""
    before = _job(_settings(), GarbageCollectionJob)
    assert _job(_settings(), GarbageCollectionJob) == before
    assert _job(_settings({"interval": 60.0}), GarbageCollectionJob) != before
    held = _settings().model_dump(exclude_unset=True) | {
        "retention": {"holds": [{"repositories": ["team/*"], "reason": "audit"}]}
    }
    assert _job(Settings.model_validate(held), GarbageCollectionJob) != before
