"""Every kind of damage: reported in one line, repaired where that is safe, and its effect on clients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.copy.worlds import opened, serving
from tests.registry.images import everything
from tests.registry.instrumented import InstrumentedDriver
from tests.s3 import a_bucket

from moorage.fsck.findings import KINDS, Finding, Outcome, Severity
from moorage.fsck.store import CheckOptions, CheckSummary, check
from moorage.registry import layout
from moorage.registry.tags import NOWHERE
from moorage.storage.driver import ALWAYS, Conflict, Key, KeyMissing, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from moorage.storage.driver import Driver, Reader, Version, When
    from moorage.testing.builders import Built

APP, V1 = RepoName("team/app"), Tag("v1")
BUILT = image(blob(size=5000, seed=1), seed=1)
LAYER, CONFIG = BUILT.blobs
SIGNATURE = artifact("application/vnd.example.sig", subject=BUILT)
BOTH = index(BUILT, image(seed=2))
OLD = Tag("old")
ABSENT = Digest.of(b"never pushed")
LINK, REVISION = layout.layer_link(APP, LAYER.digest), layout.revision_link(APP, BUILT.digest)
TAG, HISTORY = layout.tag_link(APP, V1), layout.tag_history_link(APP, V1, BUILT.digest)
REFERRER = layout.referrer_link(APP, BUILT.digest, SIGNATURE.digest)


@dataclass
class Recorder:
    """See `fsck.store.CheckReporter`."""

    findings: list[Finding] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def phase(self, name: str, total: int | None) -> None:
        del total
        self.phases.append(name)

    def advanced(self, count: int) -> None:
        del count

    def found(self, finding: Finding) -> None:
        self.findings.append(finding)

    @property
    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}


async def checked(
    driver: Driver,
    *,
    repair: bool = False,
    digests: bool = False,
    later: timedelta = timedelta(hours=2),
    is_sparse: Callable[[RepoName], bool] = lambda _: False,
) -> tuple[Recorder, CheckSummary]:
    """A check that runs `later` than everything was written."""
    recorder, now = Recorder(), datetime.now(UTC) + later
    options = CheckOptions(
        now - timedelta(hours=1),
        now - timedelta(minutes=90),
        digests=digests,
        repair=repair,
        is_sparse=is_sparse,
    )
    return recorder, await check(driver, options, recorder)


async def kinds(driver: Driver) -> set[str]:
    return (await checked(driver, digests=True))[0].kinds


async def check_and_repair(driver: Driver, *expected: str, left: Collection[str] = ()) -> None:
    """Expect a check to report `expected`, a repair to leave `left` only, and a second one to change nothing."""
    assert await kinds(driver) == {*expected}
    recorder, summary = await checked(driver, repair=True, digests=True)
    assert {finding.kind for finding in recorder.findings if finding.outcome is Outcome.FOUND} == {*left}
    assert summary.repaired == len([item for item in recorder.findings if item.outcome is Outcome.REPAIRED])
    once = await everything(driver)
    recorder, summary = await checked(driver, repair=True, digests=True)
    assert recorder.kinds == {*left}
    assert summary.repaired == 0
    assert await everything(driver) == once


@pytest.fixture
async def store() -> MemoryDriver:
    """An image with a tag, one that a tag named before, an index, a signature."""
    driver = MemoryDriver()
    client = serving(driver)
    await client.push(image(seed=7), "old", name=APP)
    await client.push(BUILT, "v1", "old", name=APP)
    await client.push(BOTH, "multi", name=APP)
    await client.push(SIGNATURE, name=APP)
    assert not await kinds(driver)
    return driver


async def write(driver: Driver, key: Key, data: bytes | Digest) -> None:
    await driver.write(key, data if isinstance(data, bytes) else str(data).encode())


async def pulled(driver: Driver, reference: str = "v1") -> None:
    """Expect that the whole image can be pulled."""
    client = serving(driver)
    answer = await client.manifest(reference, APP)
    assert (answer.status_code, answer.content) == (200, BUILT.data)
    for part in BUILT.blobs:
        assert (await client.blob(part, APP)).content == part.data


async def tags(driver: Driver) -> list[str]:
    found: list[str] = (await serving(driver).get(f"/v2/{APP}/tags/list")).json()["tags"]
    return found


async def test_an_empty_store_is_clean() -> None:
    recorder, summary = await checked(MemoryDriver(), digests=True)
    assert not recorder.findings
    assert summary.clean
    assert summary.objects == 0


async def test_what_is_counted(store: MemoryDriver) -> None:
    garbage = blob("nothing links me")
    await store.write(layout.blob_data(garbage.digest), garbage.data)
    recorder, summary = await checked(store, digests=True)
    assert not recorder.findings
    assert (summary.unlinked, summary.unlinked_bytes) == (1, garbage.size)
    assert summary.repositories == 1
    assert summary.objects == len(await everything(store))
    assert recorder.phases == ["objects listed", "repositories", "bytes hashed", "leftovers"]


TORN = (b"", b"sha256:12", b"\xff" * 71, b"x" * 2000)


@pytest.mark.parametrize("torn", TORN)
async def test_a_torn_layer_link_is_written_again(store: MemoryDriver, torn: bytes) -> None:
    await write(store, LINK, torn)
    assert (await serving(store).blob(LAYER, APP)).status_code == 404
    # The manifest's content is linked, but badly: one cause, one finding.
    await check_and_repair(store, "layer-torn")
    await pulled(store)


@pytest.mark.parametrize("torn", TORN)
async def test_a_torn_layer_link_without_bytes_is_removed(store: MemoryDriver, torn: bytes) -> None:
    await write(store, layout.layer_link(APP, ABSENT), torn)
    await check_and_repair(store, "layer-torn")
    assert layout.layer_link(APP, ABSENT) not in await everything(store)


async def test_a_layer_link_that_names_another_blob(store: MemoryDriver) -> None:
    await write(store, LINK, CONFIG.digest)
    assert (await serving(store).blob(LAYER, APP)).content == CONFIG.data
    await check_and_repair(store, "layer-astray", *({"blob-size"} & await kinds(store)))
    await pulled(store)


async def test_a_layer_without_bytes(store: MemoryDriver) -> None:
    """Nothing can be repaired here; the next push of the layer restores it."""
    await store.delete([layout.blob_data(LAYER.digest)])
    await check_and_repair(store, "layer-missing", "content-missing", left=("layer-missing", "content-missing"))
    await serving(store).push_blob(LAYER, APP)
    await pulled(store)
    assert not await kinds(store)


async def test_content_that_is_not_linked(store: MemoryDriver) -> None:
    await store.delete([LINK])
    assert (await serving(store).blob(LAYER, APP)).status_code == 404
    await check_and_repair(store, "content-unlinked")
    await pulled(store)


async def test_content_that_is_neither_linked_nor_there(store: MemoryDriver) -> None:
    await store.delete([LINK, layout.blob_data(LAYER.digest)])
    await check_and_repair(store, "content-missing", left=("content-missing",))


@pytest.mark.parametrize("torn", TORN)
async def test_a_torn_revision_link_is_written_again(store: MemoryDriver, torn: bytes) -> None:
    await write(store, REVISION, torn)
    assert "revision-torn" in await kinds(store)
    await checked(store, repair=True)
    await pulled(store)
    assert not await kinds(store)


async def test_a_torn_revision_link_without_a_manifest_is_removed(store: MemoryDriver) -> None:
    await write(store, layout.revision_link(APP, ABSENT), b"")
    await check_and_repair(store, "revision-torn")
    assert layout.revision_link(APP, ABSENT) not in await everything(store)


async def test_a_revision_link_that_names_another_manifest(store: MemoryDriver) -> None:
    await write(store, REVISION, ABSENT)
    await check_and_repair(store, "revision-astray")
    await pulled(store)


async def test_a_manifest_without_bytes(store: MemoryDriver) -> None:
    """A backup, or another copy, may still have them: nothing is removed."""
    await store.delete([layout.blob_data(BUILT.digest)])
    assert (await serving(store).manifest("v1", APP)).status_code == 404
    await check_and_repair(store, "manifest-missing", left=("manifest-missing",))
    await write(store, layout.blob_data(BUILT.digest), BUILT.data)
    await pulled(store)


@pytest.mark.parametrize("data", [b"", BUILT.data[:-1], BUILT.data[:-1] + b" ", b"x" * (5 << 20)])
async def test_a_manifest_with_other_bytes(store: MemoryDriver, data: bytes) -> None:
    await write(store, layout.blob_data(BUILT.digest), data)
    assert "manifest-corrupt" in await kinds(store)


@pytest.mark.parametrize("data", [b'{"schemaVersion": 1, "fsLayers": []}', b"[]", b"\xff"])
async def test_what_is_no_manifest_is_told_and_left(store: MemoryDriver, data: bytes) -> None:
    digest = Digest.of(data)
    await write(store, layout.blob_data(digest), data)
    await write(store, layout.revision_link(APP, digest), digest)
    await check_and_repair(store, "manifest-unreadable", left=("manifest-unreadable",))


async def test_content_under_an_unsupported_digest_is_reported(store: MemoryDriver) -> None:
    """CNCF Distribution took sha384, under which nothing can be looked up here."""
    built = index(extra={"manifests": [{**BUILT.entry, "digest": f"sha384:{'a' * 96}"}]})
    await write(store, layout.blob_data(built.digest), built.data)
    await write(store, layout.revision_link(APP, built.digest), built.digest)
    await check_and_repair(store, "content-unsupported", left=("content-unsupported",))
    await store.delete([layout.revision_link(APP, built.digest)])
    await write(store, layout.tag_link(APP, Tag("strange")), built.digest)
    await check_and_repair(store, "tag-dangling", left=())  # not by linking what cannot be checked
    with pytest.raises(KeyMissing):
        await store.read(layout.revision_link(APP, built.digest))


async def test_a_blob_of_another_size_than_the_manifest_says(store: MemoryDriver) -> None:
    await write(store, layout.blob_data(LAYER.digest), LAYER.data[:-1])
    assert await kinds(store) == {"blob-size", "blob-corrupt"}
    recorder, _ = await checked(store)
    assert recorder.kinds == {"blob-size"}, "without --digests nothing is read"


async def test_a_child_of_another_size_than_the_index_says(store: MemoryDriver) -> None:
    lying = index(extra={"manifests": [{**BUILT.entry, "size": 5}]})
    await write(store, layout.blob_data(lying.digest), lying.data)
    await write(store, layout.revision_link(APP, lying.digest), lying.digest)
    assert await kinds(store) == {"blob-size"}


async def test_an_empty_blob(store: MemoryDriver) -> None:
    """What a full disk left of a layer under the old registry."""
    await write(store, layout.blob_data(LAYER.digest), b"")
    await check_and_repair(store, "blob-empty", "blob-size", left=("blob-empty", "blob-size"))
    nothing = Digest.of(b"")
    await write(store, layout.blob_data(nothing), b"")
    assert await kinds(store) == {"blob-empty", "blob-size"}, "the blob of no bytes is as it should be"


async def test_a_blob_with_one_wrong_bit(store: MemoryDriver) -> None:
    await write(store, layout.blob_data(LAYER.digest), LAYER.data[:-1] + bytes([LAYER.data[-1] ^ 1]))
    assert not (await checked(store))[0].findings
    await check_and_repair(store, "blob-corrupt", left=("blob-corrupt",))


async def test_foreign_layers_and_absent_children_are_no_damage(store: MemoryDriver) -> None:
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(ABSENT),
        "size": 9,
        "urls": ["https://example.com/layer"],
    }
    windows = image(seed=6, docker=True)
    await serving(store).push(
        image(seed=6, docker=True, extra={"layers": [*windows.document["layers"], foreign]}), "w", name=APP
    )
    sparse = index(image(seed=77))
    await write(store, layout.blob_data(sparse.digest), sparse.data)
    await write(store, layout.revision_link(APP, sparse.digest), sparse.digest)
    recorder, summary = await checked(store, digests=True)
    assert recorder.kinds == {"child-absent"}
    assert recorder.findings[0].severity is Severity.NOTE
    assert summary.clean


async def test_buildkits_cache_has_blobs_as_children(store: MemoryDriver) -> None:
    cache = index(extra={"manifests": [LAYER.entry]})
    await write(store, layout.blob_data(cache.digest), cache.data)
    await write(store, layout.revision_link(APP, cache.digest), cache.digest)
    assert not await kinds(store)


async def test_aliases_of_the_reference_are_no_damage(store: MemoryDriver) -> None:
    alias = Digest.of(LAYER.data, "sha512")
    await write(store, layout.layer_link(APP, alias), LAYER.digest)
    strong = image(seed=3, extra={"layers": [{**LAYER.entry, "digest": str(alias)}]})
    for part in strong.blobs:
        await serving(store).push_blob(part, APP)
    await write(store, layout.blob_data(strong.digest), strong.data)
    await write(store, layout.revision_link(APP, strong.digest), strong.digest)
    assert not await kinds(store)


async def test_referrers_that_the_old_registry_did_not_list(store: MemoryDriver) -> None:
    await store.delete([REFERRER])
    path = f"/v2/{APP}/referrers/{BUILT.digest}"
    assert (await serving(store).get(path)).json()["manifests"] == []
    await check_and_repair(store, "referrer-missing")
    assert [entry["digest"] for entry in (await serving(store).get(path)).json()["manifests"]] == [
        str(SIGNATURE.digest)
    ]


@pytest.mark.parametrize("torn", [*TORN, str(ABSENT).encode()])
async def test_a_torn_referrer_link(store: MemoryDriver, torn: bytes) -> None:
    whole = (await everything(store))[REFERRER]
    await write(store, REFERRER, torn)
    await check_and_repair(store, "referrer-torn")
    assert (await everything(store))[REFERRER] == whole


async def test_a_referrer_link_whose_descriptor_is_damaged(store: MemoryDriver) -> None:
    """Clients are served from the manifest meanwhile."""
    whole = (await everything(store))[REFERRER]
    path = f"/v2/{APP}/referrers/{BUILT.digest}"
    before = (await serving(store).get(path)).json()
    await write(store, REFERRER, whole.replace(b"example", b"exAmple"))
    assert (await serving(store).get(path)).json() == before
    await check_and_repair(store, "referrer-torn")
    assert (await everything(store))[REFERRER] == whole


async def test_a_referrer_link_of_an_earlier_version_is_no_damage(store: MemoryDriver) -> None:
    """A note; a repair spares every worker the reading of the manifest."""
    whole = (await everything(store))[REFERRER]
    await write(store, REFERRER, SIGNATURE.digest)
    assert (await checked(store))[1].clean
    await check_and_repair(store, "referrer-bare")
    assert (await everything(store))[REFERRER] == whole


async def test_a_referrer_link_that_is_too_large_is_torn(store: MemoryDriver) -> None:
    whole = (await everything(store))[REFERRER]
    await write(store, REFERRER, bytes((4 << 20) + 1))
    await check_and_repair(store, "referrer-torn")
    assert (await everything(store))[REFERRER] == whole


async def test_referrer_links_of_what_is_not_there_or_is_about_something_else(store: MemoryDriver) -> None:
    stale = layout.referrer_link(APP, BUILT.digest, ABSENT)
    wrong = layout.referrer_link(APP, ABSENT, SIGNATURE.digest)
    await write(store, stale, ABSENT)
    await write(store, wrong, SIGNATURE.digest)
    await check_and_repair(store, "referrer-stale")
    left = await everything(store)
    assert REFERRER in left
    assert not {stale, wrong} & left.keys()


@pytest.mark.parametrize("torn", TORN)
async def test_a_torn_tag_that_ever_named_one_manifest_names_it_again(store: MemoryDriver, torn: bytes) -> None:
    await write(store, TAG, torn)
    assert (await serving(store).manifest("v1", APP)).status_code == 404
    assert (await checked(store, later=timedelta(0)))[0].kinds == {"tag-torn"}, "no push leaves this"
    await check_and_repair(store, "tag-torn")
    await pulled(store)


async def test_a_torn_tag_that_named_several_is_pointed_at_nothing(store: MemoryDriver) -> None:
    """No one of them is certain; the finding names the last one that was pushed."""
    await write(store, layout.tag_link(APP, OLD), b"")
    assert await tags(store) == ["multi", "v1"]
    recorder, _ = await checked(store)
    assert [str(BUILT.digest) in finding.problem for finding in recorder.findings] == [True]
    await check_and_repair(store, "tag-torn")
    assert await tags(store) == ["multi", "v1"]
    assert (await serving(store).manifest("old", APP)).status_code == 404


async def test_half_a_tag_is_removed(store: MemoryDriver) -> None:
    """Issue 936 of Distribution: a push that died between the history and the tag."""
    await store.delete([TAG])
    assert await tags(store) == ["multi", "old"]
    assert not (await checked(store, later=timedelta(0)))[0].findings, "the push may still be running"
    await check_and_repair(store, "tag-half")
    assert not [key for key in await everything(store) if key.startswith(f"{layout.tag(APP, V1)}/")]
    assert await tags(store) == ["multi", "old"]
    await serving(store).push(BUILT, "v1", name=APP)
    await pulled(store)
    assert await tags(store) == ["multi", "old", "v1"]


async def test_a_tag_of_a_whole_manifest_that_lost_its_link(store: MemoryDriver) -> None:
    await store.delete([REVISION, LINK])
    assert (await serving(store).manifest("v1", APP)).status_code == 404
    await checked(store, repair=True)
    assert not await kinds(store)
    await pulled(store)


async def test_a_tag_of_a_manifest_that_is_gone_is_pointed_at_nothing(store: MemoryDriver) -> None:
    await write(store, TAG, ABSENT)
    assert "tag-dangling" in await kinds(store)
    await check_and_repair(store, "tag-dangling")
    assert await tags(store) == ["multi", "old"]


async def test_tags_that_were_deleted_with_their_manifest_are_no_damage(store: MemoryDriver) -> None:
    assert (await serving(store).manifest(BUILT, APP, "DELETE")).status_code == 202
    await write(store, layout.tag_link(APP, Tag("nowhere")), NOWHERE)
    recorder, summary = await checked(store, repair=True, digests=True)
    assert recorder.kinds == {"child-absent"}, "the index had it"
    assert summary.repaired == 0
    assert (await serving(store).manifest("v1", APP)).status_code == 404


async def test_histories_of_tags(store: MemoryDriver) -> None:
    await store.delete([HISTORY])
    await check_and_repair(store, "history-missing")
    await write(store, HISTORY, b"")
    await check_and_repair(store, "history-torn")
    assert (await everything(store))[HISTORY] == str(BUILT.digest).encode()


async def test_uploads_that_nobody_finished(store: MemoryDriver) -> None:
    client = serving(store)
    location = await client.location(APP)
    assert (await client.patch(location, b"some bytes")).status_code == 202
    assert not (await checked(store, later=timedelta(minutes=80)))[0].findings
    recorder, _ = await checked(store, repair=True)
    assert recorder.kinds == {"upload-stale"}
    assert not [key for key in await everything(store) if "_uploads" in key]
    assert not await kinds(store)


async def test_keys_that_no_registry_writes_are_told_and_left(store: MemoryDriver) -> None:
    strange = (
        Key(f"{layout.ROOT}/notes.txt"),
        Key(f"{layout.REPOSITORIES}/{APP}/_layers/sha256/12/link"),
        Key(f"{layout.REPOSITORIES}/{APP}/_manifests/tags/.bad/current/link"),
        Key(f"{layout.REPOSITORIES}/{APP}/_manifests/tags/README"),
        Key(f"{layout.REPOSITORIES}/UPPER/_layers/sha256/{ABSENT.hex}/link"),
        Key(f"{layout.BLOBS}/sha256/00/{'ab' * 32}/data"),
        Key(f"{layout.BLOBS}/sha256/ab/{'ab' * 32}/other"),
    )
    for key in strange:
        await write(store, key, b"x")
    recorder, _ = await checked(store, repair=True)
    assert {finding.key for finding in recorder.findings} == {*strange}
    assert recorder.kinds == {"unknown-key"}
    assert {*strange} <= (await everything(store)).keys()


async def test_what_a_crash_left_of_files(tmp_path: Path) -> None:
    """Another registry's temporary files too; a tag may have such a name and is no file."""
    async with opened("filesystem", tmp_path) as driver:
        suffix = "0b5dbb2f-9b2a-4d1c-8b1e-0123456789ab.tmp"
        await serving(driver).push(BUILT, f"link.{suffix}", "v1", name=APP)
        left = (
            (tmp_path / TAG).with_name(f"link.{suffix}"),
            (tmp_path / layout.blob_data(ABSENT)).parent / f"data.{suffix}",
        )
        for path in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        assert not (await checked(driver, later=timedelta(0)))[0].findings, "a writer may be active"
        assert await kinds(driver) == {"temporary-stale"}
        recorder, _ = await checked(driver, repair=True)
        assert {tmp_path / finding.key for finding in recorder.findings} == {*left}
        assert not any(path.exists() for path in left)
        assert not await kinds(driver)
        await pulled(driver, f"link.{suffix}")


