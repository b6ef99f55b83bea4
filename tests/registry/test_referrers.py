"""Who refers to a manifest: by our links and by the fallback tags of old clients, and never who does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.registry.images import NAME, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import Unavailable
from moorage.registry import layout
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrers import StoredReferrers, fallback_tag, rebuild
from moorage.storage.driver import Key, StorageUnavailable
from moorage.testing.builders import OCI_CONFIG, artifact, image, index
from moorage.types import Digest, Referrer, RepoName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver
    from moorage.testing.builders import Built

SUBJECT, OTHER = image(seed=1), image(seed=2)
SIGNATURE = artifact("application/vnd.example.sig", subject=SUBJECT, annotations={"by": "me"})
SBOM = artifact("application/vnd.example.sbom", subject=SUBJECT)
PLAIN = image(seed=9, subject=SUBJECT)
INDEX = index(subject=SUBJECT)


@pytest.fixture
def manifests(driver: Driver) -> StoredManifests:
    return StoredManifests(driver, delete_enabled=True)


async def listed(
    driver: Driver, subject: Built = SUBJECT, *types: str, name: RepoName = NAME
) -> Sequence[Referrer]:
    """What a worker with empty caches answers."""
    page = await StoredReferrers(driver, StoredManifests(driver)).list(name, subject.digest, artifact_types=types)
    assert page.next is None
    assert [str(item.digest) for item in page.entries] == sorted(str(item.digest) for item in page.entries)
    return list(page.entries)


def shown(entry: Referrer) -> dict[str, Any]:
    """The descriptor as a client reads it."""
    found: dict[str, Any] = json.loads(entry.descriptor)
    assert (found["digest"], found.get("artifactType")) == (str(entry.digest), entry.artifact_type)
    return found


def digests(found: Sequence[Referrer]) -> set[Digest]:
    return {item.digest for item in found}


async def pages(referrers: StoredReferrers, *types: str) -> Sequence[Sequence[Referrer]]:
    """Every page that a client gets who follows `next`."""
    found: list[Sequence[Referrer]] = []
    after = ""
    while True:
        page = await referrers.list(NAME, SUBJECT.digest, artifact_types=types, after=after)
        found.append(page.entries)
        if page.next is None:
            return found
        assert page.next > after
        after = page.next


async def test_every_manifest_with_the_subject_is_listed(driver: Driver, manifests: StoredManifests) -> None:
    """Images and indexes, tagged or not, before the subject exists, with all that a client decides by."""
    for built in (SIGNATURE, SBOM, PLAIN, INDEX, artifact("x/y", subject=OTHER), artifact("x/y")):
        await push(driver, manifests, built)
    found = {item.digest: item for item in await listed(driver)}
    assert found.keys() == {SIGNATURE.digest, SBOM.digest, PLAIN.digest, INDEX.digest}
    signature = shown(found[SIGNATURE.digest])
    assert signature["mediaType"] == SIGNATURE.media_type
    assert (signature["size"], signature["annotations"]) == (SIGNATURE.size, {"by": "me"})
    assert {item.artifact_type for item in found.values()} == {
        "application/vnd.example.sig",
        "application/vnd.example.sbom",
        OCI_CONFIG,
        None,
    }
    assert "annotations" not in shown(found[SBOM.digest])


async def test_the_filter_takes_any_of_the_types_and_nothing_else(
    driver: Driver, manifests: StoredManifests
) -> None:
    """The answer reports that the filter was applied, so a client does not filter again."""
    for built in (SIGNATURE, SBOM, PLAIN, INDEX):
        await push(driver, manifests, built)
    assert digests(await listed(driver, SUBJECT, "application/vnd.example.sig")) == {SIGNATURE.digest}
    both = await listed(driver, SUBJECT, "application/vnd.example.sbom", OCI_CONFIG)
    assert digests(both) == {SBOM.digest, PLAIN.digest}
    assert await listed(driver, SUBJECT, "application/vnd.example") == []


async def test_sha512_subjects_and_referrers(driver: Driver, manifests: StoredManifests) -> None:
    """Both are first-class, each under its own algorithm."""
    subject = image(seed=4, algorithm="sha512")
    one = artifact("x/y", subject=subject)
    two = artifact("x/z", subject=subject, algorithm="sha512")
    for built in (one, two):
        await push(driver, manifests, built)
    assert digests(await listed(driver, subject)) == {one.digest, two.digest}


async def test_deletion_shows_at_once_in_every_worker(driver: Driver, manifests: StoredManifests) -> None:
    """Also in one that remembers the descriptor; deleting the subject takes no referrer away."""
    for built in (SUBJECT, SIGNATURE, SBOM):
        await push(driver, manifests, built)
    worker = StoredReferrers(driver, StoredManifests(driver))
    assert len((await worker.list(NAME, SUBJECT.digest)).entries) == 2
    await manifests.delete(NAME, SIGNATURE.digest)
    assert digests((await worker.list(NAME, SUBJECT.digest)).entries) == {SBOM.digest}
    await manifests.delete(NAME, SUBJECT.digest)
    assert digests(await listed(driver)) == {SBOM.digest}
    await push(driver, manifests, SIGNATURE)
    assert digests((await worker.list(NAME, SUBJECT.digest)).entries) == {SBOM.digest, SIGNATURE.digest}


async def test_fallback_tags_are_united_with_the_links(driver: Driver, manifests: StoredManifests) -> None:
    """What was signed on an old registry stays signed; entries gone or of another subject do not count."""
    gone, foreign, plain = (
        artifact("g/one", subject=SUBJECT),
        artifact("f/x", subject=OTHER),
        artifact("no/subject"),
    )
    kept = index(SIGNATURE, SBOM, gone, foreign, plain)
    await push(driver, manifests, kept, fallback_tag(SUBJECT.digest))
    await driver.delete([layout.referrer_link(NAME, SUBJECT.digest, SIGNATURE.digest)])
    await manifests.delete(NAME, gone.digest)
    assert digests(await listed(driver)) == {SIGNATURE.digest, SBOM.digest}


async def test_the_fallback_tag_is_the_clients(driver: Driver) -> None:
    """distribution-spec 1.1, Referrers Tag Schema: the encoded part is cut to 64 characters."""
    assert fallback_tag(SUBJECT.digest) == f"sha256-{SUBJECT.digest.hex}"
    assert fallback_tag(Digest("sha512", "ab" * 64)) == f"sha512-{'ab' * 32}"


async def test_a_fallback_tag_that_is_no_index_is_left_alone(driver: Driver, manifests: StoredManifests) -> None:
    """It is an ordinary tag: any client may have put any content there, or a crash torn it."""
    await push(driver, manifests, SIGNATURE)
    await push(driver, manifests, OTHER, fallback_tag(SUBJECT.digest))
    assert digests(await listed(driver)) == {SIGNATURE.digest}
    await driver.write(layout.blob_data(OTHER.digest), b"{")
    assert digests(await listed(driver)) == {SIGNATURE.digest}


async def test_damage_hides_one_referrer_and_not_all(driver: Driver, manifests: StoredManifests) -> None:
    """Without a descriptor in its link: a torn manifest, one without bytes; and leavings among the links."""
    torn, lost = artifact("t/one", subject=SUBJECT), artifact("l/one", subject=SUBJECT)
    for built in (SIGNATURE, torn, lost):
        await push(driver, manifests, built)
    for built, data in ((torn, b"{"), (lost, b"")):
        await driver.write(layout.referrer_link(NAME, SUBJECT.digest, built.digest), str(built.digest).encode())
        await driver.write(layout.blob_data(built.digest), data)
    await driver.delete([layout.blob_data(lost.digest)])
    links = layout.referrers_of(NAME, SUBJECT.digest)
    for junk in ("md5/abc/link", "sha256/xyz/link", "readme"):
        await driver.write(Key(f"{links}/{junk}"), b"x")
    assert digests(await listed(driver)) == {SIGNATURE.digest}


@pytest.mark.parametrize("page_bytes", [400, 4000])
async def test_pages_stay_under_the_clients_limit_and_lose_nothing(
    driver: Driver, manifests: StoredManifests, monkeypatch: pytest.MonkeyPatch, page_bytes: int
) -> None:
    """Oras reads at most 4 MiB; several clients read the first page only, so it holds as much as it can."""
    monkeypatch.setattr("moorage.registry.referrers.PAGE_LIMIT_BYTES", page_bytes)
    pushed = [artifact(f"type/{i}", subject=SUBJECT, annotations={"é" * 50: str(i)}) for i in range(20)]
    for built in pushed:
        await push(driver, manifests, built)
    found = list[Referrer]()
    for page in await pages(StoredReferrers(driver, manifests)):
        sent = b",".join(entry.descriptor for entry in page)
        assert len(sent) <= page_bytes
        found += page
    assert [item.digest for item in found] == sorted(built.digest for built in pushed)


ODD = artifact("application/vnd.example.sig", subject=SUBJECT, annotations={"by": "me"})


@pytest.mark.parametrize(
    ("written", "instead", "annotations"),
    [
        (b'"by":"me"', b'"by":null', {"by": ""}),
        (b'"by":"me"', b'"by":"m\xe9"', {"by": "m\ufffd"}),
        (b'"by":"me"', b'"by":"\\ud83d"', {"by": "\ufffd"}),
        (b'"by":"me"', b'"by":"you","by":"me"', {"by": "me"}),
        (b'"by":"me"', b'"by":["me"],"to":"you"', {"to": "you"}),
        (b'"subject":', b'"SubJect":', {"by": "me"}),
        (b'"subject":', b'"\xc5\xbfubject":', {"by": "me"}),
        (b'"artifactType":', b'"ARTIFACTTYPE":', {"by": "me"}),
        (b'"annotations":', b'"Annotations":', {"by": "me"}),
        (b'"schemaVersion":2', b'"schemaVersion":2,"x":' + b"9" * 5000, {"by": "me"}),
    ],
    ids=[
        "null", "latin-1", "surrogate", "twice", "list",
        "subject", "folded", "artifactType", "annotations", "integer",
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", ["link", "fallback", "rebuilt"])
async def test_referrers_that_the_old_registry_took_are_listed(
    driver: Driver, manifests: StoredManifests, written: bytes, instead: bytes, annotations: object, source: str
) -> None:
    """Though no push of them would be taken here; clients in Go read them so."""
    assert ODD.data.count(written) == 1
    data = ODD.data.replace(written, instead)
    digest = Digest.of(data)
    await driver.write(layout.blob_data(digest), data)
    await driver.write(layout.revision_link(NAME, digest), str(digest).encode())
    if source == "link":
        await driver.write(layout.referrer_link(NAME, SUBJECT.digest, digest), str(digest).encode())
    elif source == "fallback":
        entry = {"mediaType": ODD.media_type, "digest": str(digest), "size": len(data)}
        await push(driver, manifests, index(extra={"manifests": [entry]}), fallback_tag(SUBJECT.digest))
    else:
        assert list((await rebuilt(driver, manifests)).values()) == [1]
    (found,) = await listed(driver)
    assert shown(found) == {
        "mediaType": ODD.media_type, "digest": str(digest), "size": len(data),
        "artifactType": "application/vnd.example.sig", "annotations": annotations,
    }  # fmt: skip


async def test_a_failing_store_is_no_empty_list(driver: Driver, manifests: StoredManifests) -> None:
    """A verifier that sees no signature where there is one stops the right image."""

    class Failing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            raise StorageUnavailable(call)

    await push(driver, manifests, SIGNATURE)
    failing = Failing(driver)
    with pytest.raises(Unavailable):
        await StoredReferrers(failing, StoredManifests(failing)).list(NAME, SUBJECT.digest)


async def rebuilt(driver: Driver, manifests: StoredManifests) -> dict[RepoName, int]:
    """The links written to each repository, each reported once."""
    found: list[tuple[RepoName, int]] = []
    await rebuild(driver, manifests, lambda name, links: found.append((name, links)))
    assert len(dict(found)) == len(found)
    return dict(found)


async def test_rebuilding_finds_what_an_older_registry_stored(driver: Driver, manifests: StoredManifests) -> None:
    """`moorage storage rebuild-referrers`: reports its progress, skips damage, does nothing twice."""
    second = RepoName("library/alpine/nested")
    torn = artifact("t/orn", subject=SUBJECT)
    for built in (SUBJECT, SIGNATURE, torn, INDEX):
        await push(driver, manifests, built)
        await push(driver, manifests, built, name=second)
    for name in (NAME, second):
        await driver.clear(layout.referrers_of(name, SUBJECT.digest))
    await driver.write(layout.blob_data(torn.digest), b"{")
    assert await listed(driver) == []
    fresh = StoredManifests(driver)
    assert await rebuilt(driver, fresh) == {NAME: 2, second: 2}
    for name in (NAME, second):
        assert digests(await listed(driver, name=name)) == {SIGNATURE.digest, INDEX.digest}
    assert await rebuilt(driver, fresh) == {NAME: 0, second: 0}
    link = layout.referrer_link(NAME, SUBJECT.digest, SIGNATURE.digest)
    described = (await driver.read(link)).data
    await driver.write(link, str(SIGNATURE.digest).encode())
    assert await rebuilt(driver, fresh) == {NAME: 1, second: 0}, "a descriptor is added"
    assert (await driver.read(link)).data == described


async def test_rebuilding_leaves_the_deleted_deleted(driver: Driver, manifests: StoredManifests) -> None:
    """The bytes of a deleted manifest are still there until they are collected."""
    await push(driver, manifests, SIGNATURE)
    await manifests.delete(NAME, SIGNATURE.digest)
    assert list((await rebuilt(driver, manifests)).values()) == [0]
    assert await listed(driver) == []
