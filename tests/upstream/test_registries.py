"""Real registries: this one and CNCF Distribution's, without a login, with a password and with tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.auth.local.helpers import hashed, policy_file, users_file
from tests.live import Live, require, start_moorage, start_reference
from tests.wire import Wire

from moorage.registry import media
from moorage.registry.referrers import fallback_tag
from moorage.types import Digest, Referrer, parse_repo_name, parse_tag
from moorage.upstream.client import RegistryClient, RemoteManifest
from moorage.upstream.credentials import StaticCredentials
from moorage.upstream.docker_config import DockerConfigCredentials
from moorage.upstream.errors import UpstreamDenied, UpstreamMissing, UpstreamRefused
from moorage.upstream.reference import parse_endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from moorage.types import RepoName

# Three of the servers are processes of Python, which take most of a second to start.
pytestmark = [pytest.mark.slow]

USER: Final = "ann"
PASSWORD: Final = "secret-of-the-test"
PAIR: Final = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
POLICY: Final = (
    "access:\n"
    "  - {who: ann, repositories: team/**, allow: [pull, push]}\n"
    "  - {who: ann, repositories: base, allow: [pull]}\n"
)
DATA: Final = bytes(range(256)) * 8192  # 2 MiB
DIGEST: Final = Digest.of(DATA)
CONFIG: Final = b'{"architecture": "amd64", "os": "linux"}'

LOGINS: Final = [
    "moorage-htpasswd",
    "moorage-local",
    pytest.param("reference-htpasswd", marks=pytest.mark.reference),
]
KINDS: Final = [
    "moorage",
    "moorage-htpasswd",
    "moorage-local",
    pytest.param("reference", marks=pytest.mark.reference),
    pytest.param("reference-htpasswd", marks=pytest.mark.reference),
]


def auth_of(kind: str, folder: Path) -> dict[str, Any]:
    if kind.endswith("-htpasswd"):
        path = folder / "htpasswd"
        path.write_text(f"{USER}:{hashed(PASSWORD)}\n")
        return {"auth": {"htpasswd": {"realm": "test", "path": str(path)}}}
    if kind.endswith("-local"):
        policy_file(folder, POLICY)
        users_file(folder, **{USER: PASSWORD})
        return {"auth": {"local": {"policy": str(folder / "policy.yml"), "users": str(folder / "users")}}}
    return {}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Live]]:
    """Servers by their kind; each is started for its first test."""
    started: dict[str, Live] = {}
    with contextlib.ExitStack() as stack:

        def of(kind: str) -> Live:
            if kind not in started:
                folder = tmp_path_factory.mktemp(kind)
                start = start_reference if kind.startswith("reference") else start_moorage
                started[kind] = stack.enter_context(start(folder / "data", **auth_of(kind, folder)))
            return started[kind]

        yield of


@pytest.fixture(params=KINDS)
def registry(request: pytest.FixtureRequest, servers: Callable[[str], Live]) -> Live:
    return servers(request.param)


@pytest.fixture
def kind(registry: Live, request: pytest.FixtureRequest) -> str:
    """The name of the registry, of `KINDS`."""
    return str(request.node.callspec.params["registry"])


@pytest.fixture
async def client(registry: Live) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(parse_endpoint(registry.url), StaticCredentials(USER, PASSWORD))
    yield client
    await client.close()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]


async def push_image(client: RegistryClient, name: RepoName, tag: str, **members: Any) -> Digest:
    for data in (CONFIG, DATA):
        await client.upload_blob(name, Digest.of(data), len(data), pieces(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(DATA, "application/vnd.oci.image.layer.v1.tar")],
        **members,
    }
    return await client.put_manifest(name, parse_tag(tag), media.OCI_MANIFEST, json.dumps(manifest).encode())


def described(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of(data), "size": len(data)}


async def test_an_image_there_and_back(client: RegistryClient) -> None:
    """Blobs, the manifest by tag and by digest, the tags."""
    name = parse_repo_name("team/app")
    await client.ping()
    digest = await push_image(client, name, "1")
    await push_image(client, name, "2")
    manifest = await client.get_manifest(name, parse_tag("1"))
    assert (manifest.digest, manifest.media_type) == (digest, media.OCI_MANIFEST)
    assert await client.get_manifest(name, digest) == manifest
    expected = RemoteManifest(digest, media.OCI_MANIFEST, len(manifest.data))
    assert await client.stat_manifest(name, parse_tag("1")) == expected
    assert await client.stat_blob(name, DIGEST) == len(DATA)
    for start in (0, 1_000_000):
        async with client.open_blob(name, DIGEST, start=start) as blob:
            assert (blob.size, blob.start) == (len(DATA), start)
            assert b"".join([chunk async for chunk in blob]) == DATA[start:]
    assert sorted([tag async for page in client.list_tags(name) for tag in page]) == ["1", "2"]


@pytest.mark.parametrize("registry", ["moorage"], indirect=True)
async def test_pages_of_tags(client: RegistryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The links are those of the registry; CNCF Distribution 2.8 has no pages of tags."""
    from moorage.upstream import listings

    name = parse_repo_name("team/pages")
    for tag in "abc":
        await push_image(client, name, tag)
    monkeypatch.setattr(listings, "_PAGE_SIZE", 2)
    assert [list(page) async for page in client.list_tags(name)] == [["a", "b"], ["c"]]


