"""Manifests over both drivers: what a push stores and refuses, what a pull finds, what a deletion takes away."""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.registry.images import NAME, T1, T2, T3, add_blobs, everything, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import (
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    PreconditionFailed,
    Unsupported,
)
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.interface import IfMatch, Manifest
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifest_json import read_pushed, read_stored
from moorage.registry.manifests import StoredManifests
from moorage.registry.tag_list import StoredTags
from moorage.registry.validation import ValidationRules
from moorage.storage.driver import ABSENT, KeyMissing
from moorage.testing.builders import EMPTY, artifact, blob, encode, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.storage.driver import Driver, Key
    from moorage.testing.builders import Built

ONE, OTHER = image(seed=1), image(seed=2)
ANOTHER = RepoName("another/name")


@pytest.fixture
def manifests(driver: Driver) -> StoredManifests:
    return StoredManifests(driver, delete_enabled=True)


async def unknown(manifests: StoredManifests, reference: Digest | Tag, name: RepoName = NAME) -> str:
    with pytest.raises(ManifestUnknown) as caught:
        await manifests.get(name, reference)
    return caught.value.subject


async def link(driver: Driver, key: Key) -> str:
    return (await driver.read(key)).data.decode()


async def test_a_push_is_stored_as_the_reference_stores_it(driver: Driver, manifests: StoredManifests) -> None:
    """An old registry must find the manifest, its revision, the tag and its history, each to the letter."""
    pushed = await push(driver, manifests, ONE, T1)
    assert (pushed.digest, pushed.subject, pushed.tags) == (ONE.digest, None, (T1,))
    assert (await driver.read(layout.blob_data(ONE.digest))).data == ONE.data
    for key in (
        layout.revision_link(NAME, ONE.digest),
        layout.tag_history_link(NAME, T1, ONE.digest),
        layout.tag_link(NAME, T1),
    ):
        assert await link(driver, key) == str(ONE.digest)


@pytest.mark.parametrize(
    "built",
    [ONE, image(docker=True), index(ONE, OTHER), index(image(docker=True), docker=True), artifact("a/b"), index()],
    ids=lambda built: built.media_type,
)
async def test_every_worker_serves_the_pushed_bytes(
    driver: Driver, manifests: StoredManifests, built: Built
) -> None:
    """By tag and by digest, also where nothing is cached, under the type they were pushed as."""
    await push(driver, manifests, built, T1)
    expected = Manifest(built.digest, built.media_type, built.data)
    uncached = StoredManifests(driver, contents=ManifestContents(BlobStore(driver), cache_bytes=0))
    for worker in (manifests, uncached, StoredManifests(driver)):
        assert await worker.get(NAME, T1) == expected
        assert await worker.get(NAME, built.digest) == expected


async def test_sha512_manifests_live_under_their_own_digest(driver: Driver, manifests: StoredManifests) -> None:
    """A client that pushed by sha512 gets that digest back, also by the tag it set on the way."""
    built = image(seed=3, algorithm="sha512")
    pushed = await push(driver, manifests, built, tags=(T1, T2, T1))
    assert pushed.tags == (T1, T2)
    assert await link(driver, layout.tag_link(NAME, T2)) == str(built.digest)
    assert (await StoredManifests(driver).get(NAME, T1)).digest == built.digest
    assert (await driver.read(layout.blob_data(built.digest))).data == built.data
    await unknown(manifests, Digest.of(built.data))


async def test_a_wrong_digest_in_the_url_is_refused(driver: Driver, manifests: StoredManifests) -> None:
    """Of either algorithm, and nothing is stored."""
    await add_blobs(driver, ONE)
    before = await everything(driver)
    for wrong in (OTHER.digest, Digest.of(OTHER.data, "sha512")):
        with pytest.raises(DigestInvalid):
            await manifests.put(NAME, wrong, ONE.media_type, ONE.data, tags=(T1,))
    assert await everything(driver) == before


async def test_everything_missing_is_named_at_once(driver: Driver, manifests: StoredManifests) -> None:
    """A client pushes what is missing and tries once more, not once for each; nothing is stored."""
    layers = [blob(seed=i) for i in range(40)]
    built = image(*layers)
    await add_blobs(driver, layers[7], built.blobs[-1])
    before = await everything(driver)
    with pytest.raises(ManifestBlobUnknown) as caught:
        await manifests.put(NAME, T1, built.media_type, built.data)
    assert set(caught.value.missing) == {str(layer.digest) for layer in layers if layer != layers[7]}
    assert await everything(driver) == before


