"""Process that sends the mails of `log.hooks`; `mail_hook.py` starts `python -m moorage.logs.mail_process`.

    datagrams on standard input ─► a `Digest` for each hook ─► `smtp.py`, at most one mail a minute

The first datagram says who is written to, each further one is a log line.  A second after the first line, so that
what comes together is one mail, it goes out; what comes within the next minute is the next mail.  A mail shows
some lines whole and counts the others.  If the mail server does not take it, the lines wait, and it is tried
again after one minute, two, and so on up to ten; the log tells why.

It ends when everybody who could tell it something has ended, after a last try.  Signals do not end it before.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage import __version__
from moorage.logs import log_setup, smtp
from moorage.logs.lines import lines_without_controls, without_controls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Digest", "main"]

_GATHER_S: Final = 1.0
_EVERY_S: Final = 60.0
_SLOWEST_S: Final = 600.0
_SHOWN: Final = 20
_KINDS: Final = 50
_DATAGRAM_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 10.0
_LAST_TIMEOUT_S: Final = 5.0
_log: Final = structlog.get_logger("moorage.mailer")


@dataclass(slots=True)
class Digest:
    """The lines that wait for one hook's next mail.  Times are seconds of a clock that never goes back."""

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
        """When its mail is to go out; None if nothing waits."""
        return None if self.since is None else max(self.since + _GATHER_S, self.not_before)

    def sent(self, now: float) -> None:
        self.lines, self.others, self.lost, self.since = [], Counter(), 0, None
        self.not_before, self.failures = now + _EVERY_S, 0

    def failed(self, now: float) -> None:
        self.failures += 1
        self.not_before = now + min(_SLOWEST_S, _EVERY_S * 2 ** (self.failures - 1))

    def waiting(self) -> int:
        return len(self.lines) + self.others.total()

    def subject(self, host: str) -> str:
        """As the reference's: level, host and message."""
        first, more = self.lines[0], self.waiting() - 1
        return f"[{first['level']}] {host}: {first['message']}" + (f" (and {more} more)" if more else "")

    def text(self, host: str) -> str:
        parts = [_shown(line) for line in self.lines]
        if self.others:
            counted = self.others.most_common()
            rows = [f"{count:8} {level} {without_controls(message)}" for (level, message), count in counted]
            parts.append("\n".join(["Not shown, but counted:", *rows]))
        if self.lost:
            parts.append(f"{self.lost} more could not be told of: too many came at once.")
        parts.append(f"-- \nMoorage {__version__} on {host}; log.hooks asks for this mail, at most once a minute.")
        return "\n\n".join(parts) + "\n"


def _shown(line: Mapping[str, Any]) -> str:
    when = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="milliseconds")
    rows = [f"{when} {line['level']}: {without_controls(line['message'])}"]
    rows += [f"    {name}: {without_controls(str(value))}" for name, value in sorted(line["fields"].items())]
    if "trace" in line:
        rows += ["", lines_without_controls(str(line["trace"]))]
    return "\n".join(rows)


class Mailer:
    """`clock` and `host` are handed in by tests."""

    def __init__(
        self, hooks: Sequence[smtp.Server], *, host: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hooks = [(hook, Digest()) for hook in hooks]
        self._host, self._clock = host, clock

    def take(self, data: bytes) -> None:
        """One datagram."""
        line = json.loads(data)
        for index in line["to"]:
            self._hooks[index][1].add(line, self._clock())

    def wait_s(self) -> float | None:
        """How long nothing is to be done; None: until somebody tells something."""
        due = [at for _, digest in self._hooks if (at := digest.due()) is not None]
        return max(0.0, min(due) - self._clock()) if due else None

    def send_due(self) -> None:
        for index, (_, digest) in enumerate(self._hooks):
            at = digest.due()
            if at is not None and at <= self._clock():
                self._send(index, _TIMEOUT_S)

    def send_all(self) -> None:
        """A last try."""
        for index, (_, digest) in enumerate(self._hooks):
            if digest.waiting():
                self._send(index, _LAST_TIMEOUT_S)

    def _send(self, index: int, timeout_s: float) -> None:
        hook, digest = self._hooks[index]
        try:
            smtp.send(hook, digest.subject(self._host), digest.text(self._host), timeout_s=timeout_s)
        except smtp.CannotSend as error:
            digest.failed(self._clock())
            # To the log alone: this process has no hooks.
            _log.warning(
                "a mail of log.hooks could not be sent",
                hook=index, addr=hook.addr, cause=str(error), lines=digest.waiting(),
            )  # fmt: skip
        else:
            digest.sent(self._clock())


@dataclass(frozen=True, slots=True)
class _Log:
    """What `logs.configure` needs, without the models of the configuration: they take long to import."""

    level: str
    formatter: str
    fields: Mapping[str, Any]
    reportcaller: bool = False
    hooks: tuple[()] = ()


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=0) as told:
        first = told.recv(_DATAGRAM_BYTES)
        if not first:
            return 0
        wanted = json.loads(first)
        log_setup.configure(
            _Log(wanted["level"], wanted["formatter"], wanted["fields"]), instance=wanted["instance"]
        )
        mailer = Mailer([smtp.Server(**hook) for hook in wanted["hooks"]], host=socket.gethostname())
        while True:
            ready, _, _ = select.select([told], [], [], mailer.wait_s())
            if ready:
                data = told.recv(_DATAGRAM_BYTES)
                if not data:
                    break
                mailer.take(data)
            mailer.send_due()
    mailer.send_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
