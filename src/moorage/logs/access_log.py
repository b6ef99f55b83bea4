"""Access log: one line per request on standard output, in Apache's combined format or as a JSON object.

    http/middleware.py ─► `AccessLogWriter` ─► combined │ JSON object ─► one write(2) to fd 1

A line never exceeds PIPE_BUF (4096 bytes), so lines of several processes do not mix on pipes either.  No
credentials: URLs are redacted (`redaction.py`).  Control, bidirectional and invisible characters are escaped.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage import redaction
from moorage.logs.lines import PIPE_BUF, json_line, rfc3339, write_line
from moorage.logs.log_setup import trace_id

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AccessLogWriter", "Entry"]

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\uffff\U00010000-\U0010ffff\"\\]")


class AccessLogWriter:
    """Writes one line for each request; `formatter` is `log.formatter`."""

    def __init__(self, formatter: str, fd: int = 1) -> None:
        self._fd = fd
        self._format: Callable[[Entry], bytes] = _combined() if formatter in {"", "text"} else _json

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
        self.when = when
        self.remote = remote
        self.user = user
        self.method = method
        self.target = redaction.in_url(target)
        self.protocol = protocol
        self.status = status
        self.sent = sent
        self.seconds = seconds
        self.referer = redaction.in_url(referer)
        self.agent = agent
        self.request = request
        self.subject = subject


def _combined() -> Callable[[Entry], bytes]:
    """Return a renderer of Apache's combined format, then the seconds taken and the request id, without quotes.

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


def _json(entry: Entry) -> bytes:
    line = _object(entry, 2000)
    # JSON's escapes take up to six bytes a character, so a hostile request may need a shorter cut.
    return line if len(line) <= PIPE_BUF else _object(entry, 100)


def _object(entry: Entry, limit: int) -> bytes:
    fields = {
        "time": rfc3339(datetime.fromtimestamp(entry.when, UTC)),
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
    return json_line({key: value for key, value in fields.items() if value != ""}).encode(errors="replace") + b"\n"


def _safe(text: str, limit: int) -> str:
    """Escape for use within quotes on one line, as Apache does: a client cannot forge a line.

    Cut to `limit` characters; "-" if empty.
    """
    return _escaped(text[:limit], limit) if text else "-"


@lru_cache(maxsize=1024)
def _escaped(text: str, limit: int) -> str:
    """Cached, since user agents, addresses and many targets recur."""
    if _UNSAFE.search(text):
        text = _UNSAFE.sub(_escape, text)
    return text[:limit]


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return "\\" + character
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
