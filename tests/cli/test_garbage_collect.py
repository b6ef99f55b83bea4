"""`moorage garbage-collect` as it is typed: the reference's command line, refusals, pause and status."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.gc.simple_mark import SimpleMark

from moorage.cli import garbage_collect_run
from moorage.gc.mark import SkippedObject
from moorage.gc.report import Report, RepositoryReport, Volume
from moorage.gc.run import Collection
from moorage.registry import layout
from moorage.registry.boot_clock import boot_seconds
from moorage.storage.driver import StorageUnavailable
from moorage.types import Digest, RepoName
from moorage.wiring import garbage_collection

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

    from moorage.config.model import Settings
    from moorage.gc.options import CollectionOptions
    from moorage.storage.driver import Driver

COLLECTION = "docker/registry/v2/_moorage/collection"


def _config(tmp_path: Path, maintenance: str = "", *, root: Path | None = None) -> Path:
    file = tmp_path / "config.yml"
    storage = f"filesystem: {{rootdirectory: '{root or tmp_path / 'data'}'}}, maintenance: {{{maintenance}}}"
    file.write_text(f"version: 0.1\nstorage: {{{storage}}}\nhttp: {{addr: ':0'}}\n")
    return file


@pytest.fixture
def garbage(tmp_path: Path) -> Path:
    """A store with one blob that nothing links; its path."""
    data = b"garbage"
    path = tmp_path / "data" / layout.blob_data(Digest.of(data))
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bogus",),
        ("--grace", "5"),
        ("--grace=-1h",),
        ("--wait", "soon"),
        ("--dry-run=maybe",),
        ("a.yml", "b.yml"),
        ("--pause", "--resume"),
        ("--pause", "--dry-run"),
        ("--status", "--wait", "1m"),
        ("--resume", "-m"),
    ],
)
def test_a_mistake_on_the_command_line_is_status_2(run: Run, garbage: Path, arguments: tuple[str, ...]) -> None:
    """The reference exits with 0 after an unknown flag, and a cron job never noticed."""
    result = run("garbage-collect", *arguments, _config(garbage.parents[6]), name="registry")
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert garbage.exists()


@pytest.mark.parametrize(
    ("maintenance", "reason"),
    [
        ("readonly: {enabled: true}", "storage.maintenance.readonly is enabled, nothing was removed"),
        ("garbagecollection: {foreignwriters: true}", "another registry writes to this store"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--pause",), ("--resume",), ("-m", "-q")])
def test_a_store_that_must_not_be_changed_is_not(
    run: Run, garbage: Path, tmp_path: Path, maintenance: str, reason: str, arguments: tuple[str, ...]
) -> None:
    result = run("garbage-collect", *arguments, _config(tmp_path, maintenance))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert reason in result.stderr
    assert garbage.exists()
    assert not (tmp_path / "data" / COLLECTION).exists()


def test_a_store_that_is_not_there_is_no_empty_one(run: Run, tmp_path: Path) -> None:
    """A volume that is not mounted: nothing is created in its place."""
    for arguments in ((), ("--dry-run",), ("--status",), ("--pause",)):
        result = run("garbage-collect", *arguments, _config(tmp_path))
        assert (result.returncode, result.stdout) == (1, "")
        assert "is its volume mounted?" in result.stderr
        assert not (tmp_path / "data").exists()


def test_memory_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: ':0'}\n")
    result = run("garbage-collect", tmp_path / "config.yml")
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is nothing to collect" in result.stderr


def test_a_pause_is_shown_and_taken_back(run: Run, garbage: Path, tmp_path: Path) -> None:
    config = _config(tmp_path)
    status = json.loads(run("garbage-collect", "--status", "--json", config).stdout)
    assert status["paused"] is None
    assert status["run"] is None
    assert not (tmp_path / "data" / COLLECTION).exists(), "a question changes nothing"
    paused = run("garbage-collect", "--pause", config)
    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout.startswith("paused: no node begins a run")
    assert " by " in json.loads(run("garbage-collect", "--status", "--json", config).stdout)["paused"]
    assert run("garbage-collect", "--resume", config).stdout.startswith("resumed")
    assert run("garbage-collect", "--resume", config).stdout == "collection was not paused\n"
    shown = run("garbage-collect", "--status", config).stdout.splitlines()
    assert "paused:      -" in shown
    assert garbage.exists()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Runs over `SimpleMark` whose waits pass at once; the waits, in seconds."""
    waits: list[float] = []
    elapsed = [0.0]

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        elapsed[0] += seconds

    def collection(**parts: Any) -> Collection:
        # The timer of the guard is that of pytest-timeout.
        return Collection(
            **parts, sleep=sleep, clock=lambda: boot_seconds() + elapsed[0], guard=lambda _: nullcontext()
        )

    class Mark:
        def __init__(self, _: Settings, driver: Driver, options: CollectionOptions, __: object) -> None:
            self.marker = lambda now: SimpleMark(driver, options, now)
            later = replace(options, grace_s=0, undo_s=0)
            self.timeless = lambda now: SimpleMark(driver, later, now)

        def is_held(self, name: str) -> bool:
            return False

        async def load(self) -> None: ...

        async def save(self) -> None: ...

    monkeypatch.setattr(garbage_collection, "Collection", collection)
    monkeypatch.setattr(garbage_collection, "StoredMark", Mark)
    return waits


