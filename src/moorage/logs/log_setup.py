"""Logs: what the server has to say on standard error, who asked what on standard output.

    structlog ──┐
                ├─► level ─► fields ─► hooks ─► text │ json │ logstash ─► one write(2) to fd 2
    logging ────┘
    http/middleware.py ─► `AccessLog` ─► combined │ JSON object ─► one write(2) to fd 1

Every line is one write, so lines of several processes do not mix: on files always, on pipes up to PIPE_BUF (4096
bytes), which an access line never exceeds.  Lines look as logrus writes them for CNCF Distribution, so that what
parses those keeps working.  No credentials: nothing here or above logs `Authorization`, and what a URL may hold
of that kind, such as the `_state` of an upload, is struck out of both logs (`redaction.py`).  Control,
bidirectional and invisible characters are escaped by every renderer.  `mail_hook.py` sends mail.

Source: reference/configuration.md section 4.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import select
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder

from moorage import __version__, redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping, Sequence

    from moorage.config.sections.log import Hook

__all__ = [
    "AccessLog", "Entry", "configure", "lines_without_controls", "request_id", "trace_id", "without_controls",
    "write_line",
]  # fmt: skip

request_id: ContextVar[str] = ContextVar("moorage_request_id", default="")
"""The request that is being answered; on every line that is logged meanwhile, as `http.request.id`."""

trace_id: ContextVar[str] = ContextVar("moorage_trace_id", default="")
"""The trace that the request belongs to, if it is traced; on the same lines, and in the access log as JSON."""

PIPE_BUF: Final = 4096
_LEVELS: Final = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
# Made once: json.dumps makes a new encoder for each line, a third of the price of a line.
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_ENCODE_TEXT: Final = json.JSONEncoder(ensure_ascii=False).encode
_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._/@^+]+", re.ASCII)
_CONTROLS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""C0, DEL and C1 (escape sequences of terminals), line separators, bidirectional and invisible characters, BOM."""
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\uffff\U00010000-\U0010ffff\"\\]")


