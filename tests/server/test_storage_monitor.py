"""The storage monitor: what it finds, what it logs, and what a running server does meanwhile."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import structlog
import yaml
from tests.live import NotStarted, start_moorage
from tests.server.debugging import Debugged, debugged, until
from tests.wire import Wire

from moorage.config.model import Settings
from moorage.health_checks import HealthChecks, StorageReport, StorageSpace
from moorage.http.middleware import Traffic
from moorage.metrics.table import TABLE
from moorage.server.processes import storage_monitor, storage_report
from moorage.server.processes.storage_monitor import MonitoredDirectory, StorageMonitor, check, monitored, watch
from moorage.server.processes.storage_report import STALE_AFTER_S, SharedReport
from moorage.server.telemetry import Observing
from moorage.storage.filesystem import data_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.server.processes.protocol import WorkerStartup
    from moorage.server.processes.worker_config import Plan

OFTEN = {"writeprobe": {"interval": "50ms"}}
NEW = StorageReport()


class Ended(Exception):
    """Ends the endless loop of a test."""


def target(root: Path, *, write: bool = True, interval_s: float = 60.0) -> MonitoredDirectory:
    return MonitoredDirectory(str(root), write, interval_s)


def failing_writes(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """From now on every write check fails with that errno while the list that is returned holds something."""
    broken = ["broken"]
    real = data_directory.check_writable

    def checked(root: str) -> None:
        if broken:
            raise OSError(number, os.strerror(number), f"{root}/secret/place")
        real(root)

    monkeypatch.setattr(storage_monitor, "check_writable", checked)
    return broken


def rounds(target: MonitoredDirectory, report: SharedReport, *steps: Callable[[], object]) -> list[float]:
    """Run the monitor, with each step in one of its pauses; the pauses' lengths in seconds."""
    waiting = list(steps)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if not waiting:
            raise Ended
        waiting.pop(0)()

    with pytest.raises(Ended):
        watch(target, report, pause)
    return pauses


def test_a_new_directory_is_created_and_writable(tmp_path: Path) -> None:
    """A first start on an empty disk; the file of the check is gone afterwards."""
    root = tmp_path / "above" / "data"
    assert check(target(root), NEW) == StorageReport(writable=True, seen=True)
    assert list(root.iterdir()) == []


def test_every_directory_that_a_push_writes_to_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them may be a mount of its own."""
    written: list[str] = []
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            written.append(str(Path(path).parent.relative_to(tmp_path)))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", opened)
    v2 = tmp_path / "docker" / "registry" / "v2"
    v2.mkdir(parents=True)
    data_directory.check_writable(str(tmp_path))
    (v2 / "repositories").mkdir()
    (v2 / "blobs").mkdir()
    data_directory.check_writable(str(tmp_path))
    assert written == [f"docker/registry/v2{more}" for more in ("", "/repositories", "/blobs")]


def test_a_file_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    """One such file at most, however often the monitor is killed."""
    (tmp_path / data_directory._NAME).write_bytes(b"x" * 10_000)
    data_directory.check_writable(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_read_only_mode_writes_nothing(tmp_path: Path) -> None:
    """As configured; a missing directory is not even created."""
    root = tmp_path / "data"
    assert check(target(root, write=False), NEW) == NEW
    assert not root.exists()
    root.mkdir(0o500)
    before = root.stat().st_mtime_ns
    assert check(target(root, write=False), NEW) == StorageReport(seen=True)
    assert root.stat().st_mtime_ns == before


def test_the_space_of_the_file_system_is_measured_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alert that a disk fills up needs it, most of all while the disk is full."""
    found = check(target(tmp_path), NEW).space
    expected = os.statvfs(tmp_path)
    assert found is not None
    assert (found.size_bytes, found.inodes) == (expected.f_blocks * expected.f_frsize, expected.f_files)
    assert 0 < found.free_bytes <= found.size_bytes

    failing_writes(monkeypatch, errno.ENOSPC)
    report = SharedReport()
    report.write(check(target(tmp_path), NEW))
    assert (report.read().degraded, report.read().space is not None) == (True, True)

    assert check(target(tmp_path / "new", write=False), NEW).space is None, "it does not exist yet"
    lost = check(target(tmp_path / "new"), StorageReport(seen=True))
    assert (lost.readable, lost.space) == (False, None)


