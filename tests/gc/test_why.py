"""Explanations agree with the collector: content has a reason exactly if a collection would keep it."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.gc.stores import EAGER, NOW, Store, mark

from moorage.gc.options import CollectionOptions
from moorage.gc.why import explain_digest, explain_in
from moorage.registry import layout
from moorage.registry.trash import Trash
from moorage.testing.builders import artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

APP = RepoName("team/app")
YOUNG = timedelta(minutes=1)
LAZY = CollectionOptions(delete_untagged=False, grace_s=3600, undo_s=0)
UNDO = CollectionOptions(delete_untagged=True, grace_s=3600, undo_s=7 * 86400)


async def kinds(driver: Driver, digest: Digest, options: CollectionOptions = EAGER) -> tuple[set[str], set[str]]:
    """The kinds of reasons for a manifest, and for a layer."""
    found = await explain_in(driver, APP, digest, options, now=NOW)
    return {reason.kind for reason in found.manifest}, {reason.kind for reason in found.layer}


async def test_a_family_names_its_members(store: Store) -> None:
    """An operator must see that a signature stays because of its image, and the image because of an index."""
    child = image(blob(size=10))
    whole = index(child)
    signature = artifact("application/sig", subject=child)
    store.push(APP, "v1", whole)
    store.manifest(APP, signature)
    assert await kinds(store.driver, whole.digest) == ({"tag"}, set())
    assert await kinds(store.driver, child.digest) == ({"index"}, {"manifest"})
    assert await kinds(store.driver, signature.digest) == ({"subject"}, set())
    assert await kinds(store.driver, child.parts[0].digest) == (set(), {"manifest"})
    found = await explain_in(store.driver, APP, signature.digest, EAGER, now=NOW)
    assert found.manifest[0].by == child.digest
    found = await explain_in(store.driver, APP, whole.digest, EAGER, now=NOW)
    assert found.manifest[0].tag == "v1"


async def test_age_uploads_holds_and_settings(store: Store) -> None:
    """Reasons that end by themselves are shown with their end."""
    untagged = image(blob(size=10))
    store.manifest(APP, untagged)
    assert await kinds(store.driver, untagged.digest) == (set(), set())
    assert await kinds(store.driver, untagged.digest, LAZY) == ({"untagged manifests are kept"}, set())
    young = image(blob(size=11))
    store.manifest(APP, young, YOUNG)
    found = await explain_in(store.driver, APP, young.digest, EAGER, now=NOW)
    assert [reason.kind for reason in found.manifest] == ["young"]
    assert found.manifest[0].until == NOW - YOUNG + timedelta(hours=1)
    held = await explain_in(store.driver, APP, untagged.digest, EAGER, now=NOW, holds=lambda _: True)
    assert [reason.kind for reason in held.manifest] == ["hold"]
    dangling = store.blob(b"dangling")
    store.layer(APP, dangling)
    assert await kinds(store.driver, dangling) == (set(), set())
    store.layer(APP, dangling, YOUNG)
    assert await kinds(store.driver, dangling) == (set(), {"young"})
    store.layer(APP, dangling)
    store.write(layout.below(layout.upload_home(APP, "u"), "startedat"), b"", YOUNG)
    assert await kinds(store.driver, dangling) == (set(), {"upload"})


async def test_deleted_content_has_its_record(store: Store) -> None:
    """Who deleted it, when and why, and until when it can be restored."""
    gone = image(blob(size=10))
    store.manifest(APP, gone)
    trash = Trash(store.driver, keep_s=UNDO.undo_s, now=lambda: NOW - timedelta(days=1))
    await trash.add_manifest(APP, gone.digest, by="ann", reason="retention rules[0]")
    store.remove(layout.revision_link(APP, gone.digest))
    found = await explain_in(store.driver, APP, gone.digest, UNDO, now=NOW)
    assert not found.has_manifest
    assert [reason.kind for reason in found.manifest] == ["trash"]
    assert [(entry.by, entry.reason) for entry in found.deleted] == [("ann", "retention rules[0]")]
    expired = await explain_in(store.driver, APP, gone.digest, EAGER, now=NOW)
    assert not expired.keeps
    assert expired.deleted, "the record is shown as long as it exists"


async def test_a_link_of_another_algorithm_keeps_its_content(store: Store) -> None:
    """CNCF Distribution links sha512 layers to sha256 content; its own collector loses them."""
    data = b"layer"
    stored = store.blob(data)
    store.layer(APP, Digest.of(data, "sha512"), YOUNG, content=str(stored))
    found = await explain_digest(store.driver, stored, EAGER, now=NOW)
    assert found.kept
    assert [[reason.kind for reason in each.layer] for each in found.repositories] == [["alias"]]


async def test_bytes_that_no_repository_needs(store: Store) -> None:
    """Only their age keeps them."""
    old, new = store.blob(b"old"), store.blob(b"new", YOUNG)
    found = await explain_digest(store.driver, old, EAGER, now=NOW)
    assert (found.kept, found.repositories, found.young_until) == (False, (), None)
    found = await explain_digest(store.driver, new, EAGER, now=NOW)
    assert found.kept
    assert found.young_until == NOW - YOUNG + timedelta(hours=1)
    missing = await explain_digest(store.driver, Digest.of(b"nowhere"), EAGER, now=NOW)
    assert (missing.kept, missing.stat) == (False, None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_why_is_empty_exactly_for_what_a_collection_removes(store: Store, seed: int) -> None:
    """A reason for what is removed, or none for what stays, would be worse than no command."""
    chosen = random.Random(seed)
    options = chosen.choice([EAGER, EAGER, UNDO, LAZY])
    await _fill(store, chosen, options)
    marked = await mark(store, options)
    digests, links = await _everything(store.driver)
    assert digests
    removed = 0
    for digest in digests:
        found = await explain_digest(store.driver, digest, options, now=NOW)
        reasons = found.young_until is not None or any(each.keeps for each in found.repositories)
        assert reasons == (digest not in marked.blobs), (digest, found)
        assert found.kept == reasons
        removed += not reasons
    for name, digest in links:
        each = await explain_in(store.driver, name, digest, options, now=NOW)
        if each.has_layer:
            assert bool(each.layer) == ((name, digest) not in marked.layers), (name, digest, each)
        if each.has_manifest:
            assert bool(each.manifest) == ((name, digest) not in marked.revisions), (name, digest, each)
    assert removed or options is not EAGER, "the store has something to remove"


async def _fill(store: Store, chosen: random.Random, options: CollectionOptions) -> None:
    """Random repositories with families, crashes, deletions and pushes in progress."""
    ages = [timedelta(days=2), timedelta(days=2), timedelta(days=20), YOUNG]
    store.blob(b"nobody has it")
    for number in range(3):
        name = RepoName(f"team/app{number}")
        layers = [blob(size=size) for size in chosen.sample(range(1, 12), 4)]
        images = [image(*chosen.sample(layers, 2), seed=number * 10 + at) for at in range(4)]
        built = [*images, index(*chosen.sample(images, 2)), artifact("application/sig", subject=images[0])]
        built.append(artifact("application/sig", subject=built[-1]))
        for each in built:
            if chosen.random() < 0.8:
                digest = store.manifest(name, each, chosen.choice(ages))
                if chosen.random() < 0.4:
                    store.tag(name, f"v{chosen.randrange(3)}", digest, chosen.choice(ages))
        if chosen.random() < 0.3:
            store.write(layout.blob_data(images[1].digest), b"torn")
        if chosen.random() < 0.3:
            store.write(layout.tag_link(name, Tag("v1")), b"torn")
        if chosen.random() < 0.3:
            store.write(layout.below(layout.upload_home(name, "u"), "startedat"), b"", chosen.choice(ages))
        loose = store.blob(json.dumps([number]).encode())
        store.layer(name, loose, chosen.choice(ages))
        alias = b"alias %d" % number
        store.layer(name, Digest.of(alias, "sha512"), chosen.choice(ages), content=str(store.blob(alias)))
        for each in built:
            if options.undo_s and chosen.random() < 0.2:
                at = NOW - chosen.choice(ages)
                trash = Trash(store.driver, keep_s=options.undo_s, now=lambda at=at: at)  # type: ignore[misc]
                await trash.add_manifest(name, each.digest, by="ann", reason="")


async def _everything(driver: Driver) -> tuple[set[Digest], set[tuple[RepoName, Digest]]]:
    digests: set[Digest] = set()
    links: set[tuple[RepoName, Digest]] = set()
    async for page in driver.scan(layout.ROOT):
        for stat in page:
            parsed = layout.parse_key(stat.key)
            if parsed is None or parsed.digest is None:
                continue
            if parsed.kind == "blob":
                digests.add(parsed.digest)
            elif parsed.kind in {"layer", "revision"} and parsed.name is not None:
                links.add((parsed.name, parsed.digest))
    return digests, links