async def test_what_is_missing_beyond_a_hundred_is_not_looked_up(driver: Driver) -> None:
    """An index of 44,000 unknown children cost 3.9 s and an answer of 6.7 MB."""

    class Counting(InstrumentedDriver):
        requested = 0

        async def before(self, call: str) -> None:
            self.requested += 1

    def entry(number: int) -> dict[str, object]:
        return {"mediaType": media.OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 1}

    counting = Counting(driver)
    await add_blobs(driver, ONE)
    known = ONE.blobs[0].entry
    data = encode({"schemaVersion": 2, "manifests": [known, *map(entry, range(9_000))]})
    with pytest.raises(ManifestBlobUnknown) as caught:
        await StoredManifests(counting).put(NAME, T1, media.OCI_INDEX, data)
    named, unchecked = caught.value.missing, caught.value.unchecked
    assert named == tuple(f"sha256:{number:064x}" for number in range(len(named)))
    assert 100 <= len(named) < 200
    assert len(named) + unchecked == 9_000
    assert counting.requested < 1_000
    assert len(str(caught.value)) < 1_000, "it is one line of the log"


async def test_a_push_is_parsed_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of its class reads what was parsed for all other checks."""
    parsed = list[bytes]()

    def counted(data: bytes) -> dict[str, object]:
        parsed.append(data)
        return read_pushed(data)

    monkeypatch.setattr(media, "read_pushed", counted)
    await add_blobs(driver, ONE)
    manifests = StoredManifests(driver, rules=ValidationRules(classes=frozenset({"image"})))
    await manifests.put(NAME, T1, ONE.media_type, ONE.data, classes={"image"})
    assert (await manifests.get(NAME, T1)).data == ONE.data
    with pytest.raises(Denied, match="another class of content than image"):
        await manifests.put(NAME, T1, ONE.media_type, ONE.data, classes={"plugin"})
    assert parsed == [ONE.data] * 2


@pytest.mark.parametrize("size_bytes", [1_000, 100_000])
async def test_large_manifests_are_examined_in_a_thread(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """Pushed, loaded and deleted: other requests are answered meanwhile."""
    threads: list[bool] = []

    def watched(work: Callable[..., dict[str, object]]) -> Callable[..., dict[str, object]]:
        def run(data: bytes, *more: frozenset[str]) -> dict[str, object]:
            threads.append(threading.current_thread() is not threading.main_thread())
            return work(data, *more)

        return run

    monkeypatch.setattr(media, "read_pushed", watched(read_pushed))
    monkeypatch.setattr(media, "read_stored", watched(read_stored))
    built = image(subject=ONE, annotations={"a": "x" * size_bytes})
    await push(driver, StoredManifests(driver), built, T1)
    manifests = StoredManifests(driver, delete_enabled=True)
    assert (await manifests.get(NAME, T1)).data == built.data
    await manifests.delete(NAME, built.digest)
    assert threads == [size_bytes > 16 << 10] * 3


async def test_a_blob_of_another_repository_does_not_count(driver: Driver, manifests: StoredManifests) -> None:
    """Else a manifest would make other tenants' blobs readable."""
    await add_blobs(driver, ONE, name=ANOTHER)
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(NAME, T1, ONE.media_type, ONE.data)
    await unknown(manifests, T1)


async def test_a_link_without_its_blob_does_not_count(driver: Driver, manifests: StoredManifests) -> None:
    """A crash of an older registry leaves such; the client must push the blob again."""
    await add_blobs(driver, ONE)
    await driver.delete([layout.blob_data(ONE.blobs[0].digest)])
    with pytest.raises(ManifestBlobUnknown) as caught:
        await manifests.put(NAME, T1, ONE.media_type, ONE.data)
    assert caught.value.missing == (str(ONE.blobs[0].digest),)