def test_a_change_of_the_space_is_reported_although_the_state_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the gauge would show the space of the start for ever."""
    spaces = iter([StorageSpace(100, free, 10, 5) for free in (30, 30, 20)])
    monkeypatch.setattr(storage_monitor, "_space", lambda _: next(spaces))
    report = SharedReport()
    seen: list[int] = []

    def look() -> None:
        space = report.read().space
        assert space is not None
        seen.append(space.free_bytes)

    rounds(target(tmp_path), report, look, look)
    look()
    assert seen == [30, 30, 20]


@pytest.mark.parametrize("inodes", [0, 10])
def test_space_becomes_gauges(inodes: int) -> None:
    """A file system without a fixed number of inodes has no gauge of 0, which would look full."""
    report = StorageReport(seen=True, space=StorageSpace(100, 30, inodes, inodes))
    observing = Observing(cast("WorkerStartup", SimpleNamespace(board=None)))
    observing.start(HealthChecks((), lambda: report), Traffic(), tuple, None)
    gauges = {name: value for name, _, value in observing._storage()}
    expected = {"moorage_storage_size_bytes": 100, "moorage_storage_free_bytes": 30}
    assert gauges == (
        expected | {"moorage_storage_inodes": 10, "moorage_storage_free_inodes": 10} if inodes else expected
    )
    assert gauges.keys() <= TABLE.keys()


@pytest.mark.parametrize("place", ["", "docker", "docker/registry"])
def test_a_file_in_the_place_of_a_directory_is_unreadable(tmp_path: Path, place: str) -> None:
    """For root as well, whom no permission stops."""
    path = tmp_path / "data" / place if place else tmp_path / "data"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    found = check(target(tmp_path / "data"), NEW)
    assert (found.readable, found.code) == (False, "ENOTDIR")
    assert "not a directory" in found.reason


def test_a_link_that_leads_nowhere_is_unreadable(tmp_path: Path) -> None:
    """Where it points is another volume, which is not mounted."""
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    found = check(target(tmp_path / "data"), NEW)
    assert (found.readable, found.code) == (False, "ENOENT")


def test_a_directory_that_disappears_is_not_created_again(tmp_path: Path) -> None:
    """An empty directory below a lost mount would look like a registry without images."""
    root = tmp_path / "data"
    before = check(target(root), NEW)
    root.rename(tmp_path / "away")
    found = check(target(root), before)
    assert (found.readable, found.code) == (False, "ENOENT")
    assert not root.exists()
    (tmp_path / "away").rename(root)
    assert check(target(root), found) == StorageReport(writable=True, seen=True)


@pytest.mark.parametrize("write", [True, False])
def test_an_empty_directory_does_not_replace_one_that_disappeared(tmp_path: Path, write: bool) -> None:
    """A bare mount point takes every push, and all images are gone; a restored backup is taken."""
    root = tmp_path / "data"
    root.mkdir()
    report = SharedReport()
    report.write(check(target(root, write=write), NEW))
    root.rename(tmp_path / "away")
    root.mkdir()
    found = check(target(root, write=write), report.read())
    assert (found.readable, found.code) == (False, "ENOENT")
    assert f"{root}: another directory" in found.cause
    assert list(root.iterdir()) == []
    report.write(found)
    (root / "docker/registry/v2").mkdir(parents=True)
    found = check(target(root, write=write), report.read())
    assert (found.readable, found.identity) == (True, (root.stat().st_dev, root.stat().st_ino))


def test_a_directory_that_disappears_between_two_checks_is_not_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume may be unmounted at any moment."""
    root = tmp_path / "data"
    before = check(target(root), NEW)
    real = data_directory.check_readable

    def checked(path: str, known: data_directory.Identity | None) -> data_directory.Identity:
        identity = real(path, known)
        root.rmdir()
        return identity

    monkeypatch.setattr(storage_monitor, "check_readable", checked)
    found = check(target(root), before)
    assert (found.readable, found.writable, found.code) == (True, False, "ENOENT")
    assert not root.exists()


