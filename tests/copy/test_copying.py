"""A copied registry: everything that clients see is in it, nothing is torn, and a second run continues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.copy.worlds import Recorder, copied, opened, serving
from tests.registry.images import everything
from tests.registry.instrumented import InstrumentedDriver

from moorage.copy.repositories import CopyOptions
from moorage.registry import layout
from moorage.storage.driver import KeyMissing, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.http.client import Client

    from moorage.storage.driver import Driver, Key, Reader
    from moorage.testing.builders import Built

APP, OTHER = RepoName("team/app"), RepoName("other")
KINDS = ("memory", "filesystem", "s3")
LARGE = blob(size=11 << 20, seed=5)
"""More than a part of an S3 upload."""


async def fill(client: Client, large: Built = LARGE) -> dict[str, Built]:
    """Images, an index, a signature, sha512, a foreign layer, nested names; by `NAME:TAG`."""
    one = image(blob(size=3000, seed=1), large, seed=1)
    both = index(one, image(seed=2, platform="linux/arm64"))
    signature = artifact("application/vnd.example.sig", subject=both)
    strong = image(seed=4, algorithm="sha512")
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(Digest.of(b"elsewhere")),
        "size": 9,
        "urls": ["https://example.com/layer"],
    }
    windows = image(seed=6, docker=True)
    windows = image(seed=6, docker=True, extra={"layers": [*windows.document["layers"], foreign]})
    await client.push(both, "v1", "latest", name=APP)
    await client.push(signature, name=APP)
    await client.push(strong, "strong", name=f"{APP}/nested.x")
    await client.push(windows, "w", name=OTHER)
    await client.push(one, "same", name=OTHER)
    await client.push_blob(blob("no manifest names me"), name="blobs-only")
    return {f"{APP}:v1": both, f"{APP}:latest": both, f"{APP}/nested.x:strong": strong, f"{OTHER}:w": windows}


async def assert_served(client: Client, pushed: dict[str, Built]) -> None:
    """Tags, manifests by digest, and the bytes of every blob."""
    for place, built in pushed.items():
        name, _, tag = place.rpartition(":")
        answer = await client.manifest(tag, name)
        assert (answer.status_code, answer.content) == (200, built.data), place
        for part in built.closure:
            if part.is_manifest:
                assert (await client.manifest(part, name)).content == part.data
            else:
                assert (await client.blob(part, name)).content == part.data, f"{place} lacks {part.digest}"


@pytest.mark.slow
@pytest.mark.parametrize("there", KINDS)
@pytest.mark.parametrize("here", KINDS)
async def test_everything_that_clients_see_comes_along(here: str, there: str, tmp_path: Path) -> None:
    """A move from a directory to a bucket, or back, loses nothing."""
    async with opened(here, tmp_path / "here") as source, opened(there, tmp_path / "there") as target:
        before = serving(source)
        pushed = await fill(before)
        recorder = Recorder()
        tally = await copied(source, target, recorder=recorder)
        after = serving(target)
        assert not recorder.problems
        assert recorder.moved_bytes == recorder.planned_bytes == tally.blob_bytes
        await assert_served(after, pushed)
        for path in ("/v2/_catalog", f"/v2/{APP}/tags/list", f"/v2/{APP}/referrers/{pushed[f'{APP}:v1'].digest}"):
            assert (await after.get(path)).content == (await before.get(path)).content
        assert (await after.blob(blob("no manifest names me"), "blobs-only")).status_code == 200
        again = await copied(source, target)
        assert (again.blobs, again.links, again.manifests, again.tags) == (0, 0, 0, 0)
        assert again.present_bytes == tally.blob_bytes


async def test_only_the_repositories_that_were_asked_for() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    await fill(serving(source))
    await copied(source, target, CopyOptions(repositories=("team/*",)))
    catalog = (await serving(target).get("/v2/_catalog")).json()["repositories"]
    assert catalog == [APP, f"{APP}/nested.x"]


async def test_garbage_stays_behind_unless_asked_for() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    garbage = blob("nothing links me")
    await source.write(layout.blob_data(garbage.digest), garbage.data)
    await copied(source, target)
    with pytest.raises(KeyMissing):
        await target.stat(layout.blob_data(garbage.digest))
    await copied(source, target, CopyOptions(all_blobs=True))
    assert (await target.stat(layout.blob_data(garbage.digest))).size == garbage.size


async def test_a_dry_run_counts_and_writes_nothing() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    await fill(serving(source))
    counted = await copied(source, target, CopyOptions(dry_run=True))
    assert await everything(target) == {}
    done = await copied(source, target)
    assert (counted.blobs, counted.blob_bytes, counted.links, counted.manifests, counted.tags) == (
        done.blobs, done.blob_bytes, done.links, done.manifests, done.tags,
    )  # fmt: skip


class Dying(InstrumentedDriver):
    """Fails from the `last` change on, as a killed process makes none."""

    def __init__(self, driver: Driver, last: int) -> None:
        super().__init__(driver)
        self._left = last

    async def before(self, call: str) -> None:
        if call.split(maxsplit=1)[0] in {"write", "delete", "clear"}:
            self._left -= 1
            if self._left < 0:
                raise StorageUnavailable("the process was killed")


@pytest.mark.slow
async def test_wherever_it_stops_nothing_is_torn_and_the_next_run_completes_it() -> None:
    """The destination may be serving while it is filled."""
    source = MemoryDriver()
    pushed = await fill(serving(source), blob(size=9, seed=9))
    whole = MemoryDriver()
    await copied(source, whole)
    last, done = 0, False
    while not done:
        target = MemoryDriver()
        try:
            await copied(source, Dying(target, last))
            done = True
        except StorageUnavailable:
            await assert_untorn(target)
        await copied(source, target)
        assert await everything(target) == await everything(whole)
        last += 3
    await assert_served(serving(target), pushed)


async def assert_untorn(driver: Driver) -> None:
    """Every tag that is listed, and every manifest that is linked, is served with all that it names."""
    client = serving(driver)
    for name in (await client.get("/v2/_catalog")).json()["repositories"]:
        answer = await client.get(f"/v2/{name}/tags/list")
        tags = (answer.json()["tags"] or []) if answer.status_code == 200 else []
        for tag in tags:
            found = await client.manifest(tag, name)
            assert found.status_code == 200, f"{name}:{tag} is torn"
            document = found.json()
            for entry in [*document.get("layers", ()), *([document["config"]] if "config" in document else [])]:
                if not entry.get("urls"):
                    assert (await client.blob(entry["digest"], name)).status_code == 200
            for entry in document.get("manifests", ()):
                assert (await client.manifest(entry["digest"], name)).status_code == 200


async def test_a_corrupt_blob_is_told_and_its_images_are_left_out() -> None:
    """One bad disk sector must not end the move of a thousand images, nor be copied."""
    source, target = MemoryDriver(), MemoryDriver()
    bad, good = image(seed=1), image(seed=2)
    client = serving(source)
    await client.push(bad, "bad", name=APP)
    await client.push(good, "good", name=APP)
    layer = bad.blobs[0]
    await source.write(layout.blob_data(layer.digest), layer.data[:-1] + b"!")
    recorder = Recorder()
    await copied(source, target, recorder=recorder)
    problems = dict(recorder.problems)
    assert str(layer.digest) in problems
    assert f"{APP}@{bad.digest}" in problems
    assert f"{APP}:bad" in problems
    after = serving(target)
    assert (await after.manifest("bad", APP)).status_code == 404
    assert (await after.manifest("good", APP)).status_code == 200
    with pytest.raises(KeyMissing):
        await target.stat(layout.blob_data(layer.digest))
    await copied(source, target, CopyOptions(incomplete=True), Recorder())
    assert (await after.manifest("bad", APP)).status_code == 200
    assert (await after.blob(layer, APP)).status_code == 404


async def test_rechecking_replaces_what_is_damaged_at_the_destination() -> None:
    """The way to repair blobs from an intact copy."""
    source, target = MemoryDriver(), MemoryDriver()
    built = image(seed=1)
    await serving(source).push(built, "v1", name=APP)
    await copied(source, target)
    layer, config = built.blobs
    await target.write(layout.blob_data(layer.digest), bytes(layer.size))
    await target.write(layout.blob_data(config.digest), b"torn")
    await target.write(layout.blob_data(built.digest), bytes(built.size))
    first = await copied(source, target)
    assert first.blobs == 1, "a wrong size is seen without hashing"
    second = await copied(source, target, CopyOptions(recheck=True))
    assert second.blobs == 2
    await assert_served(serving(target), {f"{APP}:v1": built})


async def test_what_the_source_has_lost_the_destination_keeps() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    built = image(seed=1)
    await serving(source).push(built, "v1", name=APP)
    await copied(source, target)
    layer = built.blobs[0]
    await source.write(layout.blob_data(layer.digest), b"torn at the source")
    await copied(source, target)
    await source.delete([layout.blob_data(layer.digest)])
    await copied(source, target)
    await assert_served(serving(target), {f"{APP}:v1": built})


async def test_a_second_run_follows_the_source() -> None:
    """Tags that were moved, and images that were pushed, after the first run."""
    source, target = MemoryDriver(), MemoryDriver()
    client = serving(source)
    await client.push(image(seed=1), "v", name=APP)
    await copied(source, target)
    await client.push(image(seed=2), "v", "new", name=APP)
    await copied(source, target)
    await assert_served(serving(target), {f"{APP}:v": image(seed=2), f"{APP}:new": image(seed=2)})


async def test_what_clients_did_at_the_destination_stands() -> None:
    """After the switch a last run copies late pushes; it must not undo new pushes and deletions."""
    source, target = MemoryDriver(), MemoryDriver()
    old, gone, new = image(seed=1), image(seed=2), image(seed=3)
    await serving(source).push(old, "v", name=APP)
    await serving(source).push(gone, "gone", name=APP)
    await copied(source, target)
    after = serving(target)
    await after.push(new, "v", name=APP)
    assert (await after.manifest(gone, APP, "DELETE")).status_code == 202
    recorder = Recorder()
    tally = await copied(source, target, recorder=recorder)
    assert tally.kept == 2
    assert [where for where, _ in recorder.problems] == [f"{APP}:v"]
    assert [where for where, _ in recorder.notes] == [f"{APP}@{gone.digest}"]
    assert (await after.manifest("v", APP)).content == new.data
    assert (await after.manifest("gone", APP)).status_code == 404
    await copied(source, target, CopyOptions(overwrite=True))
    assert (await after.manifest("v", APP)).content == old.data
    assert (await after.manifest("gone", APP)).content == gone.data


async def test_dead_tags_and_marks_stay_behind() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    client = serving(source)
    await client.push(image(seed=1), "dead", name=APP)
    await client.push(image(seed=2), "alive", name=APP)
    assert (await client.manifest(image(seed=1), APP, "DELETE")).status_code == 202
    await copied(source, target)
    assert not [key for key in await everything(target) if "_deleted" in key or "/dead/" in key]


async def test_a_sparse_index_comes_without_what_the_source_never_had() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    here, elsewhere = image(seed=1), image(seed=2)
    sparse = index(here, elsewhere)
    await serving(source).push(here, name=APP)
    for key, data in (
        (layout.blob_data(sparse.digest), sparse.data),
        (layout.revision_link(APP, sparse.digest), str(sparse.digest).encode()),
        (layout.tag_link(APP, Tag("v")), str(sparse.digest).encode()),
    ):
        await source.write(key, data)
    await copied(source, target)
    assert (await serving(target).manifest("v", APP)).content == sparse.data
    assert (await serving(target).manifest(here, APP)).status_code == 200


async def test_what_is_no_manifest_here_comes_as_it_is() -> None:
    """The old registry may still serve schema 1 to old clients."""
    source, target = MemoryDriver(), MemoryDriver()
    data = b'{"schemaVersion": 1, "fsLayers": []}'
    digest = Digest.of(data)
    await source.write(layout.blob_data(digest), data)
    await source.write(layout.revision_link(APP, digest), str(digest).encode())
    await source.write(layout.tag_link(APP, Tag("old")), str(digest).encode())
    await copied(source, target)
    kept = await everything(target)
    assert kept.pop(layout.tag_history_link(APP, Tag("old"), digest)) == str(digest).encode()
    assert kept == await everything(source)


async def test_alias_links_of_the_reference_come_along() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    content = blob("hashed twice")
    alias = Digest.of(content.data, "sha512")
    await source.write(layout.blob_data(content.digest), content.data)
    await source.write(layout.layer_link(APP, alias), str(content.digest).encode())
    await copied(source, target)
    assert (await serving(target).blob(alias, APP)).content == content.data


@pytest.mark.parametrize("torn", [b"", b"sha256:12", b"\xff" * 71])
async def test_torn_links_are_told_and_left_out(torn: bytes) -> None:
    source, target = MemoryDriver(), MemoryDriver()
    built = image(seed=1)
    await serving(source).push(built, "v", "torn", name=APP)
    await source.write(layout.tag_link(APP, Tag("torn")), torn)
    await source.write(layout.layer_link(APP, Digest.of(b"x")), torn)
    await source.write(layout.revision_link(APP, Digest.of(b"y")), torn)
    recorder = Recorder()
    await copied(source, target, recorder=recorder)
    assert sorted(where for where, _ in recorder.problems) == sorted(
        [
            layout.tag_link(APP, Tag("torn")),
            layout.layer_link(APP, Digest.of(b"x")),
            layout.revision_link(APP, Digest.of(b"y")),
        ]
    )
    await assert_served(serving(target), {f"{APP}:v": built})


class Meanwhile(InstrumentedDriver):
    """Runs something once, when a call that begins so is made."""

    def __init__(self, driver: Driver, call: str) -> None:
        super().__init__(driver)
        self._call, self.then = call, asyncio.Event()
        self.go_on = asyncio.Event()

    async def before(self, call: str) -> None:
        if call.startswith(self._call) and not self.then.is_set():
            self.then.set()
            await self.go_on.wait()


async def test_a_tag_that_moves_during_the_copy_ends_where_the_source_ends() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    client = serving(source)
    await client.push(image(seed=1), "v", name=APP)
    watched = Meanwhile(target, f"write {layout.tag_link(APP, Tag('v'))}")
    running = asyncio.create_task(copied(source, watched))
    await watched.then.wait()
    await client.push(image(seed=2), "v", name=APP)
    watched.go_on.set()
    await running
    await assert_served(serving(target), {f"{APP}:v": image(seed=2)})


async def test_a_tag_that_is_pushed_at_the_destination_during_the_copy_stands() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    await serving(source).push(image(seed=1), "v", name=APP)
    watched = Meanwhile(target, f"write {layout.tag_link(APP, Tag('v'))}")
    running = asyncio.create_task(copied(source, watched, recorder=(recorder := Recorder())))
    await watched.then.wait()
    await serving(target).push(image(seed=2), "v", name=APP)
    watched.go_on.set()
    await running
    assert [where for where, _ in recorder.problems] == [f"{APP}:v"]
    await assert_served(serving(target), {f"{APP}:v": image(seed=2)})


async def test_what_is_deleted_during_the_copy_is_no_failure() -> None:
    source, target = MemoryDriver(), MemoryDriver()
    client = serving(source)
    one, two = image(seed=1), image(seed=2)
    await client.push(one, "one", name=APP)
    await client.push(two, "two", name=APP)
    watched = Meanwhile(source, f"read {layout.blob_data(one.digest)}")
    running = asyncio.create_task(copied(watched, target))
    await watched.then.wait()
    assert (await client.manifest(one, APP, "DELETE")).status_code == 202
    await source.delete([layout.blob_data(part.digest) for part in one.closure])
    watched.go_on.set()
    await running
    await assert_served(serving(target), {f"{APP}:two": two})
    assert (await serving(target).manifest("one", APP)).status_code == 404


class Unreadable(InstrumentedDriver):
    """A store on a disk with one bad sector, or (`dead`) without a disk."""

    def __init__(self, driver: Driver, bad: Digest) -> None:
        super().__init__(driver)
        self.bad, self.dead = bad, False

    async def before(self, call: str) -> None:
        if call == f"read {layout.blob_data(self.bad)}":
            raise StorageUnavailable(f"{call}: Input/output error")

    def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        if key == layout.blob_data(self.bad):
            raise StorageUnavailable(f"{key}: Input/output error")
        return super().open(key, start=start, stop=stop)

    async def probe(self) -> None:
        if self.dead:
            raise StorageUnavailable("no such disk")


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("bad", [image(seed=1).blobs[0].digest, image(seed=1).digest])
async def test_a_blob_that_cannot_be_read_is_told_but_a_dead_store_ends_it(dead: bool, bad: Digest) -> None:
    store, target = MemoryDriver(), MemoryDriver()
    await serving(store).push(image(seed=1), "v", name=APP)
    source = Unreadable(store, bad)
    source.dead = dead
    recorder = Recorder()
    if dead:
        with pytest.raises(StorageUnavailable):
            await copied(source, target, recorder=recorder)
        return
    await copied(source, target, recorder=recorder)
    assert "the source cannot read its bytes" in dict(recorder.problems).values()
    assert (await serving(target).manifest("v", APP)).status_code == 404


async def test_a_cancelled_copy_leaves_nothing_half_done(tmp_path: Path) -> None:
    """Ctrl-C: no temporary file stays, and nothing is still being written afterwards."""
    async with opened("memory", tmp_path) as source, opened("filesystem", tmp_path / "there") as target:
        await serving(source).push(image(LARGE), "v", name=APP)
        waiting = asyncio.Event()

        class Slow(InstrumentedDriver):
            async def before(self, call: str) -> None:
                if call.startswith("write"):
                    waiting.set()
                    await asyncio.Event().wait()

        before = asyncio.all_tasks()  # the registry that filled the source writes its history in the background
        running = asyncio.create_task(copied(source, Slow(target)))
        await waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not list((tmp_path / "there").rglob("*.tmp"))
        for _ in range(20):
            await asyncio.sleep(0)  # generators that were left are closed by the loop, some turns later
        assert asyncio.all_tasks() <= before
