"""The pause of garbage collection is in the store: every node sees it, until it is taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.registry import layout
from moorage.registry.collection_pause import PAUSED, pause, read_pause, resume
from moorage.registry.collection_state import list_state
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_pause_lasts_until_it_is_taken_back() -> None:
    driver = MemoryDriver()
    assert await read_pause(driver) is None
    await pause(driver, "backup host")
    found = await read_pause(driver)
    assert found is not None
    assert found.by == "backup host"
    await resume(driver)
    await resume(driver)
    assert await read_pause(driver) is None


async def test_every_node_sees_it(tmp_path: Path) -> None:
    """The node that pauses is not the one that collects."""
    here, there = FilesystemDriver(tmp_path), FilesystemDriver(tmp_path)
    await pause(here, "here")
    assert (await read_pause(there)) is not None
    await here.close()
    await there.close()


async def test_requests_do_not_take_it_for_a_run() -> None:
    """They would look at the store once a second for as long as it lasts."""
    driver = MemoryDriver()
    await pause(driver, "a host")
    assert await list_state(driver) == []


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"{}", b"x" * 5000])
async def test_a_pause_that_cannot_be_read_is_one(data: bytes) -> None:
    """Collecting in spite of it may be what the operator wanted to prevent."""
    driver = MemoryDriver()
    await driver.write(layout.collection(PAUSED), data)
    found = await read_pause(driver)
    assert found is not None
    assert found.by == ""