@pytest.mark.parametrize(
    ("number", "reported"),
    [
        (errno.ENOSPC, "free or add space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "mount it read-write"),
        (errno.EACCES, "owner and mode"),
        (errno.EPERM, "owner and mode"),
        (errno.EIO, "the system's log"),
    ],
)
def test_the_cause_is_for_operators_and_the_reason_for_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reported: str
) -> None:
    """A client that may not push must not learn where the registry keeps its files."""
    failing_writes(monkeypatch, number)
    found = check(target(tmp_path), NEW)
    assert (found.readable, found.writable, found.degraded) == (True, False, True)
    assert found.code == errno.errorcode[number]
    assert reported in found.reason
    assert str(tmp_path) not in found.reason
    assert found.cause.startswith(f"{tmp_path}/secret/place: {os.strerror(number)}")
    assert (f"as user {os.geteuid()}" in found.cause) == (number in {errno.EACCES, errno.EPERM})


def test_each_change_of_state_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a state lasts: an operator reads when it began and when it ended."""
    report = SharedReport()
    broken = failing_writes(monkeypatch, errno.ENOSPC)
    wait = 3 * [lambda: None]
    root = tmp_path / "data"
    root.mkdir()
    away = tmp_path / "away"
    with structlog.testing.capture_logs() as logs:
        rounds(target(root), report, *wait, broken.clear, *wait, lambda: root.rename(away), *wait,
               lambda: away.rename(root), *wait)  # fmt: skip
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("error", "the data directory cannot be written to: pushes are refused, pulls are served"),
        ("info", "the data directory can be read and written again"),
        ("error", "the data directory cannot be read: every request is refused"),
        ("info", "the data directory can be read and written again"),
    ]
    assert logs[0]["remedy"] == "free or add space"
    assert str(tmp_path) in logs[0]["cause"]
    assert report.read() == StorageReport(writable=True, seen=True)


def test_files_are_written_rarely_and_sooner_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that sleeps should sleep on, and an operator who has made room should not have to wait a minute."""
    writes: list[int] = []
    broken: list[int] = []

    def written(_: str) -> None:
        writes.append(1)
        if broken:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(storage_monitor, "check_writable", written)
    pauses = rounds(target(tmp_path, interval_s=60), SharedReport(), *11 * [lambda: None])
    assert (sum(pauses[:-1]), len(writes)) == (110, 2)
    writes.clear()
    broken.append(1)
    pauses = rounds(target(tmp_path, interval_s=60), SharedReport(), *5 * [lambda: None])
    assert pauses == 6 * [5.0]
    assert len(writes) == 6


def test_half_of_a_report_is_not_read() -> None:
    """The monitor may be killed at any moment."""
    report = SharedReport()
    whole = StorageReport(writable=False, code="ENOSPC", reason="full", cause="/data: full", seen=True)
    report.write(whole)
    assert report.read() == whole
    assert report.read() is report.read(), "an unchanged report is not parsed for every request"
    report.write(StorageReport(writable=True))
    place = storage_report._place(2)
    report._memory[place + 10 : place + 14] = b"torn"
    assert report.read() == whole
    report.write(StorageReport(cause="é" * 5000))
    assert report.read().cause == "é" * 1000


@pytest.mark.parametrize("earlier", [1, 2])
def test_a_monitor_killed_while_it_reports_loses_no_earlier_report(earlier: int) -> None:
    """Its successor would take a directory that is lost for one that never existed, and create it again."""
    report = SharedReport()
    successor = copy.copy(report)
    for number in range(earlier):
        report.write(StorageReport(writable=True, seen=True, identity=(1, number)))

    class Killed:
        def __getitem__(self, index: int) -> int:
            return successor._sequences[index]

        def __setitem__(self, *_: object) -> None:
            raise Ended

    report._sequences = cast("memoryview[int]", Killed())
    with pytest.raises(Ended):
        report.write(StorageReport(writable=False, code="ENOSPC"))
    assert successor.read() == StorageReport(writable=True, seen=True)
    assert successor.read().identity == (1, earlier - 1)
    successor.write(NEW)
    assert copy.copy(successor).read() == NEW


