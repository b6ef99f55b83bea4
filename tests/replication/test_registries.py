"""Images between registries: two servers of ours and the reference, each as source and as target."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import bcrypt
import pytest
from tests.live import start_moorage, start_reference
from tests.replication.places import no_sleep
from tests.upstream.faulty import FaultyRegistry

from moorage.replication.errors import ImageIncomplete, ImageMissing, TargetRefused
from moorage.replication.images import ImageCopier, copy_image
from moorage.replication.platforms import ImagePlatform
from moorage.replication.remote import RemoteSource, RemoteTarget
from moorage.replication.requests import CopyRequest
from moorage.testing import builders
from moorage.types import parse_repo_name, parse_tag
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import StaticCredentials
from moorage.upstream.errors import UpstreamDenied
from moorage.upstream.reference import parse_endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.live import Live

    from moorage.replication.progress import CopyResult
    from moorage.testing.builders import Built
    from moorage.types import RepoName

V1 = parse_tag("v1")
IMAGE = builders.image(builders.blob(size=300_000, seed=11), builders.blob(size=3000, seed=12))
BOTH = builders.index(IMAGE, builders.image(seed=13, platform="linux/arm64"))
SIGNATURE = builders.artifact("application/vnd.example.sig", subject=BOTH)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("ours") / "data", http={"workers": 1}) as live:
        yield live


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A second server of ours that accepts indexes without all of their images."""
    sparse = {"manifests": {"indexes": {"platforms": "none"}}}
    with start_moorage(tmp_path_factory.mktemp("other") / "data", http={"workers": 1}, validation=sparse) as live:
        yield live


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_reference(tmp_path_factory.mktemp("reference") / "data") as live:
        yield live


@asynccontextmanager
async def client_of(live: Live) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(parse_endpoint(live.url))
    try:
        yield client
    finally:
        await client.close()


async def push(live: Live, name: RepoName, built: Built, *tags: str) -> None:
    async with client_of(live) as client:
        for part in built.closure:
            if part.is_manifest:
                await client.put_manifest(name, part.digest, part.media_type, part.data)
            else:
                await client.upload_blob(name, part.digest, part.size, once(part.data))
        for tag in tags:
            await client.put_manifest(name, parse_tag(tag), built.media_type, built.data)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def copy(source: Live, target: Live, request: CopyRequest) -> CopyResult:
    async with client_of(source) as reader, client_of(target) as writer:
        copier = ImageCopier(RemoteSource(reader), RemoteTarget(writer), sleep=no_sleep)
        try:
            return await copier.copy(request)
        finally:
            await copier.close()


async def assert_whole(live: Live, name: RepoName, built: Built) -> None:
    async with client_of(live) as client:
        for part in built.closure:
            if part.is_manifest:
                assert (await client.get_manifest(name, part.digest)).data == part.data
            else:
                async with client.open_blob(name, part.digest) as blob:
                    assert b"".join([chunk async for chunk in blob]) == part.data


