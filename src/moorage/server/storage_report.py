"""Memory shared by master, storage monitor and workers: the newest `StorageReport`.

    sequence │ length │ checksum │ report as JSON        one anonymous mapping, created before any fork

One process writes at a time.  A reader that sees half of a report finds a checksum that does not match, and keeps
the report that it read before.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from dataclasses import asdict
from typing import Final

from moorage.health import StorageReport

__all__ = ["SharedReport"]

_SEQUENCE: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<QII")
_BYTES: Final = 16 << 10
_CAUSE_CHARS: Final = 1000
"""A path has 4,096 bytes at most, and six bytes per character in JSON still fit."""


class SharedReport:
    """The master creates it; each process that forks from it reads what any of them writes."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._sequence = 0
        self._report = StorageReport()

    def write(self, report: StorageReport) -> None:
        """Publish `report`; a cause of more than 1,000 characters is cut."""
        fields = asdict(report) | {"cause": report.cause[:_CAUSE_CHARS]}
        data = json.dumps(fields).encode()
        (sequence,) = _SEQUENCE.unpack_from(self._memory)
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, 0, sequence + 1, len(data), _checksum(sequence + 1, data))

    def read(self) -> StorageReport:
        """Return the newest report; called for every request, so an unchanged one is not parsed again."""
        (sequence,) = _SEQUENCE.unpack_from(self._memory)
        if sequence != self._sequence:
            sequence, length, checksum = _HEAD.unpack_from(self._memory)
            data = self._memory[_HEAD.size : _HEAD.size + length]
            if _checksum(sequence, data) == checksum:
                fields = json.loads(data)
                identity = fields.pop("identity")
                known = None if identity is None else (identity[0], identity[1])
                self._sequence, self._report = sequence, StorageReport(**fields, identity=known)
        return self._report


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)
