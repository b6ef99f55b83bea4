"""Lines of a log: written by one system call, escaped, with a time as Go formats it."""

from __future__ import annotations

import json
import os
import re
import select
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["PIPE_BUF", "json_line", "lines_without_controls", "rfc3339", "without_controls", "write_line"]

PIPE_BUF: Final = 4096
"""Bytes that one write(2) to a pipe transfers without mixing with others (pipe(7))."""

# Created once: json.dumps creates an encoder for each line, a third of the cost of a line.
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_CONTROLS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""C0, DEL and C1 (escape sequences of terminals), line separators, bidirectional and invisible characters, BOM."""


def write_line(fd: int, line: bytes) -> None:
    """Write the whole line, in one system call unless the receiver takes less.  A closed receiver is no error."""
    while line:
        try:
            line = line[os.write(fd, line) :]
        except BlockingIOError:
            # Some supervisors make the terminal or pipe non-blocking; a log that drops lines under load misleads.
            select.select([], [fd], [])
        except OSError:
            return


def without_controls(text: str) -> str:
    r"""Return `text` with an escape such as `\u202e`, as in JSON and Go's `%q`, for each control character."""
    return text if text.isprintable() else _CONTROLS.sub(_escape_control, text)


def lines_without_controls(text: str) -> str:
    """Return text of several lines, such as a traceback, with escapes in each line."""
    return "\n".join(without_controls(line) for line in text.split("\n"))


def _escape_control(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def json_line(event: Mapping[str, Any]) -> str:
    """Return `event` as a compact JSON object without control characters."""
    return without_controls(_ENCODE(event))


def rfc3339(when: datetime) -> str:
    """Return `when`, a time in UTC, in RFC 3339 with nine digits, as Go formats it.

    `isoformat` is five times as fast as `strftime`.
    """
    return f"{when.replace(tzinfo=None).isoformat(timespec='microseconds')}000Z"