@pytest.mark.parametrize("pair", [("ours", "other"), ("ours", "reference"), ("reference", "ours")])
async def test_an_image_with_its_signature_goes_from_any_registry_to_any(
    pair: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    """The reference has no API of referrers: there the list is an index under the tag of the subject."""
    source, target = request.getfixturevalue(pair[0]), request.getfixturevalue(pair[1])
    name, there = parse_repo_name(f"from/{pair[0]}"), parse_repo_name(f"to/{pair[1]}")
    await push(source, name, BOTH, "v1")
    await push(source, name, SIGNATURE)
    async with client_of(source) as client:  # a client of the reference keeps the list itself
        listed = [entry.digest for entry in await client.list_referrers(name, BOTH.digest)]
        if SIGNATURE.digest not in listed:
            fallback = builders.index(SIGNATURE)
            tag = parse_tag(f"sha256-{BOTH.digest.hex}")
            await client.put_manifest(name, tag, fallback.media_type, fallback.data)
    wanted = CopyRequest(name, V1, there, V1)
    first = await copy(source, target, wanted)
    assert (first.digest, first.tagged, first.counts.referrers) == (BOTH.digest, True, 1)
    await assert_whole(target, there, BOTH)
    await assert_whole(target, there, SIGNATURE)
    async with client_of(target) as client:
        listed = [entry.digest for entry in await client.list_referrers(there, BOTH.digest)]
        assert listed == [SIGNATURE.digest]
        assert (await client.stat_manifest(there, V1)).digest == BOTH.digest
    again = await copy(source, target, wanted)
    assert (again.tagged, again.counts.changed, again.counts.referrers) == (False, False, 0)


@pytest.mark.parametrize("kind", ["ours", "reference"])
async def test_a_copy_within_a_registry_mounts(kind: str, request: pytest.FixtureRequest) -> None:
    """No byte of a layer is sent."""
    live = request.getfixturevalue(kind)
    name, there = parse_repo_name("within/here"), parse_repo_name("within/there")
    await push(live, name, IMAGE, "v1")
    result = await copy(live, live, CopyRequest(name, V1, there, V1, mount=True))
    assert (result.counts.mounted, result.counts.blobs) == (3, 0)
    await assert_whole(live, there, IMAGE)


async def test_a_platform_is_copied_where_the_target_accepts_it(ours: Live, other: Live, reference: Live) -> None:
    """The reference of 2.8 refuses an index without all of its images; the error names the setting."""
    name = parse_repo_name("platform/app")
    await push(ours, name, BOTH, "v1")
    request = CopyRequest(name, V1, name, V1, platforms=(ImagePlatform.parse("linux/amd64"),))
    result = await copy(ours, other, request)
    assert (result.digest, result.counts.manifests) == (BOTH.digest, 2)
    with pytest.raises(TargetRefused, match=r"copy all platforms, .* validation\.manifests\.indexes"):
        await copy(ours, reference, request)


async def test_what_a_registry_does_not_have_is_named(ours: Live, other: Live) -> None:
    name = parse_repo_name("missing/app")
    with pytest.raises(ImageMissing, match=f"{ours.host} has no missing/app:v1"):
        await copy(ours, other, CopyRequest(name, V1, name, V1))
    await push(other, name, BOTH, "v1")
    async with (
        client_of(other) as client,
        client._session.send(  # the client has no deletion
            "DELETE",
            client._session.url(f"/v2/{name}/manifests/{IMAGE.digest}"),
            expected={202},
        ),
    ):
        pass
    with pytest.raises(ImageIncomplete, match=f"names {IMAGE.digest}, which is missing there"):
        await copy(other, ours, CopyRequest(name, V1, name, V1))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with token authentication: ann may pull and push in `team`."""
    folder = tmp_path_factory.mktemp("guarded")
    folder.joinpath("users").write_text(hash_of("ann", "word"))
    folder.joinpath("policy.yml").write_text(
        "access: [{who: ann, repositories: 'team/**', allow: [pull, push]}]\n"
    )
    local = {"policy": str(folder / "policy.yml"), "users": str(folder / "users")}
    secret = {"secret": "0123456789abcdef0123456789abcdef", "workers": 1}
    with start_moorage(folder / "data", auth={"local": local}, http=secret) as live:
        yield live


def hash_of(user: str, password: str) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


async def test_mounts_with_tokens(ours: Live, guarded: Live) -> None:
    """A mount needs a token for both repositories."""
    name, team, other = map(parse_repo_name, ("tokens/app", "team/app", "other/app"))
    await push(ours, name, IMAGE, "v1")
    client = RegistryClient(parse_endpoint(guarded.url), StaticCredentials("ann", "word"))
    try:
        target = RemoteTarget(client)
        async with client_of(ours) as reader:
            assert (await copy_image(RemoteSource(reader), target, CopyRequest(name, V1, team, V1))).tagged
            with pytest.raises(UpstreamDenied):
                await copy_image(RemoteSource(reader), target, CopyRequest(name, V1, other, V1))
        request = CopyRequest(team, V1, parse_repo_name("team/prod"), V1, mount=True)
        within = await copy_image(RemoteSource(client), target, request)
        assert (within.counts.mounted, within.counts.blobs) == (3, 0)
    finally:
        await client.close()


async def test_a_repository_that_cannot_be_read_yet_is_created(ours: Live) -> None:
    """Hosted registries deny reading what does not exist; a dry run cannot find out by writing, and reports it."""
    name = parse_repo_name("new/app")
    await push(ours, name, IMAGE, "v1")
    async with FaultyRegistry() as hosted, client_of(ours) as reader:
        for method in ("GET", "HEAD"):
            hosted.fail("/v2/new/", method=method, status=403)
        client = RegistryClient(parse_endpoint(hosted.url))
        try:
            source, request = RemoteSource(reader), CopyRequest(name, V1, name, V1)
            with pytest.raises(UpstreamDenied):
                await copy_image(source, RemoteTarget(client, denied_is_absent=False), request)
            result = await copy_image(source, RemoteTarget(client), request)
        finally:
            await client.close()
        assert (result.counts.blobs, hosted.tags_of(name)) == (3, {"v1": IMAGE.digest})
