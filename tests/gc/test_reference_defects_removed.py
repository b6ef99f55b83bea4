"""The nine defects of CNCF Distribution's collector again, with whole runs: what a run leaves of such a store.

States and source: `test_reference_defects.py`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import APP, AT_ONCE, OTHER, FakeClock, gone, is_whole, put, run

from moorage.registry import layout
from moorage.storage.driver import Key
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moorage.storage.driver import Driver

KEEPING = replace(AT_ONCE, delete_untagged=False)


@pytest.fixture(params=["memory", "filesystem"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    found: Driver = MemoryDriver() if request.param == "memory" else FilesystemDriver(tmp_path / "store")
    yield found
    await found.close()


async def test_1_a_sha512_layer_of_an_image_is_kept(store: Driver) -> None:
    data = b"bytes of a layer"
    stored, alias = Digest.of(data), Digest.of(data, "sha512")
    layer = replace(blob(data), digest=alias)
    one = image(layer)
    await put(store, replace(one, parts=tuple(part for part in one.parts if part != layer)), "latest")
    await store.write(layout.blob_data(stored), data)
    for link in (stored, alias):
        await store.write(layout.layer_link(APP, link), str(stored).encode())
    assert (await run(store)).outcome == "finished"
    assert await store.find(layout.blob_data(stored)) is not None
    assert await store.find(layout.layer_link(APP, alias)) is not None


async def test_2_a_sparse_index_in_one_repository_costs_another_nothing(store: Driver) -> None:
    multi = index(image(seed=1), image(seed=2))
    await put(store, replace(multi, parts=()), "sparse")
    await put(store, multi, "whole", name=OTHER)
    await run(store)
    assert await is_whole(store, multi, name=OTHER)


async def test_3_and_7_little_or_nothing_in_a_store_is_no_error(store: Driver) -> None:
    """A repository without layers, and a store without repositories."""
    assert (await run(store)).outcome == "finished"
    await put(store, replace(index(image(seed=1)), parts=()), "v1")
    dead = blob(seed=9)
    await store.write(layout.blob_data(dead.digest), dead.data)
    report = await run(store)
    assert (report.outcome, report.freed.objects) == ("finished", 1)
    assert await gone(store, dead)


async def test_4_one_corrupt_link_or_manifest_does_not_end_the_run(store: Driver) -> None:
    good, torn, unreadable, dead = image(seed=1), image(seed=2), image(seed=3), blob(seed=9)
    await put(store, good, "latest")
    await put(store, torn, "latest", name=OTHER)
    await store.write(layout.revision_link(OTHER, torn.digest), b"")
    await store.write(layout.layer_link(OTHER, torn.blobs[0].digest), b"sha256:12")
    await put(store, unreadable, "latest", name=RepoName("unreadable"))
    await store.write(layout.blob_data(unreadable.digest), b"{")
    await store.write(layout.blob_data(dead.digest), dead.data)
    report = await run(store, KEEPING)
    assert report.outcome == "finished"
    assert report.problem_count
    assert await is_whole(store, good)
    assert await is_whole(store, torn, name=OTHER)
    assert await is_whole(store, unreadable, name=RepoName("unreadable"))
    assert await gone(store, dead)


async def test_5_a_never_tagged_repository_loses_its_links_with_its_bytes(store: Driver) -> None:
    one = image()
    await put(store, one)
    await run(store)
    for part in one.closure:
        assert await gone(store, part)


async def test_6_layer_links_are_judged_when_all_is_known(store: Driver) -> None:
    used = image(seed=1)
    await put(store, used, "latest", name=RepoName("m"))
    for text in ("a", "z"):
        await put(store, image(seed=2), "latest", name=RepoName(text))
        await put(store, used.blobs[0], name=RepoName(text))
    await run(store)
    assert await is_whole(store, used, name=RepoName("m"))
    for text in ("a", "z"):
        assert await is_whole(store, image(seed=2), name=RepoName(text))
        assert await store.find(layout.layer_link(RepoName(text), used.blobs[0].digest)) is None


async def test_8_an_upload_between_mark_and_sweep_is_kept(store: Driver) -> None:
    """One that is new, and an image whose layer was condemned."""
    condemned, new, dead = blob(seed=1), blob(seed=2), blob(seed=3)
    late = image(condemned, seed=4)
    for one in (condemned, dead):
        await put(store, one)
    pushed: list[float] = []

    async def push(seconds: float) -> None:
        if seconds > 300 and not pushed:
            pushed.append(seconds)
            await put(store, late, "late", name=OTHER)
            await put(store, new)

    await run(store, clock=FakeClock(push))
    assert pushed
    assert await is_whole(store, late, name=OTHER)
    assert await is_whole(store, new)
    assert await gone(store, dead)


async def test_9_leftovers_are_cleaned(tmp_path: Path) -> None:
    """Old uploads, empty repositories with temporary files of a crash, and the history of tags."""
    store = FilesystemDriver(tmp_path)
    one, before = image(seed=1), image(seed=2)
    await put(store, before, "latest")
    await put(store, one, "latest")
    home = layout.upload_home(APP, "0c7eb1b1-3a0e-4d5e-9d5c-000000000000")
    began = (datetime.now(UTC) - timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    await store.write(layout.below(home, "startedat"), began.encode())
    await store.write(layout.below(home, "data"), b"part of a layer")
    empty = tmp_path / layout.repository(RepoName("empty"))
    (empty / "_layers/sha256").mkdir(parents=True)
    (empty / "_manifests/tags").mkdir(parents=True)
    (empty / "_layers/sha256/link.01234567-89ab-4cde-8f01-23456789abcd.tmp").write_bytes(b"torn")
    old = (datetime.now(UTC) - timedelta(days=30)).timestamp()
    for directory, _, files in os.walk(tmp_path, topdown=False):
        for path in (directory, *(f"{directory}/{name}" for name in files)):
            os.utime(path, (old, old))
    report = await run(store)
    assert (report.outcome, report.uploads) == ("finished", 1)
    assert await is_whole(store, one)
    assert await gone(store, before)
    assert await store.find(layout.tag_history_link(APP, Tag("latest"), before.digest)) is None
    assert await store.find(layout.tag_history_link(APP, Tag("latest"), one.digest)) is not None
    assert await store.find(Key(f"{home}/startedat")) is None
    assert not empty.exists()
    await store.close()
