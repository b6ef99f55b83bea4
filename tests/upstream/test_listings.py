"""Lists of tags, repositories and referrers."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.upstream.faulty import FaultyRegistry

from moorage.registry import media
from moorage.types import Digest, parse_repo_name
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import StaticCredentials
from moorage.upstream.errors import UpstreamInvalid, UpstreamMissing, UpstreamRefused, UpstreamUnreachable
from moorage.upstream.reference import parse_endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = parse_repo_name("library/app")
TAGS = f"/v2/{NAME}/tags/list"
PAIR = ("user", "correct horse battery")


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[tuple[FaultyRegistry, RegistryClient]]:
    async with FaultyRegistry(**options) as upstream:
        client = RegistryClient(parse_endpoint(upstream.url), StaticCredentials(*PAIR))
        try:
            yield upstream, client
        finally:
            await client.close()


async def tags(client: RegistryClient) -> list[list[str]]:
    return [list(page) async for page in client.list_tags(NAME)]


async def test_tags_by_pages() -> None:
    """The Link of each page leads to the next."""
    async with started(page_size=2) as (upstream, client):
        for tag in "abcde":
            upstream.add_image(NAME, tag)
        assert await tags(client) == [["a", "b"], ["c", "d"], ["e"]]
        assert upstream.received[0].query == {"n": "1000"}
        assert upstream.received[2].query == {"n": "2", "last": "d"}


async def test_a_repository_without_tags() -> None:
    """CNCF Distribution writes null."""
    async with started() as (upstream, client):
        upstream.add_image(NAME, None)
        assert await tags(client) == [[]]
        upstream.fail("/tags/", status=200, body=b'{"name": "library/app", "tags": null}')
        assert await tags(client) == [[]]


async def test_an_unknown_repository() -> None:
    """It is not one without tags."""
    async with started() as (_, client):
        with pytest.raises(UpstreamMissing, match="404: NAME_UNKNOWN"):
            await tags(client)


async def test_a_registry_with_smaller_pages() -> None:
    """It refuses the size of ours, and has one of its own."""
    async with started() as (upstream, client):
        upstream.add_image(NAME, "a")
        refusal = json.dumps({"errors": [{"code": "PAGINATION_NUMBER_INVALID", "message": "invalid"}]})
        upstream.fail("n=1000", status=400, body=refusal.encode())
        assert await tags(client) == [["a"]]
        upstream.recover()
        upstream.fail("n=1000", status=400)
        with pytest.raises(UpstreamRefused):
            await tags(client)


@pytest.mark.parametrize(
    "link",
    [
        "<http://127.0.0.1:{port}/v2/library/app/tags/list?page=2>; rel=next",
        '<https://127.0.0.1:{port}/v2/library/app/tags/list?page=2>; rel="next"',
        '</v2/>; rel="first", </v2/library/app/tags/list?page=2>; title="x"; rel="next"',
        "<?page=2>; rel=next",
    ],
)  # fmt: skip
async def test_links_as_registries_write_them(link: str) -> None:
    """Absolute or relative, with the scheme that a registry behind a proxy sees."""
    async with started() as (upstream, client):
        upstream.add_image(NAME, "a")
        upstream.fail("/tags/", headers={"Link": link.format(port=upstream.port)}, times=1)
        assert await tags(client) == [["a"], ["a"]]
        assert upstream.received[1].query == {"page": "2"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"headers": {"Link": f"<{TAGS}?n=1000>; rel=next"}}, "one that was read before"),
        ({"headers": {"Link": "<http://other.example.com/>; rel=next"}}, "leads to another host"),
        ({"headers": {"Link": "<http://[>; rel=next"}}, "is not a URL"),
        ({"status": 200, "body": b"<html>"}, "not a JSON object"),
        ({"status": 200, "body": b"[" * 100_000}, "not a JSON object"),
        ({"status": 200, "body": b'{"tags": {}}'}, "its tags are not a list of names"),
        ({"status": 200, "body": b'{"tags": [1]}'}, "its tags are not a list of names"),
        ({"status": 200, "body": b'{"tags": ["a b"]}'}, "a name that cannot be requested: 'a b'"),
        ({"status": 200, "body": b"{", "length": 33 << 20}, "over 32 MiB"),
    ],
)
async def test_lists_that_break_the_protocol(fault: dict[str, Any], reason: str) -> None:
    """An endless list, another host, another document."""
    async with started() as (upstream, client):
        upstream.add_image(NAME, "a")
        upstream.fail("/tags/", **fault)
        with pytest.raises(UpstreamInvalid, match=reason):
            await tags(client)


async def test_a_failure_between_pages() -> None:
    """The pages before it were delivered; the caller must not take them for the whole list."""
    async with started(page_size=1) as (upstream, client):
        upstream.add_image(NAME, "a")
        upstream.add_image(NAME, "b")
        upstream.fail("last=", status=500)
        seen: list[Any] = []
        with pytest.raises(UpstreamUnreachable):
            seen += [page async for page in client.list_tags(NAME)]


async def test_the_catalog() -> None:
    """Page by page, with a scope of its own."""
    async with started(bearer=PAIR, page_size=1) as (upstream, client):
        upstream.add_image("a/b", "1")
        upstream.add_image("c", "1")
        assert [list(page) async for page in client.list_repositories()] == [["a/b"], ["c"]]
        assert "scope=registry:catalog:*" in next(iter(upstream.tokens.values()))


@pytest.mark.parametrize("api", [True, False], ids=["api", "tags"])
async def test_referrers(api: bool) -> None:
    """By the API, or by the tag `sha256-HEX` that clients keep where there is none."""
    async with started(referrers=api) as (upstream, client):
        subject = upstream.add_image(NAME, "1")
        assert list(await client.list_referrers(NAME, subject)) == []
        described = {"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 1}
        signature = upstream.add_image(NAME, None, [], subject=described, artifactType="application/x.sig")
        if not api:
            entry = {
                "mediaType": media.OCI_MANIFEST,
                "digest": signature,
                "size": 1,
                "artifactType": "application/x.sig",
            }
            index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
            upstream.add_manifest(NAME, json.dumps(index).encode(), media.OCI_INDEX, tag=subject.replace(":", "-"))
        (found,) = await client.list_referrers(NAME, subject)
        assert (found.digest, found.artifact_type) == (signature, "application/x.sig")
        assert json.loads(found.descriptor)["digest"] == signature


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404},
        {"status": 400},
        {"status": 405},
        {"status": 200, "body": b"{}", "headers": {"Content-Type": "text/html"}},
    ],
)
async def test_registries_without_the_referrers_api(fault: dict[str, Any]) -> None:
    """Each answers in its own way; the specification's is 404."""
    async with started() as (upstream, client):
        upstream.fail("/referrers/", **fault)
        assert list(await client.list_referrers(NAME, Digest.of(b""))) == []
        assert upstream.requests["GET", f"/v2/{NAME}/manifests/sha256-{Digest.of(b'').hex}"] == 1


