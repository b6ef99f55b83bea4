"""Repeated query parameters: the first value counts, as in CNCF Distribution (Go's `Values.Get`).

A proxy that inspects the first value and a registry that obeys the last one would disagree about a request.
`tag` and `artifactType` are lists, and are tested with manifests and referrers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http.client import ABSENT, NAME, OTHER, codes

from moorage.testing.builders import blob, image

if TYPE_CHECKING:
    from tests.http.client import Client

LAYER = blob(size=100)
SHA_512 = blob(size=100, algorithm="sha512")


async def test_the_first_value_counts_in_lists(client: Client) -> None:
    await client.push(image(), "a", "b", "c")
    await client.push(image(), "a", name=OTHER)
    tags = f"/v2/{NAME}/tags/list"
    assert (await client.get(f"{tags}?n=1&n=3")).json()["tags"] == ["a"]
    assert (await client.get(f"{tags}?last=b&last=")).json()["tags"] == ["c"]
    assert codes(await client.get(f"{tags}?n=x&n=1")) == ["PAGINATION_NUMBER_INVALID"]
    assert (await client.get(f"{tags}?n=&n=1")).json()["tags"] == ["a", "b", "c"]
    assert (await client.get("/v2/_catalog?n=1&n=2")).json()["repositories"] == [NAME]
    assert (await client.get(f"/v2/_catalog?last={NAME}&last=")).json()["repositories"] == [OTHER]


async def test_the_first_value_counts_in_uploads(client: Client) -> None:
    location = await client.location()
    answer = await client.finish(f"{location}&_state=x&digest={LAYER.digest}", ABSENT, LAYER.data)
    assert answer.status_code == 201
    answer = await client.start_upload(query=f"?digest={SHA_512.digest}&digest={ABSENT}", body=SHA_512.data)
    assert answer.headers["docker-content-digest"] == str(SHA_512.digest)
    answer = await client.start_upload(query="?digest-algorithm=md5&digest-algorithm=sha256")
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])


async def test_the_first_value_counts_in_mounts(client: Client) -> None:
    """`from` decides which repository a caller must be allowed to pull from."""
    await client.push_blob(LAYER)
    for query, status in (
        (f"mount={LAYER.digest}&mount={ABSENT}&from={NAME}", 201),
        (f"mount={ABSENT}&mount={LAYER.digest}&from={NAME}", 202),
        (f"mount={LAYER.digest}&from={NAME}&from=never/pushed", 201),
        (f"mount={LAYER.digest}&from=never/pushed&from={NAME}", 202),
    ):
        assert (await client.start_upload(OTHER, f"?{query}")).status_code == status, query