def test_what_is_monitored() -> None:
    """Buckets and memory are not."""

    def of(**sections: object) -> MonitoredDirectory | None:
        return monitored(Settings.model_validate(sections))

    files = {"filesystem": {"rootdirectory": "/data"}}
    assert of(storage={"inmemory": {}}) is None
    assert of(storage=files) == MonitoredDirectory("/data", write=True, interval_s=60.0)
    assert of(storage=files, health={"writeprobe": {"disabled": True}}) == MonitoredDirectory("/data", False, 60.0)
    readonly = {"maintenance": {"readonly": {"enabled": True}}}
    assert of(storage=files | readonly) == MonitoredDirectory("/data", False, 60.0)


def test_the_report_of_a_monitor_that_hangs_counts_as_unknown() -> None:
    """The state of an hour ago, full or healthy, is no evidence of the present one."""
    now = [1000.0]
    report = SharedReport(lambda: now[0])
    assert report.current() == NEW
    full = StorageReport(writable=False, code="ENOSPC", reason="full", cause="/data: full", seen=True)
    report.write(full)
    for _ in range(2):
        now[0] += STALE_AFTER_S - 1
        assert report.current() == full
        report.beat()
    now[0] += STALE_AFTER_S
    assert (report.current(), report.read()) == (NEW, full)
    report.beat()
    assert report.current() == full


def test_each_check_begins_and_ends_with_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a check that hangs, or a process that is stopped, is silent."""
    # The space changes at any time, and each change is another report.
    monkeypatch.setattr(storage_monitor, "_space", lambda _: None)
    times = iter(range(1, 100))
    report = SharedReport(lambda: float(next(times)))
    rounds(target(tmp_path), report, lambda: None, lambda: None)
    assert report.last_heartbeat == 7.0, "two in each of three rounds, and one for the first report"


def test_a_monitor_that_hangs_is_reported_once_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, or a file server that is gone: each replacement may hang as well."""
    clock = [100.0]
    storage = {"filesystem": {"rootdirectory": "/data"}}
    plan = cast("Plan", SimpleNamespace(settings=Settings.model_validate({"storage": storage}), instance="i"))
    monitor = StorageMonitor(SharedReport(lambda: clock[0]))
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    pids = iter(range(1, 10))

    def settle(seconds: float) -> None:
        clock[0] += seconds
        monitor.settle(plan, lambda _: next(pids), clock[0])

    with structlog.testing.capture_logs() as logs:
        settle(0)
        assert monitor.due() == [100.0 + STALE_AFTER_S]
        settle(STALE_AFTER_S - 1)
        assert killed == []
        for _ in range(2):
            settle(STALE_AFTER_S)
            assert monitor.due() == []
            settle(STALE_AFTER_S)
            monitor.died("signal 9", clock[0])
            settle(0)
        assert (killed, monitor.pid) == ([1, 2], 3)
        clock[0] += 1
        monitor.report.beat()
        settle(1)
        settle(1)
    assert [line["log_level"] for line in logs] == ["error", "info"]
    assert "does not respond" in logs[0]["event"]
    assert killed == [1, 2]


def test_a_monitor_that_cannot_be_forked_is_tried_again_later() -> None:
    """No process is left on the host, and the master has requests to be served."""
    storage = {"filesystem": {"rootdirectory": "/data"}}
    plan = SimpleNamespace(settings=Settings.model_validate({"storage": storage}), instance="i")
    monitor = StorageMonitor(SharedReport())
    forked: list[object] = []

    def fork(become: object) -> int:
        forked.append(become)
        if len(forked) < 3:
            raise BlockingIOError(errno.EAGAIN, "no process left")
        return 4711

    with structlog.testing.capture_logs() as logs:
        for now in (100.0, 100.0, 100.5, 101.5, 102.0):
            monitor.settle(cast("Plan", plan), fork, now)
    assert (len(forked), monitor.pid) == (3, 4711)
    assert [line["in_seconds"] for line in logs] == [0.0, 1.0]


# A running server


def pushed(server: Debugged) -> tuple[Wire, bytes]:
    wire = Wire(server.live.host)
    return wire, wire.push_image("disk/app", "kept", [b"layer"])