async def test_pages_of_referrers() -> None:
    """Followed like those of tags."""
    async with started() as (upstream, client):
        subject = upstream.add_image(NAME, "1")
        described = {"mediaType": media.OCI_MANIFEST, "digest": subject, "size": 1}
        upstream.add_image(NAME, None, [], subject=described)
        upstream.fail("/referrers/", headers={"Link": f"</v2/{NAME}/referrers/{subject}?p=2>; rel=next"}, times=1)
        assert len(await client.list_referrers(NAME, subject)) == 2


@pytest.mark.parametrize(
    "entries", ['{"a": 1}', "[{}]", '["x"]', '[{"digest": "sha256:short"}]', '[{"digest": 5}]']
)
async def test_referrers_that_break_the_protocol(entries: str) -> None:
    """An entry without a digest cannot be copied."""
    async with started() as (upstream, client):
        body = f'{{"schemaVersion": 2, "manifests": {entries}}}'.encode()
        upstream.fail("/referrers/", status=200, body=body, headers={"Content-Type": media.OCI_INDEX})
        with pytest.raises(UpstreamInvalid, match=r"not a list|without a valid digest"):
            await client.list_referrers(NAME, Digest.of(b""))


async def test_a_failure_is_not_an_empty_list_of_referrers() -> None:
    """Signatures would be missing from the copy."""
    async with started() as (upstream, client):
        upstream.fail("/referrers/", status=503)
        with pytest.raises(UpstreamUnreachable):
            await client.list_referrers(NAME, Digest.of(b""))