async def test_a_sha512_alias_of_the_reference_counts(driver: Driver, manifests: StoredManifests) -> None:
    """It stored all bytes under sha256, and the sha512 link names that digest."""
    layer = blob(seed=5)
    alias = blob(layer.data, algorithm="sha512")
    built = image(alias)
    await add_blobs(driver, layer, built.blobs[-1])
    await driver.write(layout.layer_link(NAME, alias.digest), str(layer.digest).encode())
    assert (await manifests.put(NAME, T1, built.media_type, built.data)).digest == built.digest


async def test_children_may_be_manifests_or_blobs(driver: Driver, manifests: StoredManifests) -> None:
    """BuildKit's cache before 0.21 was an index of layer blobs."""
    layer = blob(seed=9)
    cache = index(ONE, layer)
    await push(driver, manifests, cache, T1)
    assert (await manifests.get(NAME, T1)).data == cache.data
    sparse = index(OTHER)
    with pytest.raises(ManifestBlobUnknown) as caught:
        await manifests.put(NAME, T2, sparse.media_type, sparse.data)
    assert caught.value.missing == (str(OTHER.digest),)


async def test_a_deleted_child_does_not_count(driver: Driver, manifests: StoredManifests) -> None:
    """Its bytes may still be stored, but no client can pull them."""
    await push(driver, manifests, index(ONE), T1)
    await manifests.delete(NAME, ONE.digest)
    again = index(ONE, annotations={"again": "1"})
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(NAME, T1, again.media_type, again.data)


async def test_platform_rules_say_which_children_must_be_here(driver: Driver) -> None:
    """`validation.manifests.indexes`; the reference crashes at a child without a platform."""
    arm = image(platform="linux/arm64")
    document = index(ONE, arm).document
    document["manifests"].append(OTHER.entry)  # no platform
    data = encode(document)

    async def missing(platforms: frozenset[tuple[str, str]] | None) -> set[str]:
        strict = StoredManifests(driver, rules=ValidationRules(platforms=platforms))
        try:
            await strict.put(NAME, T1, media.OCI_INDEX, data)
        except ManifestBlobUnknown as error:
            return set(error.missing)
        return set()

    assert await missing(None) == {str(ONE.digest), str(arm.digest), str(OTHER.digest)}
    assert await missing(frozenset({("linux", "arm64")})) == {str(arm.digest)}
    assert await missing(frozenset()) == set()