def _age(path: Path, seconds: float) -> None:
    past = time.time() - seconds
    os.utime(path, (past, past))


@pytest.fixture
def old_garbage(garbage: Path) -> Path:
    """The same blob, two days old."""
    _age(garbage, 2 * 86_400)
    return garbage


TABLE = """\
REPOSITORY          MANIFESTS     LAYERS       BYTES
(in no repository)          0          0         7 B

1 blobs and 0 manifests eligible for deletion (7 B)
"""


@pytest.mark.parametrize(
    "flags", [("--dry-run",), ("-d",), ("-d", "-m"), ("--dry-run=true", "--delete-untagged=false")]
)
def test_a_dry_run_reports_and_changes_nothing(
    run: Run, old_garbage: Path, tmp_path: Path, quick: list[float], flags: tuple[str, ...]
) -> None:
    """In read-only mode and beside another registry as well; nothing is waited for."""
    config = _config(tmp_path, "readonly: {enabled: true}, garbagecollection: {foreignwriters: true}")
    result = run("garbage-collect", *flags, config, name="registry")
    assert (result.returncode, result.stdout) == (0, TABLE + "dry run: nothing was removed\n"), result.stderr
    assert old_garbage.exists()
    assert not (tmp_path / "data" / COLLECTION).exists()
    assert quick == []


@pytest.mark.parametrize("flags", [(), ("--dry-run=false",), ("-m",), ("--delete-untagged=1", "-q=f")])
def test_the_command_line_of_the_reference_removes_garbage(
    run: Run, old_garbage: Path, tmp_path: Path, quick: list[float], flags: tuple[str, ...]
) -> None:
    """A cron job gets a useful result with one command: it announces, waits, removes and reports."""
    result = run("garbage-collect", *flags, _config(tmp_path), name="registry")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(TABLE + "removed 1 blob (7 B) in ")
    assert not old_garbage.exists()
    assert sum(quick) >= 600, "the wait of the settings"
    status = json.loads(run("garbage-collect", "--status", "--json", _config(tmp_path)).stdout)
    assert (status["run"], status["condemned"], status["doomed"]) == (None, 0, 0)
    assert status["last_run"] is not None
    assert status["continuable"] is False


def test_times_of_the_command_line_count(run: Run, garbage: Path, tmp_path: Path, quick: list[float]) -> None:
    """What is younger than the grace time is kept, and not waited for."""
    assert run("garbage-collect", _config(tmp_path)).returncode == 0
    assert garbage.exists()
    _age(garbage, 5)
    result = run("garbage-collect", "--grace", "1s", "--wait", "30s", _config(tmp_path))
    assert (result.returncode, garbage.exists()) == (0, False), result.stderr
    assert 30 <= sum(quick) < 90


def test_quiet_runs_print_nothing_but_json(
    run: Run, old_garbage: Path, tmp_path: Path, quick: list[float]
) -> None:
    quiet = run("garbage-collect", "-q", "-d", _config(tmp_path))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    report = json.loads(run("garbage-collect", "-q", "--json", _config(tmp_path)).stdout)
    assert (report["outcome"], report["freed"]) == ("finished", {"objects": 1, "bytes": 7})
    assert not old_garbage.exists()
    assert quick