class Wanted(Protocol):
    """The `log` section, as far as it is read here."""

    @property
    def level(self) -> str: ...
    @property
    def formatter(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...
    @property
    def reportcaller(self) -> bool: ...
    @property
    def hooks(self) -> Sequence[Hook]: ...


def configure(log: Wanted, *, instance: str, worker: int | None = None) -> None:
    """Set up structlog and the standard library's logging for this process, as the `log` section says.

    May be called again; loggers made before obey the last call.
    """
    level = _LEVELS[log.level]
    fixed = {"instance.id": instance, "python.version": platform.python_version(), "version": __version__}
    if worker is not None:
        fixed["worker"] = str(worker)
    fixed.update({str(key): value for key, value in log.fields.items()})

    def add_fields(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in fixed.items():
            event.setdefault(key, value)
        if current := request_id.get():
            event.setdefault("http.request.id", current)
        if current := trace_id.get():
            event.setdefault("trace_id", current)
        return event

    caller: list[Any] = [_caller(), _name_caller] if log.reportcaller else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *caller,
            structlog.processors.StackInfoRenderer(),
            add_fields,
            *_hooks(log, instance),
            *_renderers(log.formatter),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging()


def _hooks(log: Wanted, instance: str) -> list[Any]:
    if not log.hooks and "moorage.logs.mail_hook" not in sys.modules:
        return []
    from moorage.logs.mail_hook import telling  # noqa: PLC0415  few have hooks; a reload may have taken them away

    tell = telling(log, instance)
    return [] if tell is None else [tell]


class AccessLog:
    """Writes one line for each request; `formatter` is `log.formatter`."""

    def __init__(self, formatter: str, fd: int = 1) -> None:
        self._fd = fd
        self._format: Callable[[Entry], bytes] = _combined() if formatter in {"", "text"} else _access_json

    def write(self, entry: Entry) -> None:
        write_line(self._fd, self._format(entry))


class Entry:
    """One request in the access log.

    `seconds` is how long the application took; `subject` is that of the client's certificate, "" without one.
    """

    __slots__ = (
        "agent", "method", "protocol", "referer", "remote", "request", "seconds", "sent", "status", "subject",
        "target", "user", "when",
    )  # fmt: skip

    def __init__(
        self,
        *,
        when: float,
        remote: str,
        user: str,
        method: str,
        target: str,
        protocol: str,
        status: int,
        sent: int,
        seconds: float,
        referer: str,
        agent: str,
        request: str,
        subject: str = "",
    ) -> None:
        self.when, self.remote, self.user, self.method = when, remote, user, method
        self.target = redaction.in_url(target)
        self.protocol, self.status, self.sent, self.seconds = protocol, status, sent, seconds
        self.referer, self.agent, self.request = redaction.in_url(referer), agent, request
        self.subject = subject


def write_line(fd: int, line: bytes) -> None:
    """Write all of it, in one system call unless the receiver takes less.  A receiver that is gone is no error."""
    while line:
        try:
            line = line[os.write(fd, line) :]
        except BlockingIOError:
            # Somebody made our terminal or pipe non-blocking; a log that drops lines under load misleads.
            select.select([], [fd], [])
        except OSError:
            return


class _StandardError:
    """The logger that structlog calls with a rendered line; its methods are named after the levels."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        write_line(2, f"{redaction.in_text(line)}\n".encode(errors="backslashreplace"))

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Forward(logging.Handler):
    """Hands what libraries log to structlog, so that it has the same form and fields."""

    def emit(self, record: logging.LogRecord) -> None:
        extra: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            extra["exc_info"] = record.exc_info
        structlog.get_logger().log(min(record.levelno, logging.CRITICAL), record.getMessage(), **extra)


def _adopt_standard_logging() -> None:
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _caller() -> CallsiteParameterAdder:
    wanted = [CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME]
    return CallsiteParameterAdder(wanted, additional_ignores=[__name__, "logging"])


def _name_caller(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["file"] = f"{event.pop('pathname')}:{event.pop('lineno')}"
    event["func"] = event.pop("func_name")
    return event


def _renderers(formatter: str) -> list[Any]:
    if formatter == "text" and sys.stderr is not None and sys.stderr.isatty():
        return [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            # Tracebacks as text: a renderer that formats them itself would pass on what an exception holds.
            structlog.processors.format_exc_info,
            _escape_for_terminal,
            structlog.dev.ConsoleRenderer(
                colors=True, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    finish = {"text": _text, "json": _json, "logstash": _logstash}[formatter]
    return [structlog.processors.format_exc_info, finish]


def _now() -> str:
    return _stamp(datetime.now(UTC))


def _stamp(when: datetime) -> str:
    """RFC 3339 with nine digits, as Go writes it; `isoformat` is five times as fast as `strftime`."""
    return f"{when.replace(tzinfo=None).isoformat(timespec='microseconds')}000Z"


def _level(event: MutableMapping[str, Any]) -> str:
    level = str(event.pop("level"))
    return {"warn": "warning", "critical": "fatal", "exception": "error"}.get(level, level)


def _text(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    """As logrus does: time, level and message first, the rest by name."""
    first = f"time={_quoted(_now())} level={_level(event)} msg={_quoted(str(event.pop('event')))}"
    return first + "".join(f" {key}={_quoted(_word(event[key]))}" for key in sorted(event))


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return _dump({"level": _level(event), "msg": str(event.pop("event")), "time": _now(), **event})


def _logstash(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    head = {"@timestamp": _now(), "@version": "1", "level": _level(event), "message": str(event.pop("event"))}
    return _dump({**head, **event})


def _escape_for_terminal(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in {"exception", "stack"}:
            event[key] = lines_without_controls(str(value))
        elif isinstance(value, str):
            event[key] = without_controls(value)
    return event


def without_controls(text: str) -> str:
    r"""`text` with an escape such as `\u202e`, as in JSON and Go's `%q`, for each control character."""
    return text if text.isprintable() else _CONTROLS.sub(_escape_control, text)


def lines_without_controls(text: str) -> str:
    """The same for text of several lines, such as a traceback."""
    return "\n".join(without_controls(line) for line in text.split("\n"))


def _escape_control(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _dump(event: Mapping[str, Any]) -> str:
    return without_controls(_ENCODE(event))


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else without_controls(_ENCODE_TEXT(text))


def _combined() -> Callable[[Entry], bytes]:
    """Apache's combined form, then the seconds taken and the request's id, both without quotes.

    The subject of a client's certificate, where there is one, is the last field, in quotes.
    """
    second, stamp = -1, ""

    def render(entry: Entry) -> bytes:
        nonlocal second, stamp
        if int(entry.when) != second:
            second = int(entry.when)
            stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(second))
        subject = f' "{_safe(entry.subject, 300)}"' if entry.subject else ""
        return (
            f"{_safe(entry.remote, 128)} - {_safe(entry.user, 256)} [{stamp}] "
            f'"{_safe(entry.method, 32)} {_safe(entry.target, 2000)} HTTP/{entry.protocol}" '
            f"{entry.status} {entry.sent or '-'} "
            f'"{_safe(entry.referer, 500)}" "{_safe(entry.agent, 500)}" '
            f"{entry.seconds:.6f} {entry.request}{subject}\n"
        ).encode()

    return render


def _access_json(entry: Entry) -> bytes:
    line = _access_object(entry, 2000)
    # JSON's escapes take up to six bytes a character, so a hostile request may need a shorter cut.
    return line if len(line) <= PIPE_BUF else _access_object(entry, 100)


def _access_object(entry: Entry, limit: int) -> bytes:
    fields = {
        "time": _stamp(datetime.fromtimestamp(entry.when, UTC)),
        "http.request.remoteaddr": entry.remote[:128],
        "auth.user.name": entry.user[:limit],
        "http.request.method": entry.method[:32],
        "http.request.uri": entry.target[:limit],
        "http.request.protocol": f"HTTP/{entry.protocol}",
        "http.response.status": entry.status,
        "http.response.written": entry.sent,
        "http.response.duration": round(entry.seconds, 6),
        "http.request.referer": entry.referer[: limit // 4],
        "http.request.useragent": entry.agent[: limit // 4],
        "http.request.id": entry.request,
        "tls.client.subject": entry.subject[: limit // 4],
        "trace_id": trace_id.get(),
    }
    return _dump({key: value for key, value in fields.items() if value != ""}).encode(errors="replace") + b"\n"


def _safe(text: str, limit: int) -> str:
    """Within a line and within quotes, as Apache escapes: nobody forges a line by sending one.

    Cut to `limit` characters; "-" if empty.
    """
    return _escaped(text[:limit], limit) if text else "-"


@lru_cache(maxsize=1024)
def _escaped(text: str, limit: int) -> str:
    """Remembered, since user agents, addresses and many targets come again and again."""
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_escape, text)
    return text[:limit]


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return "\\" + character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
