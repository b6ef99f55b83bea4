"""A copy into a store whose garbage collection runs meanwhile: what a collector removes is copied again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.copy.worlds import Recorder, copied, opened, serving
from tests.registry.collection_steps import Run
from tests.registry.instrumented import InstrumentedDriver

from moorage.copy.repositories import CopyOptions
from moorage.registry import layout
from moorage.registry.collection_gate import CollectionGate
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image, index
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from moorage.storage.driver import Driver, Key

LAYER = blob(size=300, seed=1)
BUILT = image(LAYER, seed=1)
BOTH = index(BUILT, image(seed=2))
APP, V1 = RepoName("team/app"), Tag("v1")


class Collected(InstrumentedDriver):
    """A destination whose collector takes its step after the first write of a key; or after each."""

    def __init__(self, inner: Driver, key: Key, step: Callable[[], Awaitable[object]], times: int) -> None:
        super().__init__(inner)
        self._key = key
        self._step = step
        self.left = times

    async def after_change(self, call: str) -> None:
        if self.left and call == f"write {self._key}":
            self.left -= 1
            await self._step()


@pytest.fixture
async def source() -> Driver:
    driver = MemoryDriver()
    await serving(driver).push(BOTH, V1, name=APP)
    return driver


async def whole(target: Driver) -> None:
    client = serving(target)
    assert (await client.manifest(V1, APP)).content == BOTH.data
    for part in BOTH.closure:
        answer = await (client.manifest(part, APP) if part.is_manifest else client.blob(part, APP))
        assert (answer.status_code, answer.content) == (200, part.data)


@pytest.mark.parametrize("kind", ["memory", "filesystem"])
@pytest.mark.parametrize(
    ("key", "lost"),
    [
        (layout.layer_link(APP, LAYER.digest), [layout.blob_data(LAYER.digest)]),
        (layout.layer_link(APP, LAYER.digest), [layout.layer_link(APP, LAYER.digest)]),
        (layout.revision_link(APP, BUILT.digest), [layout.blob_data(LAYER.digest)]),
        (layout.revision_link(APP, BUILT.digest), [layout.blob_data(BUILT.digest)]),
        (layout.revision_link(APP, BOTH.digest), [layout.revision_link(APP, BUILT.digest)]),
        (
            layout.tag_link(APP, V1),
            [layout.revision_link(APP, BOTH.digest), layout.blob_data(BOTH.digest)],
        ),
    ],
    ids=["layer-bytes", "layer-link", "manifest-layer", "manifest-bytes", "index-child", "tag"],
)
async def test_what_is_collected_during_the_copy_is_copied_again(
    source: Driver, tmp_path: Path, kind: str, key: Key, lost: list[Key]
) -> None:
    """It was written, or was there, and is gone by the time that something names it."""
    async with opened(kind, tmp_path) as inner:
        await Run(inner).start()
        target = Collected(inner, key, lambda: inner.delete(lost), 1)
        await copied(source, target)
        assert target.left == 0
        await whole(inner)


async def test_a_run_that_began_and_ended_during_the_copy_is_noticed(
    source: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy takes hours, and a run begins each night."""
    inner = MemoryDriver()
    monkeypatch.setattr(CollectionGate, "recent", lambda _: None)  # as if each step took more than five seconds
    target = Collected(inner, layout.layer_link(APP, LAYER.digest), lambda: Run(inner).whole(LAYER.digest), 1)
    await copied(source, target)
    assert target.left == 0
    await whole(inner)


async def test_content_that_is_collected_every_time_is_a_problem(source: Driver) -> None:
    """The copy ends, and its result is that it is incomplete."""
    inner, recorder = MemoryDriver(), Recorder()
    await Run(inner).start()
    link = layout.layer_link(APP, LAYER.digest)
    target = Collected(inner, link, lambda: inner.delete([link]), 100)
    tally = await copied(source, target, CopyOptions(), recorder)
    assert tally.problems
    assert (link, "garbage collection removes its content at the destination; copy again when it has ended") in (
        recorder.problems
    )
    assert (await serving(inner).manifest(V1, APP)).status_code == 404, "nothing incomplete is visible"
