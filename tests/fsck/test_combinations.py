"""Any damage to any links: a repair removes nothing that clients could read, and ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.copy.worlds import serving
from tests.fsck.test_damage import APP, BOTH, BUILT, SIGNATURE, checked
from tests.registry.images import everything

from moorage.storage.driver import Key
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import image

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

_OTHER = image(seed=7)
_TAGS = ("v1", "old", "multi")
_DAMAGES = (None, b"", b"sha256:12", str(BUILT.digest).encode(), str(_OTHER.digest).encode())


async def filled() -> MemoryDriver:
    driver = MemoryDriver()
    client = serving(driver)
    await client.push(_OTHER, "old", name=APP)
    await client.push(BUILT, "v1", "old", name=APP)
    await client.push(BOTH, "multi", name=APP)
    await client.push(SIGNATURE, name=APP)
    return driver


async def visible(driver: Driver) -> dict[str, bytes]:
    """Everything that a client gets with a 200 and the right digest."""
    client, found = serving(driver), {}
    parts = {part.digest: part for built in (BUILT, BOTH, SIGNATURE, _OTHER) for part in built.closure}
    for part in parts.values():
        kind = "manifests" if part.is_manifest else "blobs"
        answer = await client.get(f"/v2/{APP}/{kind}/{part.digest}")
        if answer.status_code == 200 and answer.content == part.data:
            found[str(part.digest)] = answer.content
    for tag in _TAGS:
        answer = await client.manifest(tag, APP)
        if answer.status_code == 200:
            found[tag] = answer.content
    return found


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_repair_takes_nothing_away(data: st.DataObject) -> None:
    async def play() -> None:
        driver = await filled()
        links = sorted(key for key in await everything(driver) if key.endswith("/link"))
        chosen = data.draw(st.lists(st.sampled_from(links), max_size=6, unique=True))
        for key in chosen:
            damage = data.draw(st.sampled_from(_DAMAGES))
            if damage is None:
                await driver.delete([Key(key)])
            else:
                await driver.write(Key(key), damage)
        before = await visible(driver)
        await checked(driver, repair=True)
        after = await visible(driver)
        assert before.items() <= after.items()
        # What one repair restores may show more damage to the next; then it ends.
        await checked(driver, repair=True)
        settled = await everything(driver)
        await checked(driver, repair=True)
        assert await everything(driver) == settled

    asyncio.run(play())
