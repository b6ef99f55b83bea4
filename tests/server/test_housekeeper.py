"""The housekeeper with real processes: a failing job, a process that dies, a reload, and the end of the server."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from tests.server.background import Steady
from tests.server.serving import Served, serving, until

from moorage.config.model import Settings
from moorage.config.sections.log import Log
from moorage.logs import smtp
from moorage.logs.mail_hook import MailQueue
from moorage.server.housekeeper import supervisor
from moorage.server.housekeeper.jobs import JobContext
from moorage.server.housekeeper.mail_job import mail_jobs
from moorage.server.housekeeper.supervisor import Housekeeper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.server.housekeeper.jobs import Job
    from moorage.server.processes.worker_config import Plan

pytestmark = pytest.mark.slow


@contextmanager
def server_with(tmp_path: Path, jobs: str, **sections: Any) -> Iterator[Served]:
    log = {"fields": {"jobs": jobs}}
    with serving(tmp_path / "home", module="tests.server.background", log=log, **sections) as served:
        yield served


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_without_a_job_there_is_no_housekeeper(tmp_path: Path) -> None:
    """A process costs memory."""
    with server_with(tmp_path, "") as served:
        assert served.get()[0] == 200
        assert served.all_children() == served.children()
        assert len(served.children()) == 2
        assert served.stop() == 0


def test_a_job_that_fails_is_run_again_and_disturbs_no_other(tmp_path: Path) -> None:
    """A mail server that is misconfigured must not stop certificates from being renewed."""
    with server_with(tmp_path, "crashing steady") as served:
        served.seen("crashing crashed", 3)
        served.seen("steady started")
        housekeeper = served.helper("housekeeper")
        (served.home / "calm").touch()
        served.seen("crashing started")
        assert served.helper("housekeeper") == housekeeper
        assert (served.home / "seen").read_text().count("steady") == 1
        failures = [line for line in served.err.splitlines() if "a job of the housekeeper failed" in line]
        assert len(failures) >= 3
        assert "job=crashing" in failures[0]
        assert "broken on purpose" in failures[0]
        assert "in_seconds=1.0" in failures[1]
        assert served.stop() == 0


def test_a_housekeeper_that_dies_is_replaced(tmp_path: Path) -> None:
    """The kernel may kill it for memory; requests are served meanwhile, by the same workers."""
    with server_with(tmp_path, "steady") as served:
        before = served.helper("housekeeper")
        served.seen("steady started")
        workers = served.children()
        os.kill(before, signal.SIGKILL)
        served.logged("the housekeeper died; another takes its place")
        served.seen("steady started", 2)
        assert served.get()[0] == 200
        assert served.children() == workers
        assert served.stop() == 0


def test_a_reload_replaces_it_only_if_its_settings_changed(tmp_path: Path) -> None:
    """An order of a certificate is not cut off by an unrelated change; workers are replaced in any case."""
    with server_with(tmp_path, "steady") as served:
        served.seen("steady started")
        before = served.helper("housekeeper")
        served.configure(http={"draintimeout": "61s"})
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        served.seen("steady reloaded")
        assert served.helper("housekeeper") == before
        served.configure(log={"fields": {"jobs": "steady crashing"}})
        served.signal(signal.SIGHUP)
        served.seen("crashing crashed")
        served.seen("steady cancelled")
        until(lambda: not alive(before), "the former housekeeper to end")
        served.configure(log={"fields": {"jobs": ""}})
        served.signal(signal.SIGHUP)
        until(lambda: served.all_children() == served.children(), "the housekeeper to end")
        served.configure(log={"fields": {"jobs": "steady"}})
        served.signal(signal.SIGHUP)
        served.helper("housekeeper")
        assert "the housekeeper died" not in served.err
        assert served.stop() == 0


def test_running_jobs_are_cancelled_before_the_server_ends(tmp_path: Path) -> None:
    """They withdraw challenges and release leases; SIGTERM from a service manager to the whole group is no end."""
    with server_with(tmp_path, "steady") as served:
        served.seen("steady started")
        housekeeper = served.helper("housekeeper")
        os.kill(housekeeper, signal.SIGTERM)
        assert served.get()[0] == 200
        assert alive(housekeeper)
        assert served.stop() == 0
        served.seen("steady cancelled")
        assert not alive(housekeeper)
        assert served.err.splitlines()[-1].count("msg=stopped") == 1


def test_a_job_that_cannot_be_cancelled_delays_the_end_by_seconds_at_most(tmp_path: Path) -> None:
    """A thread that waits for a dead file server waits for ever."""
    with server_with(tmp_path, "stubborn") as served:
        served.seen("stubborn started")
        assert served.stop() == 0


def test_a_housekeeper_that_hangs_delays_the_end_by_seconds_at_most(tmp_path: Path) -> None:
    """`http.draintimeout` is for requests; nothing waits that long for a process that does not respond."""
    with server_with(tmp_path, "blocking") as served:
        served.seen("blocking started")
        housekeeper = served.helper("housekeeper")
        assert served.stop() == 0
        assert not alive(housekeeper)


def test_a_second_signal_ends_a_housekeeper_that_hangs(tmp_path: Path) -> None:
    with server_with(tmp_path, "blocking") as served:
        served.seen("blocking started")
        housekeeper = served.helper("housekeeper")
        served.signal(signal.SIGTERM)
        served.logged("stopping")
        served.signal(signal.SIGTERM)
        assert served.ended() == 1
        assert not alive(housekeeper)


def test_a_housekeeper_that_hangs_while_it_is_to_be_replaced_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a reload would end all background work of the node."""
    jobs: list[Job] = [Steady(Path("/a"))]
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    pids = iter(range(1, 10))
    housekeeper = Housekeeper([lambda _: jobs], MailQueue())

    def settle(level: Literal["info", "error"], now: float) -> None:
        settings = Settings(log=Log(level=level))
        plan = SimpleNamespace(settings=settings, instance="i", awaiting=False)
        housekeeper.settle(cast("Plan", plan), lambda _: next(pids), now)

    settle("info", 100.0)
    assert (housekeeper.pid, housekeeper.due()) == (1, [])
    settle("error", 200.0)
    assert (killed, housekeeper.due()) == ([], [230.0])
    settle("error", 229.0)
    assert killed == []
    settle("error", 230.0)
    assert (killed, housekeeper.due()) == ([1], [])
    housekeeper.died("signal SIGKILL", 231.0)
    settle("error", 231.0)
    assert (housekeeper.pid, killed) == (2, [1])
    housekeeper.close_in_child(())