def foreign(url: str | None, kind: str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") -> bytes:
    layer = {**blob(seed=77).entry, "mediaType": kind, **({} if url is None else {"urls": [url]})}
    return encode({**ONE.document, "layers": [layer]})


async def test_foreign_layers_need_not_be_here(driver: Driver, manifests: StoredManifests) -> None:
    """Windows images; a layer without a URL to fetch it from must be here."""
    await add_blobs(driver, ONE)
    await manifests.put(NAME, T1, ONE.media_type, foreign("https://mcr.microsoft.com/x"))
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(NAME, T1, ONE.media_type, foreign(None))


@pytest.mark.parametrize(
    ("allow", "deny", "url", "fine"),
    [
        ((), (), "https://anywhere.example/x", True),
        (("^https://mcr\\.",), (), "https://mcr.example/x", True),
        (("^https://mcr\\.",), (), "https://evil.example/?https://mcr.", False),
        (("a", "b"), (), "https://b.example/", True),
        ((), ("secret",), "https://x.example/secret", False),
        ((), ("secret",), "https://x.example/open", True),
        (("example",), ("secret",), "https://x.example/secret", False),
        (("",), (), "ftp://x.example/", False),
        (("",), (), "http://[::1", False),
    ],
)
async def test_url_rules_are_honoured(
    driver: Driver, allow: tuple[str, ...], deny: tuple[str, ...], url: str, fine: bool
) -> None:
    """`validation.manifests.urls`: a refusal is the client's 400, not the reference's 500."""
    await add_blobs(driver, ONE)
    rules = ValidationRules(tuple(map(re.compile, allow)), tuple(map(re.compile, deny)))
    put = StoredManifests(driver, rules=rules).put(NAME, T1, ONE.media_type, foreign(url))
    if fine:
        await put
    else:
        with pytest.raises(ManifestInvalid):
            await put


async def test_classes_say_which_kinds_of_image_are_taken(driver: Driver) -> None:
    """`policy.repository.classes`: an index has no class and is taken, as in the reference."""
    manifests = StoredManifests(driver, rules=ValidationRules(classes=frozenset({"image"})))
    await push(driver, manifests, index(ONE, image(docker=True)), T1)
    with pytest.raises(Denied):
        await push(driver, manifests, artifact("a/b"), T1)
    plugin = encode(
        {**ONE.document, "config": {**EMPTY.entry, "mediaType": "application/vnd.docker.plugin.v1+json"}}
    )
    with pytest.raises(Denied):
        await manifests.put(NAME, T1, ONE.media_type, plugin)
    takes_plugins = StoredManifests(driver, rules=ValidationRules(classes=frozenset({"plugin"})))
    await takes_plugins.put(NAME, T1, ONE.media_type, plugin)


async def test_conditions_on_the_tag(driver: Driver, manifests: StoredManifests) -> None:
    """If-Match and If-None-Match let clients update a fallback tag without losing another's entry."""
    await push(driver, manifests, ONE, T1)
    for condition, holds in (
        (IfMatch(match=(OTHER.digest,)), False),
        (IfMatch(none_match=()), False),
        (IfMatch(none_match=(OTHER.digest, ONE.digest)), False),
        (IfMatch(match=(OTHER.digest, ONE.digest)), True),
    ):
        before = await everything(driver)
        if holds:
            await push(driver, manifests, OTHER, T1, condition=condition)
        else:
            await add_blobs(driver, OTHER)
            before = await everything(driver)
            with pytest.raises(PreconditionFailed):
                await push(driver, manifests, OTHER, T1, condition=condition)
            assert await everything(driver) == before
    assert (await manifests.get(NAME, T1)).digest == OTHER.digest
    with pytest.raises(PreconditionFailed):
        await push(driver, manifests, ONE, T2, condition=IfMatch(match=()))
    await push(driver, manifests, ONE, T2, condition=IfMatch(match=None, none_match=()))
    assert (await manifests.get(NAME, T2)).digest == ONE.digest


async def test_a_dead_or_torn_tag_counts_as_absent(driver: Driver, manifests: StoredManifests) -> None:
    """Else no client could ever create it again with `If-None-Match: *`."""
    await push(driver, manifests, ONE, T1)
    await manifests.delete(NAME, ONE.digest)
    await push(driver, manifests, ONE, T1, condition=IfMatch(none_match=()))
    assert (await manifests.get(NAME, T1)).digest == ONE.digest
    await driver.write(layout.tag_link(NAME, T1), b"")
    await push(driver, manifests, OTHER, T1, condition=IfMatch(none_match=()))
    assert (await manifests.get(NAME, T1)).digest == OTHER.digest


async def test_pushing_again_writes_nothing(driver: Driver) -> None:
    """Every CI run pushes its unchanged images again, and an fsync costs more than all reads together."""
    watched = InstrumentedDriver(driver)
    manifests, built = StoredManifests(watched), artifact("a/b", subject=ONE)
    await push(driver, manifests, built, T1)
    assert len(watched.changes) == 5
    watched.changes.clear()
    await manifests.put(NAME, T1, built.media_type, built.data)
    assert watched.changes == []
    await manifests.put(NAME, T2, built.media_type, built.data)
    assert watched.changes == [
        f"write {layout.tag_history_link(NAME, T2, built.digest)}",
        f"write {layout.tag_link(NAME, T2)}",
    ]


async def test_another_process_makes_sure_for_itself(driver: Driver, manifests: StoredManifests) -> None:
    """A link that can be read may still be lost in a power cut, if its writer died before the fsync."""
    await push(driver, manifests, ONE, T1)
    watched = InstrumentedDriver(driver)
    await StoredManifests(watched).put(NAME, T1, ONE.media_type, ONE.data)
    assert sorted(watched.changes) == sorted(
        f"write {key}"
        for key in (
            layout.blob_data(ONE.digest),
            layout.revision_link(NAME, ONE.digest),
            layout.tag_history_link(NAME, T1, ONE.digest),
            layout.tag_link(NAME, T1),
        )
    )


@pytest.mark.parametrize(
    "lost",
    [
        lambda built: layout.blob_data(built.digest),
        lambda built: layout.revision_link(NAME, built.digest),
        lambda built: layout.tag_link(NAME, T1),
        lambda built: layout.tag_history_link(NAME, T1, built.digest),
        lambda built: layout.referrer_link(NAME, ONE.digest, built.digest),
    ],
    ids=["data", "revision", "tag", "history", "referrer"],
)
async def test_pushing_again_repairs(
    driver: Driver, manifests: StoredManifests, lost: Callable[[Built], Key]
) -> None:
    """Missing or torn objects are whole again after the push that every operator tries first."""
    built = artifact("a/b", subject=ONE)
    await push(driver, manifests, built, T1)
    whole = await everything(driver)
    for damage in (driver.delete([lost(built)]), driver.write(lost(built), b""), driver.write(lost(built), b"x")):
        await damage
        await manifests.put(NAME, T1, built.media_type, built.data)
        assert await everything(driver) == whole
    assert (await StoredManifests(driver).get(NAME, T1)).data == built.data


async def test_deduplicated_writes_notice_a_change_by_others(driver: Driver) -> None:
    """A tag that another process moved is moved back by a push; what this process remembers is outdated."""
    writes, key = DeduplicatedWrites(driver), layout.tag_link(NAME, T1)
    await writes.write(key, b"one", ABSENT)
    for theirs in (b"two", b""):
        await driver.write(key, theirs)
        await writes.ensure(key, b"one")
        assert (await driver.read(key)).data == b"one"
    await driver.delete([key])
    await writes.ensure(key, b"three")
    assert (await driver.read(key)).data == b"three"


async def test_torn_bytes_are_never_served(driver: Driver, manifests: StoredManifests) -> None:
    """A client would store them under the digest that it requested; the log has the operator's remedy."""
    await push(driver, manifests, ONE, T1)
    for torn in (b"", ONE.data[:-1], ONE.data.replace(b"1", b"2"), b"x" * (5 << 20)):
        await driver.write(layout.blob_data(ONE.digest), torn)
        with capture_logs() as logs:
            await unknown(StoredManifests(driver), T1)
            await unknown(StoredManifests(driver), ONE.digest)
        assert {entry["log_level"] for entry in logs} == {"error"}


async def test_missing_bytes_are_unknown(driver: Driver, manifests: StoredManifests) -> None:
    """An old garbage collector may have taken them from under the link."""
    await push(driver, manifests, ONE, T1)
    await driver.delete([layout.blob_data(ONE.digest)])
    with capture_logs() as logs:
        await unknown(StoredManifests(driver), T1)
    assert [entry["log_level"] for entry in logs] == ["error"]


async def test_torn_links_are_missing_and_newlines_are_not(driver: Driver, manifests: StoredManifests) -> None:
    """2.8 left empty links after a crash; administrators' scripts write `echo sha256:... > link`."""
    await push(driver, manifests, ONE, T1)
    key = layout.tag_link(NAME, T1)
    await driver.write(key, f"{ONE.digest}\n".encode())
    assert (await manifests.get(NAME, T1)).digest == ONE.digest
    for torn in (b"", b"sha256:", b"\xff", b"x" * 5000):
        await driver.write(key, torn)
        await unknown(manifests, T1)
    await driver.write(layout.revision_link(NAME, ONE.digest), b"")
    await unknown(manifests, ONE.digest)


async def test_a_torn_link_is_reported_once(driver: Driver, manifests: StoredManifests) -> None:
    """A monitoring probe of a broken tag must not fill the log."""
    await push(driver, manifests, ONE, Tag(f"torn-once-{driver.name}"))
    await driver.write(layout.tag_link(NAME, Tag(f"torn-once-{driver.name}")), b"")
    with capture_logs() as logs:
        for _ in range(5):
            await unknown(manifests, Tag(f"torn-once-{driver.name}"))
    assert len(logs) == 1


async def test_schema_1_leftovers_say_what_they_are(driver: Driver, manifests: StoredManifests) -> None:
    """The reference answers 500 and its garbage collector gives up."""
    data = json.dumps({"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}).encode()
    digest = Digest.of(data)
    await driver.write(layout.blob_data(digest), data)
    await driver.write(layout.revision_link(NAME, digest), str(digest).encode())
    assert "schema 1 manifests are not supported" in await unknown(manifests, digest)


async def test_a_manifest_is_seen_through_its_repositories_only(
    driver: Driver, manifests: StoredManifests
) -> None:
    """The cache is shared between repositories, access is not."""
    await push(driver, manifests, ONE, T1)
    await unknown(manifests, ONE.digest, ANOTHER)
    await unknown(manifests, T1, ANOTHER)
    await unknown(manifests, ONE.blobs[0].digest)


async def test_deleting_a_tag_leaves_the_manifest(driver: Driver, manifests: StoredManifests) -> None:
    """And nothing of the tag, so that it is not listed."""
    await push(driver, manifests, ONE, T1)
    await push(driver, manifests, ONE, T2)
    await manifests.delete(NAME, T1)
    await unknown(manifests, T1)
    assert (await manifests.get(NAME, T2)).digest == (await manifests.get(NAME, ONE.digest)).digest
    assert (await StoredTags(driver).list(NAME)).names == (T2,)
    with pytest.raises(ManifestUnknown):
        await manifests.delete(NAME, T1)
    with pytest.raises(ManifestUnknown):
        await manifests.delete(ANOTHER, T1)


async def test_deleting_a_digest_kills_its_tags_at_once_everywhere(
    driver: Driver, manifests: StoredManifests
) -> None:
    """Also in a worker that has the bytes cached; other tags and repositories stay."""
    await push(driver, manifests, ONE, tags=(T1, T2))
    await push(driver, manifests, ONE, T1, name=ANOTHER)
    await push(driver, manifests, OTHER, T3)
    worker, tags = StoredManifests(driver), StoredTags(driver)
    await worker.get(NAME, T1)
    await manifests.delete(NAME, ONE.digest)
    for reference in (T1, T2, ONE.digest):
        await unknown(worker, reference)
    for limit in (None, 1, 10):
        assert (await tags.list(NAME, limit=limit)).names == (T3,)
    assert (await worker.get(ANOTHER, T1)).data == ONE.data
    with pytest.raises(ManifestUnknown):
        await manifests.delete(NAME, ONE.digest)
    with pytest.raises(ManifestUnknown):
        await manifests.delete(NAME, T1)


async def test_pushing_a_deleted_manifest_again_leaves_its_old_tags_dead(
    driver: Driver, manifests: StoredManifests
) -> None:
    """A client deleted `v1` with its manifest; a push of `v2` must not bring it back."""
    many = tuple(Tag(f"t{i:03}") for i in range(20))
    await push(driver, manifests, ONE, tags=many)
    await push(driver, manifests, OTHER, T3)
    await manifests.delete(NAME, ONE.digest)
    await push(driver, manifests, ONE, T2)
    assert (await manifests.get(NAME, T2)).digest == (await manifests.get(NAME, ONE.digest)).digest
    for tag in many:
        await unknown(manifests, tag)
    for limit in (None, 1000):
        assert (await StoredTags(driver).list(NAME, limit=limit)).names == (T2, T3)
    await push(driver, manifests, OTHER, many[0])
    await push(driver, manifests, ONE, many[1])
    assert (await manifests.get(NAME, many[0])).digest == OTHER.digest
    assert (await manifests.get(NAME, many[1])).digest == ONE.digest
    assert (await StoredTags(driver).list(NAME)).names == (*many[:2], T2, T3)
    await manifests.delete(NAME, ONE.digest)
    assert (await StoredTags(driver).list(NAME)).names == (many[0], T3)


async def test_deletion_is_off_unless_switched_on(driver: Driver) -> None:
    """`storage.delete.enabled`, as in the reference."""
    manifests = StoredManifests(driver)
    await push(driver, manifests, ONE, T1)
    for reference in (T1, ONE.digest):
        with pytest.raises(Unsupported):
            await manifests.delete(NAME, reference)
    assert (await manifests.get(NAME, T1)).digest == ONE.digest


async def test_deleting_a_digest_does_not_read_the_tags(driver: Driver, manifests: StoredManifests) -> None:
    """The price of a deletion must not be the number of tags."""
    await push(driver, manifests, ONE, tags=(T1, T2))
    await manifests.delete(NAME, ONE.digest)
    assert await link(driver, layout.tag_link(NAME, T1)) == str(ONE.digest)
    with pytest.raises(KeyMissing):
        await driver.read(layout.revision_link(NAME, ONE.digest))