async def test_a_mount_and_an_unknown_blob(client: RegistryClient) -> None:
    """A mount that cannot be is no error."""
    source, target = parse_repo_name("team/source"), parse_repo_name("team/target")
    await push_image(client, source, "1")
    assert await client.mount_blob(target, DIGEST, source) is True
    assert await client.stat_blob(target, DIGEST) == len(DATA)
    assert await client.mount_blob(target, Digest.of(b"unknown"), source) is False
    hidden = parse_repo_name("hidden")
    assert await client.mount_blob(parse_repo_name("team/other"), Digest.of(b"unknown"), hidden) is False


async def test_referrers(client: RegistryClient, kind: str) -> None:
    """By the API; CNCF Distribution 2.8 has none, so its clients keep a tag."""
    name = parse_repo_name("team/signed")
    subject = await push_image(client, name, "1")
    assert list(await client.list_referrers(name, subject)) == []
    reference = {"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 1}
    signature = await push_image(client, name, "signature", subject=reference, artifactType="application/x.sig")
    if kind.startswith("reference"):
        manifest = await client.get_manifest(name, signature)
        entry = {"mediaType": media.OCI_MANIFEST, "digest": signature, "size": len(manifest.data)}
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
        await client.put_manifest(name, fallback_tag(subject), media.OCI_INDEX, json.dumps(index).encode())
    (found,) = await client.list_referrers(name, subject)
    assert isinstance(found, Referrer)
    assert found.digest == signature
    assert found.artifact_type == (None if kind.startswith("reference") else "application/x.sig")


async def test_the_catalog(client: RegistryClient, kind: str) -> None:
    """With a policy it needs a permission of its own."""
    await push_image(client, parse_repo_name("team/listed"), "1")
    if kind == "moorage-local":
        with pytest.raises(UpstreamDenied):
            await anext(client.list_repositories())
    else:
        assert "team/listed" in [name async for page in client.list_repositories() for name in page]


async def test_what_does_not_exist(client: RegistryClient) -> None:
    """With the codes of the registry."""
    name = parse_repo_name("team/missing")
    with pytest.raises(UpstreamMissing, match=r"404: MANIFEST_UNKNOWN|404: NAME_UNKNOWN"):
        await client.get_manifest(name, parse_tag("1"))
    with pytest.raises(UpstreamMissing, match=r"HEAD /v2/team/missing/blobs/sha256:[0-9a-f]+: 404"):
        await client.stat_blob(name, DIGEST)
    with pytest.raises(UpstreamMissing, match="404: NAME_UNKNOWN"):
        await anext(client.list_tags(name))


async def test_refusals(client: RegistryClient) -> None:
    """With the registry's words."""
    name = parse_repo_name("team/refused")
    with pytest.raises(UpstreamRefused, match="400: DIGEST_INVALID"):
        await client.upload_blob(name, Digest.of(b"other"), len(DATA), pieces(DATA))
    manifest = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "layers": []}
    manifest["config"] = described(b"absent", "application/vnd.oci.image.config.v1+json")
    with pytest.raises(UpstreamRefused, match=r"MANIFEST_BLOB_UNKNOWN|BLOB_UNKNOWN"):
        await client.put_manifest(name, parse_tag("1"), media.OCI_MANIFEST, json.dumps(manifest).encode())


