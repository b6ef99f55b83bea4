"""Referrer links: the descriptor that a listing returns comes back whole, in UTF-8, and within a page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.registry import media, referrer_links
from moorage.registry.referrer_links import PAGE_LIMIT_BYTES, decode, describe, encode
from moorage.storage.driver import READ_LIMIT_BYTES
from moorage.testing.builders import Built, artifact, image, index
from moorage.types import Digest

SUBJECT = image(seed=1)
OTHER = Digest.of(b"another subject")


HALVES = st.text(st.characters())
"""Also halves of surrogate pairs, which JSON can write."""


def linked(built: Built) -> bytes:
    link = encode(built.digest, built.size, media.parse(built.data))
    assert link is not None
    assert link.subject == SUBJECT.digest
    return link.content


def shown(built: Built) -> dict[str, Any]:
    """What a client reads in a list."""
    found = decode(linked(built), SUBJECT.digest, built.digest)
    assert found is not None
    assert found == describe(built.digest, built.size, media.parse(built.data))
    assert found.digest == built.digest
    assert len(found.descriptor) <= referrer_links.PAGE_LIMIT_BYTES
    document: dict[str, Any] = json.loads(found.descriptor.decode())
    assert document.get("artifactType") == found.artifact_type
    return document


def test_a_link_holds_the_digest_as_every_link_does_and_the_descriptor() -> None:
    built = artifact("a/b", subject=SUBJECT, annotations={"by": "me"})
    first, checksum, head, annotations = linked(built).split(b"\n")
    assert first == str(built.digest).encode()
    assert len(checksum) == 64
    assert json.loads(head) == {**built.entry, "artifactType": "a/b"}
    assert annotations == b'{"by":"me"}'
    assert shown(built) == {**built.entry, "artifactType": "a/b", "annotations": {"by": "me"}}


def test_what_a_manifest_does_not_have_is_left_out() -> None:
    assert linked(index(subject=SUBJECT)).count(b"\n") == 2
    assert shown(index(subject=SUBJECT)) == index(subject=SUBJECT).entry


TEXTS = {
    "quotes": '"\\"',
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "separators": "\u2028\u2029",
    "accents": "é" * 100,
    "emoji": "\U0001f600" * 100,
    "html": "<script>&",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_every_text_comes_back_as_utf_8(text: str) -> None:
    """In names and in values; nothing but quotes, backslashes and control characters is escaped."""
    built = artifact("a/b", subject=SUBJECT, annotations={text: text, "x": text})
    assert shown(built)["annotations"] == {text: text, "x": text}
    content = linked(built)
    assert content.isascii() == text.isascii()
    assert b"\\u" not in content or text == TEXTS["controls"]


@pytest.mark.parametrize("half", ["\ud83d", "\ude00\ud83d"])
def test_halves_of_surrogate_pairs_are_replaced(half: str) -> None:
    """UTF-8 cannot encode them; clients in Go read U+FFFD out of their escapes, too."""
    built = artifact(f"a/{half}", subject=SUBJECT, annotations={f"k{half}": f"v{half}"})
    found, replaced = shown(built), "\ufffd" * len(half)
    assert (found["artifactType"], found["annotations"]) == (f"a/{replaced}", {f"k{replaced}": f"v{replaced}"})


def test_a_pair_of_escapes_is_one_character() -> None:
    built = artifact("a/b", subject=SUBJECT, annotations={"k": "\U0001f600"})
    assert b"\\ud83d\\ude00" in built.data
    assert "\U0001f600".encode() in linked(built)


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text()), st.text())
def test_any_annotations_come_back(annotations: dict[str, str], kind: str) -> None:
    built = artifact(kind, subject=SUBJECT, annotations=annotations)
    assert shown(built).get("annotations", {}) == annotations


@settings(deadline=None)
@given(st.dictionaries(HALVES, HALVES), HALVES, st.sampled_from([image, artifact, index]))
def test_a_push_writes_what_is_read_from_the_stored_manifest(
    annotations: dict[str, str], kind: str, build: Any
) -> None:
    """Else a check would find every such link damaged."""
    if build is artifact:
        built = artifact(kind, subject=SUBJECT, annotations=annotations)
    else:
        built = build(subject=SUBJECT, annotations=annotations, artifact_type=kind)
    for data in (built.data, built.data.replace(f'"mediaType":"{built.media_type}",'.encode(), b"", 1)):
        pushed = media.parse(data, built.media_type)
        assert pushed.subject == SUBJECT.digest
        link = encode(built.digest, built.size, pushed)
        for stored in (media.parse(data), media.stored_description(data)):
            assert encode(built.digest, built.size, stored) == link


@settings(deadline=None)
@given(st.data())
def test_a_damaged_link_holds_no_descriptor(data: st.DataObject) -> None:
    """Cut anywhere, or any byte changed: the manifest is read instead, and nothing wrong is listed."""
    built = artifact("a/b", subject=SUBJECT, annotations={"by": "me"})
    content = linked(built)
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    for damaged in (content[:at], bytes(changed), content + b"\n", content + content):
        assert decode(damaged, SUBJECT.digest, built.digest) is None


def test_links_of_earlier_versions_hold_no_descriptor() -> None:
    built = artifact("a/b", subject=SUBJECT)
    for old in (str(built.digest), f"{built.digest}\n", "", "\n\n\n"):
        assert decode(old.encode(), SUBJECT.digest, built.digest) is None


def test_a_link_that_was_moved_holds_no_descriptor() -> None:
    """Below another subject, or with the name of another manifest."""
    built = artifact("a/b", subject=SUBJECT)
    assert decode(linked(built), OTHER, built.digest) is None
    assert decode(linked(built), SUBJECT.digest, OTHER) is None


def large(annotations: dict[str, str], kind: str = "a/b", *, escaped: bool = False) -> Built:
    """An artifact whose JSON is as small as it can be, as clients in Go write it, unless `escaped`."""
    built = artifact(kind, subject=SUBJECT, annotations=annotations)
    if escaped:
        return built
    data = json.dumps(built.document, ensure_ascii=False, separators=(",", ":")).encode()
    return Built(data, built.media_type, Digest.of(data))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small page, as 4 MiB take long."""
    monkeypatch.setattr("moorage.registry.referrer_links.PAGE_LIMIT_BYTES", 5000)
    return 5000


