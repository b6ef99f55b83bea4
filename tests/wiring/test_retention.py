"""Retention of the settings: which jobs and recorders they need, and a pass of the job."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.retention.repositories import NAME, Repository

from moorage.config.model import Settings
from moorage.registry.lease import Lease
from moorage.registry.pulls import PullRecorder, PullTimes
from moorage.retention import run as run_module
from moorage.storage.driver import StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image
from moorage.types import Tag
from moorage.wiring.housekeeping import jobs
from moorage.wiring.retention import RetentionJob, make_policy, make_pulls, records_pulls

RULE = {"repositories": ("team/*",), "keeplast": 1}


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look of a run comes at once."""
    monkeypatch.setattr(run_module, "SETTLE_S", 0.0)


def settings(retention: dict[str, Any], storage: dict[str, Any] | None = None, **more: Any) -> Settings:
    return Settings.model_validate(
        {"storage": {"filesystem": {}} | (storage or {}), "retention": retention, **more}
    )


@pytest.mark.parametrize(
    ("retention", "storage", "needed", "recorded"),
    [
        ({}, {}, False, False),
        ({"rules": (RULE,)}, {}, False, False),
        ({"enabled": True, "rules": (RULE,)}, {}, True, False),
        ({"rules": (RULE | {"pulledwithin": 3600.0},)}, {}, True, True),
        ({"pulls": {"enabled": True}}, {}, True, True),
        ({"enabled": True, "rules": (RULE,), "pulls": {"enabled": True}},
         {"maintenance": {"readonly": {"enabled": True}}}, False, False),
    ],
)  # fmt: skip
def test_settings_need_a_job_and_a_recorder(
    retention: dict[str, Any], storage: dict[str, Any], needed: bool, recorded: bool
) -> None:
    """A read-only registry writes nothing, and one without rules has no job."""
    given = settings(retention, storage)
    assert any(isinstance(job, RetentionJob) for job in jobs(given, "i")) == needed
    assert records_pulls(given) == recorded
    assert (make_pulls(MemoryDriver(), given) is not None) == recorded


def test_data_in_memory_has_no_job() -> None:
    given = Settings.model_validate(
        {"storage": {"inmemory": {}}, "retention": {"enabled": True, "rules": (RULE,)}}
    )
    assert RetentionJob.needed(given, "i") is None


def test_another_rule_makes_another_job() -> None:
    one = RetentionJob.needed(settings({"enabled": True, "rules": (RULE,)}), "i")
    assert one == RetentionJob.needed(settings({"enabled": True, "rules": (RULE,)}, http={"draintimeout": 5}), "i")
    assert one != RetentionJob.needed(settings({"enabled": True, "rules": (RULE | {"keeplast": 2},)}), "i")


def test_other_limits_of_a_cache_make_another_job() -> None:
    """Times of pulls are compacted for a cache, too."""
    given = {"pulls": {"enabled": True}}
    without = RetentionJob.needed(settings(given), "i")
    mirror = {"remoteurl": "https://registry.test", "ttl": 3600.0}
    assert RetentionJob.needed(settings(given, proxy=mirror), "i") != without
    assert RetentionJob.needed(settings({}, proxy=mirror), "i") is not None
    assert RetentionJob.needed(settings({}, proxy=mirror | {"ttl": 0.0}), "i") is None


@pytest.mark.parametrize(("days", "left"), [(7, 0), (500, 1)])
async def test_times_of_pulls_are_kept_for_the_ttl_of_a_cache(days: int, left: int) -> None:
    """Else what is pulled once in a year would expire as if it never was."""
    driver = MemoryDriver()
    pulled = time.time() - 450 * 86400
    recorder = PullRecorder(driver, flush_s=60, now=lambda: pulled)
    for number in range(2):
        recorder.note(NAME, Tag(f"v{number}"))
        await recorder.flush()
    mirror = {"remoteurl": "https://registry.test", "ttl": days * 86400.0}
    job = RetentionJob.needed(settings({}, proxy=mirror), "i")
    assert job is not None
    await job.once(driver, Lease(driver, "retention", "i", term_s=60))
    times = PullTimes(driver)
    await times.load()
    assert (times.last(NAME, Tag("v0")) is not None) == bool(left)


def test_rules_are_those_of_the_settings() -> None:
    policy = make_policy(
        settings(
            {
                "rules": (
                    {"repositories": ("a",), "pushedwithin": 60.0, "tags": {"match": ("v*",), "except_": ("v1",)}},
                    {"name": "all", "repositories": ("b",), "keepall": True},
                ),
                "untagged": {"after": 7200.0},
                "holds": ({"repositories": ("a",), "reason": "r", "tags": ("x",)},),
            },
            immutability={"rules": ({"repositories": ("a",), "tags": ("i",)},)},
        )
    )
    first, second = policy.rules
    assert (first.name, first.pushed_within, second.name) == ("rules[0]", timedelta(minutes=1), "all")
    assert first.tags.selects(Tag("v2"))
    assert not first.tags.selects(Tag("v1"))
    assert policy.untagged_after == timedelta(hours=2)
    assert policy.protection.holds.holds(NAME, Tag("x")) is None


async def _pushed() -> Repository:
    repository = Repository(MemoryDriver())
    await repository.push(image(seed=1), "v1")
    await repository.push(image(seed=2), "v2")
    return repository


@pytest.mark.parametrize("dry_run", [True, False])
async def test_one_node_applies_the_rules(dry_run: bool) -> None:
    repository = await _pushed()
    job = RetentionJob.needed(settings({"enabled": True, "dryrun": dry_run, "rules": (RULE,)}), "i")
    assert job is not None
    mine = Lease(repository.driver, "retention", "i", term_s=60)
    other = Lease(repository.driver, "retention", "other", term_s=60)
    assert await other.acquire()
    assert await job.once(repository.driver, mine) is None
    assert await repository.tags() == {"v1", "v2"}
    await other.release()
    with capture_logs() as logs:
        summary = await job.once(repository.driver, mine)
    assert summary is not None
    assert summary.tags == 1
    assert await repository.tags() == ({"v1", "v2"} if dry_run else {"v2"})
    deleted = next(line for line in logs if line.get("tag") == "v1")
    assert deleted["event"] == ("tag would be deleted by retention" if dry_run else "tag deleted by retention")
    assert deleted["rule"] == "rules[0]"


async def test_a_failing_store_ends_the_pass_with_one_line() -> None:
    class Failing(MemoryDriver):
        async def read(self, *_args: Any, **_kwargs: Any) -> Any:
            raise StorageUnavailable("down")

    job = RetentionJob.needed(settings({"enabled": True, "rules": (RULE,)}), "i")
    assert job is not None
    driver = Failing()
    with capture_logs() as logs:
        assert await job.once(driver, Lease(driver, "retention", "i", term_s=60)) is None
    assert [line["event"] for line in logs] == ["retention failed, and is tried again after its interval"]


async def test_rules_by_pulls_wait_until_pulls_are_known() -> None:
    repository = await _pushed()
    rule = {"repositories": ("team/*",), "pulledwithin": 1.0}
    job = RetentionJob.needed(settings({"enabled": True, "rules": (rule,)}), "i")
    assert job is not None
    await job.once(repository.driver, Lease(repository.driver, "retention", "i", term_s=60))
    assert await repository.tags() == {"v1", "v2"}