@pytest.mark.parametrize("passed_s", [0.0, 1.0, 60.0])
def test_the_wait_for_a_housekeeper_that_hangs_is_counted_from_the_signal(
    passed_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait was done twice; `docker stop` sends SIGKILL after ten seconds, and the last mails are lost."""
    now = 100.0
    waits: list[float] = []

    def select_nothing(*arguments: Any) -> tuple[list[Any], ...]:
        waits.append(arguments[3])
        return [], [], []

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(select, "select", select_nothing)
    housekeeper = Housekeeper([lambda _: [Steady(Path("/a"))]], MailQueue())
    plan = SimpleNamespace(settings=Settings(), instance="i", awaiting=False)
    housekeeper.settle(cast("Plan", plan), lambda _: 1, now)
    housekeeper.stop()
    now += passed_s
    assert not housekeeper._wait_stopped()
    assert waits == [max(0.0, supervisor._STOP_LIMIT_S - passed_s)]
    housekeeper.close_in_child(())


async def test_a_line_that_is_logged_while_the_last_mails_are_sent_is_sent_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The master leaves its last line to a housekeeper that a slow mail server holds up."""
    hook = {
        "type": "mail",
        "levels": ["error"],
        "options": {"smtp": {"addr": "mail:25"}, "from_": "a@b", "to": ["c@d"]},
    }
    log = Log.model_validate({"hooks": [hook]})
    queue = MailQueue()
    (processor,) = queue.processors(log)
    sent: list[str] = []

    def send(_: object, subject: str, *__: object, **___: object) -> None:
        sent.append(subject)
        if len(sent) == 1:
            processor(None, "", {"event": "last", "level": "error"})

    monkeypatch.setattr(smtp, "send", send)
    (job,) = mail_jobs(log, queue)
    running = asyncio.create_task(job.run(JobContext(lambda _: None)))
    await asyncio.sleep(0)
    processor(None, "", {"event": "first", "level": "error"})
    running.cancel()
    await asyncio.wait([running])
    assert [subject.rpartition(": ")[2] for subject in sent] == ["first", "last"]
    queue.close()


@pytest.mark.parametrize(("responds", "has_exited", "other"), [(True, False, True), (True, True, False)])
def test_the_master_sends_no_mails_that_a_running_housekeeper_will_send(
    responds: bool, has_exited: bool, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail server that hangs delayed the end by ten seconds, after which `docker stop` kills."""
    queue = MailQueue()
    housekeeper = Housekeeper([lambda _: [Steady(Path("/a"))]], queue)
    parameters: Any = SimpleNamespace(has_last_job=True)
    housekeeper._parameters = parameters
    vars(housekeeper)["pid"] = 1
    monkeypatch.setattr(housekeeper, "_wait_stopped", lambda: responds)
    monkeypatch.setattr(supervisor, "wait_for_exit", lambda *_: has_exited)
    housekeeper.kill()
    assert (housekeeper.pid, queue.has_other_reader) == (None, other)


@pytest.mark.parametrize("job", ["steady", "blocking"])
def test_it_dies_with_the_master(tmp_path: Path, job: str) -> None:
    """It would hold the port for challenges against the next start."""
    with server_with(tmp_path, job) as served:
        served.seen(f"{job} started")
        housekeeper = served.helper("housekeeper")
        served.signal(signal.SIGKILL)
        served.ended()
        until(lambda: not alive(housekeeper), "the housekeeper to end")


def test_the_registry_purges_uploads_in_the_housekeeper(tmp_path: Path) -> None:
    """No worker spends time on it: the line in the log names none."""
    purging = {"uploadpurging": {"enabled": True, "age": "1ms", "interval": "10ms"}}
    root = tmp_path / "data"
    storage = {"filesystem": {"rootdirectory": str(root)}, "maintenance": purging}
    upload = root / "docker/registry/v2/repositories/a/_uploads/0000-old"
    upload.mkdir(parents=True)
    (upload / "startedat").write_text("2020-01-01T00:00:00Z")
    (upload / "data").write_bytes(b"bytes")
    with serving(tmp_path / "home", module="tests.server.registry", storage=storage) as served:
        served.helper("housekeeper")
        served.logged("old upload removed")
        (line,) = (line for line in served.err.splitlines() if "old upload removed" in line)
        assert " worker=" not in line
        lease = root / "docker/registry/v2/_moorage/leases/upload-purging"
        until(lease.exists, "the lease")
        assert served.stop() == 0
        assert not lease.exists(), "another node may purge at once"


def test_a_registry_that_only_serves_has_no_housekeeper(tmp_path: Path) -> None:
    readonly = {"readonly": {"enabled": True}}
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "data")}, "maintenance": readonly}
    with serving(tmp_path / "home", module="tests.server.registry", storage=storage) as served:
        served.helper("storage-monitor")
        assert len(served.all_children()) == 3
        assert served.stop() == 0
