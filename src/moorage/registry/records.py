"""Records: small JSON objects in the store, such as leases and the pause of garbage collection, read in one way.

    no object                            None
    a JSON object within the limit       its fields
    anything else: damaged               no fields, and one line in the log with key, cause and remedy

A damaged record is no exception: each caller has a safe side to take, and takes it for missing fields as well.
A pause without fields is a pause; a lease without an owner expires as any other.

Below: `storage/driver.py`.  Source of the form: RFC 8259, which has neither NaN nor Infinity.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn

import structlog

from moorage.caches import LRUCache
from moorage.storage.driver import ABSENT, ALWAYS, KeyMissing, ObjectTooLarge, Unchanged

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Key, When

__all__ = ["RECORD_LIMIT_BYTES", "decode_record", "read_record", "report_damage", "resolve_record"]

RECORD_LIMIT_BYTES: Final = 4096
_log: Final = structlog.get_logger("moorage.registry")
_reported: Final[LRUCache[Key, bool]] = LRUCache(1000)
"""Per process, as its log is: leases and pauses are read all day."""


async def read_record(
    driver: Driver, key: Key, *, remedy: str, limit: int = RECORD_LIMIT_BYTES
) -> dict[str, Any] | None:
    """Return the fields of a record, none if it is damaged; None if there is no object.

    `limit` is in bytes; `remedy` is the consequence and remedy of damage, for the log.  Raises StorageUnavailable.
    """
    try:
        content = await driver.read(key, limit=limit)
    except KeyMissing:
        return None
    except ObjectTooLarge:
        report_damage(key, _too_large(limit), remedy=remedy)
        return {}
    return decode_record(key, content.data, remedy=remedy)


async def resolve_record(
    driver: Driver, key: Key, *, remedy: str, limit: int = RECORD_LIMIT_BYTES
) -> tuple[dict[str, Any] | None, When]:
    """Return what `read_record` does, and the condition that the record is still in this state.

    A record that is too large may be replaced unconditionally: it has not been read.
    """
    try:
        content = await driver.read(key, limit=limit)
    except KeyMissing:
        return None, ABSENT
    except ObjectTooLarge:
        report_damage(key, _too_large(limit), remedy=remedy)
        return {}, ALWAYS
    return decode_record(key, content.data, remedy=remedy), Unchanged(content.version)


def decode_record(key: Key, data: bytes, *, remedy: str) -> dict[str, Any]:
    """Return the fields in the content of the object `key`; none, after a line in the log, if it is damaged."""
    try:
        fields = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        report_damage(key, f"it is not JSON: {error}", remedy=remedy)
        return {}
    if not isinstance(fields, dict):
        report_damage(key, f"it holds a JSON {type(fields).__name__} and no object", remedy=remedy)
        return {}
    return fields


def report_damage(key: Key, cause: str, *, remedy: str) -> None:
    """Log that an object cannot be read, once per key and process; also for fields that only the caller knows."""
    if _reported.get(key) is None:
        _reported.put(key, value=True)
        _log.error("an object in the store is damaged, or of another release", key=key, cause=cause, remedy=remedy)


def _too_large(limit: int) -> str:
    return f"it is larger than {limit} bytes"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
