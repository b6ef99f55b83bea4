"""How many workers there are, and what their caches may take, by the limits of the control group."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, load_text

from moorage.registry.manifest_contents import MANIFESTS_BYTES
from moorage.registry.referrers import REFERRERS_BYTES
from moorage.registry.stored import CACHES_BYTES, StoredOptions
from moorage.server.announcement import start_fields
from moorage.server.cgroups import Limits
from moorage.server.processes import worker_config
from moorage.server.processes.worker_config import Plan, draw, redraw, worker_count
from moorage.storage.memory import MemoryDriver
from moorage.wiring.app import Resources, make_registry

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.server.application import Application, WorkerContext, WorkerParameters

MIB = 1 << 20


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with sixteen."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def drawn(
    directory: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, text: str = BASE
) -> tuple[Plan, list[str]]:
    monkeypatch.setattr(worker_config, "limits", lambda: limits)
    return draw(load_text(directory, text), _no_application, secret=b"s", instance="i")


def _no_application(_: WorkerParameters, __: WorkerContext) -> Application:
    raise AssertionError("no worker is started")


@pytest.mark.parametrize(
    ("http", "quota", "workers"),
    [
        ("", None, 8),
        ("", 0.5, 1),
        ("", 1.5, 2),
        ("", 64.0, 8),
        ("  workers: 3\n", 0.5, 3),
        ("  workers: 12\n", None, 12),
    ],
)
def test_workers_are_as_many_as_the_quota_allows(
    tmp_path: Path, http: str, quota: float | None, workers: int
) -> None:
    """`docker run --cpus 1.5` on a large machine; what the operator sets holds."""
    assert worker_count(load_text(tmp_path, BASE + http).settings, Limits(quota)) == (workers, [])


def test_memory_is_served_by_one_worker(tmp_path: Path) -> None:
    text = BASE.replace("filesystem:\n    rootdirectory: /srv/registry", "inmemory: {}")
    assert worker_count(load_text(tmp_path, text).settings, Limits(4.0)) == (1, [])


@pytest.mark.parametrize(
    ("memory", "workers", "cache_bytes"),
    [(None, 8, None), (1024 * MIB, 8, 32 * MIB), (1024 * MIB, 1, 256 * MIB), (256 * MIB, 2, 32 * MIB)],
)
def test_caches_share_a_quarter_of_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None, workers: int, cache_bytes: int | None
) -> None:
    found, warnings = drawn(tmp_path, monkeypatch, Limits(workers, memory))
    assert (found.workers, found.cache_bytes, warnings) == (workers, cache_bytes, [])


@pytest.mark.parametrize(
    ("memory", "workers", "warning"),
    [
        (386, 8, "the memory limit of 386 MiB is low for 8 workers: allow 387 MiB, or set http.workers"),
        (100, 1, "the memory limit of 100 MiB is low for 1 worker: allow 107 MiB"),
        (387, 8, None),
        (107, 1, None),
    ],
)
def test_a_limit_that_is_low_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, workers: int, warning: str | None
) -> None:
    """The kernel would kill workers under load, and the log would name no reason."""
    _, warnings = drawn(tmp_path, monkeypatch, Limits(workers, memory * MIB))
    assert warnings == ([] if warning is None else [warning])


def test_the_start_line_has_the_limits_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = start_fields(drawn(tmp_path, monkeypatch, Limits())[0], {})
    assert {"cpu_limit", "memory_limit"}.isdisjoint(without)
    fields = start_fields(drawn(tmp_path, monkeypatch, Limits(1.5, 512 * MIB))[0], {})
    assert (fields["workers"], fields["cpu_limit"], fields["memory_limit"]) == (2, "1.5", "512 MiB")


def test_a_reload_keeps_the_workers_and_reads_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker update` changes them while the registry runs; caches are shared by the workers there are."""
    old, _ = drawn(tmp_path, monkeypatch, Limits(2.0, 1024 * MIB))
    monkeypatch.setattr(worker_config, "limits", lambda: Limits(1.0, 512 * MIB))
    new, warnings = redraw(old, load_text(tmp_path, BASE))
    assert (new.workers, new.cache_bytes) == (2, 64 * MIB)
    assert warnings == ["the limit of processors has changed: restart the registry to apply it"]
    _, warnings = redraw(old, load_text(tmp_path, BASE + "  workers: 5\n"))
    assert warnings == ["http.workers has changed: restart the registry to apply it"]


# ------------------------------------------------------------------------------------------ what comes of it


@pytest.mark.parametrize("cache_bytes", [None, 88 * MIB, 400 * MIB])
def test_caches_are_no_larger_with_more_memory(cache_bytes: int | None) -> None:
    options = StoredOptions(cache_bytes=cache_bytes)
    assert options.cache_share(MANIFESTS_BYTES) == 64 * MIB
    assert options.cache_share(REFERRERS_BYTES) == 24 * MIB


async def test_little_memory_makes_every_cache_smaller(tmp_path: Path) -> None:
    """In proportion; together they take what the plan has."""
    settings = load_text(tmp_path, BASE).settings
    registry = make_registry(MemoryDriver(), settings, b"s", Resources(cache_bytes=11 * MIB))
    assert registry.manifests.contents.cache._limit == 8 * MIB
    assert registry.referrers.cache._limit == 2 * MIB
    assert CACHES_BYTES == 88 * MIB
    await registry.close()


@pytest.mark.parametrize(
    ("files", "connections"),
    [(64, 10), (1024, 256), (4096, 1280), (65536, 16384), (resource.RLIM_INFINITY, 16384)],
)
def test_connections_leave_descriptors_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    """A download has three; where they run out, it is broken off and new clients are not accepted."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    made, _ = drawn(tmp_path, monkeypatch, Limits())
    assert made.options.http1.connections == connections
