"""Shared memory in which each worker publishes its metrics for all processes.

    epoch │ ended │ place 1 │ place 2 │ ...           one anonymous mapping, created before any fork
                          │
                          ├── half A   sequence, length, checksum, bytes
                          └── half B

A worker writes the two halves of its place in turn, so that a worker killed while it writes leaves its previous
numbers.  The master assigns the places.  When a worker has ended, the master adds its counters to those of all
ended workers: no counter ever decreases.  Lost are the counts of a killed worker since its last write, at most a
second.

A reader sees such a change completely or not at all: the master makes `epoch` odd before and even after it, and a
reader that saw `epoch` change reads again.  There is no file and no lock; the memory ends with the processes.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from typing import Final

import structlog

from moorage.metrics.recorder import Snapshot

__all__ = ["Board"]

_HALF_BYTES: Final = 512 << 10
"""Enough for 1,300 rows of requests; pages that are never written take no memory."""

_PLACE_BYTES: Final = 2 * _HALF_BYTES
_EPOCH: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<QII")
_START: Final = mmap.PAGESIZE
_SPARE: Final = 16
_TRIES: Final = 200
_log: Final = structlog.get_logger("moorage.metrics")


class Board:
    """Created by the master, for `workers` workers.

    During a reload each may run twice, and more often while old ones drain; a worker without a place is not
    counted.
    """

    def __init__(self, workers: int) -> None:
        self._places = 4 * workers + _SPARE
        self._memory = mmap.mmap(-1, _START + _PLACE_BYTES * (self._places + 1))
        self._free = list(range(self._places, 0, -1))
        self._too_large = False

    # For the master

    def claim(self) -> int | None:
        """Return a place for a worker that is about to be forked; None if all are taken."""
        if not self._free:
            _log.warning("too many workers at once: one is left out of the metrics")
            return None
        return self._free.pop()

    def release(self, place: int | None) -> None:
        """Add the counters of an ended worker to those of all ended workers, and free its place."""
        if place is None:
            return
        dead, latest = Snapshot(), self._latest(place)
        for data in (self._latest(0), latest):
            if data is not None:
                dead.add(Snapshot.unpack(data))
        self._set_epoch(1)
        if latest is not None:
            self._write(0, dead.pack())
        self._memory[self._at(place) : self._at(place) + _HEAD.size] = bytes(_HEAD.size)
        second = self._at(place) + _HALF_BYTES
        self._memory[second : second + _HEAD.size] = bytes(_HEAD.size)
        self._set_epoch(1)
        self._free.append(place)

    # For workers

    def publish(self, place: int | None, snapshot: Snapshot) -> None:
        """Publish the metrics of the worker of this place."""
        if place is not None:
            self._write(place, snapshot.pack())

    def read(self) -> tuple[Snapshot, list[Snapshot]]:
        """Return the sums of ended workers, and a snapshot of each running one.  Thread-safe."""
        for _ in range(_TRIES):
            epoch = self._epoch()
            found = [self._latest(place) for place in range(self._places + 1)]
            if epoch % 2 == 0 and epoch == self._epoch():
                break
            time.sleep(0.001)
        dead = Snapshot() if found[0] is None else Snapshot.unpack(found[0])
        return dead, [Snapshot.unpack(data) for data in found[1:] if data is not None]

    def _at(self, place: int) -> int:
        return _START + place * _PLACE_BYTES

    def _epoch(self) -> int:
        (epoch,) = _EPOCH.unpack_from(self._memory)
        return int(epoch)

    def _set_epoch(self, more: int) -> None:
        _EPOCH.pack_into(self._memory, 0, self._epoch() + more)

    def _write(self, place: int, data: bytes) -> None:
        if len(data) > _HALF_BYTES - _HEAD.size:
            if not self._too_large:
                self._too_large = True
                _log.error(
                    "the metrics of a worker exceed its shared memory; the previous values stay", bytes=len(data)
                )
            return
        sequences = [_HEAD.unpack_from(self._memory, self._at(place) + half * _HALF_BYTES)[0] for half in (0, 1)]
        at = self._at(place) + (_HALF_BYTES if sequences[0] > sequences[1] else 0)
        sequence = max(sequences) + 1
        # A concurrent reader finds a wrong checksum and takes the other half.
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, sequence, len(data), _checksum(sequence, data))

    def _latest(self, place: int) -> bytes | None:
        """Return the newer complete half; None if nothing was ever published there.

        While one half is written the other one is complete, but a slow reader may find its half overwritten by the
        time it has read it.  It then reads again.
        """
        for _ in range(_TRIES):
            halves = self._halves(place)
            for sequence, at, length, checksum in sorted(halves, reverse=True):
                data = self._memory[at : at + length]
                if _checksum(sequence, data) == checksum:
                    return data
            if not halves:
                break
        return None

    def _halves(self, place: int) -> list[tuple[int, int, int, int]]:
        """Return sequence, position, length and checksum of the halves that were written."""
        halves = []
        for half in (0, 1):
            at = self._at(place) + half * _HALF_BYTES
            sequence, length, checksum = _HEAD.unpack_from(self._memory, at)
            if sequence and length <= _HALF_BYTES - _HEAD.size:
                halves.append((sequence, at + _HEAD.size, length, checksum))
        return halves


def _checksum(sequence: int, data: bytes) -> int:
    return zlib.crc32(data, sequence & 0xFFFFFFFF)
