"""From a log line to a mail, through real processes: each hook gets its levels, and logging never waits."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tests.server.serving import serving, until
from tests.smtp import Post, post_office

from moorage.config.sections.log import Hook, Log
from moorage.logs.mail_hook import RECORD_LIMIT_BYTES, MailQueue, encoded

pytestmark = pytest.mark.slow

_SAY: Final = """
import json, os, signal, socket, sys, time
import structlog
from moorage.config.sections.log import Hook, Log, MailOptions, Smtp
from moorage.logs.log_setup import configure
from moorage.logs.mail_hook import MailQueue
from moorage.server.housekeeper import process
from moorage.server.housekeeper.mail_job import mail_jobs
told = json.loads(sys.argv[1])
def hook(levels, to, disabled=False):
    options = MailOptions(smtp=Smtp(addr=told["addr"]), from_="r@example.com", to=(to,))
    return Hook(type="mail", disabled=disabled, levels=tuple(levels), options=options)
hooks = tuple(hook(*each) for each in told["hooks"])
log_settings = Log(level="debug", hooks=hooks, formatter="json")
queue = MailQueue()
processors = queue.processors(log_settings)
configure(log_settings, instance="i-1", processors=processors)
control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
parameters = process.HousekeeperParameters(
    tuple(mail_jobs(log_settings, queue)), log_settings, "i-1", processors
)
housekeeper = os.fork()
if housekeeper == 0:
    control.close()
    process.main(parameters, child_end, os.getppid())
child_end.close()
log = structlog.get_logger("moorage.test")
"""

_END: Final = """
control.close()
os.waitpid(housekeeper, 0)
"""


def say(addr: str, code: str, *hooks: tuple[Any, ...], limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `code` with these hooks, each (levels, receiver), beside a housekeeper, as the master does."""
    reported = json.dumps({"addr": addr, "hooks": hooks})
    command = [sys.executable, "-c", _SAY + code + _END, reported]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)


ALL_LEVELS: Final = """
log.debug("a debug line")
log.info("an info line")
log.warning("a warning line")
log.error("an error line")
log.critical("a fatal line")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a panic line")
"""


def test_every_hook_is_told_of_its_levels() -> None:
    """Logrus's names, as configurations have them; panics are what breaks in a handler, and fatal errors."""
    hooks = [([level], f"{level.lower()}@example.com") for level in ("panic", "fatal", "error", "Warn", "info")]
    hooks.append((["debug", "info", "warning"], "chatty@example.com"))
    hooks.append((["error"], "off@example.com", True))  # type: ignore[arg-type]
    with post_office() as office:
        done = say(office.addr, ALL_LEVELS, *hooks)
        assert done.returncode == 0, done.stderr
        reported = {mail.receivers[0].partition("@")[0]: mail.text for mail in office.wait(6)}
    output = {name: set(re.findall(r"an? (\w+) line", text)) for name, text in reported.items()}
    assert output == {
        "panic": {"panic", "fatal"}, "fatal": {"fatal"}, "error": {"error", "panic"}, "warn": {"warning"},
        "info": {"info"}, "chatty": {"debug", "info", "warning"},
    }  # fmt: skip
    assert "ZeroDivisionError" in reported["panic"]
    assert "instance.id: i-1" in reported["info"]


def test_a_flood_waits_for_nobody_and_is_counted() -> None:
    """Logging continues at its own speed; every line is in a mail, or counted as lost.

    The first mail goes out a second after the first line.  On a busy machine that may be before the last one, and
    the rest is in the mail that is sent at the end.
    """
    with post_office() as office:
        done = say(office.addr, "for _ in range(5000): log.error('flood')", (["error"], "a@example.com"))
        assert done.stderr.count('"msg":"flood"') == 5000
        mails = office.wait()
    assert len(mails) <= 2
    text = "".join(mail.text for mail in mails)
    shown = text.count("error: flood")
    counted = sum(int(found) for found in re.findall(r"(\d+) error flood", text))
    lost = sum(int(found) for found in re.findall(r"(\d+) more lines were dropped", text))
    assert 20 <= shown <= 20 * len(mails)
    # What was lost after the last line that got through is not counted.
    assert 20 < shown + counted + lost <= 5000


