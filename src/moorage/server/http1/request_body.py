"""Request body decoders for Content-Length and chunked framing.

Both decoders take a region of a buffer, append views of its body bytes to a list, and return the offset after the
last byte consumed: the end of the body or of the region.  Nothing is copied; the caller joins the views once per
read.

Chunk extensions and trailers are ignored, within limits.  The grammar is strict: sizes of hexadecimal digits only,
CR LF after every line and chunk.
Source: RFC 9112 sections 6.3 and 7.1.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

__all__ = ["Body", "BodyRefused", "ChunkedBody", "SizedBody"]

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t -~\x80-\xff]*)?\r\n")
_NEXT_CHUNK: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
"""From the end of a chunk to the data of the next one; clients in Go send chunks of 32 KiB."""

_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n")
_LINE_LIMIT_BYTES: Final = 4 << 10
_EXTENSIONS_LIMIT_BYTES: Final = 16 << 10
_TRAILERS_LIMIT_BYTES: Final = 16 << 10
_SIZE, _DATA_END, _TRAILERS = range(3)


class BodyRefused(Exception):
    """The framing of a body is malformed; the connection is unusable."""


class Body(Protocol):
    """`done`: the whole body has been decoded.  `left` are bytes known to be missing, None if unknown."""

    done: bool

    @property
    def left(self) -> int | None: ...

    def decode(self, view: memoryview, at: int, end: int, found: list[memoryview]) -> int:
        """Append the body bytes of `view[at:end]` to `found`; return the end offset.  Raises `BodyRefused`."""
        ...


class SizedBody:
    """A body with Content-Length."""

    __slots__ = ("_left", "done")

    def __init__(self, size: int) -> None:
        self._left = size
        self.done = size == 0

    @property
    def left(self) -> int | None:
        return self._left

    def decode(self, view: memoryview, at: int, end: int, found: list[memoryview]) -> int:
        stop = min(end, at + self._left)
        if stop > at:
            found.append(view[at:stop])
            self._left -= stop - at
            self.done = self._left == 0
        return stop


class ChunkedBody:
    """A body with chunked transfer coding."""

    __slots__ = ("_extensions", "_left", "_line", "_state", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._state = _SIZE
        self._left = 0
        self._line = b""
        self._extensions = self._trailers = 0

    @property
    def left(self) -> int | None:
        return None

    def decode(self, view: memoryview, at: int, end: int, found: list[memoryview]) -> int:
        while at < end and not self.done:
            if self._left:
                stop = min(end, at + self._left)
                found.append(view[at:stop])
                self._left -= stop - at
                at = stop
                if self._left == 0:
                    self._state = _DATA_END
                continue
            match = _NEXT_CHUNK.match(view, at, end) if self._state == _DATA_END and not self._line else None
            if match is None:
                at = self._read_line(view, at, end)
                continue
            at = match.end()
            self._left = int(match[1], 16)
            if self._left == 0:
                self._state = _TRAILERS
        return at

    def _read_line(self, view: memoryview, at: int, end: int) -> int:
        """Buffer part of a line and evaluate it once complete.  Raises `BodyRefused`."""
        # Nearly all lines are short and complete.
        window = bytes(view[at : min(end, at + 32)])
        length = window.find(b"\n") + 1
        if not length and at + 32 < end:
            window = bytes(view[at : min(end, at + _LINE_LIMIT_BYTES)])
            length = window.find(b"\n") + 1
        line = self._line + (window[:length] if length else window)
        if len(line) > _LINE_LIMIT_BYTES:
            raise BodyRefused("a chunk extension or trailer is too long")
        if not length:
            self._line = line
            self._check_partial(line)
            return at + len(window)
        self._line = b""
        self._evaluate(line)
        return at + length

    def _evaluate(self, line: bytes) -> None:
        """Evaluate a complete line.  Raises `BodyRefused`."""
        if self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BodyRefused("malformed chunk size")
            if match[2] is not None:
                self._extensions += len(match[2])
                if self._extensions > _EXTENSIONS_LIMIT_BYTES:
                    raise BodyRefused("too many chunk extensions")
            self._left = int(match[1], 16)
            if self._left == 0:
                self._state = _TRAILERS
        elif self._state == _DATA_END:
            if line != b"\r\n":
                raise BodyRefused("a chunk is longer than its size")
            self._state = _SIZE
        elif line == b"\r\n":
            self.done = True
        else:
            self._trailers += len(line)
            if self._trailers > _TRAILERS_LIMIT_BYTES or not _TRAILER.fullmatch(line):
                raise BodyRefused("malformed or too many trailers")

    def _check_partial(self, line: bytes) -> None:
        """Refuse early a partial line that cannot become valid.  Raises `BodyRefused`."""
        if self._state == _DATA_END and line not in {b"", b"\r"}:
            raise BodyRefused("a chunk is longer than its size")
        if self._state == _SIZE and line[:1] not in b"0123456789abcdefABCDEF":
            raise BodyRefused("malformed chunk size")
