"""One image from one registry to another: whole, unchanged, and only what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.replication.places import RecordingTarget, StubbornSource, has_whole, new_registry, no_sleep

from moorage.errors import ManifestUnknown
from moorage.registry.stored import StoredOptions
from moorage.registry.validation import ValidationRules
from moorage.replication.errors import (
    ImageIncomplete,
    ImageMissing,
    PlatformMissing,
    SourceDamaged,
    TagMoved,
    TargetRefused,
)
from moorage.replication.images import ImageCopier
from moorage.replication.local import LocalTarget
from moorage.replication.platforms import ImagePlatform
from moorage.replication.requests import CopyRequest, ReplicationOptions
from moorage.testing import builders
from moorage.testing.registry_fixtures import NAME, OTHER, push
from moorage.types import parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry
    from moorage.replication.progress import CopyResult

V1 = parse_tag("v1")
REQUEST = CopyRequest(NAME, V1, NAME, V1)
IMAGE = builders.image(builders.blob(size=5000, seed=1), builders.blob(size=3000, seed=2))
BOTH = builders.index(IMAGE, builders.image(seed=3, platform="linux/arm64"))


@pytest_asyncio.fixture
async def here() -> AsyncIterator[StoredRegistry]:
    registry = new_registry(StoredOptions(delete_enabled=True))
    yield registry
    await registry.close()


async def copy(
    source: StubbornSource,
    target: LocalTarget,
    request: CopyRequest = REQUEST,
    options: ReplicationOptions | None = None,
) -> CopyResult:
    copier = ImageCopier(source, target, options, sleep=no_sleep)
    try:
        return await copier.copy(request)
    finally:
        await copier.close()


async def test_an_image_arrives_whole_and_unchanged(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """Children before parents, and the tag last: a reader never sees an incomplete image."""
    await push(here, BOTH, "v1")
    result = await copy(source, target)
    assert await has_whole(there, BOTH)
    assert (await there.manifests.get(NAME, V1)).digest == BOTH.digest == result.digest
    assert (result.tagged, result.before) == (True, None)
    assert (result.counts.blobs, result.counts.manifests) == (5, 3)
    assert target.written[-1] == "v1"
    for part in BOTH.parts:
        for below in part.parts:
            assert target.written.index(str(below.digest)) < target.written.index(str(part.digest))


async def test_a_second_copy_sends_nothing(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """Each scheduled run would send everything again."""
    await push(here, BOTH, "v1")
    await copy(source, target)
    target.written.clear()
    source.opened.clear()
    result = await copy(source, target)
    assert (target.written, source.opened, result.tagged, result.counts.changed) == ([], [], False, False)


async def test_only_what_is_missing_is_sent(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """A new release shares most of its layers with the last one."""
    await push(there, IMAGE, "old")
    newer = builders.image(*IMAGE.blobs[:2], builders.blob(size=10, seed=9))
    await push(here, newer, "v1")
    result = await copy(source, target)
    assert result.counts.present == 2
    assert result.counts.blobs == 2  # the new layer and the config
    assert await has_whole(there, newer)


async def test_a_dry_run_writes_nothing(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, BOTH, "v1")
    result = await copy(source, target, options=ReplicationOptions(dry_run=True))
    assert (target.written, result.tagged, result.counts.blobs) == ([], True, 5)
    assert result.counts.blob_bytes == sum(part.size for part in BOTH.closure if not part.is_manifest)
    with pytest.raises(ManifestUnknown):
        await there.manifests.get(NAME, V1)


async def test_a_moved_tag_is_followed(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, IMAGE, "v1")
    await copy(source, target)
    await push(here, BOTH, "v1")
    result = await copy(source, target)
    assert (result.before, result.tagged) == (IMAGE.digest, True)
    assert (await there.manifests.get(NAME, V1)).digest == BOTH.digest


async def test_blobs_are_mounted_within_a_registry(here: StoredRegistry) -> None:
    """A promotion from one repository to another moves no bytes."""
    await push(here, IMAGE, "v1")
    source, target = StubbornSource(here), RecordingTarget(here)
    result = await copy(source, target, CopyRequest(NAME, V1, OTHER, V1, mount=True))
    assert (source.opened, result.counts.mounted, result.counts.blobs) == ([], 3, 0)
    assert await has_whole(here, IMAGE, name=OTHER)


async def test_blobs_of_another_repository_of_the_same_run_are_mounted(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """A base layer that fifty repositories share crosses the line once."""
    await push(here, IMAGE, "v1")
    await push(here, IMAGE, "v1", name=OTHER)
    copier = ImageCopier(source, target)
    await copier.copy(REQUEST)
    source.opened.clear()
    result = await copier.copy(CopyRequest(OTHER, V1, OTHER, V1))
    assert (source.opened, result.counts.mounted) == ([], 3)
    assert await has_whole(there, IMAGE, name=OTHER)
    await copier.close()


async def test_platforms_of_an_index_are_selected_without_changing_it(
    here: StoredRegistry, source: StubbornSource
) -> None:
    """A changed digest would break every signature and every deployment by digest."""
    await push(here, BOTH, "v1")
    sparse = new_registry(StoredOptions(validation=ValidationRules(platforms=frozenset())))
    request = CopyRequest(NAME, V1, NAME, V1, platforms=(ImagePlatform.parse("linux/amd64"),))
    await copy(source, LocalTarget(sparse), request)
    assert await has_whole(sparse, IMAGE)
    assert (await sparse.manifests.get(NAME, V1)).data == BOTH.data
    with pytest.raises(ManifestUnknown):
        await sparse.manifests.get(NAME, BOTH.parts[1].digest)
    everything = await copy(source, LocalTarget(sparse))
    assert everything.counts.manifests == 1
    assert await has_whole(sparse, BOTH)
    await sparse.close()


async def test_a_target_without_sparse_indexes_is_named(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, BOTH, "v1")
    request = CopyRequest(NAME, V1, NAME, V1, platforms=(ImagePlatform.parse("linux/amd64"),))
    with pytest.raises(TargetRefused, match=r"target\.test refuses an index .* validation\.manifests\.indexes"):
        await copy(source, target, request)
    assert "v1" not in target.written


@pytest.mark.parametrize("built", [IMAGE, BOTH])
async def test_a_platform_that_an_image_does_not_have_is_an_error(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget, built: builders.Built
) -> None:
    """An image for another processor would fail at its start, at the other side."""
    await push(here, built, "v1")
    request = CopyRequest(NAME, V1, NAME, V1, platforms=(ImagePlatform.parse("linux/s390x"),))
    with pytest.raises(PlatformMissing, match="has no image for linux/s390x; it has linux/amd64"):
        await copy(source, target, request)
    assert target.written == []


async def test_referrers_come_along(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """Signatures of the index and of its images, what signs the signatures, and cosign's tags; before the tag."""
    signature = builders.artifact("application/vnd.example.sig", subject=BOTH)
    sbom = builders.artifact("application/vnd.example.sbom", builders.blob("{}x"), subject=IMAGE)
    signed = builders.artifact("application/vnd.example.sig", subject=sbom)
    cosign = builders.artifact("application/vnd.example.cosign", builders.blob("cosign"))
    await push(here, BOTH, "v1")
    for built in (signature, sbom, signed):
        await push(here, built)
    await push(here, cosign, f"sha256-{BOTH.digest.hex}.sig")
    result = await copy(source, target)
    assert result.counts.referrers == 3
    assert target.written[-1] == "v1"
    for built in (signature, sbom, signed, cosign):
        assert await has_whole(there, built)
    for subject, expected in ((BOTH, signature), (IMAGE, sbom), (sbom, signed)):
        listed = await there.referrers.list(NAME, subject.digest)
        assert [entry.digest for entry in listed.entries] == [expected.digest]
    later = builders.artifact("application/vnd.example.later", subject=BOTH)
    await push(here, later)
    assert (await copy(source, target)).counts.referrers == 1


