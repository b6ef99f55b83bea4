"""What a push may be, what stored bytes are served as, and that no bytes at all make the parser crash."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import ManifestInvalid
from moorage.registry import media
from moorage.testing.builders import EMPTY, artifact, blob, encode, image, index
from moorage.types import Digest

SUBJECT = image(seed=7)
DESCRIPTOR = EMPTY.entry
IMAGE: dict[str, Any] = image().document
INDEX: dict[str, Any] = index(image()).document
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def refused(document: object, content_type: str = media.OCI_MANIFEST) -> str:
    """Return the one line with the reason of the refusal."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ManifestInvalid) as caught:
        media.parse(data, content_type)
    assert "\n" not in caught.value.subject
    assert len(caught.value.subject) < 500
    return caught.value.subject


@pytest.mark.parametrize(
    "built",
    [image(), image(docker=True), index(image()), index(image(docker=True), docker=True), artifact("a/b")],
    ids=lambda built: built.media_type,
)
def test_each_of_the_four_types_is_taken(built: Any) -> None:
    """Pushed, and read back without a stored type."""
    assert media.parse(built.data, built.media_type).media_type == built.media_type
    assert media.parse(built.data).media_type == built.media_type
    assert media.stored_type(built.data) == built.media_type


def test_everything_a_manifest_names_is_found() -> None:
    """What is not found is not checked on push, and is later swept as garbage."""
    layer = blob(seed=1)
    parsed = media.parse(image(layer, subject=SUBJECT, annotations={"k": "v"}).data, media.OCI_MANIFEST)
    config = image(layer).blobs[1]
    assert [found.digest for found in parsed.blobs] == [config.digest, layer.digest]
    assert parsed.subject == SUBJECT.digest
    assert parsed.annotations == {"k": "v"}
    both = media.parse(index(image(), image(platform="linux/arm64")).data, media.OCI_INDEX)
    assert [child.platform for child in both.children] == [("linux", "amd64"), ("linux", "arm64")]
    assert [child.digest for child in both.children] == [
        image().digest,
        image(platform="linux/arm64").digest,
    ]


def test_the_artifact_type_is_its_own_else_the_configs() -> None:
    """Referrers are filtered by it; an index has no config to fall back to."""
    assert media.parse(artifact("sig/x").data).artifact_type == "sig/x"
    assert media.parse(image().data).artifact_type == IMAGE["config"]["mediaType"]
    assert media.parse(encode({**IMAGE, "artifactType": ""})).artifact_type == IMAGE["config"]["mediaType"]
    assert media.parse(index().data).artifact_type is None
    assert media.parse(index(artifact_type="x/y").data).artifact_type == "x/y"


def test_parameters_and_case_of_the_content_type_do_not_matter() -> None:
    """Proxies and HTTP libraries add a charset."""
    parsed = media.parse(image().data, "Application/vnd.OCI.image.manifest.v1+json ; charset=utf-8")
    assert parsed.media_type == media.OCI_MANIFEST


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain; x=y", "a" * 5000])
def test_other_content_types_are_refused_by_name(content_type: str) -> None:
    """The message lists the supported types."""
    assert "must be one of" in refused(IMAGE, content_type)