def test_a_dead_mail_server_costs_nothing_but_the_mail() -> None:
    """And its failure is in the log, once, not in a mail about a mail."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        addr = f"127.0.0.1:{unused.getsockname()[1]}"
        done = say(addr, "log.error('it broke')", (["error", "warning"], "a@example.com"))
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["msg"] for line in lines] == ["it broke", "a mail of log.hooks could not be sent"]
    assert "refused" in lines[1]["cause"]
    assert (lines[1]["level"], lines[1]["instance.id"]) == ("warning", "i-1")


def test_a_silent_mail_server_holds_up_nobody() -> None:
    with post_office(silent=True) as office:
        code = "begun = time.monotonic(); [log.error('x') for _ in range(100)]; print(time.monotonic() - begun)"
        done = say(office.addr, code, (["error"], "a@example.com"))
    # The end waits ten seconds at most; the lines themselves for nothing, however busy the machine is.
    assert float(done.stdout) < 8.0


def test_the_mail_of_a_process_that_is_killed_is_sent() -> None:
    """The line before a crash is the one that matters."""
    with post_office() as office:
        code = "log.critical('the end'); os.kill(os.getpid(), signal.SIGKILL)"
        assert say(office.addr, code, (["fatal"], "a@example.com")).returncode == -signal.SIGKILL
        assert "the end" in office.wait()[0].text


def test_what_does_not_fit_into_the_queue_is_counted() -> None:
    """Without a reader logging continues, and the next mail reports how many lines are missing."""
    queue = MailQueue()
    (hook,) = queue.processors(Log(hooks=(Hook(type="mail", levels=("error",)),)))

    def log(text: str) -> None:
        hook(None, "", {"level": "error", "event": text})

    while not hook._lost:
        log("x" * 1000)
    lost = hook._lost
    log("x" * 1000)
    assert len(list(queue.receive())) > 10
    log("after")
    log("later")
    after, later = (json.loads(data) for data in queue.receive())
    queue.close()
    assert (after["message"], after["lost"]) == ("after", lost + 1)
    assert "lost" not in later


def test_without_hooks_there_are_no_sockets_and_no_mail_library() -> None:
    """A plain registry pays nothing for what it does not use."""
    code = "print([name for name in ('smtplib', 'moorage.logs.mail_sender') if name in sys.modules])"
    code += "; print(queue.processors(log_settings), queue.sender, parameters.jobs)"
    done = say("127.0.0.1:1", code, (["error"], "a@example.com", True))
    assert done.stdout.splitlines() == ["[]", "[] None ()"], done.stderr


@pytest.mark.parametrize("filling", ["x", '"', "\x01", "é", "\U0001f600"])
def test_a_line_always_fits_into_one_datagram(filling: str) -> None:
    """A longer one would be refused, and the mail with it."""
    fields = {f"field{number}": filling * 2000 for number in range(100)}
    record = {"to": [0], "time": 0.0, "level": "error", "message": filling * 2000, "fields": fields}
    record["trace"] = filling * 8000
    data = encoded(record)
    assert len(data) <= RECORD_LIMIT_BYTES
    assert json.loads(data)["message"]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert ours.send(data, socket.MSG_DONTWAIT) == len(data)


def mail_hook(office: Post, *levels: str) -> dict[str, Any]:
    options = {"smtp": {"addr": office.addr}, "from": "r@example.com", "to": ["a@example.com"]}
    return {"hooks": [{"type": "mail", "levels": list(levels), "options": options}]}


def test_the_housekeeper_sends_the_mails_of_all_processes(tmp_path: Path) -> None:
    """Master and workers queue lines; a reload without hooks ends the process, as the end of the server does."""
    with post_office() as office, serving(tmp_path / "home", log=mail_hook(office, "panic")) as served:
        before = served.helper("housekeeper")
        assert served.get("/break")[0] == 500
        (mail,) = office.wait()
        assert "RuntimeError: broken on purpose" in mail.text
        assert re.search(r"worker: \d", mail.text)
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded")
        assert served.helper("housekeeper") == before
        served.configure(log={"hooks": []})
        served.signal(signal.SIGHUP)
        served.logged("configuration reloaded", times=2)
        until(lambda: before not in served.all_children(), "the housekeeper to end")
        assert served.stop() == 0


def test_a_line_that_waits_is_mailed_when_the_server_stops(tmp_path: Path) -> None:
    """The minute between two mails is longer than most shutdowns."""
    with post_office() as office, serving(tmp_path / "home", log=mail_hook(office, "panic", "info")) as served:
        office.wait()
        assert served.get("/break")[0] == 500
        assert served.stop() == 0
        assert "broken on purpose" in "".join(mail.text for mail in office.wait(2))


def test_a_job_that_hangs_does_not_keep_the_process_alive_after_the_master(tmp_path: Path) -> None:
    """With mails the kernel does not kill it with the master; it must not stay behind for ever."""
    with (
        post_office() as office,
        serving(
            tmp_path / "home", module="tests.server.background",
            log={**mail_hook(office, "panic"), "fields": {"jobs": "stubborn"}},
        ) as served,
    ):  # fmt: skip
        housekeeper = served.helper("housekeeper")
        served.seen("stubborn started")
        served.signal(signal.SIGKILL)
        served.ended()
        until(lambda: not Path(f"/proc/{housekeeper}").exists(), "the housekeeper to end")


@pytest.mark.parametrize("victim", ["master", "housekeeper"])
def test_no_line_is_lost_with_a_process_that_is_killed(tmp_path: Path, victim: str) -> None:
    """The line before a crash is the one that matters: the queue outlives its reader, the reader the master."""
    with post_office() as office, serving(tmp_path / "home", log=mail_hook(office, "panic")) as served:
        housekeeper = served.helper("housekeeper")
        if victim == "housekeeper":
            os.kill(housekeeper, signal.SIGSTOP)
        assert served.get("/break")[0] == 500
        os.kill(served.process.pid if victim == "master" else housekeeper, signal.SIGKILL)
        assert "broken on purpose" in office.wait()[0].text
        if victim == "master":
            until(lambda: not Path(f"/proc/{housekeeper}").exists(), "the housekeeper to end")


def test_a_server_that_cannot_start_reports_that_by_mail(tmp_path: Path) -> None:
    """Before there is a housekeeper, the master sends the mail itself."""
    with post_office() as office, socket.create_server(("127.0.0.1", 0)) as taken:
        http = {"addr": f"127.0.0.1:{taken.getsockname()[1]}"}
        with serving(tmp_path / "home", wait=False, log=mail_hook(office, "fatal"), http=http) as served:
            assert served.ended() == 1
        assert "Address already in use" in office.wait()[0].text
