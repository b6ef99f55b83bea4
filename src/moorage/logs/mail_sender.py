"""Mails of `log.hooks`: collects log lines per hook and sends them, at most one mail a minute.

    MailQueue ─► `MailSender` ─► a `MailDigest` for each hook ─► smtp.py

A mail goes out a second after its first line, so that lines of one event share a mail; lines of the next minute
are the next mail.  A mail shows some lines whole and counts the others.  If the mail server refuses it, the lines
wait, and it is sent again after one minute, two, and so on up to ten; the log has the cause.

Above: `server/housekeeper/mail_job.py`.  Methods block while a mail is sent.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage import __version__
from moorage.logs import smtp
from moorage.logs.lines import lines_without_controls, without_controls
from moorage.logs.mail_hook import hook_levels, not_mailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from moorage.config.sections.log import Hook
    from moorage.logs.mail_hook import MailQueue

__all__ = ["MailDigest", "MailSender", "send_remaining"]

_GATHER_S: Final = 1.0
_INTERVAL_S: Final = 60.0
_LONGEST_RETRY_S: Final = 600.0
_SHOWN: Final = 20
_KINDS: Final = 50
_TIMEOUT_S: Final = 10.0
_LAST_TIMEOUT_S: Final = 5.0
_log: Final = structlog.get_logger("moorage.mail")


@dataclass(slots=True)
class MailDigest:
    """The lines of one hook's next mail.  Times are seconds of a monotonic clock."""

    lines: list[Mapping[str, Any]] = field(default_factory=list)
    others: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: int = 0
    since: float | None = None
    not_before: float = 0.0
    failures: int = 0

    def add(self, line: Mapping[str, Any], now: float) -> None:
        self.since = now if self.since is None else self.since
        self.lost += int(line.get("lost", 0))
        if len(self.lines) < _SHOWN:
            self.lines.append(line)
            return
        kind = (str(line["level"]), str(line["message"])[:200])
        self.others[kind if kind in self.others or len(self.others) < _KINDS else (kind[0], "(others)")] += 1

    def due(self) -> float | None:
        """Return when its mail is to be sent; None without lines."""
        return None if self.since is None else max(self.since + _GATHER_S, self.not_before)

    def sent(self, now: float) -> None:
        self.lines = []
        self.others = Counter()
        self.lost = 0
        self.since = None
        self.not_before = now + _INTERVAL_S
        self.failures = 0

    def failed(self, now: float) -> None:
        self.failures += 1
        self.not_before = now + min(_LONGEST_RETRY_S, _INTERVAL_S * 2 ** (self.failures - 1))

    def waiting(self) -> int:
        return len(self.lines) + self.others.total()

    def subject(self, host: str) -> str:
        """Return the subject as CNCF Distribution has it: level, host and message."""
        first, more = self.lines[0], self.waiting() - 1
        return f"[{first['level']}] {host}: {first['message']}" + (f" (and {more} more)" if more else "")

    def text(self, host: str) -> str:
        parts = [_shown(line) for line in self.lines]
        if self.others:
            counted = self.others.most_common()
            rows = [f"{count:8} {level} {without_controls(message)}" for (level, message), count in counted]
            parts.append("\n".join(["Not shown, but counted:", *rows]))
        if self.lost:
            parts.append(f"{self.lost} more lines were dropped: too many came at once.")
        parts.append(f"-- \nMoorage {__version__} on {host}; log.hooks asks for this mail, at most once a minute.")
        return "\n\n".join(parts) + "\n"


def _shown(line: Mapping[str, Any]) -> str:
    when = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    rows = [f"{when} {line['level']}: {without_controls(line['message'])}"]
    rows += [f"    {name}: {without_controls(str(value))}" for name, value in sorted(line["fields"].items())]
    if "trace" in line:
        rows += ["", lines_without_controls(str(line["trace"]))]
    return "\n".join(rows)


class MailSender:
    """The mails of all hooks.  `clock` and `host` are parameters for tests."""

    def __init__(
        self, hooks: Sequence[Hook], *, host: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hooks = [(hook_levels(hook), _server(hook), MailDigest()) for hook in hooks]
        self._host = host or socket.gethostname()
        self._clock = clock

    def add(self, data: bytes) -> None:
        """Add a line, as encoded by `mail_hook.py`, to the digests of the hooks that have one of its levels."""
        line = json.loads(data)
        for levels, _, digest in self._hooks:
            if not levels.isdisjoint(line["levels"]):
                digest.add(line, self._clock())

    def wait_s(self) -> float | None:
        """Return the seconds until `send_due` has work; None: not before another line."""
        due = [at for _, _, digest in self._hooks if (at := digest.due()) is not None]
        return max(0.0, min(due) - self._clock()) if due else None

    def send_due(self) -> None:
        """Send the mails that are due."""
        for number, (_, _, digest) in enumerate(self._hooks):
            at = digest.due()
            if at is not None and at <= self._clock():
                self._send(number, _TIMEOUT_S)

    def send_all(self) -> None:
        """Send everything, once: the process is about to end."""
        for number, (_, _, digest) in enumerate(self._hooks):
            if digest.waiting():
                self._send(number, _LAST_TIMEOUT_S)

    def _send(self, number: int, timeout_s: float) -> None:
        _, server, digest = self._hooks[number]
        try:
            smtp.send(server, digest.subject(self._host), digest.text(self._host), timeout_s=timeout_s)
        except smtp.MailRefused as error:
            digest.failed(self._clock())
            with not_mailed():
                _log.warning(
                    "a mail of log.hooks could not be sent",
                    hook=number, addr=server.addr, cause=str(error), lines=digest.waiting(),
                )  # fmt: skip
        else:
            digest.sent(self._clock())


def send_remaining(queue: MailQueue) -> None:
    """Send what is left in the queue when no housekeeper reads it any more, or none was started."""
    lines = list(queue.receive())
    if lines:
        sender = MailSender(queue.hooks)
        for line in lines:
            sender.add(line)
        sender.send_all()


def _server(hook: Hook) -> smtp.MailServer:
    options = hook.options
    return smtp.MailServer(
        addr=options.smtp.addr,
        sender=options.from_,
        receivers=list(options.to),
        username=options.smtp.username,
        password=options.smtp.password,
        insecure=options.smtp.insecure,
    )
