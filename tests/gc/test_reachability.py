"""What a mark keeps and what it condemns, on a real filesystem: small graphs, each with one question."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from tests.gc.stores import EAGER, NOW, dead_digests, mark

from moorage.gc.options import CollectionOptions
from moorage.gc.reachability import (
    HistoryEntry,
    KeptBy,
    RepositoryContent,
    judge,
    reasons_of_layer,
    reasons_of_manifest,
)
from moorage.gc.references import References
from moorage.registry import layout
from moorage.registry.tags import NOWHERE
from moorage.storage.driver import StorageUnavailable
from moorage.testing.builders import EMPTY, artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from tests.gc.stores import Store

    from moorage.testing.builders import Built

KEEPING: Final = replace(EAGER, delete_untagged=False)
MINUTE: Final = timedelta(minutes=1)
DAYS: Final = timedelta(days=1)


def closure(*built: Built) -> set[Digest]:
    return {part.digest for one in built for part in one.closure}


async def test_an_empty_store_has_nothing_to_remove(store: Store) -> None:
    marked = await mark(store)
    assert not dead_digests(marked)
    assert marked.counts.repositories == marked.counts.blobs == 0


async def test_a_tagged_image_is_kept_whole(store: Store) -> None:
    store.push("a", "latest", image())
    marked = await mark(store)
    assert not dead_digests(marked)
    assert (marked.counts.repositories, marked.counts.manifests, marked.counts.layers) == (1, 1, 2)
    assert marked.counts.blobs == 3


async def test_a_blob_without_a_link_is_dead_unless_it_is_young(store: Store) -> None:
    old, young = store.blob(b"old"), store.blob(b"young", MINUTE)
    marked = await mark(store)
    assert set(marked.blobs) == {old}
    assert young not in marked.blobs
    assert marked.blobs[old] == 3
    assert marked.counts.dead_bytes == 3


async def test_untagged_manifests_are_kept_unless_they_are_to_be_deleted(store: Store) -> None:
    one = image()
    store.manifest("a", one)
    assert not dead_digests(await mark(store, KEEPING))
    marked = await mark(store)
    assert marked.revisions == {("a", one.digest)}
    assert marked.layers == {("a", part.digest) for part in one.blobs}
    assert set(marked.blobs) == closure(one)


async def test_platforms_stay_with_a_tagged_index_and_go_with_an_untagged_one(store: Store) -> None:
    kept = index(image(seed=1), image(seed=2))
    gone = index(image(seed=3), image(seed=4))
    store.push("a", "multi", kept)
    store.manifest("a", gone)
    marked = await mark(store)
    assert {digest for _, digest in marked.revisions} == {part.digest for part in gone.closure if part.is_manifest}
    assert set(marked.blobs) == closure(gone)


async def test_a_nested_index_keeps_all_levels(store: Store) -> None:
    nested = index(index(image(seed=1)), image(seed=2))
    store.push("a", "nested", nested)
    assert not dead_digests(await mark(store))


async def test_a_sparse_index_keeps_what_is_there(store: Store) -> None:
    """A child that the repository does not have is passed over."""
    here, elsewhere = image(seed=1), image(seed=2)
    sparse = index(here, elsewhere)
    store.manifest("a", here)
    store.manifest("a", sparse, links=False)
    store.tag("a", "sparse", sparse.digest)
    assert not dead_digests(await mark(store))


async def test_referrers_of_referrers_follow_their_image(store: Store) -> None:
    one, other = image(seed=1), image(seed=2)
    store.push("a", "latest", one)
    store.manifest("a", other)
    families: list[tuple[Built, Built]] = []
    for subject in (one, other):
        bill = artifact("application/sbom", blob(seed=len(families)), subject=subject)
        signature = artifact("application/signature", blob(seed=10 + len(families)), subject=bill)
        store.manifest("a", bill)
        store.manifest("a", signature)
        families.append((bill, signature))
    marked = await mark(store)
    assert {digest for _, digest in marked.revisions} == {other.digest, *(part.digest for part in families[1])}
    # The empty config is one blob of both families.
    assert set(marked.blobs) == closure(other, *families[1]) - {EMPTY.digest}


async def test_a_referrer_without_its_subject_is_kept_while_it_is_young(store: Store) -> None:
    """Clients such as cosign push a signature before the image that it signs."""
    young = artifact("application/a", subject=image(seed=1))
    old = artifact("application/b", subject=image(seed=2))
    store.manifest("a", young, MINUTE)
    store.manifest("a", old)
    assert (await mark(store)).revisions == {("a", old.digest)}


async def test_a_cosign_tag_is_a_tag_like_any_other(store: Store) -> None:
    one, signature = image(seed=1), image(seed=2)
    store.push("a", "latest", one)
    store.push("a", f"sha256-{one.digest.hex}.sig", signature)
    assert not dead_digests(await mark(store))


async def test_an_alias_of_another_algorithm_keeps_the_bytes_that_it_names(store: Store) -> None:
    """CNCF Distribution stores sha512 content under sha256, and writes two links."""
    data = b"bytes of a layer"
    stored, alias = Digest.of(data), Digest.of(data, "sha512")
    layer = replace(blob(data), digest=alias)
    one = image(layer, seed=1)
    store.push("a", "latest", replace(one, parts=tuple(part for part in one.parts if part != layer)))
    store.blob(data)
    store.layer("a", alias, content=str(stored))
    assert not dead_digests(await mark(store))


async def test_a_dangling_alias_goes_with_its_bytes(store: Store) -> None:
    data = b"bytes of a layer"
    stored, alias = store.blob(data), Digest.of(data, "sha512")
    store.push("a", "latest", image())
    store.layer("a", stored)
    store.layer("a", alias, content=str(stored))
    marked = await mark(store)
    assert marked.layers == {("a", stored), ("a", alias)}
    assert set(marked.blobs) == {stored}


async def test_links_of_an_algorithm_that_is_not_served_keep_their_bytes(store: Store) -> None:
    stored = store.blob(b"x")
    store.write(layout.below(layout.layers(RepoName("a")), f"sha384/{'a' * 96}/link"), str(stored).encode())
    marked = await mark(store)
    assert not dead_digests(marked)


async def test_content_of_sha512_is_judged_by_its_own_digest(store: Store) -> None:
    one = image(blob(seed=1, algorithm="sha512"), seed=1)
    store.push("a", "latest", one)
    dead = store.blob(b"dead", algorithm="sha512")
    marked = await mark(store)
    assert set(marked.blobs) == {dead}


@pytest.mark.parametrize("content", [b"", b"sha256:123", b"\xff\xfe"], ids=["empty", "torn", "binary"])
async def test_a_corrupt_link_ends_nothing(store: Store, content: bytes) -> None:
    """Its path counts; a torn tag keeps what it may have named; everything else is judged as ever."""
    one, torn = image(seed=1), image(seed=2)
    store.push("a", "latest", one)
    store.push("a", "torn", torn)
    store.write(layout.tag_link(RepoName("a"), Tag("torn")), content)
    store.write(layout.layer_link(RepoName("a"), one.blobs[0].digest), content)
    store.write(layout.revision_link(RepoName("a"), one.digest), content)
    dead = store.blob(b"dead")
    marked = await mark(store, replace(EAGER, undo_s=86_400))
    assert dead_digests(marked) == {dead}
    assert layout.tag_link(RepoName("a"), Tag("torn")) in {problem.key for problem in marked.problems}


@pytest.mark.parametrize("data", [b"", b"{", b'{"schemaVersion":2,"mediaType":"text/plain"}', b"\x00"])
async def test_a_manifest_that_cannot_be_read_is_reported_and_keeps_its_repository(
    store: Store, data: bytes
) -> None:
    one = image()
    store.push("a", "latest", one)
    store.write(layout.blob_data(one.digest), data)
    elsewhere = blob(seed=9)
    store.manifest("b", elsewhere)
    marked = await mark(store)
    assert dead_digests(marked) == {elsewhere.digest}
    assert marked.problem_count == 1
    assert marked.problems[0].key == layout.blob_data(one.digest)


async def test_a_manifest_without_bytes_keeps_its_repository(store: Store) -> None:
    one = image()
    store.push("a", "latest", one)
    store.remove(layout.blob_data(one.digest))
    marked = await mark(store)
    assert not dead_digests(marked)
    assert marked.problem_count == 1


async def test_schema_1_keeps_its_layers(store: Store) -> None:
    layer = blob(seed=1)
    store.manifest("a", layer)
    data = b'{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"%s"}]}' % str(layer.digest).encode()
    digest = store.blob(data)
    store.write(layout.revision_link(RepoName("a"), digest), str(digest).encode())
    store.tag("a", "old", digest)
    dangling = blob(seed=2)
    store.manifest("a", dangling)
    assert dead_digests(await mark(store)) == {dangling.digest}


async def test_a_build_cache_keeps_its_layers(store: Store) -> None:
    """BuildKit pushes an index whose entries are layers, not manifests."""
    layers = blob(seed=1), blob(seed=2)
    cache = index(*layers)
    store.push("a", "buildcache", cache)
    assert not dead_digests(await mark(store))


async def test_repositories_below_one_another_are_judged_apart(store: Store) -> None:
    store.push("a", "latest", image(seed=1))
    store.manifest("a/b", image(seed=1))
    gone = image(seed=2)
    store.manifest("a/b/c", gone)
    marked = await mark(store)
    assert {name for name, _ in marked.revisions} == {"a/b", "a/b/c"}
    assert set(marked.blobs) == closure(gone)


async def test_a_moved_tag_keeps_what_it_named_until_it_cannot_be_restored(store: Store) -> None:
    before, after = image(seed=1), image(seed=2)
    store.push("a", "latest", before, 9 * DAYS)
    store.push("a", "latest", after, 3 * DAYS)
    week = replace(EAGER, undo_s=7 * 86_400)
    assert not dead_digests(await mark(store, week))
    marked = await mark(store, week, now=NOW + 5 * DAYS)
    assert marked.revisions == {("a", before.digest)}
    assert {entry.digest for entry in marked.history} == {before.digest}
    assert set(marked.blobs) == closure(before)


async def test_dead_tags_keep_nothing(store: Store) -> None:
    one = image()
    store.manifest("a", one)
    store.tag("a", "dead", one.digest)
    store.write(layout.tag_link(RepoName("a"), Tag("dead")), str(NOWHERE).encode())
    assert (await mark(store)).revisions == {("a", one.digest)}


async def test_an_unfinished_push_keeps_what_its_tag_is_about_to_name(store: Store) -> None:
    """The history entry is written before the link of the tag."""
    one = image()
    store.manifest("a", one)
    store.tag("a", "new", one.digest, MINUTE)
    store.remove(layout.tag_link(RepoName("a"), Tag("new")))
    assert not dead_digests(await mark(store))


async def test_history_of_deleted_manifests_is_removed_when_it_is_old(store: Store) -> None:
    store.push("a", "latest", image(seed=1))
    old, young = image(seed=2), image(seed=3)
    store.write(layout.deleted_mark(RepoName("a"), old.digest), str(old.digest).encode())
    store.write(layout.tag_history_link(RepoName("a"), Tag("latest"), old.digest), str(old.digest).encode())
    marked = await mark(store, KEEPING)
    assert {(entry.tag, entry.digest) for entry in marked.history} == {("latest", old.digest)}
    key = layout.tag_history_link(RepoName("a"), Tag("latest"), young.digest)
    store.write(key, str(young.digest).encode(), MINUTE)
    assert {entry.digest for entry in (await mark(store, KEEPING)).history} == {old.digest}


async def test_dangling_layer_links_are_removed_unless_they_are_young(store: Store) -> None:
    store.push("a", "latest", image())
    old, young = blob(seed=1), blob(seed=2)
    store.manifest("a", old)
    store.manifest("a", young, MINUTE)
    marked = await mark(store, KEEPING)
    assert marked.layers == {("a", old.digest)}
    assert set(marked.blobs) == {old.digest}


async def test_an_upload_in_progress_keeps_the_layers_of_its_repository(store: Store) -> None:
    layer = blob(seed=1)
    store.manifest("a", layer)
    home = layout.upload_home(RepoName("a"), "0c7eb1b1-3a0e-4d5e-9d5c-000000000000")
    store.write(layout.below(home, "startedat"), b"2026-11-29T11:59:00Z", MINUTE)
    assert not dead_digests(await mark(store))
    later = await mark(store, now=NOW + 2 * DAYS)
    assert later.layers == {("a", layer.digest)}


async def test_a_repository_without_layers_is_no_obstacle(store: Store) -> None:
    store.manifest("a", index(image(seed=1)), links=False)
    marked = await mark(store, KEEPING)
    assert not dead_digests(marked)
    assert not marked.problems


async def test_directories_left_by_distribution_are_no_links(store: Store) -> None:
    """It removes the link of a deleted manifest, and leaves the directory; a push brings the link back."""
    one = image()
    store.manifest("a", one)
    link = store.root / layout.revision_link(RepoName("a"), one.digest)
    link.unlink()
    marked = await mark(store, KEEPING)
    assert set(marked.blobs) == closure(one)
    assert not marked.revisions
    link.write_text(str(one.digest))
    assert not dead_digests(await mark(store, KEEPING))


async def test_repositories_that_are_empty_are_found(store: Store) -> None:
    store.push("full", "latest", image())
    for path in ("gone/_manifests/revisions/sha256", "gone/_manifests/tags", "gone/_layers/sha256", "gone/sub"):
        (store.root / layout.REPOSITORIES / path).mkdir(parents=True)
    (store.root / layout.REPOSITORIES / "tagged/_manifests/tags/v1").mkdir(parents=True)
    assert (await mark(store)).repositories == {"gone"}


async def test_a_name_that_clients_cannot_send_keeps_its_content(store: Store) -> None:
    one = image()
    store.manifest("Upper/Case", one)
    assert not dead_digests(await mark(store))


async def test_a_store_that_vanishes_is_an_error_and_not_empty(store: Store) -> None:
    """A file system that is no longer mounted must not look like a store whose content was deleted."""
    store.push("a", "latest", image())
    await mark(store)
    store.root.rename(store.root.parent / "unmounted")
    with pytest.raises(StorageUnavailable):
        await mark(store)
    (store.root.parent / "unmounted").rename(store.root)


@pytest.mark.parametrize("place", [layout.REPOSITORIES, f"{layout.REPOSITORIES}/team"])
async def test_repositories_on_a_disk_that_is_not_mounted_are_not_deleted(store: Store, place: str) -> None:
    """A symbolic link to nowhere is what is left of them."""
    store.push("team/a", "latest", image())
    store.blob(b"dead")
    (store.root / place).rename(store.root / "disk")
    (store.root / place).symlink_to(store.root / "disk")
    assert len((await mark(store)).blobs) == 1
    (store.root / "disk").rename(store.root / "unmounted")
    marked = await mark(store)
    assert not dead_digests(marked)
    assert [problem.key for problem in marked.problems] == [place]


async def test_a_file_among_the_repositories_is_no_obstacle(store: Store) -> None:
    store.push("a", "latest", image())
    (store.root / layout.REPOSITORIES / "README").write_text("of an operator")
    dead = store.blob(b"dead")
    assert set((await mark(store)).blobs) == {dead}


# Reasons, on the pure functions.

GRAPH: Final = {
    "index": References(children=("amd", "arm")),
    "amd": References(blobs=("layer", "config")),
    "arm": References(blobs=("layer",)),
    "sbom": References(blobs=("text",), subject="amd"),
    "loose": References(blobs=("loose layer",)),
    "moved": References(),
}


def test_reasons_name_what_keeps_a_manifest_or_layer() -> None:
    now = NOW.timestamp()
    old = now - 9 * 86_400
    content = RepositoryContent(
        revisions=dict.fromkeys(GRAPH, old),
        layers=["layer", "config", "text", "loose layer"],
        tags={"v1": "index", "v2": "index"},
        history=[HistoryEntry("v1", "moved", now - 60)],
    )
    options = CollectionOptions(delete_untagged=True)
    verdict = judge(content, GRAPH.get, options, now)
    assert verdict.dead == ["loose"]
    assert verdict.dangling == ["loose layer"]
    assert verdict.until == now - 60 + options.undo_s

    def of(digest: str) -> list[tuple[KeptBy, str | None, str]]:
        found = reasons_of_manifest(digest, content, GRAPH.get, verdict, options, now)
        found += reasons_of_layer(digest, content, GRAPH.get, verdict, options, now)
        return [(reason.kind, reason.by, reason.tag) for reason in found]

    assert of("index") == [(KeptBy.TAG, None, "v1"), (KeptBy.TAG, None, "v2")]
    assert of("amd") == [(KeptBy.INDEX, "index", ""), (KeptBy.MANIFEST, "index", "")]  # as manifest, and as bytes
    assert of("sbom") == [(KeptBy.SUBJECT, "amd", "")]
    assert of("moved") == [(KeptBy.HISTORY, None, "v1")]
    assert sorted(of("layer"), key=str) == [(KeptBy.MANIFEST, "amd", ""), (KeptBy.MANIFEST, "arm", "")]
    assert of("loose") == of("loose layer") == []
