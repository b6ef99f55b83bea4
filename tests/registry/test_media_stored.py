"""Stored manifests are served under the type that CNCF Distribution served them under, with any other content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from tests.interop.odd_manifests import documents, written
from tests.registry.images import NAME, T1

from moorage.errors import ManifestInvalid
from moorage.registry import layout, media
from moorage.registry.manifests import StoredManifests
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import EMPTY, artifact, encode, image, index
from moorage.types import Digest

MANIFEST, INDEX = media.OCI_MANIFEST, media.OCI_INDEX
DOCKER, LISTED = media.DOCKER_MANIFEST, media.DOCKER_LIST
DESCRIPTOR = json.dumps(EMPTY.entry).encode()
IMAGE = [("schemaVersion", b"2"), ("config", DESCRIPTOR), ("layers", b"[" + DESCRIPTOR + b"]")]
LIST = [("schemaVersion", b"2"), ("manifests", b"[]")]


def typed(media_type: str) -> tuple[str, bytes]:
    return "mediaType", json.dumps(media_type).encode()


SERVED: dict[str, tuple[str, bytes]] = {
    "image without a type": (MANIFEST, written(IMAGE)),
    "index without a type": (INDEX, written(LIST)),
    "empty type": (INDEX, written([*LIST, typed("")])),
    "null as type": (MANIFEST, written([*IMAGE, ("mediaType", b"null")])),
    "type, then null": (DOCKER, written([*IMAGE, typed(DOCKER), ("mediaType", b"null")])),
    "null as manifests": (MANIFEST, written([*IMAGE, ("manifests", b"null")])),
    "manifests, then null": (MANIFEST, written([*IMAGE, ("manifests", b"[]"), ("Manifests", b"null")])),
    "type in capitals": (DOCKER, written([*IMAGE, ("MEDIATYPE", typed(DOCKER)[1])])),
    "two types": (DOCKER, written([typed(MANIFEST), *IMAGE, ("mediatype", typed(DOCKER)[1])])),
    "three types": (MANIFEST, written([typed(MANIFEST), ("MediaType", b'"x/y"'), typed(MANIFEST), *IMAGE])),
    "long s": (LISTED, written([("\u017fchemaVersion", b"2"), typed(LISTED), ("manife\u017ft\u017f", b"[]")])),
    "other case everywhere": (INDEX, written([("SCHEMAVERSION", b"2"), ("Manifests", b"[]")])),
    "Latin-1": (MANIFEST, written([*IMAGE, ("annotations", b'{"a":"\xe9"}')])),
    "Latin-1 in a key": (MANIFEST, written(IMAGE)[:-1] + b',"\xe9":1}'),
    "half a surrogate pair": (MANIFEST, written([*IMAGE, ("annotations", b'{"a":"\\ud800"}')])),
    "null annotation": (MANIFEST, written([*IMAGE, ("annotations", b'{"a":null}')])),
    "annotations of a Docker image": (DOCKER, written([*IMAGE, typed(DOCKER), ("annotations", b"7")])),
    "long number": (MANIFEST, written([*IMAGE, ("x", b"9" * 5_000)])),
    "deep nesting": (MANIFEST, written([*IMAGE, ("x", b"[" * 9_000 + b"]" * 9_000)])),
    "Docker's schema 1 beside": (MANIFEST, written([*IMAGE, typed(MANIFEST), ("fsLayers", b"[]")])),
    "members twice": (INDEX, written([*LIST, *LIST])),
    "an odd subject": (MANIFEST, written([*IMAGE, ("subject", b'"x"'), ("artifactType", b"1")])),
}  # fmt: skip
"""Documents that docker-registry 2.8.2 and Distribution 3.1.1 take from a client, and the type that both serve."""


@pytest.mark.parametrize("name", SERVED)
async def test_what_the_reference_served_is_served_alike(name: str) -> None:
    """By tag and by digest, with its bytes; `tests/interop/test_odd_manifests.py` asks the reference itself."""
    media_type, data = SERVED[name]
    driver, digest = MemoryDriver(), Digest.of(data)
    for key, content in (
        (layout.blob_data(digest), data),
        (layout.revision_link(NAME, digest), str(digest).encode()),
        (layout.tag_link(NAME, T1), str(digest).encode()),
    ):
        await driver.write(key, content)
    manifests = StoredManifests(driver, delete_enabled=True)
    for reference in (T1, digest):
        found = await manifests.get(NAME, reference)
        assert (found.data, found.media_type) == (data, media_type)
    assert media.parse(data).media_type == media_type
    await manifests.delete(NAME, digest)


@settings(derandomize=True, deadline=None)
@given(data=documents())
def test_what_a_push_takes_is_read_back_as_it_was_checked(data: bytes) -> None:
    """Two readers of one document: what the strict one has found, the lenient one finds as well."""
    for media_type in sorted(media.MEDIA_TYPES):
        try:
            pushed = media.parse(data, media_type)
        except ManifestInvalid:
            continue
        assert media.parse(data) == pushed
        assert media.stored_type(data) == media_type
        assert media.stored_subject(data) == pushed.subject


@pytest.mark.parametrize(
    "document",
    [
        {"config": EMPTY.entry, "layers": []},
        {"schemaVersion": 3, "mediaType": MANIFEST},
        {"schemaVersion": 2, "mediaType": "text/html"},
        {"schemaVersion": 1, "mediaType": MANIFEST},
        {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"},
    ],
    ids=lambda document: json.dumps(document)[:60],
)
def test_what_the_reference_did_not_serve_is_not_served(document: dict[str, Any]) -> None:
    """The type of such bytes would be guessed."""
    for read in (media.stored_type, media.parse, media.stored_subject):
        with pytest.raises(ManifestInvalid):
            read(encode(document))


def test_what_is_named_is_found_under_any_spelling() -> None:
    """Checks, copies and deletions follow the names that clients in Go follow."""
    other, subject = image(seed=8), image(seed=9)
    respelt = json.dumps(image(subject=subject, annotations={"a": "b"}).document)
    for name in ("config", "layers", "subject", "digest", "size", "annotations"):
        respelt = respelt.replace(f'"{name}"', json.dumps(name.upper()))
    assert media.parse(respelt.encode()) == media.parse(image(subject=subject, annotations={"a": "b"}).data)
    assert media.stored_subject(respelt.encode()) == subject.digest
    listed = (
        json.dumps(index(image(), other).document)
        .replace("manifests", "Manifests")
        .replace("platform", "PLATFORM")
    )
    assert media.parse(listed.encode()) == media.parse(index(image(), other).data)


def test_the_last_of_two_members_counts() -> None:
    """The layers that clients pull are those that are copied and checked."""
    first, last = image(seed=1), image(seed=2)
    data = first.data[:-1] + b',"Layers":' + json.dumps(last.document["layers"]).encode() + b"}"
    assert media.parse(data).blobs[1:] == media.parse(last.data).blobs[1:]


def test_a_referrer_with_a_null_annotation_says_what_it_is() -> None:
    """It was listed by the fallback index, and must be listed by the referrers API."""
    subject = image(seed=9)
    data = encode({**artifact("sig/x", subject=subject).document, "annotations": {"a": None, "b": "c"}})
    found = media.parse(data)
    assert (found.subject, found.artifact_type) == (subject.digest, "sig/x")
    assert found.annotations == {"a": "", "b": "c"}


def test_a_descriptor_of_another_digest_algorithm_is_left_out_and_reported() -> None:
    """The reference took sha384; what this registry cannot have it neither looks up nor counts as missing."""
    strange = {**EMPTY.entry, "digest": f"sha384:{'a' * 96}"}
    found = media.parse(encode({**image().document, "layers": [strange, EMPTY.entry], "subject": strange}))
    assert [layer.digest for layer in found.blobs[1:]] == [EMPTY.digest]
    assert found.subject is None
    assert found.unsupported == (f"'sha384:{'a' * 96}'",) * 2
    children = media.parse(encode({**index().document, "manifests": [strange] * 10}))
    assert (children.children, len(children.unsupported)) == ((), 3)


@pytest.mark.parametrize("content_type", [media.OCI_MANIFEST, None])
def test_what_a_manifest_says_can_be_written_as_utf_8(content_type: str | None) -> None:
    """Half of a surrogate pair is JSON; an answer with it could not be sent."""
    data = image().data[:-1] + b',"artifactType":"a/\\ud800","annotations":{"\\udfff":"x\\ud800y","\\u00e9":"z"}}'
    found = media.parse(data, content_type)
    assert found.artifact_type == "a/\ufffd"
    assert found.annotations == {"\ufffd": "x\ufffdy", "\u00e9": "z"}


def test_sizes_that_are_none_are_unknown() -> None:
    """A claim that cannot be true is not held against the blob."""
    for size in (-1, "2", 1.5, None, 1 << 63, True):
        found = media.parse(encode({**image().document, "layers": [{**EMPTY.entry, "size": size}]}))
        assert found.blobs[1].size is None


AMBIGUOUS = SERVED.keys() - {
    "image without a type",
    "index without a type",
    "empty type",
    "null as type",
    "null as manifests",
    "half a surrogate pair",
    "long number",
}


@pytest.mark.parametrize("name", SERVED)
def test_such_bytes_are_pushed_only_if_they_have_one_meaning(name: str) -> None:
    """Old images stay, new ones are the same image to every client."""
    media_type, data = SERVED[name]
    if name not in AMBIGUOUS:
        assert media.parse(data, media_type).media_type == media_type
        return
    with pytest.raises(ManifestInvalid) as caught:
        media.parse(data, media_type)
    assert "digits" not in caught.value.subject