def test_repositories_are_listed_largest_first(
    run: Run, tmp_path: Path, quick: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("token", freeable=Volume(3, 5000), freed=Volume(2, 4096), layers=3, kept=1, quarantined=2)
    report.unlinked = Volume(1, 12)
    report.repositories = {
        RepoName("small/app"): RepositoryReport(1, 0, 904),
        RepoName("big"): RepositoryReport(0, 2, 4096),
        RepoName("none"): RepositoryReport(0, 1, 0),
    }
    garbage_collect_run._show(report)
    assert capsys.readouterr().out.splitlines() == [
        "REPOSITORY          MANIFESTS     LAYERS       BYTES",
        "big                         0          2     4.0 KiB",
        "small/app                   1          0       904 B",
        "none                        0          1         0 B",
        "(in no repository)          0          0        12 B",
        "",
        "3 blobs and 1 manifests eligible for deletion (4.9 KiB)",
        "removed 2 blobs (4.0 KiB), 3 layer links in 0.0 s",
        "kept 1 blob that became needed during the run",
        "kept 2 objects of a run that died, until its removals cannot arrive",
    ]


def test_what_is_skipped_is_reported_and_no_failure(
    run: Run, tmp_path: Path, quick: list[float], monkeypatch: pytest.MonkeyPatch, garbage: Path
) -> None:
    """The reference ends at the first corrupt link."""
    problem = SkippedObject(layout.blob_data(Digest.of(b"x")), "is no manifest")

    async def collect(*_: Any, **__: Any) -> Report:
        return Report("token", dry_run=True, problems=[problem], problem_count=5)

    monkeypatch.setattr(garbage_collection, "run_collection", collect)
    result = run("garbage-collect", "-d", _config(tmp_path))
    assert result.returncode == 0
    assert f"warning: {problem.key}: is no manifest; kept" in result.stderr
    assert "warning: 4 further problems" in result.stderr


def test_a_pause_ends_a_run_with_the_reason(
    run: Run, old_garbage: Path, tmp_path: Path, quick: list[float]
) -> None:
    """Before it has begun: nothing is written."""
    config = _config(tmp_path)
    run("garbage-collect", "--pause", config)
    result = run("garbage-collect", config)
    assert (result.returncode, result.stdout) == (1, "")
    assert "error: garbage collection is paused" in result.stderr
    assert old_garbage.exists()
    run("garbage-collect", "--resume", config)
    assert run("garbage-collect", "-q", config).returncode == 0
    assert not old_garbage.exists()


def test_a_run_that_stopped_early_is_status_1(
    run: Run, tmp_path: Path, quick: list[float], monkeypatch: pytest.MonkeyPatch, garbage: Path
) -> None:
    async def collect(*_: Any, **__: Any) -> Report:
        return Report("token", outcome="interrupted", reason="the lease of this run was lost")

    monkeypatch.setattr(garbage_collection, "run_collection", collect)
    result = run("garbage-collect", _config(tmp_path))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "interrupted: the lease of this run was lost"


def test_a_store_that_fails_is_status_1_without_a_traceback(
    run: Run, old_garbage: Path, tmp_path: Path, quick: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> list[Any]:
        raise StorageUnavailable("list: timeout")

    monkeypatch.setattr(SimpleMark, "mark", fails)
    result = run("garbage-collect", _config(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "stopped: list: timeout" in result.stderr
    assert "the next run continues" in result.stderr
    assert old_garbage.exists()


def test_progress_is_shown_by_phase() -> None:
    """Each phase begins at 0; a total that grows is shown."""
    seen: list[tuple[str, object]] = []

    class Meter:
        def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
            del is_bytes
            seen.append((phase, total))

        def grow(self, count: int) -> None:
            seen.append(("grow", count))

        def advance(self, count: int) -> None:
            seen.append(("advance", count))

        def describe(self, text: str) -> None:
            raise AssertionError(text)

    progress = garbage_collect_run._Progress(Meter())
    for done, total in ((0, 10), (4, 10), (5, 12)):
        progress.report("waiting", done, total)
    progress.report("marking", 3, 0)
    assert [entry for entry in seen if entry != ("advance", 0)] == [
        ("waiting", 10), ("advance", 4), ("grow", 2), ("advance", 1), ("marking", None), ("advance", 3),
    ]  # fmt: skip
