"""The nine defects of CNCF Distribution's collector that were found by experiment: each is a state that it treats
wrongly, and that a mark judges right.

Source: docs/reference/storage-layout.md, section 7.4.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from tests.gc.stores import EAGER, NOW, dead_digests, mark

from moorage.registry import layout
from moorage.testing.builders import blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from tests.gc.stores import Store

KEEPING: Final = replace(EAGER, delete_untagged=False)
MINUTE: Final = timedelta(minutes=1)


async def test_1_a_sha512_layer_of_an_image_is_kept(store: Store) -> None:
    """The reference compares the sha512 text of a manifest with the sha256 in the store and deletes it."""
    data = b"bytes of a layer"
    stored, alias = store.blob(data), Digest.of(data, "sha512")
    layer = replace(blob(data), digest=alias)
    one = image(layer)
    store.push("a", "latest", replace(one, parts=tuple(part for part in one.parts if part != layer)))
    store.layer("a", stored)
    store.layer("a", alias, content=str(stored))
    for options in (EAGER, KEEPING):
        marked = await mark(store, options)
        assert stored not in marked.blobs
        assert ("a", alias) not in marked.layers


async def test_2_a_sparse_index_in_one_repository_costs_another_nothing(store: Store) -> None:
    """The reference marks a child while it visits `aaa`, and then skips its layers in `bbb`."""
    multi = index(image(seed=1), image(seed=2))
    store.manifest("aaa", multi, links=False)
    store.tag("aaa", "sparse", multi.digest)
    store.push("bbb", "whole", multi)
    assert not dead_digests(await mark(store))


async def test_3_a_repository_without_layers_does_not_end_the_run(store: Store) -> None:
    store.manifest("index-only", index(image(seed=1)), links=False)
    store.tag("index-only", "v1", index(image(seed=1)).digest)
    dead = store.blob(b"dead")
    for options in (EAGER, KEEPING):
        marked = await mark(store, options)
        assert dead_digests(marked) == {dead}


async def test_4_one_corrupt_link_or_manifest_does_not_end_the_run(store: Store) -> None:
    store.push("good", "latest", image(seed=1))
    for name, content in (("empty", b""), ("torn", b"sha256:12")):
        one = image(seed=len(name))
        store.push(name, "latest", one)
        store.write(layout.revision_link(RepoName(name), one.digest), content)
        store.write(layout.layer_link(RepoName(name), one.blobs[0].digest), content)
        store.write(layout.tag_link(RepoName(name), Tag("latest")), content)
    unreadable = image(seed=9)
    store.push("unreadable", "latest", unreadable)
    store.write(layout.blob_data(unreadable.digest), b'{"schemaVersion":1,"fsLayers":7}')
    dead = store.blob(b"dead")
    marked = await mark(store, KEEPING)
    assert dead_digests(marked) == {dead}
    assert layout.blob_data(unreadable.digest) in {problem.key for problem in marked.problems}


async def test_5_a_never_tagged_repository_loses_its_links_with_its_bytes(store: Store) -> None:
    """The reference deletes the bytes and leaves the revision link."""
    one = image()
    store.manifest("untagged", one)
    marked = await mark(store)
    assert marked.revisions == {("untagged", one.digest)}
    assert marked.layers == {("untagged", part.digest) for part in one.blobs}
    assert set(marked.blobs) == {part.digest for part in one.closure}


async def test_6_layer_links_are_judged_when_all_is_known(store: Store) -> None:
    """The reference removes the mount in `a` of a layer that `m` uses, and keeps the one in `z`."""
    used = image(seed=1)
    store.push("m", "latest", used)
    for name in ("a", "z"):
        store.push(name, "latest", image(seed=2))
        store.layer(name, used.blobs[0].digest)
    marked = await mark(store)
    assert marked.layers == {("a", used.blobs[0].digest), ("z", used.blobs[0].digest)}
    assert not marked.blobs


async def test_7_an_empty_store_is_no_error(store: Store) -> None:
    assert not dead_digests(await mark(store))


async def test_8_pushes_in_progress_lose_nothing(store: Store) -> None:
    """An upload that has ended, a blob before its manifest, a manifest before its tag."""
    store.blob(b"uploaded", MINUTE)
    store.manifest("a", blob(seed=1), MINUTE)
    store.manifest("b", image(seed=2), MINUTE)
    assert not dead_digests(await mark(store))
    assert len(dead_digests(await mark(store, now=NOW + timedelta(days=1)))) == 5


async def test_9_leftovers_are_found(store: Store) -> None:
    """Empty repositories, and the history of tags, also without `--delete-untagged`."""
    store.push("a", "latest", image())
    gone = image(seed=1)
    store.write(layout.tag_history_link(RepoName("a"), Tag("latest"), gone.digest), str(gone.digest).encode())
    (store.root / layout.revisions(RepoName("a")) / "sha256" / gone.digest.hex).mkdir()
    (store.root / layout.layers(RepoName("empty")) / "sha256").mkdir(parents=True)
    marked = await mark(store, KEEPING)
    assert marked.repositories == {"empty"}
    assert [(entry.name, entry.tag, entry.digest) for entry in marked.history] == [("a", "latest", gone.digest)]
