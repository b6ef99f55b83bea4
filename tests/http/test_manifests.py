"""Manifests over HTTP: byte for byte, under tags and digests, with conditions, subjects and deletions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.http.client import ABSENT, NAME, Client, codes, detail, pieces
from tests.registry.instrumented import InstrumentedDriver

from moorage.config.model import Settings
from moorage.registry import layout
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import Built, artifact, blob, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from tests.http.conftest import Serve

ONE, TWO = image(seed=1), image(seed=2)
LIST = index(image(seed=3, docker=True), image(seed=4, docker=True, platform="linux/arm64"), docker=True)
EACH = [ONE, image(seed=5, docker=True), index(ONE, TWO), LIST, artifact("application/vnd.example.sbom"), index()]
SCHEMA1 = b'{"schemaVersion":1,"name":"library/app","tag":"v1","fsLayers":[],"history":[],"signatures":[]}'


@pytest.mark.parametrize("sent", EACH, ids=["oci", "docker", "index", "list", "artifact", "empty index"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_manifest_comes_back_as_it_was_pushed(client: Client, sent: Built, algorithm: str) -> None:
    """Its digest is its name: one changed byte breaks every signature."""
    await client.push(sent)
    digest = Digest.of(sent.data, algorithm)
    pushed = await client.put(digest, sent)
    assert pushed.status_code == 201
    assert pushed.headers["docker-content-digest"] == str(digest)
    assert pushed.headers["location"] == f"http://registry.test/v2/{NAME}/manifests/{digest}"
    assert "oci-subject" not in pushed.headers
    assert "oci-tag" not in pushed.headers
    got = await client.manifest(digest)
    assert (got.status_code, got.content) == (200, sent.data)
    assert got.headers["content-type"] == sent.media_type
    assert got.headers["docker-content-digest"] == str(digest)
    assert got.headers["etag"] == f'"{digest}"'


async def test_a_tag_moves_and_what_it_left_stays(client: Client) -> None:
    await client.push(ONE, "v1")
    await client.push(TWO, "v1")
    assert (await client.manifest("v1")).content == TWO.data
    assert (await client.manifest(ONE)).content == ONE.data
    assert (await client.put("v1", ONE)).headers["docker-content-digest"] == str(ONE.digest)
    assert (await client.manifest("v1")).content == ONE.data


async def test_a_manifest_may_be_streamed(client: Client) -> None:
    """The suite sends them without a length; a 411 fails it."""
    await client.push(ONE)
    target = f"/v2/{NAME}/manifests/v1"
    answer = await client.send("PUT", target, pieces(ONE.data[:9], ONE.data[9:]), {"content-type": ONE.media_type})
    assert answer.status_code == 201
    assert (await client.manifest("v1")).content == ONE.data


async def test_four_mebibytes_are_taken_and_a_byte_more_is_not(client: Client) -> None:
    """Also without a Content-Length."""
    pad = "x" * ((4 << 20) - len(image(seed=6, annotations={"pad": "-"}).data) + 1)
    most = image(seed=6, annotations={"pad": pad})
    assert len(most.data) == 4 << 20
    await client.push(most, "v1")
    assert (await client.manifest("v1")).content == most.data
    more = most.data.replace(b"xx", b"xxx", 1)
    for body in (more, pieces(more[: 1 << 20], more[1 << 20 :])):
        answer = await client.send("PUT", f"/v2/{NAME}/manifests/v2", body, {"content-type": most.media_type})
        assert (answer.status_code, codes(answer)) == (413, ["MANIFEST_INVALID"])
    assert (await client.manifest("v2")).status_code == 404


async def test_a_manifest_under_anothers_digest_is_refused(client: Client) -> None:
    await client.push(ONE)
    answer = await client.put(ABSENT, ONE)
    assert (answer.status_code, codes(answer)) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize(
    "reference", ["sha256:bad", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", f"sha256:{'0' * 63}"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_what_looks_like_a_digest_and_is_none_is_refused(
    client: Client, reference: str, method: str
) -> None:
    """The reference takes it for a tag, and answers 500."""
    answer = await client.send(method, f"/v2/{NAME}/manifests/{reference}", b"" if method == "PUT" else None)
    assert answer.status_code == 400
    if method != "HEAD":
        assert codes(answer) == ["DIGEST_INVALID"]


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/vnd.docker.distribution.manifest.v1+json", SCHEMA1),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", SCHEMA1),
        (ONE.media_type, SCHEMA1),
    ],
)
async def test_schema_1_is_refused_by_name(client: Client, media_type: str, body: bytes) -> None:
    """Docker before 1.10 pushes it; what to do must be plain."""
    answer = await client.send("PUT", f"/v2/{NAME}/manifests/v1", body, {"content-type": media_type})
    assert (answer.status_code, codes(answer)) == (400, ["MANIFEST_INVALID"])
    assert "schema 1" in detail(answer).lower() or "schemaversion" in detail(answer).lower()


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (ONE.media_type, b""),
        (ONE.media_type, b"[]"),
        (ONE.media_type, b"\xff"),
        ("", ONE.data),
        ("application/json", ONE.data),
        ("text/plain", ONE.data),
        (LIST.media_type, ONE.data),
        (ONE.media_type, ONE.data.replace(b'"schemaVersion":2', b'"schemaVersion":3')),
        (ONE.media_type, ONE.data.replace(b'"config"', b'"manifests"')),
    ],
)
async def test_what_is_no_manifest_is_refused_and_stores_nothing(
    client: Client, media_type: str, body: bytes
) -> None:
    for part in ONE.closure[:-1]:
        await client.push_blob(part)
    headers = {"content-type": media_type} if media_type else {}
    answer = await client.send("PUT", f"/v2/{NAME}/manifests/v1", body, headers)
    assert answer.status_code == 400
    assert codes(answer)[0] == "MANIFEST_INVALID"
    assert (await client.manifest("v1")).status_code == 404


def extended(built: Built, *members: bytes) -> bytes:
    """The manifest with further members, as JSON."""
    return built.data[:-1] + b"".join(b"," + member for member in members) + b"}"


REFUSED = {
    "layers in another case": (extended(ONE, b'"Layers":[]'), "the key 'Layers' must be written layers"),
    "type in another case": (extended(ONE, b'"MEDIATYPE":"x"'), "must be written mediaType"),
    "long s": (extended(ONE, '"\u017fubject":null'.encode()), "must be written subject"),
    "digest in another case": (
        ONE.data.replace(b'"digest"', b'"Digest":"x","digest"', 1),
        "the key 'Digest' in config must be written digest",
    ),
    "key twice": (extended(ONE, b'"x":{"a":1,"a":1}'), "a key occurs twice in one object"),
    "Latin-1": (extended(ONE, b'"annotations":{"a":"\xe9"}'), "it is not UTF-8 text"),
    "nesting": (extended(ONE, b'"x":' + b"[" * 65 + b"]" * 65), "nested more than 64 levels deep"),
    "values": (extended(ONE, b'"x":[' + b"[]," * 100_000 + b"1]"), "more than 100000 values"),
    "schema 1 beside": (extended(ONE, b'"fsLayers":[]'), "schema 1 manifests are not supported"),
    "null annotation": (extended(ONE, b'"annotations":{"a":null}'), "annotations is not a map of texts"),
    "artifact type": (extended(ONE, b'"artifactType":1'), "artifactType is not a text"),
    "subject's digest": (extended(ONE, b'"subject":{"digest":"md5:x"}'), "is not a sha256 or sha512 digest"),
    "size": (extended(ONE, b'"subject":{"size":-1}'), "subject.size is not a number of bytes"),
    "version": (ONE.data.replace(b":2,", b":2.0,", 1), "schemaVersion must be 2"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_manifest_with_two_readings_is_refused(client: Client, name: str) -> None:
    """CNCF Distribution takes them: docs/migrating/index.md lists them, so that operators find the reason."""
    body, reason = REFUSED[name]
    await client.push(ONE)
    answer = await client.send("PUT", f"/v2/{NAME}/manifests/v1", body, {"content-type": ONE.media_type})
    assert (answer.status_code, codes(answer)) == (400, ["MANIFEST_INVALID"])
    assert reason in detail(answer)
    assert (await client.manifest("v1")).status_code == 404


@pytest.mark.parametrize(("count", "code"), [(9_999, "MANIFEST_BLOB_UNKNOWN"), (44_000, "MANIFEST_INVALID")])
async def test_the_answer_to_many_unknown_children_is_short(client: Client, count: int, code: str) -> None:
    """It had 6.7 MB, and the worker was busy for 3.9 s."""
    children = b",".join(b'{"digest":"sha256:%064x","size":1}' % number for number in range(count))
    body = b'{"schemaVersion":2,"manifests":[%b]}' % children
    answer = await client.send("PUT", f"/v2/{NAME}/manifests/v1", body, {"content-type": index().media_type})
    assert (answer.status_code, set(codes(answer))) == (400, {code})
    assert len(answer.content) < 32_000
    entries = answer.json()["errors"]
    if code == "MANIFEST_BLOB_UNKNOWN":
        assert entries[0]["detail"] == f"sha256:{0:064x}"
        assert entries[-1]["detail"] == "9899 more references were not looked up"
    else:
        assert entries[0]["detail"] == "its JSON has more than 100000 values"


async def test_an_index_without_manifests_is_refused(client: Client) -> None:
    """Only by `manifests` is an index without a mediaType known for one when it is read again."""
    target = f"/v2/{NAME}/manifests/v1"
    for body in (b'{"schemaVersion":2}', b'{"schemaVersion":2,"manifests":null}'):
        answer = await client.send("PUT", target, body, {"content-type": index().media_type})
        assert (answer.status_code, codes(answer)) == (400, ["MANIFEST_INVALID"])
        assert "must have manifests" in detail(answer)


@pytest.mark.parametrize(
    "member", [b'"x":' + b"9" * 5_000, b'"annotations":{"Layers":"x","MEDIATYPE":"y"}', b'"Digest":1']
)
async def test_what_has_one_reading_is_taken(client: Client, member: bytes) -> None:
    """Members that no client reads, in any number of digits, and names that belong to the client."""
    body = extended(ONE, member)
    await client.push(ONE)
    answer = await client.send("PUT", f"/v2/{NAME}/manifests/v1", body, {"content-type": ONE.media_type})
    assert answer.status_code == 201
    assert (await client.manifest("v1")).content == body


async def test_parameters_of_the_media_type_do_not_count(client: Client) -> None:
    await client.push(ONE)
    answer = await client.put("v1", ONE, media_type=f"{ONE.media_type}; charset=utf-8")
    assert answer.status_code == 201
    assert (await client.manifest("v1")).headers["content-type"] == ONE.media_type


async def test_tags_may_be_set_beside_a_digest(client: Client) -> None:
    """The next specification: one request instead of three, for a release that is 1, 1.2 and 1.2.3."""
    await client.push(ONE)
    digest = Digest.of(ONE.data, "sha512")
    answer = await client.send(
        "PUT", f"/v2/{NAME}/manifests/{digest}?tag=1&tag=1.2&tag=1.2.3", ONE.data, {"content-type": ONE.media_type}
    )
    assert answer.status_code == 201
    assert answer.headers["oci-tag"] == "1, 1.2, 1.2.3"
    for tag in ("1", "1.2", "1.2.3"):
        assert (await client.manifest(tag)).headers["docker-content-digest"] == str(digest)


async def test_one_bad_tag_among_good_ones_sets_none(client: Client) -> None:
    await client.push(ONE)
    target = f"/v2/{NAME}/manifests/{ONE.digest}?tag=good&tag=.bad"
    answer = await client.send("PUT", target, ONE.data, {"content-type": ONE.media_type})
    assert (answer.status_code, codes(answer)) == (400, ["TAG_INVALID"])
    assert (await client.manifest("good")).status_code == 404


async def test_a_subject_is_confirmed_whether_it_exists_or_not(client: Client) -> None:
    """Clients that get no `OCI-Subject` write fallback tags."""
    signature = artifact("application/vnd.example.signature", subject=ONE)
    for part in signature.closure[:-1]:
        await client.push_blob(part)
    assert (await client.put(signature, signature)).headers["oci-subject"] == str(ONE.digest)


@pytest.mark.parametrize("reference", ["v1", str(ONE.digest)])
async def test_what_is_known_already_is_not_sent_again(client: Client, reference: str) -> None:
    """Clusters ask for the same tag all day."""
    await client.push(ONE, "v1")
    for known in (f'"{ONE.digest}"', f'W/"{ONE.digest}"', f'"other", "{ONE.digest}"', str(ONE.digest), "*"):
        answer = await client.manifest(reference, if_none_match=known)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["docker-content-digest"] == str(ONE.digest)
    assert (await client.manifest(reference, if_none_match=f'"{ABSENT}"')).status_code == 200


async def test_old_docker_gets_the_image_out_of_a_list(client: Client) -> None:
    """Before 2016 it does not know lists, and asks for linux/amd64 without saying so."""
    await client.push(LIST, "v1")
    old = await client.manifest("v1", accept="application/vnd.docker.distribution.manifest.v2+json")
    assert old.headers["docker-content-digest"] == str(LIST.parts[0].digest)
    assert old.content == LIST.parts[0].data
    for accept in (LIST.media_type, "*/*", f"text/plain, {LIST.media_type};q=0.5"):
        assert (await client.manifest("v1", accept=accept)).content == LIST.data
    by_digest = await client.manifest(LIST, accept="application/vnd.docker.distribution.manifest.v2+json")
    assert by_digest.content == LIST.data


async def test_without_its_platform_a_list_is_unknown_to_old_docker(client: Client) -> None:
    arm = index(image(seed=4, docker=True, platform="linux/arm64"), docker=True)
    await client.push(arm, "v1")
    answer = await client.manifest("v1", accept="application/vnd.docker.distribution.manifest.v2+json")
    assert (answer.status_code, codes(answer)) == (404, ["MANIFEST_UNKNOWN"])


@pytest.mark.parametrize("exists", [True, False])
async def test_a_push_may_depend_on_where_the_tag_points(client: Client, *, exists: bool) -> None:
    """Two tools that update one index must not overwrite each other."""
    await client.push(TWO)
    await client.push(ONE, *(["v1"] if exists else []))
    right = {"if_match": f'"{ONE.digest}"'} if exists else {"if_none_match": "*"}
    wrongs = [{"if_match": "*"}]
    if exists:
        wrongs = [{"if_none_match": "*"}, {"if_match": f'"{ABSENT}"'}, {"if_match": f'W/"{ONE.digest}"'}]
    for wrong in wrongs:
        answer = await client.put("v1", TWO, **wrong)
        assert (answer.status_code, codes(answer)) == (412, ["DENIED"])
    assert (await client.manifest("v1")).status_code == (200 if exists else 404)
    assert (await client.put("v1", TWO, **right)).status_code == 201
    assert (await client.manifest("v1")).content == TWO.data


async def test_reading_and_deleting_may_depend_on_where_the_tag_points(client: Client) -> None:
    """A cleanup that decided by an old digest must not delete what was pushed since (RFC 9110 section 13.1.1)."""
    await client.push(ONE, "v1")
    await client.push(TWO, "v1")
    old, new = f'"{ONE.digest}"', f'"{TWO.digest}"'
    for method in ("GET", "HEAD", "DELETE"):
        assert (await client.manifest("v1", method=method, if_match=old)).status_code == 412
        assert (await client.manifest("v1", method=method, if_match=f"W/{new}")).status_code == 412
    assert (await client.manifest("v1", if_match=f"{old}, {new}")).content == TWO.data
    assert (await client.manifest("v1", if_match=new, if_none_match=new)).status_code == 304
    assert (await client.manifest("v1", method="DELETE", if_match=new)).status_code == 202
    assert (await client.manifest("v1", method="DELETE", if_match=new)).status_code == 404


@pytest.mark.parametrize("exists", [True, False])
async def test_of_two_pushes_on_one_condition_one_wins(serve: Serve, *, exists: bool) -> None:
    """Both find that the condition holds; the one that writes second must learn that it does not any more."""
    driver = MemoryDriver()
    other = serve(driver=driver)
    await other.push(TWO)
    await other.push(ONE, *(["v1"] if exists else []))
    condition = {"if_match": f'"{ONE.digest}"'} if exists else {"if_none_match": "*"}
    answers: list[int] = []

    class Overtaken(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call == f"write {layout.tag_link(RepoName(NAME), Tag('v1'))}":
                answers.append((await other.put("v1", TWO, **condition)).status_code)

    late = await serve(driver=Overtaken(driver)).put("v1", ONE, **condition)
    assert answers == [201]
    assert (late.status_code, codes(late)) == (412, ["DENIED"])
    assert (await other.manifest("v1")).content == TWO.data


async def test_deleting_a_tag_keeps_the_manifest(client: Client) -> None:
    await client.push(ONE, "v1", "v2")
    assert (await client.manifest("v1", method="DELETE")).status_code == 202
    assert (await client.manifest("v1")).status_code == 404
    assert (await client.manifest("v2")).status_code == 200
    assert (await client.manifest(ONE)).status_code == 200
    again = await client.manifest("v1", method="DELETE")
    assert (again.status_code, codes(again)) == (404, ["MANIFEST_UNKNOWN"])


async def test_deleting_a_digest_takes_all_its_tags_at_once(client: Client) -> None:
    """A pull by tag right after it must not find half of it."""
    await client.push(ONE, "v1", "v2")
    await client.push(TWO, "v3")
    answer = await client.manifest(ONE, method="DELETE")
    assert (answer.status_code, answer.content) == (202, b"")
    for reference in ("v1", "v2", str(ONE.digest)):
        assert (await client.manifest(reference)).status_code == 404
    assert (await client.get(f"/v2/{NAME}/tags/list")).json()["tags"] == ["v3"]
    assert (await client.manifest(ONE, method="DELETE")).status_code == 404
    assert (await client.put("v2", ONE)).status_code == 201
    assert (await client.get(f"/v2/{NAME}/tags/list")).json()["tags"] == ["v2", "v3"]


@pytest.mark.parametrize("reference", ["v1", str(ONE.digest)])
async def test_deletion_has_to_be_switched_on(serve: Serve, reference: str) -> None:
    client = serve(Settings())
    await client.push(ONE, "v1")
    answer = await client.manifest(reference, method="DELETE")
    assert (answer.status_code, codes(answer)) == (405, ["UNSUPPORTED"])
    assert "storage.delete.enabled" in detail(answer)
    assert (await client.manifest(reference)).status_code == 200


async def test_another_repository_does_not_have_it(client: Client) -> None:
    await client.push(ONE, "v1")
    for reference in ("v1", str(ONE.digest)):
        answer = await client.manifest(reference, name="team/other")
        assert (answer.status_code, codes(answer)) == (404, ["MANIFEST_UNKNOWN"])
    refused = await client.put("v1", ONE, name="team/other")
    assert codes(refused) == ["MANIFEST_BLOB_UNKNOWN"] * 2


async def test_a_layer_kept_elsewhere_need_not_be_here(client: Client) -> None:
    """Windows base images: their layers are fetched from their maker."""
    layer = blob(size=10, media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    entry = {**layer.entry, "urls": ["https://layers.example/1"]}
    foreign = image(seed=7, docker=True, extra={"layers": [entry]})
    for part in foreign.closure[:-1]:
        if part.media_type.endswith("image.v1+json"):
            await client.push_blob(part)
    assert (await client.put("v1", foreign)).status_code == 201
