"""A real full disk: a collection frees it with the space of its reserve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.test_disks import disk, fill_up
from tests.gc.running import Garbage, run

from moorage.gc.errors import CollectionRefused
from moorage.registry import layout
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.fault, pytest.mark.root, pytest.mark.slow]


async def test_a_full_disk_is_collected(tmp_path: Path) -> None:
    """Freeing space must not need any."""
    with disk(tmp_path / "disk", "size=8m") as folder:
        driver = FilesystemDriver(folder / "volume")
        garbage = Garbage()
        await garbage.write(driver)
        await driver.write(layout.collection("reserve"), bytes(1 << 20))
        fill_up(folder / "ballast")
        report = await run(driver)
        assert report.outcome == "finished", report.reason
        await garbage.check(driver)
        await driver.close()


async def test_a_full_disk_without_reserve_loses_nothing(tmp_path: Path) -> None:
    """The operator is told how much room to make."""
    with disk(tmp_path / "disk", "size=8m") as folder:
        driver = FilesystemDriver(folder / "volume")
        garbage = Garbage()
        await garbage.write(driver)
        fill_up(folder / "ballast")
        with pytest.raises(CollectionRefused, match="there is no reserve"):
            await run(driver)
        await garbage.check(driver, removed=False)
        (folder / "ballast").unlink()
        await run(driver)
        await garbage.check(driver)
        await driver.close()
