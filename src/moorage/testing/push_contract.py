"""Contract suite for writing to a registry: uploads, mounts, manifests with tags, deletions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from moorage.errors import (
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    PreconditionFailed,
    RangeInvalid,
)
from moorage.registry.interface import Caller, Deleted, IfMatch, Mounted, Pushed
from moorage.testing.builders import artifact, blob, image, index
from moorage.testing.registry_fixtures import ABSENT, NAME, OTHER, RegistryFixtures, content_of, push, upload
from moorage.types import Digest, RepoName, Tag, parse_tag

if TYPE_CHECKING:
    from moorage.registry.interface import Manifests, Registry, UploadStatus

__all__ = ["DeleteContract", "ManifestPushContract", "UploadPushContract"]

LAYER: Final = blob(size=100_000)
V1, V2, V3 = parse_tag("v1"), parse_tag("v2"), parse_tag("v3")
CALLER: Final = Caller("alice", "192.0.2.1", "request-1")


class UploadPushContract(RegistryFixtures):
    """`Uploads` and `Blobs.mount`."""

    async def test_each_request_of_an_upload_may_reach_another_process(
        self, registry: Registry, other: Registry
    ) -> None:
        """A load balancer without sticky sessions breaks no push."""
        status = await registry.uploads.start(NAME)
        assert status.offset == 0
        for process, span in (
            (other, range(30_000)),
            (registry, range(30_000, 30_001)),
            (other, range(30_001, 90_000)),
        ):
            uploads = process.uploads
            async with uploads.extend(NAME, status.uuid, status.state, start=span.start) as part:
                await part.write(LAYER.data[span.start : span.stop])
                status = await part.commit()
            assert status.offset == span.stop
            with pytest.raises(BlobUnknown):
                await registry.blobs.stat(NAME, LAYER.digest)
        async with registry.uploads.extend(NAME, status.uuid, status.state) as part:
            await part.write([LAYER.data[90_000:95_000], LAYER.data[95_000:]])
            uploaded = await part.finish(LAYER.digest, caller=CALLER)
        assert (uploaded.digest, uploaded.size) == (LAYER.digest, LAYER.size)
        for process in (registry, other):
            assert await content_of(await process.blobs.fetch(NAME, LAYER.digest, redirect=False)) == LAYER.data

    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    @pytest.mark.parametrize("size", [0, 1, (2 << 20) + 1])
    async def test_a_blob_of_any_size_and_algorithm_is_taken(
        self, registry: Registry, size: int, algorithm: str
    ) -> None:
        """Also the empty blob, and one whose digest was announced."""
        layer = blob(size=size, algorithm=algorithm)
        uploaded = await upload(registry, layer.data, layer.digest)
        assert (uploaded.digest, uploaded.size) == (layer.digest, size)
        assert await content_of(await registry.blobs.fetch(NAME, layer.digest, redirect=False)) == layer.data

    async def test_the_status_has_what_was_kept(self, registry: Registry, other: Registry) -> None:
        """A client that lost the response asks for the offset and continues there."""
        status = await registry.uploads.start(NAME)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012  the client leaves inside the context
            async with registry.uploads.extend(NAME, status.uuid, status.state) as part:
                await part.write(b"x" * 1000)
                raise ZeroDivisionError
        found = await other.uploads.status(NAME, status.uuid)
        assert (found.uuid, found.offset) == (status.uuid, 1000)
        async with other.uploads.extend(NAME, found.uuid, found.state, start=1000) as part:
            await part.finish(Digest.of(b"x" * 1000))

    async def test_a_chunk_in_the_wrong_place_is_refused_with_the_offset(self, registry: Registry) -> None:
        """A client that repeats a chunk after a lost response must not store it twice."""
        begun = await registry.uploads.start(NAME)
        async with registry.uploads.extend(NAME, begun.uuid, begun.state) as part:
            await part.write(LAYER.data[:500])
            status = await part.commit()
        for state, start in ((begun.state, None), (begun.state, 0), (status.state, 0), (status.state, 501)):
            with pytest.raises(RangeInvalid) as caught:
                async with registry.uploads.extend(NAME, begun.uuid, state, start=start):
                    pytest.fail("entered")
            assert (caught.value.uuid, caught.value.offset) == (begun.uuid, 500)
        async with registry.uploads.extend(NAME, begun.uuid, caught.value.state, start=500) as part:
            await part.write(LAYER.data[500:])
            await part.finish(LAYER.digest)

    async def test_content_of_another_digest_ends_the_upload(self, registry: Registry) -> None:
        """A blob never has other bytes than its name."""
        status = await registry.uploads.start(NAME)
        with pytest.raises(DigestInvalid):  # noqa: PT012  the refusal comes from inside the context
            async with registry.uploads.extend(NAME, status.uuid, status.state) as part:
                await part.write(b"other bytes")
                await part.finish(LAYER.digest)
        await self._gone(registry, status)
        for digest in (LAYER.digest, Digest.of(b"other bytes")):
            with pytest.raises(BlobUnknown):
                await registry.blobs.stat(NAME, digest)

    async def _gone(self, registry: Registry, status: UploadStatus) -> None:
        with pytest.raises(BlobUploadUnknown):
            await registry.uploads.status(NAME, status.uuid)
        with pytest.raises(BlobUploadUnknown):
            await registry.uploads.cancel(NAME, status.uuid, status.state)
        with pytest.raises(BlobUploadUnknown):
            async with registry.uploads.extend(NAME, status.uuid, status.state):
                pytest.fail("entered")

    async def test_a_finished_or_cancelled_upload_is_gone(self, registry: Registry, other: Registry) -> None:
        """A client that continues it learns that it has to start again."""
        finished, cancelled = [await registry.uploads.start(NAME) for _ in range(2)]
        async with registry.uploads.extend(NAME, finished.uuid, finished.state) as part:
            await part.write(b"12345")
            await part.finish(Digest.of(b"12345"))
        await other.uploads.cancel(NAME, cancelled.uuid, cancelled.state)
        for status in (finished, cancelled):
            await self._gone(registry, status)
            await self._gone(other, status)

    async def test_the_state_belongs_to_one_upload(self, registry: Registry) -> None:
        """A client can neither forge a state nor use it for an upload into another repository."""
        one, two = [await registry.uploads.start(name) for name in (NAME, OTHER)]
        for name, uuid, state in ((NAME, one.uuid, two.state), (NAME, one.uuid, "forged"), (NAME, one.uuid, "")):
            with pytest.raises(BlobUploadInvalid):
                async with registry.uploads.extend(name, uuid, state):
                    pytest.fail("entered")
            with pytest.raises(BlobUploadInvalid):
                await registry.uploads.cancel(name, uuid, state)
        for uuid in (two.uuid, "nothing", "0" * 8):
            with pytest.raises(BlobUploadUnknown):
                await registry.uploads.status(NAME, uuid)

    async def test_a_blob_is_mounted_without_an_upload(self, registry: Registry, other: Registry) -> None:
        """A base image is pushed to many repositories and travels once."""
        await upload(registry, LAYER.data)
        mounted = await other.blobs.mount(OTHER, LAYER.digest, NAME, caller=CALLER)
        assert mounted == Mounted(LAYER.digest, LAYER.size, NAME)
        assert await content_of(await registry.blobs.fetch(OTHER, LAYER.digest, redirect=False)) == LAYER.data
        third = RepoName("team/third")
        assert await registry.blobs.mount(third, LAYER.digest, None) == Mounted(LAYER.digest, LAYER.size, None)
        assert (await registry.blobs.stat(third, LAYER.digest)).size == LAYER.size

    async def test_a_blob_that_the_source_does_not_have_is_not_mounted(self, registry: Registry) -> None:
        """A mount must not give access to content of repositories that the client may not read."""
        await upload(registry, LAYER.data)
        for digest, source in ((LAYER.digest, RepoName("team/third")), (ABSENT, NAME), (ABSENT, None)):
            with pytest.raises(BlobUnknown):
                await registry.blobs.mount(OTHER, digest, source)
            with pytest.raises(BlobUnknown):
                await registry.blobs.stat(OTHER, digest)


class ManifestPushContract(RegistryFixtures):
    """`Manifests.put`."""

    async def test_a_push_by_tag_moves_the_tag(self, registry: Registry, other: Registry) -> None:
        """The next pull gets the new image, from any process; the old one is kept under its digest."""
        one, two = image(), image(seed=1)
        await push(registry, one, "v1")
        await push(registry, two)
        pushed = await registry.manifests.put(NAME, V1, two.media_type, two.data, caller=CALLER)
        assert pushed == Pushed(two.digest, None, (V1,), two.size, two.media_type)
        for process in (registry, other):
            assert (await process.manifests.get(NAME, V1)).digest == two.digest
            assert (await process.manifests.get(NAME, one.digest)).data == one.data

    async def test_a_push_reports_its_subject_and_all_tags(self, registry: Registry) -> None:
        """Clients read from the response whether the registry lists referrers."""
        one = image()
        await push(registry, one)
        signature = artifact("application/vnd.example.signature", subject=one)
        for part in signature.blobs:
            await upload(registry, part.data)
        pushed = await registry.manifests.put(
            NAME, signature.digest, signature.media_type, signature.data, tags=(V1, V2)
        )
        assert pushed == Pushed(signature.digest, one.digest, (V1, V2), signature.size, signature.media_type)
        for tag in (V1, V2):
            assert (await registry.manifests.get(NAME, tag)).digest == signature.digest

    async def _refused(self, manifests: Manifests, digest: Digest) -> None:
        for reference in (V1, V2, digest):
            with pytest.raises(ManifestUnknown):
                await manifests.get(NAME, reference)

    async def test_a_manifest_without_its_parts_is_refused(self, registry: Registry) -> None:
        """A tag never leads to an image that cannot be pulled; parts of another repository do not count."""
        one = image(blob(size=10), blob(size=20))
        await push(registry, one, name=OTHER)
        with pytest.raises(ManifestBlobUnknown) as caught:
            await registry.manifests.put(NAME, V1, one.media_type, one.data, tags=(V2,))
        assert set(caught.value.missing) == {str(part.digest) for part in one.blobs}
        await self._refused(registry.manifests, one.digest)
        both = index(one)
        with pytest.raises(ManifestBlobUnknown):
            await registry.manifests.put(NAME, V1, both.media_type, both.data)
        await self._refused(registry.manifests, both.digest)

    async def test_what_is_not_as_it_was_announced_is_refused(self, registry: Registry) -> None:
        """Nothing is stored under a digest or media type that is not its own."""
        one = image()
        for part in one.blobs:
            await upload(registry, part.data)
        manifests = registry.manifests
        with pytest.raises(DigestInvalid):
            await manifests.put(NAME, ABSENT, one.media_type, one.data, tags=(V1,))
        for media_type, data in (
            (index().media_type, one.data),
            ("text/plain", one.data),
            ("", one.data),
            (one.media_type, b"no json"),
            (one.media_type, b"{}"),
            (one.media_type, b""),
        ):
            with pytest.raises(ManifestInvalid):
                await manifests.put(NAME, V1, media_type, data, tags=(V2,))
        with pytest.raises(Denied):
            await manifests.put(NAME, V1, one.media_type, one.data, classes={"plugin"})
        await self._refused(manifests, one.digest)
        with pytest.raises(NameUnknown):
            await registry.tags.list(NAME)
        await manifests.put(NAME, V1, one.media_type, one.data, classes={"plugin", "image"})
        assert (await manifests.get(NAME, V1)).data == one.data

    async def test_conditions_protect_a_tag(self, registry: Registry, other: Registry) -> None:
        """A client with a condition never overwrites a tag that another client has moved."""
        one, two, three = (image(seed=seed) for seed in range(3))
        for built in (one, two, three):
            await push(registry, built)

        async def put(built_index: int, **condition: tuple[Digest, ...] | None) -> None:
            built = (one, two, three)[built_index]
            await other.manifests.put(NAME, V1, built.media_type, built.data, condition=IfMatch(**condition))

        for condition in ({"match": ()}, {"match": (one.digest,)}):
            with pytest.raises(PreconditionFailed):
                await put(0, **condition)
        await put(0, none_match=())
        for condition in ({"none_match": ()}, {"none_match": (one.digest,)}, {"match": (two.digest,)}):
            with pytest.raises(PreconditionFailed):
                await put(1, **condition)
        assert (await registry.manifests.get(NAME, V1)).digest == one.digest
        await put(1, match=(ABSENT, one.digest))
        await put(2, none_match=(one.digest,))
        await put(0, match=())
        assert (await registry.manifests.get(NAME, V1)).digest == one.digest


class DeleteContract(RegistryFixtures):
    """`Blobs.delete` and `Manifests.delete`."""

    async def test_a_blob_is_deleted_from_one_repository(self, registry: Registry, other: Registry) -> None:
        """Images of other repositories keep their layers."""
        for name in (NAME, OTHER):
            await upload(registry, LAYER.data, name=name)
        assert (await other.blobs.stat(NAME, LAYER.digest)).size == LAYER.size
        assert await registry.blobs.delete(NAME, LAYER.digest, caller=CALLER) == Deleted(LAYER.digest)
        for process in (registry, other):
            with pytest.raises(BlobUnknown):
                await process.blobs.stat(NAME, LAYER.digest)
            with pytest.raises(BlobUnknown):
                await process.blobs.fetch(NAME, LAYER.digest)
            assert (await process.blobs.stat(OTHER, LAYER.digest)).size == LAYER.size
        with pytest.raises(BlobUnknown):
            await registry.blobs.delete(NAME, LAYER.digest)
        await upload(registry, LAYER.data)
        assert (await other.blobs.stat(NAME, LAYER.digest)).size == LAYER.size

    async def test_a_deleted_tag_leaves_the_manifest(self, registry: Registry, other: Registry) -> None:
        """Other tags of the same image are not touched."""
        one = image()
        await push(registry, one, "v1", "v2")
        assert await registry.manifests.delete(NAME, V1, caller=CALLER) == Deleted(one.digest, (V1,))
        for process in (registry, other):
            with pytest.raises(ManifestUnknown):
                await process.manifests.get(NAME, V1)
            for reference in (V2, one.digest):
                assert (await process.manifests.get(NAME, reference)).data == one.data
            assert (await process.tags.list(NAME)).names == ("v2",)
        with pytest.raises(ManifestUnknown):
            await registry.manifests.delete(NAME, V1)

    async def test_a_deleted_manifest_is_gone_with_all_of_its_tags(
        self, registry: Registry, other: Registry
    ) -> None:
        """An image with a vulnerability can no longer be pulled by any name, at any process, at once."""
        one, two = image(), image(seed=1)
        for name in (NAME, OTHER):
            await push(registry, one, "v1", "v2", name=name)
        await push(registry, two, "v3")
        assert (await other.manifests.get(NAME, V1)).digest == one.digest
        assert await registry.manifests.delete(NAME, one.digest, caller=CALLER) == Deleted(one.digest)
        for process in (registry, other):
            for reference in (V1, V2, one.digest):
                with pytest.raises(ManifestUnknown):
                    await process.manifests.get(NAME, reference)
            assert (await process.tags.list(NAME)).names == ("v3",)
            assert (await process.tags.list(OTHER)).names == ("v1", "v2")
        with pytest.raises(ManifestUnknown):
            await registry.manifests.delete(NAME, one.digest)

    async def test_a_manifest_that_is_pushed_again_has_only_its_new_tags(
        self, registry: Registry, other: Registry
    ) -> None:
        """A tag that was deleted with its image must not come back."""
        one = image()
        await push(registry, one, "v1", "v2")
        await registry.manifests.delete(NAME, one.digest)
        await push(other, one, "v3")
        for process in (registry, other):
            assert (await process.tags.list(NAME)).names == ("v3",)
            assert (await process.manifests.get(NAME, V3)).data == one.data
            with pytest.raises(ManifestUnknown):
                await process.manifests.get(NAME, V1)

    @pytest.mark.parametrize("reference", [V1, ABSENT], ids=["tag", "digest"])
    async def test_what_is_not_there_cannot_be_deleted(self, registry: Registry, reference: Tag | Digest) -> None:
        """A typing error is not reported as done."""
        with pytest.raises(ManifestUnknown):
            await registry.manifests.delete(NAME, reference)
        with pytest.raises(BlobUnknown):
            await registry.blobs.delete(NAME, ABSENT)

    async def test_a_deleted_referrer_is_not_listed(self, registry: Registry, other: Registry) -> None:
        """A revoked signature is not found any more."""
        one = image()
        signature = artifact("application/vnd.example.signature", subject=one)
        for built in (one, signature):
            await push(registry, built)
        assert len((await other.referrers.list(NAME, one.digest)).entries) == 1
        await registry.manifests.delete(NAME, signature.digest)
        for process in (registry, other):
            assert (await process.referrers.list(NAME, one.digest)).entries == ()
