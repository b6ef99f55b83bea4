"""Immutable tags and legal holds over HTTP: what is refused, with a message that clients show."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.client import NAME, OTHER, Client

from moorage.config.model import Settings
from moorage.config.sections.retention import HeldContent, Immutability, ImmutableTags, Retention
from moorage.config.sections.storage import Delete, Storage
from moorage.storage.driver import ABSENT, ALWAYS
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image, index

if TYPE_CHECKING:
    import httpx
    from tests.http.conftest import Serve

    from moorage.storage.driver import Key, Version, When

ONE, TWO = image(seed=1), image(seed=2)
WHOLE = f"/v2/{NAME}/_moorage/repository/content"
STORAGE = Storage(delete=Delete(enabled=True))


def immutable(**rule: Any) -> Settings:
    rules = (ImmutableTags(repositories=("library/*",), **rule),)
    return Settings(storage=STORAGE, immutability=Immutability(rules=rules))


def held(**hold: Any) -> Settings:
    holds = (HeldContent(repositories=("library/*",), reason="case 7 of the court", **hold),)
    return Settings(storage=STORAGE, retention=Retention(holds=holds))


def refused(answer: httpx.Response, *fragments: str) -> bool:
    (entry,) = answer.json()["errors"]
    assert answer.status_code == 403
    assert entry["code"] == "DENIED"
    assert "detail" not in entry, "crane shows both"
    assert all(fragment in entry["message"] for fragment in fragments), entry["message"]
    return True


async def test_another_manifest_is_refused_and_the_tag_stays(serve: Serve) -> None:
    """Docker shows code and message only, so the message names the tag, the rule and what to do."""
    client = serve(immutable(tags=("v*",)))
    await client.push(ONE, "v1")
    await client.push(TWO)
    assert refused(
        await client.put("v1", TWO), "the tag v1 of library/app is immutable by immutability.rules[0]",
        str(ONE.digest), "push to another tag",
    )  # fmt: skip
    assert (await client.manifest("v1")).content == ONE.data


async def test_the_same_manifest_is_accepted_again(serve: Serve) -> None:
    """A repeated build pushes the same again."""
    client = serve(immutable())
    await client.push(ONE, "v1")
    assert (await client.put("v1", ONE)).status_code == 201


@pytest.mark.parametrize("tag", ["latest", "edge"])
async def test_exceptions_and_other_tags_move(serve: Serve, tag: str) -> None:
    client = serve(immutable(tags=("v*", "latest"), except_=("latest",)))
    await client.push(ONE, tag)
    await client.push(TWO, tag)
    assert (await client.manifest(tag)).content == TWO.data


async def test_other_repositories_are_not_concerned(serve: Serve) -> None:
    client = serve(immutable())
    await client.push(ONE, "v1", name=OTHER)
    await client.push(TWO, "v1", name=OTHER)
    assert (await client.manifest("v1", name=OTHER)).content == TWO.data


async def test_tags_of_a_push_by_digest_are_checked(serve: Serve) -> None:
    """The `tag` parameters set tags as well; none of them is set if one is refused."""
    client = serve(immutable(tags=("v*",)))
    await client.push(ONE, "v1")
    await client.push(TWO)
    target = f"/v2/{NAME}/manifests/{TWO.digest}?tag=edge&tag=v1"
    answer = await client.send("PUT", target, TWO.data, {"content-type": TWO.media_type})
    assert refused(answer, "v1")
    assert (await client.manifest("edge")).status_code == 404


async def test_an_immutable_tag_and_what_it_needs_cannot_be_deleted(serve: Serve) -> None:
    """Its manifest, a platform, a layer or a signature deleted by digest would change it as well."""
    both = index(ONE, TWO)
    layer = ONE.parts[-1]
    signature = artifact("application/vnd.example.sig", subject=both)
    client = serve(immutable(tags=("v*",)))
    await client.push(both, "v1")
    await client.push(both, "other")
    await client.push(signature)
    await client.push(signature, f"sha256-{both.digest.hex}.sig")
    for target in ("manifests/v1", f"manifests/{both.digest}", f"manifests/{ONE.digest}",
                   f"manifests/{signature.digest}", f"blobs/{layer.digest}",
                   f"manifests/sha256-{both.digest.hex}.sig"):  # fmt: skip
        assert refused(await client.send("DELETE", f"/v2/{NAME}/{target}"), "immutability.rules[0]"), target
    assert (await client.manifest("v1")).content == both.data
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/other")).status_code == 202


async def test_unrelated_content_beside_an_immutable_tag_is_deleted(serve: Serve) -> None:
    client = serve(immutable(tags=("v*",)))
    await client.push(ONE, "v1")
    await client.push(TWO, "edge")
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/{TWO.digest}")).status_code == 202
    config = TWO.parts[0].digest
    assert (await client.send("DELETE", f"/v2/{NAME}/blobs/{config}")).status_code == 202


async def test_deletable_tags_are_deleted_and_pushed_anew(serve: Serve) -> None:
    """Deletion is a decision of its own; a tag that is gone may be set again."""
    client = serve(immutable(deletable=True))
    await client.push(ONE, "v1")
    await client.push(TWO)
    assert refused(await client.put("v1", TWO), "immutable")
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/v1")).status_code == 202
    assert (await client.put("v1", TWO)).status_code == 201


async def test_a_dead_tag_can_be_set(serve: Serve) -> None:
    """Its manifest was deleted by digest, so it names nothing that could change."""
    client = serve(immutable(deletable=True))
    await client.push(ONE, "v1")
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/{ONE.digest}")).status_code == 202
    await client.push(TWO, "v1")
    assert (await client.manifest("v1")).content == TWO.data


async def test_a_condition_holds_for_an_immutable_tag_too(serve: Serve) -> None:
    client = serve(immutable())
    await client.push(ONE, "v1")
    target = f"/v2/{NAME}/manifests/v1"
    headers = {"content-type": ONE.media_type, "if-none-match": "*"}
    assert (await client.send("PUT", target, ONE.data, headers)).status_code == 412


async def test_a_held_tag_is_neither_moved_nor_deleted(serve: Serve) -> None:
    """The client is given the reason; a moved tag would leave the held manifest to the collector."""
    client = serve(held(tags=("v1",)))
    await client.push(ONE, "v1")
    await client.push(TWO)
    assert refused(await client.put("v1", TWO), "is held: case 7 of the court")
    for target in ("manifests/v1", f"manifests/{ONE.digest}", f"blobs/{ONE.parts[0].digest}"):
        assert refused(await client.send("DELETE", f"/v2/{NAME}/{target}"), "case 7 of the court"), target


async def test_a_held_digest_keeps_what_it_needs(serve: Serve) -> None:
    both = index(ONE, TWO)
    lone = blob(size=10, seed=9)
    client = serve(held(digests=(str(both.digest), str(lone.digest))))
    await client.push(both, "v1")
    await client.push_blob(lone)
    for target in (f"manifests/{both.digest}", f"manifests/{ONE.digest}", f"blobs/{lone.digest}"):
        assert refused(await client.send("DELETE", f"/v2/{NAME}/{target}"), "case 7"), target
    assert (await client.send("DELETE", f"/v2/{NAME}/manifests/v1")).status_code == 202, "the tag is not held"


async def test_everything_in_a_held_repository_stays(serve: Serve) -> None:
    client = serve(held())
    await client.push(ONE, "v1")
    for target in ("manifests/v1", f"manifests/{ONE.digest}", f"blobs/{ONE.parts[0].digest}"):
        assert refused(await client.send("DELETE", f"/v2/{NAME}/{target}"), "case 7"), target


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        (immutable(tags=("v*",)), "has the tag v1 of library/app, which is immutable by immutability.rules[0]"),
        (held(), "the repository library/app is held: case 7"),
        (held(tags=("v1",)), "has the tag v1 of library/app, which is held: case 7"),
        (held(digests=(str(ONE.digest),)), "which is held: case 7"),
    ],
)
async def test_a_repository_with_protected_content_is_not_deleted(
    serve: Serve, settings: Settings, fragment: str
) -> None:
    """The deletion of everything is one request."""
    client = serve(settings)
    await client.push(ONE, "v1")
    assert refused(await client.send("DELETE", WHOLE), fragment)
    assert (await client.manifest("v1")).content == ONE.data


async def test_a_repository_without_protected_content_is_deleted(serve: Serve) -> None:
    client = serve(immutable(tags=("v*",)))
    await client.push(ONE, "edge")
    assert (await client.send("DELETE", WHOLE)).status_code == 202


class _Meeting(MemoryDriver):
    """Both pushes have read the link of the tag before one of them writes it."""

    conditional = True

    def __init__(self) -> None:
        super().__init__()
        self.both = asyncio.Barrier(2)
        self.met = False

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        if key.endswith("tags/v1/current/link") and not self.met:
            await self.both.wait()
            self.met = True
            if not self.conditional and when is ABSENT:
                when = ALWAYS
        return await super().write(key, data, when)


class _Unconditional(_Meeting):
    """A store that cannot write on condition: both writers have found no object."""

    conditional = False

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        return await super().write(key, data, ALWAYS if when is ABSENT else when)


async def _race(client: Client) -> list[int]:
    await client.push(ONE)
    await client.push(TWO)
    answers = await asyncio.gather(client.put("v1", ONE), client.put("v1", TWO))
    return sorted(answer.status_code for answer in answers)


async def test_one_of_two_racing_pushes_is_refused(serve: Serve) -> None:
    """Both have seen that the tag does not exist; the condition of the write decides."""
    client = serve(immutable(), driver=_Meeting())
    assert await _race(client) == [201, 403]


async def test_without_conditional_writes_the_last_push_remains(serve: Serve) -> None:
    """Documented in docs/retention.md: both get a 201, and from then on the tag does not move."""
    client = serve(immutable(), driver=_Unconditional())
    assert await _race(client) == [201, 201]
    current = (await client.manifest("v1")).content
    assert current in {ONE.data, TWO.data}
    other = TWO if current == ONE.data else ONE
    assert refused(await client.put("v1", other), "immutable")
    assert (await client.manifest("v1")).content == current