def test_schema_1_is_refused_with_what_to_do() -> None:
    """Users of a Docker of 2016 must get the reason, in each form in which schema 1 is declared."""
    old = {"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": [], "history": [], "signatures": []}
    for document, content_type in (
        (old, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (old, "application/vnd.docker.distribution.manifest.v1+json"),
        (old, media.DOCKER_MANIFEST),
        ({**IMAGE, "schemaVersion": 1}, media.OCI_MANIFEST),
    ):
        assert "schema 1 manifests are not supported" in refused(document, content_type)
    with pytest.raises(ManifestInvalid, match="schema 1"):
        media.stored_type(encode(old))


def test_media_type_and_content_type_must_agree() -> None:
    """Else the type would depend on which of the two a reader trusts."""
    assert "but it was pushed as" in refused(IMAGE, media.DOCKER_MANIFEST)
    without = {key: value for key, value in IMAGE.items() if key != "mediaType"}
    assert "needs a mediaType" in refused(without, media.DOCKER_MANIFEST)
    assert media.parse(encode(without), media.OCI_MANIFEST).media_type == media.OCI_MANIFEST


@pytest.mark.parametrize("content_type", sorted(media.MEDIA_TYPES))
@settings(derandomize=True, deadline=None)
@given(
    keys=st.sets(st.sampled_from(["config", "layers", "manifests", "mediaType", "subject", "fsLayers"])),
    empty=st.booleans(),
)
def test_what_is_taken_is_read_back_as_the_same_type(content_type: str, keys: set[str], empty: bool) -> None:
    """Only the bytes are stored: another worker must serve the type that this one acknowledged."""
    values = {
        "config": DESCRIPTOR,
        "layers": [] if empty else [DESCRIPTOR],
        "manifests": [] if empty else [DESCRIPTOR],
        "mediaType": content_type,
        "subject": DESCRIPTOR,
        "fsLayers": [],
    }
    data = encode({"schemaVersion": 2, **{key: values[key] for key in sorted(keys)}})
    try:
        pushed = media.parse(data, content_type)
    except ManifestInvalid:
        return
    assert media.parse(data) == pushed
    assert media.stored_type(data) == content_type


@pytest.mark.parametrize("version", [None, 0, 3, "2", False, 2.5, [], 10**400])
def test_schema_version_is_2(version: object) -> None:
    """The reference answers 500 here."""
    assert "schemaVersion must be 2" in refused({**IMAGE, "schemaVersion": version})


def test_the_structure_is_that_of_the_type() -> None:
    """A manifest that is both an image and an index is read differently by different clients."""
    assert "must not have manifests" in refused({**IMAGE, "manifests": []})
    assert "must not have config or layers" in refused({**INDEX, "layers": []}, media.OCI_INDEX)
    assert "must not have config or layers" in refused({**INDEX, "config": DESCRIPTOR}, media.OCI_INDEX)
    assert "must have manifests" in refused(b'{"schemaVersion":2}', media.OCI_INDEX)
    assert "config is missing" in refused({key: value for key, value in IMAGE.items() if key != "config"})
    assert "config is missing" in refused({**IMAGE, "config": None})
    assert "layers is not a list" in refused({**IMAGE, "layers": {}})
    assert "manifests is not a list" in refused({**INDEX, "manifests": "x"}, media.OCI_INDEX)
    assert "annotations" in refused({**IMAGE, "annotations": {"a": 1}})
    assert "platform is not an object" in refused(
        {**INDEX, "manifests": [{**DESCRIPTOR, "platform": "linux"}]}, media.OCI_INDEX
    )


@pytest.mark.parametrize(
    ("member", "value", "output"),
    [
        ("annotations", {"a": 1}, "annotations is not a map of texts"),
        ("annotations", {"a": None}, "annotations is not a map of texts"),
        ("annotations", ["a"], "annotations is not a map of texts"),
        ("annotations", "a", "annotations is not a map of texts"),
        ("data", {"a": "b"}, "data is not a text"), ("data", 7, "data is not a text"),
        ("data", "e30", "data is not base64"), ("data", "==", "data is not base64"),
        ("data", "e30=\u00e9", "data is not base64"), ("data", "\ud800", "data is not base64"),
        ("artifactType", [], "artifactType is not a text"), ("mediaType", 1, "mediaType is not a text"),
        ("digest", 1, "digest is not a text"), ("urls", {}, "urls is not a list of texts"),
        ("urls", [1], "urls is not a list of texts"), ("platform", "linux", "platform is not an object"),
        ("platform", {"os": 1}, "platform.os is not a text"),
        ("platform", {"os.version": []}, "platform.os.version is not a text"),
        ("platform", {"os.features": "x"}, "platform.os.features is not a list of texts"),
        ("platform", {"features": [None]}, "platform.features is not a list of texts"),
    ],
)  # fmt: skip
def test_members_of_descriptors_have_their_types(member: str, value: object, output: str) -> None:
    """Clients in Go refuse the whole manifest otherwise; one that was stored is served as before."""
    bad = {**DESCRIPTOR, member: value}
    for where, document, media_type in (
        ("config", {**IMAGE, "config": bad}, media.OCI_MANIFEST),
        ("layers[0]", {**IMAGE, "layers": [bad]}, media.OCI_MANIFEST),
        ("subject", {**IMAGE, "subject": bad}, media.OCI_MANIFEST),
        ("manifests[0]", {**INDEX, "manifests": [bad]}, media.OCI_INDEX),
    ):
        assert f"{where}.{output}" in refused(document, media_type)
        assert media.stored_type(encode(document)) == media_type


def test_optional_members_of_descriptors_may_be_null_or_of_their_type() -> None:
    empty = dict.fromkeys(("annotations", "data", "artifactType", "urls", "platform"))
    filled = {
        "annotations": {"a": "b"}, "data": "e30=\r\n", "artifactType": "a/b", "urls": [], "os": 1,
        "platform": {"os": "linux", "architecture": "amd64", "variant": None, "os.features": ["x"], "data": 1},
    }  # fmt: skip
    for members in (empty, filled):
        layers = [{**DESCRIPTOR, **members}]
        assert len(media.parse(encode({**IMAGE, "layers": layers}), media.OCI_MANIFEST).blobs) == 2


@pytest.mark.parametrize(
    "names", [('"\\ud800"', '"\\udfff"'), ('"\\ud800"', '"\ufffd"'), ('"a\\udc00"', '"a\\udbff"')]
)
def test_keys_that_are_equal_once_decoded_are_one_key_twice(names: tuple[str, str]) -> None:
    """Go reads half of a surrogate pair as U+FFFD: it would drop an annotation that others see."""
    text = encode(IMAGE)[:-1].decode() + f', "annotations": {{{names[0]}: "a", {names[1]}: "b"}}}}'
    assert "a key occurs twice" in refused(text.encode())
    assert media.parse(text.encode()).annotations in ({"\ufffd": "b"}, {"a\ufffd": "b"})


def test_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry is looked up in the store."""
    monkeypatch.setattr(media, "DESCRIPTORS_LIMIT", 100)
    most = [DESCRIPTOR] * media.DESCRIPTORS_LIMIT
    assert len(media.parse(encode({**IMAGE, "layers": most}), media.OCI_MANIFEST).blobs) == len(most) + 1
    assert len(media.parse(encode({**INDEX, "manifests": most}), media.OCI_INDEX).children) == len(most)
    assert "layers has 101 entries; at most 100 are taken" in refused({**IMAGE, "layers": [*most, DESCRIPTOR]})
    assert "manifests has 101 entries" in refused({**INDEX, "manifests": [*most, DESCRIPTOR]}, media.OCI_INDEX)
    # What was stored is read whole: it cannot be pushed again.
    assert len(media.parse(encode({**INDEX, "manifests": [*most, DESCRIPTOR]})).children) == len(most) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "member",
    [
        b'"annotations":{%b}' % b",".join(b'"%x":"y%060d"' % (i, i) for i in range(49_000)),
        b'"x":{%b}' % b",".join(b'"%x":1' % i for i in range(99_900)),
        b'"x":[%b]' % b",".join(b'{"%x":0}' % i for i in range(49_900)),
        b'"layers":[%b]' % b",".join(b'{"digest":"sha256:%064x","size":%d}' % (i, i) for i in range(10_000)),
        b'"x":"%b"' % (b"\\n" * (2 << 20)),
    ],
    ids=lambda member: member[:12].decode(),
)
def test_memory_is_what_the_documentation_promises(member: bytes) -> None:
    """docs/operations.md, Limits: a node's memory is planned by it."""
    data = b'{"config":%b,"schemaVersion":2,%b}' % (json.dumps(DESCRIPTOR).encode(), member)
    assert len(data) < 5 << 20
    for content_type in (media.OCI_MANIFEST, None):
        tracemalloc.start()
        try:
            parsed = media.parse(data, content_type)
            kept, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert parsed.blobs
        assert most < 48 << 20
        assert kept < 16 << 20


def test_lists_may_be_empty() -> None:
    """The conformance suite pushes both; the reference's `null` is the same."""
    assert media.parse(encode({**IMAGE, "layers": []}), media.OCI_MANIFEST).blobs[1:] == ()
    assert media.parse(encode({**IMAGE, "layers": None}), media.OCI_MANIFEST).blobs[1:] == ()
    assert media.parse(index().data, media.OCI_INDEX).children == ()
    assert media.parse(encode({**INDEX, "manifests": None}), media.OCI_INDEX).children == ()


@pytest.mark.parametrize(
    "bad",
    [
        {"digest": "sha256:abc"},
        {"digest": "md5:d41d8cd98f00b204e9800998ecf8427e"},
        {"digest": ""},
        {"digest": None},
        {"digest": 7},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "a" * 64 + "\n"},
        {"digest": "\ud800"},
        {"size": -1},
        {"size": "12"},
        {"size": 1.5},
        {"size": True},
        {"size": 1 << 63},
        {"mediaType": ["x"]},
        {"urls": "http://x/"},
        {"urls": [1]},
    ],
    ids=str,
)
def test_a_bad_descriptor_is_the_clients_error_wherever_it_stands(bad: dict[str, Any]) -> None:
    """The reference answers 500 with three errors."""
    descriptor = {**DESCRIPTOR, **bad}
    refused({**IMAGE, "config": descriptor})
    refused({**IMAGE, "layers": [DESCRIPTOR, descriptor]})
    if not {"mediaType", "urls"} & bad.keys():
        refused({**IMAGE, "subject": descriptor})
        refused({**INDEX, "manifests": [descriptor]}, media.OCI_INDEX)


