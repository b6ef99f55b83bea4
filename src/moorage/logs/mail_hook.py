"""`log.hooks`: what is told of log lines of some levels, which is people, by mail.

    every process ─ a line of a wanted level ─► one datagram, without waiting ─► mail_process.py ─► mail server

The mails of a node are sent by one process of their own (`mail_process.py`), which master and workers reach by
a socket that the workers inherit.  So logging never waits for a mail server, a flood of errors in eight workers
is one mail a minute, and the mail of a worker that has just been killed is sent all the same.  What does not
fit into the socket is dropped, and counted in the next mail.

Levels are logrus's names, since configurations have those: `fatal` is our critical; `panic` is critical and every
error with a traceback, which is what CNCF Distribution logs a panic of a handler as.

Source: docs/reference/configuration.md, section 4.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.redaction import in_text

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from moorage.config.sections.log import Hook
    from moorage.logs.log_setup import Wanted

__all__ = ["RECORD_LIMIT_BYTES", "Tell", "telling"]

RECORD_LIMIT_BYTES: Final = 32 << 10
_WORD_LIMIT_CHARS: Final = 2000
_SHORT_CHARS: Final = 100
_SHOWN_LIMIT: Final = 40
_AGAIN_AFTER_S: Final = 60.0
_END_LIMIT_S: Final = 5.0


class Tell:
    """A processor of structlog that hands lines on; `log` says which and to whom."""

    def __init__(self, log: Wanted, instance: str) -> None:
        self.description = _description(log, instance)
        self._wanted = [_names(hook) for hook in log.hooks]
        self._any = frozenset[str]().union(*self._wanted)
        self._mailer: _Mailer | None = None
        self._begun = -_AGAIN_AFTER_S
        self._lost = 0

    def begin(self) -> None:
        """Start the process that sends the mails; a minute later again, if the system cannot now."""
        self._begun = time.monotonic()
        with suppress(OSError):
            self._mailer = _Mailer(self.description)

    def end(self) -> None:
        """Let it send what it has, and leave it to itself."""
        if self._mailer is not None:
            self._mailer.close()

    def wait(self) -> None:
        """Let it send what it has; returns when it has, or after a while."""
        if self._mailer is not None:
            self._mailer.wait(_END_LIMIT_S)

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        names = _names_of(event)
        if not names.isdisjoint(self._any):
            to = [index for index, wanted in enumerate(self._wanted) if not names.isdisjoint(wanted)]
            self._send(_record(event, to))
        return event

    def _send(self, record: dict[str, Any]) -> None:
        if self._lost:
            record["lost"] = self._lost
        data = encoded(record)
        try:
            fitted = self._mailer is not None and self._mailer.send(data)
        except OSError:
            self._mailer, fitted = None, False
        self._lost = 0 if fitted else self._lost + 1
        if self._mailer is None and time.monotonic() - self._begun >= _AGAIN_AFTER_S:
            # It was killed, or could not start.  The new one is this process's alone.
            self.begin()


class _Mailer:
    """The other process, seen from here; it ends when all who could tell it something have closed."""

    def __init__(self, description: bytes) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner = os.getpid()
        with theirs:
            # -P: whatever lies in the working directory is not ours to import.  A session of its own: neither
            # Ctrl-C nor a service manager's signal to the group may end it before it has sent what it has.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "moorage.logs.mail_process"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._ours.send(description)

    def send(self, data: bytes) -> bool:
        """Whether it fitted.  Raises OSError if nobody is there."""
        try:
            self._ours.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._ours.close()

    def wait(self, limit_s: float) -> None:
        self._ours.close()
        if os.getpid() == self._owner:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(limit_s)


_running: Tell | None = None


def telling(log: Wanted, instance: str) -> Tell | None:
    """The processor for these settings, None if nobody is to be told.

    The same one as before where nothing has changed, so that a worker uses what the master has started.
    """
    global _running  # noqa: PLW0603  one for each process, like the logging that it belongs to
    active = [hook for hook in log.hooks if not hook.disabled]
    if _running is not None and _running.description == _description(log, instance):
        return _running
    if _running is not None:
        _running.end()
        _running = None
    if active:
        _running = Tell(log, instance)
        _running.begin()
        atexit.register(_running.wait)
    return _running


def encoded(record: dict[str, Any]) -> bytes:
    """As JSON, cut to what a datagram holds."""
    data = _json(record)
    if len(data) > RECORD_LIMIT_BYTES:
        fields = {name[:_SHORT_CHARS]: value[:_SHORT_CHARS] for name, value in record["fields"].items()}
        data = _json({**record, "fields": dict(list(fields.items())[:_SHOWN_LIMIT])})
    if len(data) > RECORD_LIMIT_BYTES:
        # JSON's escapes take up to six bytes a character.
        short = {"fields": {}, "message": record["message"][:_WORD_LIMIT_CHARS]}
        data = _json({**record, **short, "trace": record.get("trace", "")[-_WORD_LIMIT_CHARS:]})
    return data


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _names(hook: Hook) -> frozenset[str]:
    if hook.disabled:
        return frozenset()
    return frozenset({"warn": "warning"}.get(level.lower(), level.lower()) for level in hook.levels)


def _names_of(event: Mapping[str, Any]) -> set[str]:
    """What logrus would call the event's level, by all its names."""
    level = str(event["level"])
    if level == "critical":
        return {"fatal", "panic"}
    return {level, "panic"} if level == "error" and event.get("exc_info") else {level}


def _record(event: Mapping[str, Any], to: list[int]) -> dict[str, Any]:
    told = structlog.processors.format_exc_info(None, "", dict(event))
    level = str(told.pop("level"))
    trace = str(told.pop("exception", ""))
    record: dict[str, Any] = {
        "to": to,
        "time": time.time(),
        "level": {"critical": "fatal"}.get(level, level),
        "message": _cut(told.pop("event")),
        "fields": {str(name): _cut(value) for name, value in told.items()},
    }
    if trace:
        # The end of a traceback says what happened.
        record["trace"] = in_text(trace)[-4 * _WORD_LIMIT_CHARS :]
    return record


def _cut(value: object) -> str:
    return in_text(str(value))[:_WORD_LIMIT_CHARS]


def _description(log: Wanted, instance: str) -> bytes:
    """All that the other process is made from; by the socket, since arguments can be read by other users."""
    hooks = [
        {
            "addr": hook.options.smtp.addr, "username": hook.options.smtp.username,
            "password": hook.options.smtp.password, "insecure": hook.options.smtp.insecure,
            "sender": hook.options.from_, "receivers": list(hook.options.to),
        }
        for hook in log.hooks
    ]  # fmt: skip
    fields = {str(name): str(value) for name, value in log.fields.items()}
    form: dict[str, Any] = {"level": log.level, "formatter": log.formatter, "fields": fields, "instance": instance}
    form["levels"] = [sorted(_names(hook)) for hook in log.hooks]
    return _json({"hooks": hooks, **form})
