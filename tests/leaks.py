"""Report leaks in the test that makes them: sessions, connections, files and sockets that are left open.

An object that warns when it is collected (`ResourceWarning: Unclosed client session`) is usually part of a cycle:
it is collected when the garbage collector happens to run, some tests later or never, and then an innocent test
fails.  So the collector runs at the end of each test, and what it finds fails that test.

A full collection takes a quarter of a second once everything is imported.  Therefore what is alive after a test is
hidden from the collector (`gc.freeze`) until the end of its module, and each collection visits only what its own
test has made: 4 ms a test.
"""

from __future__ import annotations

import gc
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["collected", "pytest_collection_finish", "pytest_runtest_teardown"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """What collecting and importing left is no test's."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After the test's own fixtures have ended, also when ending them failed."""
    try:
        yield
    finally:
        if nextitem is None or nextitem.path != item.path:
            gc.unfreeze()
        leaked = collected()
        gc.freeze()
    if leaked:
        pytest.fail("left open, and found by the garbage collector:\n" + "\n".join(leaked), pytrace=False)


def collected() -> list[str]:
    """Collect garbage; return one text for each exception, or warning turned into one, that this raised."""
    found: list[str] = []

    def add(unraisable: sys.UnraisableHookArgs) -> None:
        # The text and not the object, which must not live on.
        what = "".join(traceback.format_exception_only(unraisable.exc_type, unraisable.exc_value)).strip()
        found.append(f"{what} (in {unraisable.object!r})")

    before, sys.unraisablehook = sys.unraisablehook, add
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
    return found
