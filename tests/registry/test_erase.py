"""Erasure: leaked content is gone by every name, from undo and history too, and what others need stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, T1, T2, everything, push

from moorage.errors import ManifestUnknown
from moorage.registry import layout
from moorage.registry.blobs import StoredBlobs
from moorage.registry.erase import Eraser, EraseRefused
from moorage.registry.history import TagHistory
from moorage.registry.holds import Hold, LegalHolds
from moorage.registry.links import Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.protection import UNPROTECTED, ImmutableRule, Protection
from moorage.registry.repositories import StoredRepositories
from moorage.registry.restore import Restorer, RestoreRefused
from moorage.registry.timeline import tag_timeline
from moorage.registry.trash import Trash
from moorage.testing.builders import artifact, blob, image
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from moorage.registry.erase import Erased
    from moorage.storage.driver import Driver
    from moorage.types import Reference

BASE, SECRET = blob(seed=1), blob(seed=2)
LEAKED, CLEAN = image(BASE, SECRET, seed=1), image(BASE, seed=2)
SIGNATURE = artifact("application/vnd.example.sig", subject=LEAKED)
OTHER = RepoName("team/copy")


async def erase(
    driver: Driver,
    reference: Reference | None,
    *,
    name: RepoName = NAME,
    everywhere: bool = False,
    protection: Protection = UNPROTECTED,
) -> Erased:
    eraser = Eraser(driver, links=Links(driver), by="root", protection=protection)
    plan = await eraser.plan(name, reference, everywhere=everywhere)
    return await eraser.run(name, reference, plan)


async def fill(driver: Driver) -> StoredManifests:
    """A secret that was pushed, deleted, pushed again, moved on from, and copied."""
    trash, history = Trash(driver, keep_s=3600), TagHistory(driver)
    manifests = StoredManifests(driver, delete_enabled=True, trash=trash, history=history)
    await push(driver, manifests, LEAKED, tags=(T1, T2))
    await push(driver, manifests, LEAKED, name=OTHER, tags=(T1,))
    await manifests.delete(NAME, T1)
    await manifests.delete(NAME, LEAKED.digest)
    await push(driver, manifests, LEAKED, tags=(T1,))
    await push(driver, manifests, CLEAN, tags=(T1,))
    await StoredBlobs(driver, delete_enabled=True, trash=trash).delete(NAME, SECRET.digest)
    await push(driver, manifests, LEAKED, tags=(T2,))
    await history.close()
    return manifests


async def traces(driver: Driver, digest: Digest, name: RepoName | None = None) -> list[str]:
    """Keys of a repository that name a digest, or whose content does; but for marks of deletions, which keep
    nothing.
    """
    prefix = layout.REPOSITORIES if name is None else layout.repository(name)
    return [
        key
        for key, data in (await everything(driver)).items()
        if key.startswith(f"{prefix}/")
        and "/_manifests/_deleted/" not in key
        and (digest.hex in key or digest.hex.encode() in data)
    ]


@pytest.mark.parametrize("reference", [T2, LEAKED.digest], ids=["tag", "digest"])
async def test_nothing_of_it_is_left(driver: Driver, reference: Reference) -> None:
    """Neither in a tag's history nor in the trash: a restore by a colleague must not bring it back."""
    manifests = await fill(driver)
    assert await traces(driver, SECRET.digest, NAME)
    done = await erase(driver, reference)
    assert done.tags == [f"{NAME}:{T2}"]
    for digest in (LEAKED.digest, SECRET.digest):
        assert await traces(driver, digest, NAME) == []
    with pytest.raises(ManifestUnknown):
        await StoredManifests(driver).get(NAME, LEAKED.digest)
    assert (await manifests.get(NAME, T1)).data == CLEAN.data
    assert (await StoredBlobs(driver).stat(NAME, BASE.digest)).size, "another image has this layer"
    restorer = Restorer(driver)
    for attempt in (restorer.tag(NAME, T2), restorer.digest(NAME, LEAKED.digest)):
        with pytest.raises(RestoreRefused):
            await attempt
    await restorer.close()
    assert [event.digest for event in await tag_timeline(driver, NAME, T1) if event.digest] == [CLEAN.digest]
    assert (await manifests.get(OTHER, T1)).digest == LEAKED.digest, "only where it was asked for"
    record = json.loads((await driver.read(layout.audit(done.audit))).data)
    assert (record["by"], record["action"], record["repositories"]) == ("root", "erase", [NAME])
    assert record["what"] in {f"{NAME}:{T2}", f"{NAME}@{LEAKED.digest}"}
    assert str(SECRET.digest) in record["digests"]


