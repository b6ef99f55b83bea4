"""What stands in the logs, byte by byte, and what must never stand there."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from typing import Any, Final

import pytest

from moorage.logs.access_log import AccessLogWriter, Entry
from moorage.logs.lines import PIPE_BUF, write_line

_SAY = """
import sys, structlog, logging, warnings
from moorage.config.sections.log import AccessLog, Log
from moorage.logs.log_setup import configure, request_id
configure(Log(**eval(sys.argv[1])), instance="i-1", worker=3)
log = structlog.get_logger("moorage.test")
request_id.set("r-1")
log.debug("quiet")
log.info("hello there", number=1, flag=True, text='say "x"\\nend')
log.warning("careful")
logging.getLogger("some.library").warning("from %s", "outside")
logging.getLogger("some.library").info("not wanted")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def output(**log: Any) -> list[str]:
    """What a process with this `log` section writes to standard error; nothing goes to standard output."""
    done = subprocess.run([sys.executable, "-c", _SAY, repr(log)], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_text_is_as_logrus_writes_it() -> None:
    """Parsers that operators have for the reference's log keep working."""
    lines = output()
    assert len(lines) == 4
    time = r'time="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"'
    rest = (
        r' level=info msg="hello there" flag=true http\.request\.id=r-1 instance\.id=i-1 number=1 '
        r'python\.version=[0-9.]+ text="say \\"x\\"\\nend" version=\S+ worker=3'
    )
    assert re.fullmatch(time + rest, lines[0]), lines[0]
    assert " level=warning msg=careful " in lines[1]
    assert 'msg="from outside"' in lines[2]
    assert "logger=some.library" in lines[2]
    assert "ZeroDivisionError" in lines[3]
    assert " level=error msg=failed " in lines[3]


def test_json_has_one_object_a_line() -> None:
    first, second, _, last = (json.loads(line) for line in output(formatter="json", fields={"site": "a", "n": 1}))
    assert first["msg"] == "hello there"
    assert first["level"] == "info"
    assert (first["site"], first["n"], first["flag"]) == ("a", 1, True)
    assert first["http.request.id"] == "r-1"
    assert second["level"] == "warning"
    assert "ZeroDivisionError" in last["exception"]


def test_logstash_has_its_own_names() -> None:
    first, *_ = (json.loads(line) for line in output(formatter="logstash"))
    assert first["@version"] == "1"
    assert first["message"] == "hello there"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["@timestamp"])


@pytest.mark.parametrize(("level", "lines"), [("debug", 5), ("info", 4), ("warn", 3), ("error", 1)])
def test_the_level_holds_for_libraries_too(level: str, lines: int) -> None:
    assert len(output(level=level)) == lines


def test_the_caller_can_be_reported() -> None:
    first, *_ = (json.loads(line) for line in output(formatter="json", reportcaller=True))
    assert first["file"].startswith("<string>:")
    assert first["func"] == "<module>"


def entry(**over: Any) -> Entry:
    usual: dict[str, Any] = {
        "when": 1700000000.0, "remote": "192.0.2.1", "user": "", "method": "GET", "target": "/v2/",
        "protocol": "1.1", "status": 200, "sent": 2, "seconds": 0.0125, "referer": "", "agent": "curl",
        "request": "r-1",
    }  # fmt: skip
    return Entry(**(usual | over))


def line(formatter: str, one: Entry) -> bytes:
    out, into = os.pipe()
    try:
        AccessLogWriter(formatter, into).write(one)
        return os.read(out, 1 << 16)
    finally:
        os.close(out)
        os.close(into)


def test_the_access_log_is_combined_with_seconds_and_request_id() -> None:
    written = line("text", entry()).decode()
    assert re.fullmatch(
        r'192\.0\.2\.1 - - \[1[45]/Nov/2023:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /v2/ HTTP/1\.1" 200 2 "-" "curl" '
        r"0\.012500 r-1\n",
        written,
    ), written


@pytest.mark.parametrize("formatter", ["json", "logstash"])
def test_the_access_log_is_an_object_where_the_log_is(formatter: str) -> None:
    written = json.loads(line(formatter, entry(user="alice")))
    assert written["http.request.uri"] == "/v2/"
    assert written["auth.user.name"] == "alice"
    assert written["http.response.status"] == 200
    assert written["http.response.duration"] == 0.0125
    assert "http.request.referer" not in written


@pytest.mark.parametrize("formatter", ["text", "json"])
@pytest.mark.parametrize("target", ["/u?_state=SECRET", "/u?a=1&_state=SECRET&b=2", "/u?_STATE=SECRET"])
def test_the_state_of_an_upload_is_struck_out(formatter: str, target: str) -> None:
    """Who holds it can write to the upload, and logs are read by many."""
    written = line(formatter, entry(target=target, referer=f"http://x{target}"))
    assert b"SECRET" not in written
    assert b"/u?" in written


