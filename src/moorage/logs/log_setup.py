"""Application log: lines of this package and of libraries, on standard error.

    structlog ──┐
                ├─► level ─► fields ─► processors ─► text │ json │ logstash ─► one write(2) to fd 2
    logging ────┘

Lines have the format of logrus as CNCF Distribution configures it, so that log parsers keep working.  No
credentials: nothing logs `Authorization`, and secrets in URLs, such as the `_state` of an upload, are redacted
(`redaction.py`).  Control, bidirectional and invisible characters are escaped by every renderer.

Beside: `access_log.py`; `mail_hook.py` has a processor.  Source: docs of CNCF Distribution, "log"
in its page on configuration.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog
from structlog.processors import CallsiteParameter, CallsiteParameterAdder

from moorage import __version__, redaction
from moorage.logs.lines import json_line, lines_without_controls, rfc3339, without_controls, write_line

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from structlog.typing import Processor

    from moorage.config.sections.log import Log

__all__ = ["configure", "request_id", "trace_id"]

request_id: ContextVar[str] = ContextVar("moorage_request_id", default="")
"""Id of the request that is being answered: `http.request.id` of every line that is logged meanwhile."""

trace_id: ContextVar[str] = ContextVar("moorage_trace_id", default="")
"""Id of the trace of that request, if it is traced; on the same lines, and in the access log as JSON."""

_LEVELS: Final = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
_ENCODE_TEXT: Final = json.JSONEncoder(ensure_ascii=False).encode
_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._/@^+]+", re.ASCII)


def configure(log: Log, *, instance: str, worker: int | None = None, processors: Sequence[Processor] = ()) -> None:
    """Set up structlog and the standard library's logging for this process by the `log` section.

    `processors` of structlog run on each line before it is rendered, with all its fields.  May be called again;
    existing loggers use the newest configuration.
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
            *processors,
            *_renderers(log.formatter),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError,
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging()


class _StandardError:
    """The logger that structlog calls with a rendered line; its methods are named after the levels."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: str) -> None:
        write_line(2, f"{redaction.in_text(line)}\n".encode(errors="backslashreplace"))

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Forward(logging.Handler):
    """Passes the lines of libraries to structlog, so that they have the same format and fields."""

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
    parameters = [CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME]
    return CallsiteParameterAdder(parameters, additional_ignores=[__name__, "logging"])


def _name_caller(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["file"] = f"{event.pop('pathname')}:{event.pop('lineno')}"
    event["func"] = event.pop("func_name")
    return event


def _renderers(formatter: str) -> list[Any]:
    if formatter == "text" and sys.stderr is not None and sys.stderr.isatty():
        return [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            # Tracebacks as text: a renderer that formats them itself would print local variables.
            structlog.processors.format_exc_info,
            _escape_for_terminal,
            structlog.dev.ConsoleRenderer(
                colors=True, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    finish = {"text": _text, "json": _json, "logstash": _logstash}[formatter]
    return [structlog.processors.format_exc_info, finish]


def _now() -> str:
    return rfc3339(datetime.now(UTC))


def _level(event: MutableMapping[str, Any]) -> str:
    level = str(event.pop("level"))
    return {"warn": "warning", "critical": "fatal", "exception": "error"}.get(level, level)


def _text(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    """Render a line as logrus does: time, level and message first, the rest by name."""
    first = f"time={_quoted(_now())} level={_level(event)} msg={_quoted(str(event.pop('event')))}"
    return first + "".join(f" {key}={_quoted(_word(event[key]))}" for key in sorted(event))


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return json_line({"level": _level(event), "msg": str(event.pop("event")), "time": _now(), **event})


def _logstash(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    head = {"@timestamp": _now(), "@version": "1", "level": _level(event), "message": str(event.pop("event"))}
    return json_line({**head, **event})


def _escape_for_terminal(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in {"exception", "stack"}:
            event[key] = lines_without_controls(str(value))
        elif isinstance(value, str):
            event[key] = without_controls(value)
    return event


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else without_controls(_ENCODE_TEXT(text))
