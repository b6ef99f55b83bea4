"""Every row, in the order of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.rows import (
    auth,
    beside,
    buckets,
    collection,
    images,
    large,
    listing,
    memory,
    mirror,
    scaling,
    secure,
    small,
    start,
    zb,
)

if TYPE_CHECKING:
    from bench.rows.base import Row

__all__ = ["ROWS"]

ROWS: Final[dict[str, Row]] = {
    row.name: row
    for module in (
        small,
        large,
        secure,
        images,
        scaling,
        memory,
        listing,
        start,
        auth,
        zb,
        buckets,
        collection,
        mirror,
        beside,
    )
    for row in module.ROWS
}
