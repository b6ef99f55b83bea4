"""Tags, repositories and referrers: in order, in pages that lose nothing, and only what is there."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.http.client import ABSENT, NAME, Client, codes, detail, links
from tests.http.conftest import DELETABLE

from moorage.testing.builders import Built, artifact, image
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    import httpx
    from tests.http.conftest import Serve

ONE = image(seed=1)
TAGS = f"/v2/{NAME}/tags/list"
INDEX = "application/vnd.oci.image.index.v1+json"


async def pages(client: Client, target: str, key: str) -> list[list[str]]:
    """Every page from `target` on, by following `Link`."""
    found = []
    at: str | None = target
    while at is not None:
        answer = await client.get(at)
        assert answer.status_code == 200
        found.append(answer.json()[key])
        at = links(answer)
        assert len(found) < 100, "the links lead in a circle"
    return found


async def tagged(client: Client, *tags: str) -> None:
    await client.push(ONE, *tags)


async def test_tags_are_in_the_order_of_their_bytes(client: Client) -> None:
    """Clients merge pages; an order of the locale would lose some between them."""
    tags = ["10", "9", "Z", "_", "a", "a-b", "a.b", "a_b", "ab", "b"]
    shuffled = random.Random(1).sample(tags, len(tags))
    await tagged(client, *shuffled)
    answer = await client.get(TAGS)
    assert answer.json() == {"name": NAME, "tags": sorted(tags)}
    assert answer.headers["content-type"] == "application/json"
    assert "link" not in answer.headers


@pytest.mark.parametrize("size", [1, 3, 4, 5, 12, 13, 100])
async def test_following_the_links_gives_every_tag_once(client: Client, size: int) -> None:
    """`skopeo sync` and every retention policy rest on it."""
    tags = sorted(f"1.{number}" for number in range(12))
    await tagged(client, *tags)
    found = await pages(client, f"{TAGS}?n={size}", "tags")
    assert [tag for page in found for tag in page] == tags
    assert {len(page) for page in found[:-1]} <= {size}
    assert found[-1], "a link to an empty page"


async def test_last_need_not_exist(client: Client) -> None:
    """The tag may have been deleted since the page before."""
    await tagged(client, "a", "c", "e")
    assert (await client.get(f"{TAGS}?last=b&n=1")).json()["tags"] == ["c"]
    assert (await client.get(f"{TAGS}?last=c")).json()["tags"] == ["e"]
    assert (await client.get(f"{TAGS}?last=zzz")).json()["tags"] == []


async def test_none_may_be_asked_for(client: Client) -> None:
    await tagged(client, "a")
    answer = await client.get(f"{TAGS}?n=0")
    assert (answer.status_code, answer.json()["tags"]) == (200, [])
    assert links(answer) is None


@pytest.mark.parametrize("target", [TAGS, "/v2/_catalog"])
@pytest.mark.parametrize("n", ["-1", "x", "1.5", "+1", "9" * 30, "%D9%A3"])
async def test_a_size_that_is_none_is_refused(client: Client, target: str, n: str) -> None:
    await tagged(client, "a")
    answer = await client.get(f"{target}?n={n}")
    assert (answer.status_code, codes(answer)) == (400, ["PAGINATION_NUMBER_INVALID"])
    assert "n" in detail(answer)


async def test_a_page_of_tags_is_never_larger_than_configured(serve: Serve) -> None:
    """`tags.maxtags` cuts, as in the reference; the link still leads to the rest."""
    client = serve(options=dataclasses.replace(http_options(DELETABLE), tags_max=2))
    await tagged(client, "a", "b", "c")
    found = await pages(client, f"{TAGS}?n=50", "tags")
    assert found == [["a", "b"], ["c"]]


async def test_a_page_of_repositories_may_not_be_larger_than_configured(serve: Serve) -> None:
    """`catalog.maxentries` refuses, as in the reference."""
    client = serve(options=dataclasses.replace(http_options(DELETABLE), catalog_max_entries=2))
    for name in ("a", "b", "c"):
        await client.push(ONE, name=name)
    answer = await client.get("/v2/_catalog?n=3")
    assert (answer.status_code, codes(answer)) == (400, ["PAGINATION_NUMBER_INVALID"])
    assert await pages(client, "/v2/_catalog", "repositories") == [["a", "b"], ["c"]]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_following_the_links_gives_every_repository_once(client: Client, size: int) -> None:
    """Also those below others."""
    names = ["a", "a/b", "a/b/c", "a-b", "library/alpine", "library/alpine/tools", "z"]
    for name in names:
        await client.push(ONE, name=name)
    found = await pages(client, f"/v2/_catalog?n={size}", "repositories")
    assert sorted(name for page in found for name in page) == sorted(names)
    assert {len(page) for page in found[:-1]} <= {size}


async def test_a_repository_is_listed_once_it_held_a_manifest(client: Client) -> None:
    """Blobs alone are a push that was not finished."""
    await client.push_blob(ONE.parts[0], "only/blobs")
    assert (await client.get("/v2/_catalog")).json() == {"repositories": []}
    answer = await client.get("/v2/only/blobs/tags/list")
    assert (answer.status_code, codes(answer), detail(answer)) == (404, ["NAME_UNKNOWN"], {"name": "only/blobs"})
    await client.push(ONE, name="only/digests")
    assert (await client.get("/v2/_catalog")).json() == {"repositories": ["only/digests"]}
    assert (await client.get("/v2/only/digests/tags/list")).json() == {"name": "only/digests", "tags": []}


async def test_links_keep_the_prefix(serve: Serve) -> None:
    """A registry below a path of another site."""
    client = serve(options=dataclasses.replace(http_options(DELETABLE), prefix="/registry/"))
    for tag in ("a", "b"):
        for part in ONE.closure[:-1]:
            started = await client.send(
                "POST", f"/registry/v2/{NAME}/blobs/uploads/?digest={part.digest}", part.data
            )
            assert started.status_code == 201
        answer = await client.send(
            "PUT", f"/registry/v2/{NAME}/manifests/{tag}", ONE.data, {"content-type": ONE.media_type}
        )
        assert answer.status_code == 201
    target = links(await client.get(f"/registry{TAGS}?n=1"))
    assert target is not None
    assert urlsplit(target).path == f"/registry{TAGS}"
    assert (await client.get(target)).json()["tags"] == ["b"]


async def referrers(client: Client, subject: Built, query: str = "") -> httpx.Response:
    answer = await client.get(f"/v2/{NAME}/referrers/{subject.digest}{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == INDEX
    assert answer.json().keys() == {"schemaVersion", "mediaType", "manifests"}
    return answer


async def test_referrers_are_listed_with_what_they_are(client: Client) -> None:
    """`oras discover` and `cosign` read nothing else."""
    await client.push(ONE)
    notes = {"org.opencontainers.image.created": "2026-01-05T09:00:00Z", "ü": "ä"}
    sbom = await client.push(artifact("application/vnd.example.sbom", subject=ONE, annotations=notes))
    signed = await client.push(image(seed=9, subject=ONE))
    found = {entry["digest"]: entry for entry in (await referrers(client, ONE)).json()["manifests"]}
    assert found == {
        str(sbom.digest): {
            "mediaType": sbom.media_type, "digest": str(sbom.digest), "size": len(sbom.data),
            "artifactType": "application/vnd.example.sbom", "annotations": notes,
        },
        str(signed.digest): {
            "mediaType": signed.media_type, "digest": str(signed.digest), "size": len(signed.data),
            "artifactType": "application/vnd.oci.image.config.v1+json",
        },
    }  # fmt: skip


async def test_nobody_refers_to_what_is_not_there(client: Client) -> None:
    """An empty index, never a 404: clients take that for a registry without referrers."""
    answer = await client.get(f"/v2/never/pushed/referrers/{ABSENT}")
    assert (answer.status_code, answer.json()["manifests"]) == (200, [])
    assert "oci-filters-applied" not in answer.headers


async def test_referrers_are_filtered_by_type(client: Client) -> None:
    await client.push(ONE)
    kinds = {kind: await client.push(artifact(f"application/vnd.{kind}", subject=ONE)) for kind in ("a", "b", "c")}
    for query, expected in (
        ("?artifactType=application/vnd.a", {"a"}),
        ("?artifactType=application/vnd.a&artifactType=application/vnd.c", {"a", "c"}),
        ("?artifactType=application/vnd.none", set()),
    ):
        answer = await referrers(client, ONE, query)
        assert answer.headers["oci-filters-applied"] == "artifactType"
        digests = {entry["digest"] for entry in answer.json()["manifests"]}
        assert digests == {str(kinds[kind].digest) for kind in expected}


@pytest.mark.parametrize("spelling", ["application/vnd.x.y+json", "application/vnd.x.y%2Bjson"])
async def test_a_media_type_may_hold_a_bare_plus(client: Client, spelling: str) -> None:
    """`+` is a space in a form, but scripts write media types without escapes."""
    await client.push(ONE)
    for number in range(2):
        notes = {"pad": "x" * 2_500_000, "n": str(number)}
        await client.push(artifact("application/vnd.x.y+json", subject=ONE, annotations=notes))
    await client.push(artifact("application/vnd.x.yjson", subject=ONE))
    found = 0
    at: str | None = f"/v2/{NAME}/referrers/{ONE.digest}?artifactType={spelling}"
    while at is not None:
        answer = await client.get(at)
        found += len(answer.json()["manifests"])
        at = links(answer)
    assert found == 2


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        pytest.param("é" * 500_000, marks=pytest.mark.slow),
        pytest.param('"' * 500_000, marks=pytest.mark.slow),
        pytest.param("\U0001f600" * 250_000, marks=pytest.mark.slow),
    ],
    ids=["ascii", "accents", "quotes", "emoji"],
)
async def test_many_referrers_come_in_pages(client: Client, text: str) -> None:
    """An answer must stay below the 4 MiB that clients read of an index, and it has as much as fits."""
    await client.push(ONE)
    pad = {"pad": text}
    sent = [await client.push(artifact(f"application/vnd.{n % 2}", subject=ONE, annotations={**pad, "n": str(n)}))
            for n in range(10)]  # fmt: skip
    found: list[str] = []
    at: str | None = (
        f"/v2/{NAME}/referrers/{ONE.digest}?artifactType=application/vnd.0&artifactType=application/vnd.1"
    )
    while at is not None:
        answer = await client.get(at)
        at = links(answer)
        assert (4 << 20) - 1_100_000 < len(answer.content) < 4 << 20 or at is None
        assert answer.headers["oci-filters-applied"] == "artifactType"
        found += [entry["digest"] for entry in answer.json()["manifests"]]
        if at is not None:
            assert parse_qs(urlsplit(at).query)["artifactType"] == ["application/vnd.0", "application/vnd.1"]
    assert found == sorted(str(part.digest) for part in sent)


async def test_a_referrer_that_is_larger_than_a_page_is_listed_without_its_largest_annotation(
    client: Client,
) -> None:
    """Oras gives up at 4 MiB, and would list none of them."""
    await client.push(ONE)
    notes = {"org.opencontainers.image.created": "2026-01-05T09:00:00Z", "pad": ""}
    room = (4 << 20) - artifact("application/vnd.a", subject=ONE, annotations=notes).size
    sent = await client.push(artifact("application/vnd.a", subject=ONE, annotations={**notes, "pad": "x" * room}))
    assert sent.size == 4 << 20
    answer = await referrers(client, ONE)
    assert links(answer) is None
    del notes["pad"]
    assert answer.json()["manifests"] == [
        {**sent.entry, "artifactType": "application/vnd.a", "annotations": notes}
    ]  # fmt: skip


async def test_text_in_referrers_is_utf_8(client: Client) -> None:
    """Escapes would triple what is not ASCII.  Half of a surrogate pair has no UTF-8."""
    await client.push(ONE)
    notes = {"é\U0001f600": '\u2028"\\\n\x01\x7f\x85', "half": "\ud83d"}
    await client.push(artifact("application/vnd.é", subject=ONE, annotations=notes))
    answer = await referrers(client, ONE)
    (entry,) = answer.json()["manifests"]
    assert entry["artifactType"] == "application/vnd.é"
    assert entry["annotations"] == {**notes, "half": "\ufffd"}
    assert "é\U0001f600".encode() in answer.content
    filtered = await referrers(client, ONE, "?artifactType=application/vnd.%C3%A9")
    assert filtered.json() == answer.json()


async def test_a_deleted_referrer_is_not_listed(client: Client) -> None:
    await client.push(ONE)
    sbom = await client.push(artifact("application/vnd.example.sbom", subject=ONE))
    assert (await client.manifest(sbom, method="DELETE")).status_code == 202
    assert (await referrers(client, ONE)).json()["manifests"] == []


DIGEST_INVALID, NAME_INVALID = "DIGEST_INVALID", "NAME_INVALID"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{NAME}/referrers/sha256:bad", DIGEST_INVALID),
        (f"{NAME}/referrers/md5:{'0' * 32}", DIGEST_INVALID),
        (f"{NAME}/referrers/sha256:{'A' * 64}", DIGEST_INVALID),
        (f"{NAME}/referrers/latest", DIGEST_INVALID),
        (f"{NAME}/referrers/{'x' * 300}", DIGEST_INVALID),
        (f"{NAME}/referrers/%C3%A9", DIGEST_INVALID),
        (f"{NAME}/referrers/%ff%0a%00", DIGEST_INVALID),
        (f"{NAME}/referrers/{ABSENT}%20", DIGEST_INVALID),
        (f"{NAME}/referrers/%252e%252e", DIGEST_INVALID),
        (f"{NAME}/referrers/{ABSENT}/{ABSENT}", DIGEST_INVALID),
        (f"{NAME}/referrers/latest/more", DIGEST_INVALID),
        (f"{NAME}/referrers", DIGEST_INVALID),
        (f"{NAME}/referrers/", DIGEST_INVALID),
        (f"{NAME}/referrers/latest/", DIGEST_INVALID),
        (f"{NAME}//referrers/latest", DIGEST_INVALID),
        (f"UPPER//referrers/{ABSENT}", NAME_INVALID),
        (f"UPPER/referrers/{ABSENT}", NAME_INVALID),
        (f"-/referrers/{ABSENT}", NAME_INVALID),
        (f"a%20b/referrers/{ABSENT}", NAME_INVALID),
        (f"%ff/referrers/{ABSENT}", NAME_INVALID),
        (f"{'a' * 256}/referrers/{ABSENT}", NAME_INVALID),
        (f"referrers/{ABSENT}", NAME_INVALID),
        ("UPPER/referrers/latest", NAME_INVALID),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_referrers_never_answer_404(client: Client, method: str, path: str, code: str) -> None:
    """The specification forbids it: clients take a 404 for a registry without the API, and keep a tag instead."""
    answer = await client.send(method, f"/v2/{path}")
    assert answer.status_code == 400
    if method == "GET":
        assert codes(answer) == [code]


async def test_a_slash_too_much_among_referrers_is_redirected(client: Client) -> None:
    """As everywhere."""
    for path, target in (
        (f"{NAME}/referrers/{ABSENT}/", f"{NAME}/referrers/{ABSENT}"),
        (f"{NAME}//referrers/{ABSENT}", f"{NAME}/referrers/{ABSENT}"),
    ):
        answer = await client.get(f"/v2/{path}")
        assert (answer.status_code, answer.headers["location"]) == (301, f"/v2/{target}")


async def test_a_repository_may_be_called_referrers(client: Client) -> None:
    """Its other endpoints are not taken for lists of referrers."""
    for name in ("referrers", "a/referrers", "a/referrers/b", "referrers/referrers"):
        await client.push(ONE, "v1", name=name)
        assert (await client.manifest("v1", name)).status_code == 200
        assert (await client.get(f"/v2/{name}/tags/list")).json()["tags"] == ["v1"]
        assert (await client.blob(ONE.parts[0], name)).status_code == 200
        signed = await client.push(artifact("application/vnd.example.sig", subject=ONE), name=name)
        found = (await client.get(f"/v2/{name}/referrers/{ONE.digest}")).json()["manifests"]
        assert [entry["digest"] for entry in found] == [str(signed.digest)]
