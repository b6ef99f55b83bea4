"""Contract suite for reading from a registry: blobs, manifests, tags, referrers, the catalog."""

from __future__ import annotations

import json
from io import FileIO
from typing import TYPE_CHECKING, Final

import pytest

from moorage.errors import BlobUnknown, ManifestUnknown, NameUnknown, RangeNotSatisfiable
from moorage.registry.interface import Blob, BlobRedirect, FoundBlob, GrowingFile, Manifest, Page
from moorage.testing.builders import DOCKER_LIST, artifact, blob, image, index
from moorage.testing.registry_fixtures import ABSENT, NAME, OTHER, RegistryFixtures, content_of
from moorage.types import Digest, RepoName, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from moorage.registry.interface import Registry
    from moorage.testing.builders import Built
    from moorage.testing.registry_fixtures import Publish

__all__ = ["PullContract", "content_of"]

SIZES: Final = (0, 1, 4096, 64 << 10, (64 << 10) + 1, (1 << 20) + 1)
LAYER: Final = blob(size=100_000)
LATEST: Final = parse_tag("latest")


class BlobPullContract(RegistryFixtures):
    """`Blobs.stat` and `Blobs.fetch`."""

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_blob_of_any_size_is_returned_whole(
        self, registry: Registry, other: Registry, publish: Publish, size: int
    ) -> None:
        """A layer with one wrong byte breaks the image."""
        layer = blob(size=size)
        await publish(layer)
        for process in (registry, other):
            assert await process.blobs.stat(NAME, layer.digest) == Blob(layer.digest, size)
            for files in (False, True):
                found = await process.blobs.fetch(NAME, layer.digest, redirect=False, files=files)
                assert isinstance(found, FoundBlob)
                assert (found.size, found.span) == (size, None)
                assert await content_of(found) == layer.data

    async def test_a_blob_is_found_by_its_sha512_digest(self, registry: Registry, publish: Publish) -> None:
        """An image with sha512 descriptors can be pulled."""
        layer = blob(size=5000, algorithm="sha512")
        await publish(layer)
        assert await registry.blobs.stat(NAME, layer.digest) == Blob(layer.digest, 5000)
        assert await content_of(await registry.blobs.fetch(NAME, layer.digest, redirect=False)) == layer.data

    @pytest.mark.parametrize("files", [False, True])
    @pytest.mark.parametrize("span", [range(100_000), range(1), range(5, 77_777), range(99_999, 100_000)], ids=str)
    async def test_a_part_of_a_blob_is_what_was_selected(
        self, registry: Registry, publish: Publish, span: range, *, files: bool
    ) -> None:
        """A client that resumes a download joins the parts to a whole layer."""
        await publish(LAYER)
        sizes: list[int] = []

        def select(size: int) -> range:
            sizes.append(size)
            return span

        found = await registry.blobs.fetch(NAME, LAYER.digest, select=select, redirect=False, files=files)
        assert isinstance(found, FoundBlob)
        assert (sizes, found.size, found.span) == ([LAYER.size], LAYER.size, span)
        assert await content_of(found) == LAYER.data[span.start : span.stop]

    async def test_an_error_of_the_selection_is_raised(self, registry: Registry, publish: Publish) -> None:
        """A range beyond the end is answered with 416 and the size."""
        await publish(LAYER)

        def select(size: int) -> range:
            raise RangeNotSatisfiable("beyond the end", size=size)

        with pytest.raises(RangeNotSatisfiable) as caught:
            await registry.blobs.fetch(NAME, LAYER.digest, select=select, redirect=False)
        assert caught.value.size == LAYER.size

    async def test_a_redirect_is_returned_only_where_it_is_allowed(
        self, registry: Registry, publish: Publish
    ) -> None:
        """A client that cannot follow one gets the bytes; which of the two it is depends on the registry."""
        await publish(LAYER)
        found = await registry.blobs.fetch(NAME, LAYER.digest, select=lambda _: None)
        if isinstance(found, BlobRedirect):
            assert "://" in found.url
        else:
            assert await content_of(found) == LAYER.data
        assert isinstance(await registry.blobs.fetch(NAME, LAYER.digest, redirect=False), FoundBlob)

    async def test_a_download_may_be_left_early(self, registry: Registry, publish: Publish) -> None:
        """A client that hangs up costs no open file, and the next download is whole."""
        layer = blob(size=(2 << 20) + 1)
        await publish(layer)
        found = await registry.blobs.fetch(NAME, layer.digest, redirect=False)
        assert isinstance(found, FoundBlob)
        assert not isinstance(found.content, bytes | FileIO | GrowingFile)  # no file was requested
        async with found.content as pieces:
            assert isinstance(await anext(pieces), bytes)
        assert await content_of(await registry.blobs.fetch(NAME, layer.digest, redirect=False)) == layer.data

    @pytest.mark.parametrize("redirect", [False, True])
    async def test_a_blob_is_visible_in_its_repository_only(
        self, registry: Registry, publish: Publish, *, redirect: bool
    ) -> None:
        """A client must not learn which blobs repositories hold that it may not read."""
        await publish(LAYER)
        await publish(blob(b"another"), name=OTHER)
        for name, digest in ((NAME, ABSENT), (OTHER, LAYER.digest), (RepoName("never/pushed"), LAYER.digest)):
            with pytest.raises(BlobUnknown):
                await registry.blobs.stat(name, digest)
            with pytest.raises(BlobUnknown):
                await registry.blobs.fetch(name, digest, redirect=redirect)


