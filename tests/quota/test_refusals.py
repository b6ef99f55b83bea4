"""Refusals over HTTP: what exceeds a quota is refused before its body is read, what is there already never is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.client import codes, detail, pieces

from moorage.quota.limits import Limit
from moorage.registry import layout
from moorage.testing.builders import blob, image
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.quota.conftest import StartNode

    from moorage.storage.driver import Driver

NAME = "team-a/app"
LIMIT = Limit("team-a", bytes=10_000)


async def unread() -> AsyncIterator[bytes]:
    yield b""
    raise AssertionError("the body was read")


async def test_a_closing_put_that_does_not_fit_is_refused_unread(node: StartNode, driver: Driver) -> None:
    """A refusal after gigabytes were sent costs both sides, and fills the disk meanwhile."""
    client = node(LIMIT).client
    location = await client.location(NAME)
    large = blob(size=10_001)
    target = f"{location}&digest={large.digest}"
    answer = await client.send("PUT", target, unread(), {"content-length": "10001"})
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])
    message = "quota exceeded: team-a uses 0 B of 9.7 KiB, and 9.8 KiB more do not fit"
    assert answer.json()["errors"][0]["message"] == message
    assert detail(answer) == {"repositories": "team-a", "used": 0, "limit": 10_000, "more": 10_001}
    assert [page async for page in driver.children(layout.uploads(RepoName(NAME)))] == [], "the upload is gone"


async def test_a_chunk_that_does_not_fit_is_refused_unread(node: StartNode) -> None:
    """Docker, podman and skopeo send layers by PATCH."""
    client = node(LIMIT).client
    location = await client.location(NAME)
    answer = await client.send("PATCH", location, unread(), {"content-length": "10001"})
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])
    assert (await client.get(location)).status_code == 404


async def test_a_whole_blob_that_does_not_fit_is_refused_unread(node: StartNode) -> None:
    """Go libraries send small blobs with one POST."""
    client = node(LIMIT).client
    target = f"/v2/{NAME}/blobs/uploads/?digest={blob(size=10_001).digest}"
    answer = await client.send("POST", target, unread(), {"content-length": "10001"})
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])


async def test_a_body_of_unknown_length_is_cut_at_the_limit(node: StartNode) -> None:
    """Without Content-Length only the bytes themselves show that there are too many."""
    started = node(LIMIT)
    taken: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield bytes(1000)

    answer = await started.client.patch(await started.client.location(NAME), endless())
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])
    assert len(taken) < 15, "it was read to its end"
    assert started.used() == (0, 0), "what was cut is free again"


async def test_chunks_of_one_upload_count_together(node: StartNode) -> None:
    """Small chunks would pass any limit one by one."""
    started = node(LIMIT)
    location = await started.client.location(NAME)
    for _ in range(2):
        answer = await started.client.patch(location, bytes(4000))
        assert answer.status_code == 202
        location = answer.headers["location"]
    assert started.used() == (8000, 0), "an open upload counts"
    answer = await started.client.patch(location, bytes(4000))
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])
    assert started.used() == (0, 0)


async def test_an_upload_is_refused_at_its_start_when_nothing_is_left(node: StartNode) -> None:
    """The first of the requests of a push is the cheapest to refuse."""
    client = node(LIMIT).client
    await client.push_blob(blob(size=10_000), NAME)
    answer = await client.start_upload(NAME)
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])


async def test_what_the_repository_has_can_be_pushed_again(node: StartNode) -> None:
    """A full quota must not break the push of an image whose layers are all there."""
    started = node(LIMIT)
    client = started.client
    full = await client.push_blob(blob(size=10_000), NAME)
    assert started.used() == (10_000, 0)
    again = await client.send("POST", f"/v2/{NAME}/blobs/uploads/?digest={full.digest}", full.data)
    assert again.status_code == 201
    mounted = await client.start_upload(NAME, f"?mount={full.digest}&from={NAME}")
    assert mounted.status_code == 201
    assert started.used() == (10_000, 0)


async def test_a_mount_that_does_not_fit_is_refused(node: StartNode) -> None:
    """A mounted layer counts in each repository, or a team would mount the whole registry for nothing."""
    started = node(LIMIT)
    client = started.client
    there = await client.push_blob(blob(size=6000), "other/app")
    assert (await client.start_upload(NAME, f"?mount={there.digest}&from=other/app")).status_code == 201
    assert started.used() == (6000, 0)
    answer = await client.start_upload("team-a/b", f"?mount={there.digest}&from=other/app")
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])
    answer = await client.start_upload("team-a/b", f"?mount={there.digest}")
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"]), "from any repository"


async def test_manifests_and_tags(node: StartNode) -> None:
    """A moved tag is no new one, and the last tag of a quota can still be moved."""
    limit = Limit("team-a", tags=2)
    started = node(limit)
    client = started.client
    one, two = image(blob(size=1)), image(blob(size=2))
    await client.push(one, "v1", "v2", name=NAME)
    await client.push(two, name=NAME)
    refused = await client.put("v3", one, NAME)
    assert (refused.status_code, codes(refused)) == (403, ["DENIED"])
    assert refused.json()["errors"][0]["message"] == "quota exceeded: team-a has 2 of 2 tags"
    assert (await client.put("v2", two, NAME)).status_code == 201
    used = started.used()
    assert used is not None
    assert used[1] == 2
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/v1")).status_code == 202
    assert (await client.put("v3", one, NAME)).status_code == 201


async def test_a_manifest_that_does_not_fit_is_refused(node: StartNode) -> None:
    """Manifests are bytes too."""
    layer = blob(size=100)
    whole = image(layer)
    parts = sum(part.size for part in whole.closure if not part.is_manifest)
    client = node(Limit("team-a", bytes=parts + 10)).client
    for part in whole.closure:
        if not part.is_manifest:
            await client.push_blob(part, NAME)
    answer = await client.put("v1", whole, NAME)
    assert (answer.status_code, codes(answer)) == (403, ["DENIED"])


async def test_deletions_free_at_once(node: StartNode) -> None:
    """A team that deletes in order to push must not wait for a collector."""
    started = node(Limit("team-a", bytes=10_000, tags=1))
    client = started.client
    whole = await client.push(image(blob(size=5000)), "v1", name=NAME)
    assert started.used() == (sum(part.size for part in whole.closure), 1)
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/{whole.digest}")).status_code == 202
    await started.usage.settle()
    assert started.used() == (sum(part.size for part in whole.parts), 0)
    for part in whole.parts:
        assert (await client.send("DELETE", f"/v2/{NAME}/blobs/{part.digest}")).status_code == 202
    assert started.used() == (0, 0)


async def test_a_deleted_repository_is_free_at_once(node: StartNode) -> None:
    """The largest deletion of all."""
    started = node(Limit("team-a", bytes=10_000, tags=2))
    await started.client.push(image(blob(size=5000)), "v1", "v2", name=NAME)
    await started.client.push_blob(blob(size=100), "team-a/other")
    await started.registry.repositories.delete(RepoName(NAME))
    await started.usage.settle()
    assert started.used() == (100, 0)
    assert (await started.registry.repositories.list(limit=5)).names == ()


async def test_cancelled_and_wrong_uploads_are_free_again(node: StartNode) -> None:
    """A client that gives up, or sends other bytes than it announced, has stored nothing."""
    started = node(LIMIT)
    client = started.client
    answer = await client.patch(await client.location(NAME), bytes(9000))
    assert (await client.send("DELETE", answer.headers["location"])).status_code == 204
    assert started.used() == (0, 0)
    wrong = await client.finish(await client.location(NAME), blob(size=9000).digest, bytes(9000))
    assert codes(wrong) == ["DIGEST_INVALID"]
    assert started.used() == (0, 0)


async def test_shared_layers_count_once_in_a_repository(node: StartNode) -> None:
    """Twenty tags on one base image are that base image once."""
    started = node(Limit("*"))
    layer = blob(size=1000)
    one, two = image(layer), image(layer, blob(size=2000))
    for each in (one, two):
        await started.client.push(each, name=NAME)
    parts = {part.digest: part.size for each in (one, two) for part in each.closure}
    assert started.used() == (sum(parts.values()), 0)
    assert await _counted_anew(node) == started.used()


async def _counted_anew(node: StartNode) -> tuple[int, int] | None:
    """The usage of another pattern for the same repositories, which is counted by a walk."""
    fresh = node(Limit("**"))
    await fresh.usage.ready(RepoName(NAME))
    return fresh.used()


@pytest.mark.parametrize("driver", ["filesystem"], indirect=True)
async def test_a_walk_counts_as_requests_do(node: StartNode) -> None:
    """Otherwise usage would jump once a day."""
    started = node(Limit("*", bytes=10**9, tags=1000))
    client = started.client
    whole = await client.push(image(blob(size=5000)), "v1", "v2", name=NAME)
    await client.start_upload("team-b/x", f"?mount={whole.parts[0].digest}&from={NAME}")
    await client.patch(await client.location(NAME), pieces(b"open", b"upload"))
    dead = await client.push(image(blob(size=700)), "v3", name=NAME)
    await client.send("DELETE", f"/v2/{NAME}/manifests/{dead.digest}")
    await started.usage.settle()
    assert await _counted_anew(node) == started.used()


async def test_repositories_without_a_limit(node: StartNode, driver: Driver) -> None:
    """No limit, no cost: nothing is counted, and nothing is written."""
    client = node(LIMIT).client
    await client.push(image(blob(size=20_000)), "v1", name="other/app")
    assert [names async for names in driver.children(layout.USAGE)] == []
