"""The specification's workflows, from the first request to the last, against a live server of two workers.

The official suites are Go programs; docs/testing.md has the commands.  These are the same steps in our own
words, so that every run of the tests takes them.  Source: distribution-spec 1.1, its conformance tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.wire import OCI_INDEX, Wire

from moorage.testing.builders import Built, artifact, blob, image, index
from moorage.types import Digest

if TYPE_CHECKING:
    from tests.live import Live

ABSENT = Digest.of(b"nobody ever pushed this")


@pytest.fixture
def registry(live_moorage: Live) -> Wire:
    return Wire(live_moorage.host)


def push(registry: Wire, name: str, manifest: Built, *tags: str) -> None:
    for part in manifest.closure:
        if part.is_manifest:
            answer = registry.put_manifest(name, part.digest, part.data, part.media_type)
            assert answer.status == 201, answer
        else:
            registry.push_blob(name, part.data, part.digest)
    for tag in tags:
        assert registry.put_manifest(name, tag, manifest.data, manifest.media_type).status == 201


def test_this_is_a_registry(registry: Wire) -> None:
    """end-1, "Determining Support"."""
    answer = registry.send("GET", "/v2/")
    assert answer.status == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_pull(registry: Wire, algorithm: str) -> None:
    """end-2, end-3, "Pull": by tag and digest, HEAD and GET, and 404 for what is not there."""
    name = f"conformance/pull-{algorithm}"
    layer = blob(size=5000, algorithm=algorithm)
    sent = image(layer, algorithm=algorithm)
    push(registry, name, sent)
    # By digest and with a parameter, since a PUT by tag means sha256.
    assert registry.put_manifest(name, f"{sent.digest}?tag=test-1", sent.data, sent.media_type).status == 201
    for reference in ("test-1", sent.digest):
        for method in ("HEAD", "GET"):
            answer = registry.manifest(name, reference, method)
            assert answer.status == 200
            assert answer.headers["docker-content-digest"] == str(sent.digest)
            assert answer.headers["content-length"] == str(len(sent.data))
            assert answer.body == (sent.data if method == "GET" else b"")
    for method in ("HEAD", "GET"):
        answer = registry.blob(name, layer.digest, method)
        assert (answer.status, answer.headers["content-length"]) == (200, "5000")
        assert answer.body == (layer.data if method == "GET" else b"")
        assert registry.blob(name, ABSENT, method).status == 404
        assert registry.manifest(name, ABSENT, method).status == 404
        assert registry.manifest(name, "no-such-tag", method).status == 404


def test_push_of_a_blob_by_post_and_put(registry: Wire) -> None:
    """end-4a, end-6, "POST then PUT"."""
    data = blob(size=10_000).data
    begun = registry.start_upload("conformance/push")
    assert begun.status == 202
    assert begun.headers["location"]
    done = registry.finish(begun.headers["location"], Digest.of(data), data)
    assert done.status == 201
    got = registry.send("GET", done.headers["location"])
    assert (got.status, got.body) == (200, data)


def test_push_of_a_blob_in_a_single_post(registry: Wire) -> None:
    """end-4b, "Single POST": 201, or 202 and an upload to continue; here it is 201."""
    data = blob(size=10_001).data
    answer = registry.send("POST", f"/v2/conformance/push/blobs/uploads/?digest={Digest.of(data)}", data)
    assert answer.status == 201
    assert registry.send("GET", answer.headers["location"]).body == data


def test_push_of_a_blob_in_chunks(registry: Wire) -> None:
    """end-5, end-13, end-6, "Pushing a blob in chunks": out of order is 416, and the status has the offset."""
    data = blob(size=3000, seed=2).data
    begun = registry.start_upload("conformance/push")
    location = begun.headers["location"]
    assert registry.patch(location, data[1000:2000], 1000).status == 416
    first = registry.patch(location, data[:1000], 0)
    assert (first.status, first.headers["range"]) == (202, "0-999")
    location = first.headers["location"]
    assert registry.patch(location, data[:1000], 0).status == 416
    status = registry.send("GET", location)
    assert (status.status, status.headers["range"]) == (204, "0-999")
    second = registry.patch(status.headers["location"], data[1000:2000], 1000)
    assert (second.status, second.headers["range"]) == (202, "0-1999")
    done = registry.finish(second.headers["location"], Digest.of(data), data[2000:], 2000)
    assert done.status == 201
    assert registry.send("GET", done.headers["location"]).body == data


def test_push_of_a_blob_that_is_cancelled(registry: Wire) -> None:
    """end-14, "Cancel a blob upload"."""
    location = registry.start_upload("conformance/push").headers["location"]
    assert registry.send("DELETE", location).status == 204
    assert registry.send("GET", location).status == 404


def test_push_of_a_blob_under_a_wrong_digest(registry: Wire) -> None:
    """end-6: the registry verifies the digest."""
    location = registry.start_upload("conformance/push").headers["location"]
    assert registry.finish(location, ABSENT, b"other bytes").status == 400
    assert registry.blob("conformance/push", ABSENT).status == 404


def test_mounting_a_blob_of_another_repository(registry: Wire) -> None:
    """end-11: 201 from where it is, also without a source; 202 and an upload from where it is not."""
    data = blob(size=77).data
    digest = registry.push_blob("conformance/source", data)
    for query in ({"mount": str(digest), "from": "conformance/source"}, {"mount": str(digest)}):
        answer = registry.start_upload("conformance/target", **query)
        assert answer.status == 201
        assert registry.send("GET", answer.headers["location"]).body == data
    missed = registry.start_upload("conformance/target", mount=str(ABSENT), **{"from": "conformance/source"})
    assert missed.status == 202
    assert registry.finish(missed.headers["location"], Digest.of(b"instead"), b"instead").status == 201


def test_push_of_manifests(registry: Wire) -> None:
    """end-7: images without layers, indexes of indexes, artifacts, subjects that do not exist."""
    name = "conformance/manifests"
    plain = image(seed=1)
    subject = image(seed=2)
    for sent in (
        plain,
        image(extra={"layers": []}),
        index(plain),
        index(index(plain), plain),
        index(),
        artifact("application/vnd.example"),
        artifact("application/vnd.example", subject=subject),
        index(plain, subject=subject),
    ):
        push(registry, name, sent, "newest")
        assert registry.manifest(name, "newest").body == sent.data


def test_tags_are_listed_in_pages(registry: Wire) -> None:
    """end-8: sorted, `n` and `last`."""
    name = "conformance/tags"
    push(registry, name, image(), *(f"test-{number}" for number in range(4)))
    listed = [f"test-{number}" for number in range(4)]
    assert registry.tags(name) == listed
    page = registry.send("GET", f"/v2/{name}/tags/list?n=2")
    assert page.json()["tags"] == listed[:2]
    assert 'rel="next"' in page.headers["link"]
    rest = registry.send("GET", f"/v2/{name}/tags/list?n=2&last={listed[1]}")
    assert rest.json()["tags"] == listed[2:]


def test_referrers_are_listed_and_filtered(registry: Wire) -> None:
    """end-12, "Listing Referrers": of subjects that exist and that do not, with `artifactType`."""
    name = "conformance/referrers"
    subject = image(seed=3)
    referrers = [artifact(f"application/vnd.{kind}", subject=subject) for kind in ("one", "two")]
    for sent in referrers:
        push(registry, name, sent)
        confirmed = registry.put_manifest(name, sent.digest, sent.data, sent.media_type)
        assert confirmed.headers["oci-subject"] == str(subject.digest)
    everything = registry.send("GET", f"/v2/{name}/referrers/{subject.digest}")
    assert everything.headers["content-type"] == OCI_INDEX
    assert {entry["digest"] for entry in everything.json()["manifests"]} == {str(r.digest) for r in referrers}
    filtered = registry.send("GET", f"/v2/{name}/referrers/{subject.digest}?artifactType=application/vnd.two")
    assert filtered.headers["oci-filters-applied"] == "artifactType"
    assert [entry["digest"] for entry in filtered.json()["manifests"]] == [str(referrers[1].digest)]
    nobody = registry.send("GET", f"/v2/{name}/referrers/{ABSENT}")
    assert (nobody.status, nobody.json()["manifests"]) == (200, [])


def test_content_is_deleted(registry: Wire) -> None:
    """end-9, end-10, "Content Management": tag, then manifest, then blobs; each is gone at once."""
    name = "conformance/delete"
    sent = image(seed=4)
    push(registry, name, sent, "v1", "v2")
    assert registry.delete_manifest(name, "v1").status == 202
    assert registry.manifest(name, "v1").status == 404
    assert registry.manifest(name, sent.digest).status == 200
    assert registry.delete_manifest(name, sent.digest).status == 202
    assert registry.manifest(name, sent.digest).status == 404
    assert registry.manifest(name, "v2").status == 404
    assert registry.tags(name) == []
    for part in sent.parts:
        assert registry.send("DELETE", f"/v2/{name}/blobs/{part.digest}").status == 202
        assert registry.blob(name, part.digest).status == 404
