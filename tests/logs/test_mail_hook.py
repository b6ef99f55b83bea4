"""From a log line to a mail, through real processes: who is told of what, and that nobody waits for it."""

from __future__ import annotations

import contextlib
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
from tests.smtp import post_office

from moorage.logs.mail_hook import RECORD_LIMIT_BYTES, encoded

pytestmark = pytest.mark.slow

_SAY: Final = """
import json, os, signal, sys, time
import structlog
from moorage.config.sections.log import Hook, Log, MailOptions, Smtp
from moorage.logs import mail_hook
from moorage.logs.log_setup import configure
told = json.loads(sys.argv[1])
def hook(levels, to, disabled=False):
    options = MailOptions(smtp=Smtp(addr=told["addr"]), from_="r@example.com", to=(to,))
    return Hook(type="mail", disabled=disabled, levels=tuple(levels), options=options)
hooks = tuple(hook(*each) for each in told["hooks"])
log_settings = Log(level="debug", hooks=hooks, formatter="json")
configure(log_settings, instance="i-1")
log = structlog.get_logger("moorage.test")
"""


def say(addr: str, code: str, *hooks: tuple[Any, ...], limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `code` with these hooks, each (levels, receiver)."""
    told = json.dumps({"addr": addr, "hooks": hooks})
    command = [sys.executable, "-c", _SAY + code, told]
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
        told = {mail.receivers[0].partition("@")[0]: mail.text for mail in office.wait(6)}
    said = {name: set(re.findall(r"an? (\w+) line", text)) for name, text in told.items()}
    assert said == {
        "panic": {"panic", "fatal"}, "fatal": {"fatal"}, "error": {"error", "panic"}, "warn": {"warning"},
        "info": {"info"}, "chatty": {"debug", "info", "warning"},
    }  # fmt: skip
    assert "ZeroDivisionError" in told["panic"]
    assert "instance.id: i-1" in told["info"]


def test_a_flood_waits_for_nobody_and_is_counted() -> None:
    """Logging goes on at its own speed; every line is in a mail, or counted as lost.

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
    lost = sum(int(found) for found in re.findall(r"(\d+) more could not", text))
    assert 20 <= shown <= 20 * len(mails)
    # What was lost after the last line that got through is known to nobody.
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


def test_a_mailer_that_was_killed_is_replaced() -> None:
    with post_office() as office:
        code = """
mail_hook._AGAIN_AFTER_S = 0.0
mail_hook._running._mailer._process.kill()
mail_hook._running._mailer._process.wait()
log.error("lost")
log.error("told")
"""
        done = say(office.addr, code, (["error"], "a@example.com"))
        assert done.returncode == 0, done.stderr
        (mail,) = office.wait()
    assert "error: told" in mail.text
    assert "error: lost" not in mail.text
    assert "1 more could not be told of" in mail.text


def test_a_mailer_that_cannot_start_stops_nothing() -> None:
    """A machine out of processes is in trouble enough; the mail is sent when it can be."""
    with post_office() as office:
        code = """
python, sys.executable = sys.executable, "/nowhere/python"
mail_hook._running = None
configure(log_settings, instance="i-2")
log.error("lost")
mail_hook._AGAIN_AFTER_S, sys.executable = 0.0, python
log.error("lost, too")
log.error("told")
"""
        done = say(office.addr, code, (["error"], "a@example.com"))
        assert done.returncode == 0, done.stderr
        assert "2 more could not be told of" in office.wait()[0].text


def test_a_program_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    """`python -m` looks there first, and a registry may be started anywhere."""
    (tmp_path / "smtplib.py").write_text("raise SystemExit('taken over')")
    with post_office() as office:
        code = f"os.chdir({str(tmp_path)!r}); configure(log_settings, instance='i-2'); log.error('it broke')"
        assert say(office.addr, code, (["error"], "a@example.com")).returncode == 0
        assert "it broke" in office.wait()[0].text


def test_nothing_runs_where_there_are_no_hooks() -> None:
    """A plain registry pays nothing for what it does not use."""
    code = "names = ('moorage.logs.smtp', 'smtplib', 'moorage.logs.mail_process')"
    code += "; print([name for name in names if name in sys.modules])"
    code += "; print(mail_hook.telling(log_settings, 'i'))"
    done = say("127.0.0.1:1", code, (["error"], "a@example.com", True))
    assert done.stdout.splitlines() == ["[]", "None"]


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


def test_a_server_has_one_mailer_which_its_workers_use(tmp_path: Path) -> None:
    """Master and workers tell it; a reload without hooks ends it, and so does the end of the server."""
    with post_office() as office:
        options = {"smtp": {"addr": office.addr}, "from": "r@example.com", "to": ["a@example.com"]}
        hook = {"type": "mail", "levels": ["panic"], "options": options}
        with serving(tmp_path / "home", log={"hooks": [hook]}) as served:
            assert len(mailers()) == 1
            assert served.get("/break")[0] == 500
            (mail,) = office.wait()
            assert "RuntimeError: broken on purpose" in mail.text
            assert re.search(r"worker: \d", mail.text)
            (before,) = mailers()
            served.signal(signal.SIGHUP)
            served.logged("configuration reloaded")
            assert mailers() == [before]
            served.configure(log={"hooks": []})
            served.signal(signal.SIGHUP)
            served.logged("configuration reloaded", times=2)
            until(lambda: not mailers(), "the mailer to end")
            assert served.stop() == 0


def mailers() -> list[int]:
    """The processes below this one that send mails."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (
                entry.name.isdecimal()
                and b"moorage.logs.mail_process" in (entry / "cmdline").read_bytes()
                and _is_ours(entry)
            ):
                found.append(int(entry.name))
    return found


def _is_ours(process: Path) -> bool:
    while process.name not in {"0", "1"}:
        if process.name == str(os.getpid()):
            return True
        process = process.with_name((process / "stat").read_text().rpartition(")")[2].split()[1])
    return False
