"""Sync as a job of the housekeeper: when there is one, what a run does and logs, once per cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tests.upstream.faulty import FaultyRegistry

from moorage.config.model import Settings
from moorage.registry.lease import Lease
from moorage.storage.driver import StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.types import parse_repo_name, parse_tag
from moorage.wiring import sync as sync_module
from moorage.wiring.housekeeping import jobs
from moorage.wiring.replication import opened_registry
from moorage.wiring.sync import RegistrySyncJob

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

APP, V1 = parse_repo_name("mirror/app"), parse_tag("1.0.0")


@pytest_asyncio.fixture
async def source() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image("app", "1.0.0", [b"layer"])
        yield registry


def settings(host: str, storage: dict[str, Any] | None = None, target: Any = None, **sync: Any) -> Settings:
    job = {
        "name": "night",
        "source": {"registry": host, "plainhttp": True},
        "target": target,
        "repositories": ({"match": "app", "target": "mirror/"},),
    }
    return Settings.model_validate(
        {"storage": storage or {"filesystem": {}}, "sync": {"enabled": True, "jobs": (job,), **sync}}
    )


def job_of(given: Settings) -> RegistrySyncJob:
    job = RegistrySyncJob.needed(given, "i")
    assert job is not None
    return job


READONLY = {"filesystem": {}, "maintenance": {"readonly": {"enabled": True}}}


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        (settings("a.test"), True),
        (settings("a.test", enabled=False), False),
        (settings("a.test", jobs=()), False),
        (settings("a.test", {"inmemory": {}}), False),
        (settings("a.test", READONLY), False),
        (settings("a.test", READONLY, target={"registry": "b.test"}), True),
    ],
)
def test_settings_need_a_job(given: Settings, needed: bool) -> None:
    """A read-only registry copies nothing to itself."""
    assert any(isinstance(job, RegistrySyncJob) for job in jobs(given, "i")) == needed


async def test_a_run_copies_and_logs(source: FaultyRegistry) -> None:
    driver = MemoryDriver()
    given = settings(source.host)
    job = job_of(given)
    with capture_logs() as logs:
        report = await job.once(driver, Lease(driver, "sync", "i", term_s=60))
    assert report is not None
    assert report.is_complete
    assert [line["event"] for line in logs] == ["sync copied an image", "sync is complete"]
    assert (logs[0]["target"], logs[1]["copied"]) == ("mirror/app:1.0.0", 1)
    async with opened_registry(given, driver) as registry:
        assert (await registry.manifests.get(APP, V1)).digest == source.tags_of("app")["1.0.0"]
    with capture_logs() as logs:
        await job.once(driver, Lease(driver, "sync", "i", term_s=60))
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == ["sync is complete"]


async def test_a_dry_run_copies_nothing(source: FaultyRegistry) -> None:
    driver = MemoryDriver()
    with capture_logs() as logs:
        await job_of(settings(source.host, dryrun=True)).once(driver, Lease(driver, "sync", "i", term_s=60))
    assert logs[0]["event"] == "sync would copy an image"
    assert source.requests["GET", f"/v2/app/blobs/{next(iter(source.blobs_of('app')))}"] == 0


async def test_what_is_missing_is_an_error_in_the_log(source: FaultyRegistry) -> None:
    """An alert on errors is what tells an operator of a mirror that stays behind."""
    source.tags_of("app")["2.0.0"] = "sha256:" + "0" * 64
    driver = MemoryDriver()
    with capture_logs() as logs:
        report = await job_of(settings(source.host)).once(driver, Lease(driver, "sync", "i", term_s=60))
    assert report is not None
    assert (logs[-1]["log_level"], logs[-1]["missing"], logs[-1]["copied"]) == ("error", 1, 1)
    missing = next(line for line in logs if line["event"] == "sync misses content in a source")
    assert missing["log_level"] == "warning"


async def test_one_node_runs_at_a_time(source: FaultyRegistry) -> None:
    driver = MemoryDriver()
    assert await Lease(driver, "sync", "other", term_s=60).acquire()
    job = job_of(settings(source.host))
    assert await job.once(driver, Lease(driver, "sync", "i", term_s=60)) is None
    assert not source.received


async def test_a_failing_store_ends_the_run_and_not_the_job(
    source: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = MemoryDriver()
    job = job_of(settings(source.host))

    async def failing(*_: object, **__: object) -> None:
        raise StorageUnavailable("no bucket")

    monkeypatch.setattr(sync_module, "run_sync", failing)
    with capture_logs() as logs:
        assert await job.once(driver, Lease(driver, "sync", "i", term_s=60)) is None
    assert [line["event"] for line in logs] == ["sync failed, and is tried again after its interval"]


async def test_the_lease_is_given_back_at_the_end(source: FaultyRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node begins at once when this one is stopped, not after one and a half intervals."""
    driver = MemoryDriver()
    job = job_of(settings(source.host, interval=0.001))
    done = asyncio.Event()
    real = RegistrySyncJob.once

    async def once(self: RegistrySyncJob, *arguments: Any) -> Any:
        found = await real(self, *arguments)
        done.set()
        return found

    monkeypatch.setattr(RegistrySyncJob, "once", once)
    task = asyncio.create_task(job.work(driver))
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await Lease(driver, "sync", "other", term_s=60).acquire()


async def test_the_files_of_the_client_are_checked_when_it_is_made(source: FaultyRegistry) -> None:
    driver = MemoryDriver()
    given = settings(source.host, target={"registry": "b.test", "ca": "/nowhere.pem"})
    with capture_logs() as logs:
        await job_of(given).once(driver, Lease(driver, "sync", "i", term_s=60))
    assert "/nowhere.pem" in logs[0]["cause"]