@pytest.mark.parametrize("registry", LOGINS, indirect=True)
async def test_wrong_and_missing_passwords(registry: Live) -> None:
    """Refused by name; a registry without a login ignores them."""
    for source, reason in (
        (StaticCredentials(USER, "wrong-password-of-test"), "401"),
        (None, "none are configured for it|no credentials are configured|401"),
    ):
        client = RegistryClient(parse_endpoint(registry.url), source)
        try:
            with pytest.raises(UpstreamDenied, match=reason) as caught:
                await client.get_manifest(parse_repo_name("team/app"), parse_tag("1"))
            assert "wrong-password-of-test" not in str(caught.value)
        finally:
            await client.close()


@pytest.mark.parametrize("registry", ["moorage-local"], indirect=True)
async def test_a_repository_without_permission(client: RegistryClient) -> None:
    """Of a policy: pull only, and nothing at all."""
    with pytest.raises(UpstreamDenied):
        await client.upload_blob(parse_repo_name("base"), DIGEST, len(DATA), pieces(DATA))
    with pytest.raises(UpstreamDenied):
        await client.get_manifest(parse_repo_name("hidden"), parse_tag("1"))


@pytest.mark.parametrize("registry", LOGINS, indirect=True)
async def test_the_login_of_docker(registry: Live, tmp_path: Path) -> None:
    """An entry of Docker's configuration for this host."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.host: {"auth": PAIR}}}))
    client = RegistryClient(parse_endpoint(registry.url), DockerConfigCredentials(path))
    try:
        await client.ping()
        await push_image(client, parse_repo_name("team/docker"), "1")
    finally:
        await client.close()


@pytest.mark.client
@pytest.mark.parametrize("program", ["skopeo", "podman", "oras", "crane"])
@pytest.mark.parametrize("registry", ["moorage-htpasswd"], indirect=True)
async def test_the_logins_of_clients(registry: Live, program: str, tmp_path: Path) -> None:
    """Files as these programs write them."""
    path = tmp_path / ".docker" / "config.json"
    path.parent.mkdir()
    command: list[str] = {
        "skopeo": ["login", "--tls-verify=false", "--authfile", str(path)],
        "podman": ["login", "--tls-verify=false", "--authfile", str(path)],
        "oras": ["login", "--plain-http", "--registry-config", str(path)],
        "crane": ["auth", "login"],
    }[program]
    await asyncio.to_thread(
        subprocess.run,
        [require(program), *command, "--username", USER, "--password", PASSWORD, registry.host],
        check=True,
        capture_output=True,
        timeout=60,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    client = RegistryClient(parse_endpoint(registry.url), DockerConfigCredentials(path))
    try:
        await client.ping()
    finally:
        await client.close()


@pytest.mark.parametrize("registry", ["moorage-local"], indirect=True)
async def test_an_identity_token_of_docker(registry: Live, tmp_path: Path) -> None:
    """`docker login` stores the refresh token that the token server issued."""
    query = "/token?service=moorage&offline_token=true&client_id=docker"
    headers = {"Authorization": f"Basic {PAIR}"}
    answer = await asyncio.to_thread(Wire(registry.host).send, "GET", query, headers=headers)
    refresh = answer.json()["refresh_token"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"auths": {registry.host: {"auth": "", "identitytoken": refresh}}}))
    client = RegistryClient(parse_endpoint(registry.url), DockerConfigCredentials(path))
    try:
        await push_image(client, parse_repo_name("team/identity"), "1")
    finally:
        await client.close()
