"""The jobs of the registry: which settings need which, and what the first access to a bucket reports."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, Final

import pytest
from structlog.testing import capture_logs

from moorage.config.model import Settings
from moorage.registry import layout
from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.storage.driver import StorageDenied
from moorage.storage.memory import MemoryDriver
from moorage.wiring import storage
from moorage.wiring.collection_job import GarbageCollectionJob, NodeRecordJob
from moorage.wiring.housekeeping import StorageProbe, jobs
from moorage.wiring.purging import UploadPurgingJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from moorage.storage.driver import Driver

BUCKET: Final[dict[str, Any]] = {"s3": {"bucket": "b", "region": "r"}}
FILES: Final[dict[str, Any]] = {"filesystem": {"rootdirectory": "/data"}}
OFF: Final[dict[str, Any]] = {"maintenance": {"uploadpurging": {"enabled": False}}}
COLLECTED: Final[dict[str, Any]] = {"maintenance": {"garbagecollection": {"enabled": True}}}
READONLY: Final[dict[str, Any]] = {"maintenance": {"readonly": {"enabled": True}}}


def settings(storage: Mapping[str, object], **more: object) -> Settings:
    return Settings.model_validate({"storage": dict(storage), **more})


@pytest.mark.parametrize(
    ("storage", "names"),
    [
        (FILES, [UploadPurgingJob, NodeRecordJob]),
        (FILES | OFF, [NodeRecordJob]),
        (FILES | READONLY, []),
        (FILES | COLLECTED, [UploadPurgingJob, NodeRecordJob, GarbageCollectionJob]),
        (BUCKET, [StorageProbe, UploadPurgingJob, NodeRecordJob]),
        (BUCKET | OFF, [StorageProbe, NodeRecordJob]),
        (BUCKET | READONLY, [StorageProbe]),
        ({"inmemory": {}}, []),
    ],
)
def test_settings_need_jobs(storage: Mapping[str, object], names: list[type]) -> None:
    """A process without a job is not started; data in the memory of a worker can be purged there only."""
    assert [type(job) for job in jobs(settings(storage), "i")] == names


def test_only_another_storage_makes_another_job() -> None:
    """The housekeeper is replaced for what concerns it; a pass that lists a large bucket takes hours."""
    before = jobs(settings(BUCKET), "i")
    assert jobs(settings(BUCKET, http={"draintimeout": 5}), "i") == before
    assert jobs(settings(BUCKET | OFF), "i") != before
    assert jobs(settings({"s3": {"bucket": "other", "region": "r"}}), "i") != before


async def test_a_bucket_that_denies_access_is_reported_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first push, by a user; and the registry serves what it can."""

    class Denied(MemoryDriver):
        closed = False

        async def probe(self) -> None:
            raise StorageDenied("probe b: AccessDenied")

        async def close(self) -> None:
            self.closed = True

    driver = Denied()
    monkeypatch.setattr(storage, "make_driver", lambda _: driver)
    (probe,) = jobs(settings(BUCKET | READONLY), "i")
    with capture_logs() as logs:
        await probe.run(JobContext(lambda _: None))
    assert [line["event"] for line in logs] == ["the storage denies access"]
    assert driver.closed


ALL_JOBS: Final[dict[str, Any]] = {
    "quota": {"rules": ({"repositories": "team/*", "tags": 1},)},
    "retention": {"enabled": True, "rules": ({"repositories": ("team/*",), "keeplast": 1},)},
    "proxy": {"remoteurl": "https://registry.test"},
    "sync": {
        "enabled": True,
        "jobs": ({"name": "a", "source": {"registry": "b.test"}, "repositories": ({"match": "c"},)},),
    },
}


def kinds(kind: type[Job] = Job) -> Iterator[type[Job]]:
    """Every job of the registry that can be run."""
    for each in kind.__subclasses__():
        yield from kinds(each)
        if each.__module__.startswith("moorage.wiring") and not inspect.isabstract(each):
            yield each


async def test_no_job_writes_into_a_store_without_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data directory that was lost would be created again, and count as a registry without images."""
    root = tmp_path / "lost"
    files = {"filesystem": {"rootdirectory": str(root)}}
    found = jobs(settings(files | COLLECTED, **ALL_JOBS), "i")
    bucket = MemoryDriver()
    probes = [job for job in jobs(settings(BUCKET), "i") if isinstance(job, StorageProbe)]
    assert {type(job) for job in [*found, *probes]} == set(kinds()), "settings that need each of them are above"

    looks = 0
    has_content = storage._has_content

    async def look(driver: Driver) -> bool:
        nonlocal looks
        looks += 1
        if looks % 3 == 0:
            raise asyncio.CancelledError
        return await has_content(driver)

    monkeypatch.setattr(storage, "_LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(storage, "_has_content", look)
    for job in found:
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):  # one that does not wait runs for ever
                await job.run(JobContext(lambda _: None))
        assert not root.exists(), job
    assert looks == 3 * len(found), "each has looked for content until it was cancelled"
    monkeypatch.setattr(storage, "make_driver", lambda _: bucket)
    for job in probes:
        await job.run(JobContext(lambda _: None))
    assert [page async for page in bucket.children(layout.ROOT)] == []