@pytest.mark.parametrize("wrong", [None, 1, "x", [], [[]]], ids=str)
def test_a_descriptor_is_an_object(wrong: object) -> None:
    """Each place, each kind of JSON value: 400, not a crash."""
    refused({**IMAGE, "config": wrong})
    refused({**IMAGE, "layers": [wrong]})
    refused({**INDEX, "manifests": [wrong]}, media.OCI_INDEX)
    if wrong is not None:
        refused({**IMAGE, "subject": wrong})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"schemaVersion":2}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schemaVersion":2,"annotations":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
        b'{"schemaVersion":' + b"2" * 10_000 + b"}",
        encode(IMAGE)[:-1] + b',"size":NaN}',
        encode(IMAGE)[:-1] + b',"size":-Infinity}',
        encode(IMAGE)[:-1] + b',"schemaVersion":2}',
        encode(IMAGE)[:-1] + b',"x":[{"y":1,"y":1}]}',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_plain_json_is_refused(data: bytes) -> None:
    """Bombs, torn bytes, and documents that two JSON readers understand differently."""
    refused(data)


def test_foreign_layers_are_elsewhere_only_with_a_url() -> None:
    """Windows base layers are fetched from Microsoft; without a URL they could never be fetched."""
    for kind in (FOREIGN, NONDISTRIBUTABLE):
        layers = [{**DESCRIPTOR, "mediaType": kind, "urls": ["https://example.com/x?y=z"]}]
        assert media.parse(encode({**IMAGE, "layers": layers}), media.OCI_MANIFEST).blobs[1].external
        layers = [{**DESCRIPTOR, "mediaType": kind}]
        assert not media.parse(encode({**IMAGE, "layers": layers}), media.OCI_MANIFEST).blobs[1].external
    layers = [{**DESCRIPTOR, "urls": ["https://example.com/x"]}]
    assert not media.parse(encode({**IMAGE, "layers": layers}), media.OCI_MANIFEST).blobs[1].external


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://x/#y", "http://[::1", "//x/y", "http:///x", ""])
def test_a_foreign_layer_is_fetched_over_http(url: str) -> None:
    """A URL that no client can use would make the image unpullable; for other layers it is only a hint."""
    layers = [{**DESCRIPTOR, "mediaType": FOREIGN, "urls": [url]}]
    assert "is not http(s)" in refused({**IMAGE, "layers": layers})
    hint = encode({**IMAGE, "layers": [{**DESCRIPTOR, "urls": [url]}]})
    assert media.parse(hint, media.OCI_MANIFEST).blobs[1].urls == (url,)
    assert media.parse(encode({**IMAGE, "layers": layers})).blobs[1].urls == (url,)