class ManifestPullContract(RegistryFixtures):
    """`Manifests.get`."""

    @pytest.mark.parametrize(
        "built",
        [image(), image(docker=True), index(image()), index(image(docker=True), docker=True), index()],
        ids=["oci", "docker", "index", "list", "empty"],
    )
    async def test_a_manifest_is_returned_byte_for_byte(
        self, registry: Registry, other: Registry, publish: Publish, built: Built
    ) -> None:
        """Its digest is of these very bytes, and clients refuse a media type that is not that of the push."""
        await publish(built, "latest")
        for process in (registry, other):
            for reference in (LATEST, built.digest):
                found = await process.manifests.get(NAME, reference)
                assert found == Manifest(built.digest, built.media_type, built.data)

    async def test_a_manifest_is_found_by_its_sha512_digest(self, registry: Registry, publish: Publish) -> None:
        """An index may name its images so."""
        built = image(algorithm="sha512")
        await publish(built)
        assert (await registry.manifests.get(NAME, built.digest)).data == built.data

    async def test_a_manifest_is_visible_in_its_repository_only(
        self, registry: Registry, publish: Publish
    ) -> None:
        """An image is private to the repositories that it was pushed to."""
        one = image()
        await publish(one, "latest")
        await publish(image(seed=1), name=OTHER)
        for name, reference in (
            (NAME, parse_tag("absent")),
            (NAME, ABSENT),
            (OTHER, LATEST),
            (OTHER, one.digest),
            (NAME, one.blobs[0].digest),
            (RepoName("never/pushed"), LATEST),
        ):
            with pytest.raises(ManifestUnknown):
                await registry.manifests.get(name, reference)

    async def test_a_client_without_manifest_lists_gets_the_default_image(
        self, registry: Registry, publish: Publish
    ) -> None:
        """Docker of before 2016 pulls multi-platform tags."""
        arm, amd = (
            image(docker=True, seed=seed, platform=f"linux/{kind}") for seed, kind in enumerate(("arm64", "amd64"))
        )
        both, without = index(arm, amd, docker=True), index(arm, docker=True)
        await publish(both, "latest")
        await publish(without, "arm")
        checked: list[str] = []

        def refuses(media_type: str) -> bool:
            checked.append(media_type)
            return False

        assert (await registry.manifests.get(NAME, LATEST, accepts=refuses)).digest == amd.digest
        assert checked == [DOCKER_LIST]
        assert (await registry.manifests.get(NAME, LATEST, accepts=lambda _: True)).digest == both.digest
        assert (await registry.manifests.get(NAME, both.digest, accepts=refuses)).digest == both.digest
        with pytest.raises(ManifestUnknown, match="linux/amd64"):
            await registry.manifests.get(NAME, parse_tag("arm"), accepts=refuses)

    async def test_every_other_manifest_is_returned_whatever_is_accepted(
        self, registry: Registry, publish: Publish
    ) -> None:
        """Clients that accept nothing that they list still work with CNCF Distribution."""
        both = index(image())
        await publish(both, "latest")
        assert (await registry.manifests.get(NAME, LATEST, accepts=lambda _: False)).digest == both.digest


