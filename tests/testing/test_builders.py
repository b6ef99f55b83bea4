"""The builders make what the image specification describes, the same each time."""

from __future__ import annotations

import hashlib

from moorage.testing.builders import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    artifact,
    blob,
    image,
    index,
)


def test_the_same_call_builds_the_same_bytes() -> None:
    """A test that fails can be run again on the very digests of its report."""
    assert blob(size=100, seed=3) == blob(size=100, seed=3)
    assert blob(size=100, seed=3) != blob(size=100, seed=4)
    assert index(image(seed=1)) == index(image(seed=1))
    assert len(blob(size=100).data) == 100
    assert blob("text").data == b"text"


def test_a_digest_is_that_of_the_bytes() -> None:
    """Also for sha512, and for everything that an image names."""
    for built in (
        *image(blob("one"), blob("two")).closure,
        blob("x", algorithm="sha512"),
        image(algorithm="sha512"),
    ):
        assert built.digest.hex == hashlib.new(built.digest.algorithm, built.data).hexdigest()
        assert built.entry == {"mediaType": built.media_type, "digest": str(built.digest), "size": len(built.data)}


def test_an_image_names_its_config_and_layers() -> None:
    """What a registry checks on push is all there."""
    one, two = blob("one"), blob("two")
    built = image(one, two, annotations={"a": "b"})
    assert built.document == {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": built.parts[2].entry,
        "layers": [one.entry, two.entry],
        "annotations": {"a": "b"},
    }
    assert built.parts[2].document["rootfs"]["diff_ids"] == [str(one.digest), str(two.digest)]
    assert built.blobs == built.parts
    assert image(docker=True).media_type == DOCKER_MANIFEST


def test_a_closure_can_be_pushed_in_order() -> None:
    """Each part comes before the one that names it, once."""
    shared = blob("shared")
    both = index(image(shared, platform="linux/amd64"), image(shared, blob("x"), platform="linux/arm64"))
    outer = index(both, docker=True)
    assert (both.media_type, outer.media_type) == (OCI_INDEX, DOCKER_LIST)
    assert [entry["platform"]["architecture"] for entry in both.document["manifests"]] == ["amd64", "arm64"]
    order = list(outer.closure)
    assert len(order) == len(set(order)) == 8
    for number, part in enumerate(order):
        assert all(below in order[:number] for below in part.parts)
    assert outer.manifests == (both,)


def test_an_artifact_refers_to_its_subject() -> None:
    """The referrers API sees its type and annotations; the subject need not exist."""
    subject = image()
    built = artifact("application/vnd.example", subject=subject, annotations={"k": "v"})
    assert built.document["subject"] == subject.entry
    assert built.document["artifactType"] == "application/vnd.example"
    assert built.document["config"] == EMPTY.entry
    assert built.parts == (EMPTY,)
    assert subject not in built.closure


def test_any_member_can_be_broken() -> None:
    """Tests of refusals start from a good manifest and spoil one thing."""
    assert "schemaVersion" not in image(extra={"schemaVersion": None}).document
    assert image(extra={"layers": "none"}).document["layers"] == "none"
    assert image(extra={"mediaType": None}).media_type == OCI_MANIFEST