def test_what_an_older_registry_took_is_still_served() -> None:
    """It took the last of two equal keys and digests of other algorithms; its images must not disappear."""
    twice = encode(IMAGE)[:-1] + b',"schemaVersion":2}'
    assert media.parse(twice).media_type == media.stored_type(twice) == media.OCI_MANIFEST
    other = encode({**INDEX, "manifests": [{"mediaType": "x", "size": 1, "digest": "sha384:" + "a" * 96}]})
    assert media.stored_type(other) == media.OCI_INDEX
    unmarked = encode({key: value for key, value in INDEX.items() if key != "mediaType"})
    assert media.stored_type(unmarked) == media.OCI_INDEX


def test_stored_bytes_of_an_unknown_type_are_not_guessed() -> None:
    """Served under a type that the client does not expect, they would be an attack's vehicle."""
    with pytest.raises(ManifestInvalid, match="not one that this registry serves"):
        media.stored_type(encode({**IMAGE, "mediaType": "text/html"}))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "sha256:"])
    | st.just(DESCRIPTOR),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "urls", "platform", "os", "annotations"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(derandomize=True, deadline=None)
@given(
    document=st.dictionaries(
        st.sampled_from(
            ["mediaType", "config", "layers", "manifests", "subject", "artifactType", "annotations", "fsLayers"]
        ),
        _JSON,
    ),
    content_type=st.sampled_from(sorted(media.MEDIA_TYPES)) | st.none(),
)
def test_no_json_makes_the_parser_fail_otherwise(document: dict[str, Any], content_type: str | None) -> None:
    """Any input is parsed, or refused as the client's fault: never a 500."""
    data = json.dumps({"schemaVersion": 2, "mediaType": content_type, **document}).encode()
    try:
        parsed = media.parse(data, content_type)
    except ManifestInvalid:
        return
    assert parsed.media_type in media.MEDIA_TYPES
    assert all(isinstance(layer.digest, Digest) for layer in parsed.blobs)


@settings(derandomize=True, deadline=None)
@given(data=st.binary(max_size=64))
def test_no_bytes_make_the_parser_fail_otherwise(data: bytes) -> None:
    """A torn file in the store, or anything at all in a request."""
    for content_type in (None, media.OCI_MANIFEST):
        with pytest.raises(ManifestInvalid):
            media.parse(data, content_type)