@pytest.mark.slow
@pytest.mark.parametrize("replacement", ["nothing", "a plain file"])
def test_a_directory_that_is_lost_takes_the_registry_out_of_service(tmp_path: Path, replacement: str) -> None:
    """Without it every image would be 404, and clients would conclude that they were deleted."""
    root, away = tmp_path / "data", tmp_path / "away"
    with debugged(root, health=OFTEN, http={"workers": 2}) as server:
        wire, kept = pushed(server)
        root.rename(away)
        if replacement == "a plain file":
            root.touch()
        until(lambda: server.requested("/readyz")[0] == 503, "the loss to be noticed", server.live.logs)
        for answer in (wire.manifest("disk/app", "kept"), wire.start_upload("disk/app")):
            assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
            assert str(root).encode() not in answer.body
        assert server.requested("/livez") == (200, "ok\n")
        status, reported = server.get("/debug/health")
        assert (status, "storage" in reported, str(root) in reported) == (503, True, True)
        assert server.total("moorage_health_check_failing", "check=storage") == 1
        assert server.total("moorage_storage_writable") == 0
        if replacement == "a plain file":
            root.unlink()
        assert not root.exists(), "what is lost is not made anew"
        away.rename(root)
        until(lambda: server.requested("/readyz") == (200, "ok\n"), "the return to be noticed", server.live.logs)
        assert wire.manifest("disk/app", "kept").body == kept
        wire.push_image("disk/app", "new", [b"more"])
        server.logged("can be read and written again")
        assert server.total("moorage_storage_writable") == 1
        assert server.live.logs().count("can be read and written again") == 1


@pytest.mark.slow
def test_a_directory_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    """Reported at once, with the setting, the path and the remedy."""
    (tmp_path / "data").touch()
    with pytest.raises(NotStarted) as caught:
        start_moorage(tmp_path / "data")
    reported = str(caught.value)
    assert "ended with status 1" in reported
    assert "storage.filesystem.rootdirectory cannot be used" in reported
    assert f"{tmp_path / 'data'}: Not a directory" in reported
    assert "the operator must put one in its place" in reported
    assert "Traceback" not in reported


@pytest.mark.slow
def test_a_reload_that_names_such_a_directory_is_refused(tmp_path: Path) -> None:
    """And one that names a good one moves the monitor there."""
    with debugged(tmp_path / "data", health=OFTEN, http={"workers": 1}) as server:
        config = server.live.log_path.with_suffix(".yml")
        settings = yaml.safe_load(config.read_text())
        (tmp_path / "file").touch()

        def reload(root: Path) -> None:
            settings["storage"]["filesystem"]["rootdirectory"] = str(root)
            config.write_text(yaml.safe_dump(settings))
            os.kill(server.live.pid, signal.SIGHUP)

        reload(tmp_path / "file")
        server.logged("the configuration is not taken")
        assert f"{tmp_path / 'file'}: Not a directory" in server.live.logs()
        reload(tmp_path / "other")
        server.logged("configuration reloaded")
        until((tmp_path / "other").exists, "the monitor to check the new directory", server.live.logs)
        (tmp_path / "other").rename(tmp_path / "away")
        until(lambda: server.requested("/readyz")[0] == 503, "the loss to be noticed", server.live.logs)
        assert (tmp_path / "data").exists()


@pytest.mark.slow
def test_a_monitor_that_dies_is_started_again(tmp_path: Path) -> None:
    """The kernel may kill it for memory, like any process."""
    with debugged(tmp_path / "data", health=OFTEN, http={"workers": 1}) as server:
        until(lambda: len(monitors(server.live.pid)) == 1, "the monitor", server.live.logs)
        (monitor,) = monitors(server.live.pid)
        os.kill(monitor, signal.SIGKILL)
        server.logged("the storage monitor died")
        until(lambda: monitors(server.live.pid) - {monitor}, "another one", server.live.logs)
        (tmp_path / "data").rename(tmp_path / "away")
        until(lambda: server.requested("/readyz")[0] == 503, "the loss to be noticed", server.live.logs)


def monitors(pid: int) -> set[int]:
    """The storage monitors among the children of a process."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == "storage-monitor\n":
                found.add(int(child))
    return found