def test_annotations_that_fill_a_page_are_whole(page: int) -> None:
    """To the byte; one more, and they are left out."""
    frame = len(json.dumps(shown(large({"k": "x" * 4000})), separators=(",", ":"))) - 4000
    room = page - frame
    exact = large({"k": "é" * (room // 2) + "x" * (room % 2)})
    assert shown(exact)["annotations"] == exact.document["annotations"]
    assert "annotations" not in shown(large({"k": "é" * (room // 2) + "x" * (room % 2 + 1)}))


def test_the_largest_annotations_are_left_out(page: int) -> None:
    """What does not fit one page could be shown on none; the short ones are those that tools read."""
    annotations = {
        "sbom": "x" * (page - 1000),
        "org.opencontainers.image.created": "2026",
        "é": "ü",
        "b": "y" * (page // 3),
    }
    found = shown(large(annotations))["annotations"]
    assert found == {key: annotations[key] for key in ("org.opencontainers.image.created", "é", "b")}


def test_an_artifact_type_that_fills_a_page_is_left_out(page: int) -> None:
    """It is no media type; the manifest stays listed."""
    built = large({"k": "v"}, "a/" + "b" * page)
    assert shown(built) == {**built.entry, "annotations": {"k": "v"}}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.usefixtures("page")
def test_as_many_annotations_as_fit_are_shown(text: str) -> None:
    """However the manifest wrote its characters."""
    built = large({str(i): text * 10 for i in range(300)}, escaped=True)
    assert 0 < len(shown(built)["annotations"]) < 300


def test_no_link_is_larger_than_a_read() -> None:
    """One that cannot be read has no descriptor: two digests, line ends, and a page."""
    assert len(f"sha512:{'0' * 128}\n{'0' * 64}\n\n") + PAGE_LIMIT_BYTES <= READ_LIMIT_BYTES


def test_a_manifest_without_a_subject_has_no_link() -> None:
    assert encode(SUBJECT.digest, SUBJECT.size, media.parse(SUBJECT.data)) is None
