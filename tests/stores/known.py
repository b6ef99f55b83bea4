"""The stores that can be started here, by their names on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.stores.radosgw import a_radosgw
from tests.stores.swift import a_swift

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.stores.processes import Account

__all__ = ["STORES"]

STORES: Final[dict[str, Callable[[Path], AbstractContextManager[Account]]]] = {
    "radosgw": a_radosgw,
    "swift": a_swift,
}