async def test_everywhere_is_every_repository(driver: Driver) -> None:
    """A leaked key is in each copy of the image."""
    await fill(driver)
    done = await erase(driver, LEAKED.digest, everywhere=True)
    assert set(done.repositories) == {NAME, OTHER}
    for digest in (LEAKED.digest, SECRET.digest):
        assert await traces(driver, digest) == []


async def test_a_blob_is_erased_although_an_image_names_it(driver: Driver) -> None:
    """The operator named it; a broken image is what was asked for."""
    await fill(driver)
    await erase(driver, SECRET.digest)
    found = await traces(driver, SECRET.digest, NAME)
    assert found == []
    assert (await StoredBlobs(driver).stat(NAME, BASE.digest)).size


async def test_a_signature_goes_with_its_link(driver: Driver) -> None:
    """Else it is listed, and answers 404."""
    manifests = await fill(driver)
    await push(driver, manifests, SIGNATURE)
    await erase(driver, SIGNATURE.digest)
    assert await traces(driver, SIGNATURE.digest, NAME) == []


async def test_a_whole_repository_is_erased_with_its_past(driver: Driver) -> None:
    """Also one that was deleted before."""
    await fill(driver)
    await StoredRepositories(driver, delete_enabled=True, trash=Trash(driver, keep_s=60)).delete(NAME)
    assert await traces(driver, SECRET.digest, NAME)
    await erase(driver, None)
    assert not [key for key in await everything(driver) if key.startswith(f"{layout.repository(NAME)}/")]
    assert await traces(driver, SECRET.digest, OTHER)


async def test_one_line_of_a_deleted_repository_is_erased_and_the_rest_can_be_restored(driver: Driver) -> None:
    """A leak in one image is no reason to lose the others."""
    await fill(driver)
    await StoredRepositories(driver, delete_enabled=True, trash=Trash(driver, keep_s=60)).delete(NAME)
    await erase(driver, LEAKED.digest)
    assert await traces(driver, LEAKED.digest, NAME) == []
    restorer = Restorer(driver)
    assert (await restorer.repository(NAME)).tags == {T1: CLEAN.digest}
    await restorer.close()


async def test_what_is_not_known_is_refused_and_leaves_no_record(driver: Driver) -> None:
    """A typing error must not look like a success."""
    await fill(driver)
    before = await everything(driver)
    absent = Digest.of(b"absent")
    for name, reference in ((NAME, "v9"), (NAME, absent), (RepoName("nothing"), None)):
        with pytest.raises(EraseRefused):
            await erase(driver, reference, name=name)  # type: ignore[arg-type]  # "v9" is a tag
    assert await everything(driver) == before


CASE = "case 7 of the court"


@pytest.mark.parametrize("rest", [{}, {"tags": [T2]}, {"digests": [str(LEAKED.digest)]}, {"tags": ["gone"]}])
@pytest.mark.parametrize(
    ("reference", "everywhere"),
    [(None, False), (T2, True), (LEAKED.digest, False), (SECRET.digest, True)],
    ids=["all", "tag", "image", "blob"],
)
async def test_held_content_is_refused_with_the_reason(
    driver: Driver, rest: dict[str, list[str]], reference: Reference | None, everywhere: bool
) -> None:
    """Evidence is not destroyed by name, by digest, as part of an image, from the trash, or from another place."""
    manifests = await fill(driver)
    await Trash(driver, keep_s=60).add_tag(NAME, Tag("gone"), LEAKED.digest, by="", reason="")
    before = await everything(driver)
    protection = Protection([], LegalHolds([Hold.parse([NAME], CASE, **rest)]))
    with pytest.raises(EraseRefused, match=f"{CASE}; end the hold"):
        await erase(driver, reference, everywhere=everywhere, protection=protection)
    if everywhere and isinstance(reference, Digest):
        with pytest.raises(EraseRefused, match=CASE):
            await erase(driver, reference, name=OTHER, everywhere=True, protection=protection)
    assert await everything(driver) == before
    assert (await manifests.get(NAME, T2)).digest == LEAKED.digest


async def test_an_immutable_tag_is_not_erased_and_other_holds_are_no_obstacle(
    driver: Driver,
) -> None:
    """What a hold does not contain is erased."""
    await fill(driver)
    rule = ImmutableRule.parse("immutability.rules[0]", [NAME], tags=[T2])
    with pytest.raises(EraseRefused, match=r"is immutable by immutability.rules\[0\]; end"):
        await erase(driver, T2, protection=Protection([rule]))
    await StoredBlobs(driver, delete_enabled=True).delete(OTHER, BASE.digest)
    hold = Hold.parse(["team/*"], CASE, tags=["other"])
    await erase(driver, T2, everywhere=True, protection=Protection([], LegalHolds([hold])))
    assert await traces(driver, SECRET.digest) == []