class ListContract(RegistryFixtures):
    """`Tags.list`, `Referrers.list`, `Repositories.list`, `probe`."""

    TAGS: Final = ("0", "A", "_x", "latest", "v1", "v1.0", "v10", "v2")

    async def _tags(self, registry: Registry, limit: int, last: str = "") -> list[str]:
        found: list[str] = []
        while True:
            page = await registry.tags.list(NAME, last=found[-1] if found else last, limit=limit)
            assert len(page.names) == limit or not page.more
            found += page.names
            if not page.more:
                return found

    async def test_tags_are_in_byte_order_and_pages_lose_none(self, registry: Registry, publish: Publish) -> None:
        """A cleaner that follows the pages sees every tag once."""
        await publish(image(), *reversed(self.TAGS))
        await publish(image(), "another", name=OTHER)
        assert await registry.tags.list(NAME) == Page(self.TAGS, more=False)
        for limit in (1, 3, 7, 8, 9):
            assert await self._tags(registry, limit) == list(self.TAGS)
        assert await registry.tags.list(NAME, last="v1") == Page(("v1.0", "v10", "v2"), more=False)

    async def test_last_need_not_be_a_tag(self, registry: Registry, publish: Publish) -> None:
        """It may have been deleted since the page before."""
        await publish(image(), *self.TAGS)
        for last in ("", "B", "lates", "v1.", "zzz", "%", "/"):
            assert await self._tags(registry, 2, last) == [tag for tag in self.TAGS if tag > last], last

    async def test_a_repository_without_manifests_has_no_list_of_tags(
        self, registry: Registry, publish: Publish
    ) -> None:
        """Clients distinguish a repository that does not exist from one without tags."""
        await publish(image())
        assert await registry.tags.list(NAME) == Page((), more=False)
        with pytest.raises(NameUnknown):
            await registry.tags.list(OTHER)

    async def _referrers(self, registry: Registry, subject: Digest, *types: str) -> list[Digest]:
        found: list[Digest] = []
        after: str | None = ""
        while after is not None:
            page = await registry.referrers.list(NAME, subject, artifact_types=types, after=after)
            found += [entry.digest for entry in page.entries]
            after = page.next
        return found

    async def test_referrers_are_listed_by_their_subject(self, registry: Registry, publish: Publish) -> None:
        """A scanner finds the signatures and SBOMs of an image, also those pushed before the image."""
        one = image()
        kinds = ("application/vnd.example.signature", "application/vnd.example.sbom")
        signatures = [artifact(kinds[0], blob(size=10, seed=seed), subject=one) for seed in range(3)]
        bill = artifact(kinds[1], subject=one, annotations={"org.example": "x"})
        for built in (*signatures, bill, artifact(kinds[0], subject=image(seed=1))):
            await publish(built)
        await publish(one, "latest")
        await publish(artifact(kinds[0], blob(size=10, seed=9), subject=one), name=OTHER)
        ordered = sorted((built.digest for built in (*signatures, bill)), key=str)
        assert await self._referrers(registry, one.digest) == ordered
        assert await self._referrers(registry, one.digest, kinds[1]) == [bill.digest]
        assert await self._referrers(registry, one.digest, "application/x", *kinds) == ordered
        assert await self._referrers(registry, one.digest, "application/x") == []
        assert await self._referrers(registry, ABSENT) == []
        assert (await registry.referrers.list(RepoName("never/pushed"), one.digest)).entries == ()
        page = await registry.referrers.list(NAME, one.digest, artifact_types=[kinds[1]])
        assert page.entries[0].artifact_type == kinds[1]
        assert json.loads(page.entries[0].descriptor) == {
            **bill.entry,
            "artifactType": kinds[1],
            "annotations": {"org.example": "x"},
        }
        rest = await registry.referrers.list(NAME, one.digest, after=str(ordered[1]))
        assert [entry.digest for entry in rest.entries] == ordered[2:]

    async def test_the_catalog_is_in_order_of_components(self, registry: Registry, publish: Publish) -> None:
        """A mirror that follows the pages misses no repository that is a prefix of another."""
        names = ("a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "b/c/d")
        for name in reversed(names):
            await publish(image(), name=parse_repo_name(name))
        await publish(LAYER, name=parse_repo_name("blobs/only"))
        for limit in (1, 2, 6, 7, 8):
            found: list[str] = []
            while True:
                page = await registry.repositories.list(last=found[-1] if found else "", limit=limit)
                found += page.names
                if not page.more:
                    break
                assert len(page.names) == limit
            assert found == list(names)
        assert (await registry.repositories.list(last="a/b/b", limit=2)).names == ("a/b/c", "a/b-c")

    async def test_an_empty_registry_is_healthy_and_lists_nothing(self, registry: Registry) -> None:
        """A new installation passes its health check."""
        await registry.probe()
        assert await registry.repositories.list(limit=10) == Page((), more=False)


class PullContract(BlobPullContract, ManifestPullContract, ListContract):
    """All reading operations."""

    pytestmark = pytest.mark.asyncio