async def test_what_a_crash_left_of_parts_in_a_bucket() -> None:
    """A bucket keeps them, and bills them, without showing them in any listing."""
    with a_bucket() as bucket:
        driver = bucket.driver()
        key = layout.blob_data(ABSENT)
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
        recorder, _ = await checked(driver, later=timedelta(days=2))
        assert [(finding.kind, finding.key) for finding in recorder.findings] == [("temporary-stale", key)]
        recorder, _ = await checked(driver, later=timedelta(days=2), repair=True)
        assert [finding.outcome for finding in recorder.findings] == [Outcome.REPAIRED]
        assert bucket.in_progress() == []
        await driver.close()


async def test_an_empty_directory_of_a_tag(tmp_path: Path) -> None:
    async with opened("filesystem", tmp_path) as driver:
        await serving(driver).push(BUILT, "v1", name=APP)
        (tmp_path / layout.tag(APP, Tag("ghost"))).mkdir()
        assert await tags(driver) == ["v1"]
        await check_and_repair(driver, "tag-half")
        assert not (tmp_path / layout.tag(APP, Tag("ghost"))).exists()
        assert await tags(driver) == ["v1"]


@pytest.mark.parametrize("kind", ["filesystem", "s3"])
async def test_the_same_in_a_directory_and_in_a_bucket(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as driver:
        await serving(driver).push(BUILT, "v1", "old", name=APP)
        await serving(driver).push(image(seed=3), "old", name=APP)
        await write(driver, LINK, b"")
        await write(driver, TAG, b"")
        await write(driver, layout.tag_link(APP, OLD), b"")
        await check_and_repair(driver, "layer-torn", "tag-torn")
        await pulled(driver)


async def test_a_repository_of_blobs_only(store: MemoryDriver) -> None:
    """The catalog does not list it."""
    await write(store, layout.layer_link(RepoName("blobs/only"), ABSENT), b"")
    await check_and_repair(store, "layer-torn")


async def test_absent_content_of_a_sparse_manifest_is_noted(store: MemoryDriver) -> None:
    """Also if another repository has the bytes: a repair must not give its readers what they may not read.

    A link shows that the layer was pushed, so that its bytes are lost.
    """
    await serving(store).push_blob(LAYER, "team/other")
    await store.delete([LINK])
    assert await kinds(store) == {"content-unlinked"}
    recorder, summary = await checked(store, repair=True, is_sparse=lambda name: name == APP)
    assert recorder.kinds == {"content-absent"}
    assert summary.clean
    assert (await serving(store).blob(LAYER, APP)).status_code == 404
    await write(store, LINK, LAYER.digest)
    await store.delete([layout.blob_data(LAYER.digest)])
    recorder, _ = await checked(store, is_sparse=lambda name: name == APP)
    assert recorder.kinds == {"content-missing", "layer-missing"}


def test_every_kind_is_provoked_here() -> None:
    source = Path(__file__).read_text()
    assert not [kind for kind in KINDS if f'"{kind}"' not in source]


class Racing(InstrumentedDriver):
    """Runs `then` once, just before the first call that begins so."""

    def __init__(self, driver: Driver, call: str) -> None:
        super().__init__(driver)
        self._call, self.waiting, self.go_on = call, asyncio.Event(), asyncio.Event()

    async def before(self, call: str) -> None:
        if call.startswith(self._call) and not self.waiting.is_set():
            self.waiting.set()
            await self.go_on.wait()


@pytest.mark.parametrize(
    ("damage", "call"),
    [
        ((TAG, b""), f"write {TAG}"),
        ((TAG, str(ABSENT).encode()), f"write {TAG}"),
        ((REVISION, b""), f"write {REVISION}"),
        ((LINK, b""), f"write {LINK}"),
    ],
)
async def test_a_push_beside_a_repair_is_not_undone(
    store: MemoryDriver, damage: tuple[Key, bytes], call: str
) -> None:
    """The repair reads the damage, then a client pushes and receives 201, then the repair writes."""
    await write(store, *damage)
    watched = Racing(store, call)
    running = asyncio.create_task(checked(watched, repair=True))
    await watched.waiting.wait()
    await serving(store).push(BUILT, "v1", name=APP)
    watched.go_on.set()
    await running
    await pulled(store)
    assert not await kinds(store)


async def test_a_repair_that_the_store_refuses_is_not_reported_as_one(store: MemoryDriver) -> None:
    """A store whose conditions never hold, as a bucket of Ceph's has been seen to be."""

    class Refusing(InstrumentedDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            if when is not ALWAYS:
                raise Conflict(key)
            return await super().write(key, data, when)

    await write(store, LINK, b"")
    recorder, summary = await checked(Refusing(store), repair=True)
    assert [finding.outcome for finding in recorder.findings] == [Outcome.FOUND]
    assert not summary.clean


async def test_a_torn_link_is_put_back_when_its_blob_is_pushed_while_it_is_removed(store: MemoryDriver) -> None:
    late = blob("pushed in that very moment")
    key = layout.layer_link(APP, late.digest)
    await write(store, key, b"")
    watched = Racing(store, f"delete {key}")
    running = asyncio.create_task(checked(watched, repair=True))
    await watched.waiting.wait()
    await serving(store).push_blob(late, APP)
    watched.go_on.set()
    await running
    assert (await serving(store).blob(late, APP)).content == late.data


async def test_a_referrer_that_is_pushed_while_its_stale_link_is_removed_stays_listed(store: MemoryDriver) -> None:
    assert (await serving(store).manifest(SIGNATURE, APP, "DELETE")).status_code == 202
    await write(store, REFERRER, SIGNATURE.digest)
    watched = Racing(store, f"delete {REFERRER}")
    running = asyncio.create_task(checked(watched, repair=True))
    await watched.waiting.wait()
    await serving(store).push(SIGNATURE, name=APP)
    watched.go_on.set()
    await running
    listed = (await serving(store).get(f"/v2/{APP}/referrers/{BUILT.digest}")).json()["manifests"]
    assert [entry["digest"] for entry in listed] == [str(SIGNATURE.digest)]


@pytest.mark.parametrize("call", [f"children {layout.layers(APP)}", f"children {layout.tags(APP)}"])
async def test_pushes_and_deletions_during_a_check_are_no_findings(store: MemoryDriver, call: str) -> None:
    """The listing was made before them."""
    watched = Racing(store, call)
    running = asyncio.create_task(checked(watched))
    await watched.waiting.wait()
    client = serving(store)
    await client.push(image(blob(size=9, seed=50), seed=50), "new", "v1", name=APP)
    assert (await client.manifest("old", APP, "DELETE")).status_code == 202
    assert (await client.manifest(image(seed=7), APP, "DELETE")).status_code == 202
    assert (await client.manifest(SIGNATURE, APP, "DELETE")).status_code == 202
    watched.go_on.set()
    recorder, _ = await running
    assert not recorder.findings


@pytest.mark.parametrize(("bad", "reported_as"), [(LAYER, "blob-unreadable"), (BUILT, "manifest-corrupt")])
async def test_one_bad_sector_does_not_end_the_check(store: MemoryDriver, bad: Built, reported_as: str) -> None:
    key = layout.blob_data(bad.digest)

    class Scratched(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call == f"read {key}":
                raise StorageUnavailable(f"{key}: Input/output error")

        def open(
            self, key: Key, *, start: int = 0, stop: int | None = None
        ) -> AbstractAsyncContextManager[Reader]:
            if key == layout.blob_data(bad.digest):
                raise StorageUnavailable(f"{key}: Input/output error")
            return super().open(key, start=start, stop=stop)

    assert await kinds(Scratched(store)) == {"blob-unreadable", reported_as}


async def test_a_store_that_fails_ends_the_check(store: MemoryDriver) -> None:
    class Failing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith(f"read {TAG}"):
                raise StorageUnavailable("the disk is gone")

    with pytest.raises(StorageUnavailable, match="the disk is gone"):
        await checked(Failing(store))