def test_nobody_forges_a_line() -> None:
    written = line("text", entry(agent='x" 200\n1.2.3.4 - -', target="/\r\n\x1b[31m", user="é\\"))
    assert written.count(b"\n") == 1
    assert rb"x\" 200\x0a1.2.3.4" in written
    assert rb"\xc3\xa9\\" in written
    assert b"\x1b" not in written


HOSTILE: Final = "".join(
    chr(code)
    for first, last in (
        (0, 0x1F), (0x7F, 0x9F), (0x61C, 0x61C), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F),
        (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB),
    )
    for code in range(first, last + 1)
)  # fmt: skip
"""C0, DEL, C1, line and paragraph separators, bidirectional controls, invisible characters, BOM."""

_SAY_HOSTILE = """
import sys, structlog, logging
from moorage.config.sections.log import Log
from moorage.logs.log_setup import configure
configure(Log(formatter=sys.argv[1]), instance="i")
hostile = eval(sys.argv[2])
log = structlog.get_logger("moorage.test")
text = "a" + hostile + "z"
log.warning(text, user=text, cause=ValueError(text), names=[text])
logging.getLogger("some.library").warning("a%sz", hostile)
try:
    raise ValueError(text)
except ValueError:
    log.exception("failed", path=text)
"""


@pytest.mark.parametrize("formatter", ["text", "json", "logstash", "terminal"])
def test_no_control_character_reaches_the_log(formatter: str) -> None:
    """Names of users and paths come from clients; `tail -f` in a terminal obeys what is in them."""
    out, into = os.openpty() if formatter == "terminal" else os.pipe()
    command = [
        sys.executable,
        "-c",
        _SAY_HOSTILE,
        "text" if formatter == "terminal" else formatter,
        ascii(HOSTILE),
    ]
    written = b""
    with subprocess.Popen(command, stderr=into) as process:
        os.close(into)
        with contextlib.suppress(OSError):  # EIO: the terminal was closed
            while piece := os.read(out, 1 << 16):
                written += piece
    os.close(out)
    assert process.returncode == 0
    text = written.decode()
    if formatter == "terminal":
        text = re.sub(r"\x1b\[[0-9;]*m|\r(?=\n)", "", text)  # colors, and line ends of a terminal
    assert not set(HOSTILE.replace("\n", "")) & set(text)
    assert text.count("ValueError") >= 1
    for code in (r"\u009b", r"\u202e", r"\u2028", r"\u007f", r"\ufeff"):
        assert text.count(code) >= 5, code
    if formatter in {"json", "logstash"}:
        first, second, third = (json.loads(line) for line in text.splitlines())
        message = "msg" if formatter == "json" else "message"
        assert first["user"] == first[message] == second[message] == third["path"] == f"a{HOSTILE}z"
    elif formatter == "text":
        assert text.count("\n") == 3


@pytest.mark.parametrize("formatter", ["text", "json"])
def test_no_control_character_reaches_the_access_log(formatter: str) -> None:
    hostile = f"a{HOSTILE}z"
    fields = ("target", "agent", "referer", "user", "method", "remote", "request")
    for field in fields if formatter == "json" else fields[:-1]:
        written = line(formatter, entry(**{field: hostile})).decode()
        assert not set(HOSTILE) & set(written.removesuffix("\n")), field


@pytest.mark.parametrize("formatter", ["text", "json"])
@pytest.mark.parametrize("filling", ["x", '"', "\x01", "é", "\udcff", "\x9b", "\u202e"])
def test_a_line_always_fits_into_one_atomic_write(formatter: str, filling: str) -> None:
    """Longer lines of several workers would mix in a pipe (pipe(7), PIPE_BUF)."""
    long = filling * 70_000
    fields = ("target", "agent", "referer", "user", "method", "remote")
    written = line(formatter, entry(**dict.fromkeys(fields, long)))
    assert written.endswith(b"\n")
    assert len(written) <= PIPE_BUF


def test_a_reader_that_is_gone_fails_no_request() -> None:
    out, into = os.pipe()
    os.close(out)
    write_line(into, b"lost\n")
    os.close(into)


def test_a_full_pipe_loses_nothing() -> None:
    """Some supervisors make our standard output non-blocking."""
    out, into = os.pipe()
    os.set_blocking(into, False)
    size = 1 << 20
    with subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=out,
                          stdout=subprocess.PIPE) as reader:  # fmt: skip
        os.close(out)
        write_line(into, b"x" * size)
        os.close(into)
        assert reader.communicate()[0] == b"%d\n" % size


def test_the_standard_library_is_left_as_it_was() -> None:
    """`configure` runs in processes of its own in these tests: pytest's own handlers stay."""
    assert not any(type(handler).__name__ == "_Forward" for handler in logging.getLogger().handlers)
