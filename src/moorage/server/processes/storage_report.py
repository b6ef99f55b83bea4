"""Memory shared by master, storage monitor and workers: the newest `StorageReport`.

    sequence │ report │ report │ heartbeat            one anonymous mapping, created before any fork
               length │ checksum │ JSON               the report number `sequence` is in place `sequence` modulo 2

A monitor that hangs (stopped, or its disk does not answer) leaves a stale report; after 60 seconds
without a heartbeat the workers treat the state as unknown, as without a monitor: every request is tried.

One process writes at a time.  If it is killed, its last complete report stays: the next monitor must know that the
directory has been seen, or it would create a lost one again.  A reader that is overtaken by two writes finds a
checksum that does not match, and keeps the report that it read before.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from moorage.health_checks import StorageReport, StorageSpace

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STALE_AFTER_S", "SharedReport"]

STALE_AFTER_S: Final = 60.0
"""The monitor sends a heartbeat every 10 seconds, or after a check: a busy disk may sync for half a minute."""

_SEQUENCE: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<II")
_HEARTBEAT: Final = struct.Struct("<d")
_PLACE_BYTES: Final = 16 << 10
_HEARTBEAT_AT: Final = _SEQUENCE.size + 2 * _PLACE_BYTES
_BYTES: Final = _HEARTBEAT_AT + _HEARTBEAT.size
_UNKNOWN: Final = StorageReport()
_CAUSE_CHARS: Final = 1000
"""A path has 4,096 bytes at most, and six bytes per character in JSON still fit."""


class SharedReport:
    """The newest report, in memory that the master creates and all its children share."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the memory.  `clock` returns seconds, the same in every process of the host."""
        self._clock = clock
        self._memory = mmap.mmap(-1, _BYTES)
        # The same memory as numbers: requests read these two, and indexing costs half of unpacking.
        self._sequences = memoryview(self._memory)[: _SEQUENCE.size].cast("Q")
        self._heartbeats = memoryview(self._memory)[_HEARTBEAT_AT:].cast("d")
        self._sequence = 0
        self._report = StorageReport()

    @property
    def last_heartbeat(self) -> float:
        """Return the time of the last heartbeat; 0 before the first."""
        return self._heartbeats[0]

    def beat(self) -> None:
        """Record that the writer is alive."""
        self._heartbeats[0] = self._clock()

    def current(self) -> StorageReport:
        """Return the newest report, for requests; an unknown state after 60 seconds without a heartbeat."""
        if self._clock() >= self._heartbeats[0] + STALE_AFTER_S:
            return _UNKNOWN
        return self._report if self._sequences[0] == self._sequence else self.read()

    def write(self, report: StorageReport) -> None:
        """Publish `report`, which is a heartbeat; a cause of more than 1,000 characters is cut."""
        self.beat()
        fields = asdict(report) | {"cause": report.cause[:_CAUSE_CHARS]}
        data = json.dumps(fields).encode()
        sequence = self._sequences[0] + 1
        place = _place(sequence)
        _HEAD.pack_into(self._memory, place, len(data), _checksum(sequence, data))
        self._memory[place + _HEAD.size : place + _HEAD.size + len(data)] = data
        self._sequences[0] = sequence

    def read(self) -> StorageReport:
        """Return the newest report, however old; an unchanged one is not parsed again for each request."""
        if (sequence := self._sequences[0]) != self._sequence:
            place = _place(sequence)
            length, checksum = _HEAD.unpack_from(self._memory, place)
            data = self._memory[place + _HEAD.size : place + _HEAD.size + length]
            if _checksum(sequence, data) == checksum:
                fields = json.loads(data)
                identity, space = fields.pop("identity"), fields.pop("space")
                known = None if identity is None else (identity[0], identity[1])
                measured = None if space is None else StorageSpace(**space)
                self._sequence = sequence
                self._report = StorageReport(**fields, identity=known, space=measured)
        return self._report


def _place(sequence: int) -> int:
    return _SEQUENCE.size + sequence % 2 * _PLACE_BYTES


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)
