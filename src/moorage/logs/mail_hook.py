"""`log.hooks`: a structlog processor that queues log lines of some levels to be sent by mail.

    every process ─ a line of such a level ─► `MailQueue`: one datagram, no waiting ─► housekeeper ─► mail server

The housekeeper sends the mails of all processes of a node (`mail_sender.py`), so logging never waits for a mail
server, a flood of errors in eight workers is one mail a minute, and the last line of a killed worker is sent.  The
queue is a pair of sockets that the master creates and all processes inherit; the kernel bounds it.  A line that
does not fit is dropped, and counted in the next one.

Levels have the names of logrus: `fatal` is critical; `panic` is critical, and every error with a traceback, which
is how CNCF Distribution logs a panic of a handler.

Source: docs/reference/configuration.md, section 4.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.redaction import in_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

    from moorage.config.sections.log import Hook, Log

__all__ = ["RECORD_LIMIT_BYTES", "MailHook", "MailQueue", "encoded", "has_hooks", "hook_levels", "not_mailed"]

RECORD_LIMIT_BYTES: Final = 32 << 10
_WORD_LIMIT_CHARS: Final = 2000
_SHORT_CHARS: Final = 100
_SHOWN_LIMIT: Final = 40
_DATAGRAM_BYTES: Final = 1 << 20

_suppressed: ContextVar[bool] = ContextVar("moorage_not_mailed", default=False)


class MailQueue:
    """Queue of log lines between the processes of a node.  The sockets exist from the first configured hook on."""

    def __init__(self) -> None:
        self.sender: socket.socket | None = None
        self.receiver: socket.socket | None = None
        self.hooks: Sequence[Hook] = ()
        """The hooks in force in this process."""
        self.has_other_reader = False
        """True: a process that outlives this one reads the queue to its end."""

    def processors(self, log: Log) -> list[MailHook]:
        """Return the processor for `log_setup.configure`, if a hook is active.

        Call it in the master first: processes forked later inherit the queue.
        """
        self.hooks = log.hooks
        if not has_hooks(log):
            return []
        if self.sender is None:
            # Out of descriptors: lines are logged all the same.
            with suppress(OSError):
                self.sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self.sender.setblocking(False)
                self.receiver.setblocking(False)
        return [] if self.sender is None else [MailHook(log, self.sender)]

    def close(self) -> None:
        """Close the sockets of this process."""
        for one in (self.sender, self.receiver):
            if one is not None:
                one.close()
        self.sender = None
        self.receiver = None

    def receive(self) -> Iterator[bytes]:
        """Yield the queued lines, as `encoded`, without waiting for more."""
        while self.receiver is not None:
            try:
                data = self.receiver.recv(_DATAGRAM_BYTES)
            except OSError:
                return
            if not data:
                return
            yield data


class MailHook:
    """A structlog processor that queues the lines of the levels of any active hook."""

    def __init__(self, log: Log, sender: socket.socket) -> None:
        self._levels = frozenset[str]().union(*(hook_levels(hook) for hook in log.hooks))
        self._sender = sender
        self._lost = 0

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        levels = _levels_of(event)
        if not levels.isdisjoint(self._levels) and not _suppressed.get():
            self._send(_record(event, levels))
        return event

    def _send(self, record: dict[str, Any]) -> None:
        if self._lost:
            record["lost"] = self._lost
        try:
            self._sender.send(encoded(record), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # a full queue, or no process that reads it
            self._lost += 1
        else:
            self._lost = 0


@contextmanager
def not_mailed() -> Iterator[None]:
    """Queue no lines in this context: a failed mail must not cause another one."""
    token = _suppressed.set(True)
    try:
        yield
    finally:
        _suppressed.reset(token)


def has_hooks(log: Log) -> bool:
    """Return whether a hook is configured and not disabled."""
    return any(not hook.disabled for hook in log.hooks)


def hook_levels(hook: Hook) -> frozenset[str]:
    """Return the levels of a hook, in one spelling; none if it is disabled."""
    if hook.disabled:
        return frozenset()
    return frozenset({"warn": "warning"}.get(level.lower(), level.lower()) for level in hook.levels)


def encoded(record: dict[str, Any]) -> bytes:
    """Return `record` as JSON, cut to what fits into one datagram."""
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


def _levels_of(event: Mapping[str, Any]) -> set[str]:
    """Return the names that logrus has for the level of `event`."""
    level = str(event["level"])
    if level == "critical":
        return {"fatal", "panic"}
    return {level, "panic"} if level == "error" and event.get("exc_info") else {level}


def _record(event: Mapping[str, Any], levels: set[str]) -> dict[str, Any]:
    rest = structlog.processors.format_exc_info(None, "", dict(event))
    level = str(rest.pop("level"))
    trace = str(rest.pop("exception", ""))
    record: dict[str, Any] = {
        "levels": sorted(levels),
        "time": time.time(),
        "level": {"critical": "fatal"}.get(level, level),
        "message": _cut(rest.pop("event")),
        "fields": {str(name): _cut(value) for name, value in rest.items()},
    }
    if trace:
        # The end of a traceback names the error.
        record["trace"] = in_text(trace)[-4 * _WORD_LIMIT_CHARS :]
    return record


def _cut(value: object) -> str:
    return in_text(str(value))[:_WORD_LIMIT_CHARS]