async def test_referrers_stay_behind_on_request(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, IMAGE, "v1")
    await push(here, builders.artifact("application/vnd.example.sig", subject=IMAGE))
    result = await copy(source, target, CopyRequest(NAME, V1, NAME, V1, referrers=False))
    assert (result.counts.referrers, result.counts.manifests) == (0, 1)


async def test_a_cut_body_is_continued(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """A layer of 10 GB over a bad line would never arrive from its beginning."""
    await push(here, IMAGE, "v1")
    source.cut_after = 2000
    await copy(source, target)
    assert sorted(set(source.opened)) == [0, 2000, 4000]
    assert await has_whole(there, IMAGE)


async def test_bytes_with_another_digest_are_not_stored(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, IMAGE, "v1")
    layer = IMAGE.blobs[0]
    source.replaced[layer.digest] = b"x" * layer.size
    with pytest.raises(SourceDamaged, match=rf"source\.test: library/app@{layer.digest}"):
        await copy(source, target)
    assert not await target.has_blob(NAME, layer.digest)
    with pytest.raises(ManifestUnknown):
        await there.manifests.get(NAME, V1)


async def test_a_missing_image_is_named(source: StubbornSource, target: RecordingTarget) -> None:
    with pytest.raises(ImageMissing, match=r"source\.test has no library/app:v1"):
        await copy(source, target)


async def test_missing_content_is_named_and_leaves_the_tag(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, BOTH, "v1")
    layer = IMAGE.blobs[1]
    await here.blobs.delete(NAME, layer.digest)
    with pytest.raises(ImageIncomplete, match=rf"source\.test: library/app@{layer.digest} is missing"):
        await copy(source, target)
    await here.manifests.delete(NAME, IMAGE.digest)
    with pytest.raises(ImageIncomplete, match=f"{BOTH.digest} names {IMAGE.digest}, which is missing"):
        await copy(source, target)
    assert "v1" not in target.written


async def test_a_tag_that_moves_during_the_copy_gives_a_whole_image(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    """The old image is gone by the time its content is read: the copy begins again with the new one."""
    await push(here, IMAGE, "v1")

    async def replace() -> None:
        await push(here, BOTH.parts[1], "v1")
        await here.manifests.delete(NAME, IMAGE.digest)
        await here.blobs.delete(NAME, IMAGE.blobs[0].digest)

    source.before_manifest = replace
    result = await copy(source, target)
    assert result.digest == BOTH.parts[1].digest
    assert await has_whole(there, BOTH.parts[1])


async def test_a_tag_that_never_rests_is_given_up(
    here: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    images = [builders.image(seed=seed) for seed in range(20)]
    await push(here, images[0], "v1")
    seeds = iter(range(1, 20))

    async def replace() -> None:
        seed = next(seeds)
        await push(here, images[seed], "v1")
        await here.manifests.delete(NAME, images[seed - 1].digest)
        source.before_manifest = replace

    source.before_manifest = replace
    with pytest.raises(TagMoved, match="moved again and again"):
        await copy(source, target)


async def test_a_failing_connection_is_tried_again(
    here: StoredRegistry, there: StoredRegistry, source: StubbornSource, target: RecordingTarget
) -> None:
    await push(here, IMAGE, "v1")
    source.failures = 2
    await copy(source, target)
    assert await has_whole(there, IMAGE)


async def test_content_that_the_target_lost_is_sent_again(here: StoredRegistry, source: StubbornSource) -> None:
    """With --recheck: a restored backup of the target may have manifests without their blobs."""
    await push(here, IMAGE, "v1")
    damaged = new_registry(StoredOptions(delete_enabled=True))
    target = RecordingTarget(damaged)
    await copy(source, target)
    await damaged.blobs.delete(NAME, IMAGE.blobs[0].digest)
    assert not (await copy(source, target)).counts.changed
    assert (await copy(source, target, options=ReplicationOptions(recheck=True))).counts.blobs == 1
    assert await has_whole(damaged, IMAGE)
    await damaged.close()
