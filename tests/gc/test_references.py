"""References of a manifest: the fast reading and the careful one agree, and neither costs more than it has to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from moorage.errors import ManifestInvalid
from moorage.gc import references
from moorage.gc.references import References, packed, references_of
from moorage.registry.manifest_json import read_stored
from moorage.testing.builders import blob, encode, image, index

if TYPE_CHECKING:
    from moorage.testing.builders import Built

SUBJECT: Final = image(seed=1)
BUILT: Final = image(blob(size=10, seed=1), blob(size=10, seed=2), subject=SUBJECT)
INDEX: Final = index(image(seed=1), image(seed=2))
SCHEMA_1: Final = {"schemaVersion": 1, "fsLayers": [{"blobSum": str(part.digest)} for part in BUILT.blobs]}


def _expected(built: Built) -> tuple[set[bytes], set[bytes]]:
    blobs = {packed(part.digest) for part in built.blobs}
    return blobs, set() if blobs else {packed(part.digest) for part in built.parts}


def _with(built: Built, member: str) -> bytes:
    return built.data.rstrip()[:-1] + b"," + member.encode() + b"}"


@pytest.mark.parametrize("member", ['"x":1', '"x":"\\n"', '"x":' + "[" * 2_000 + "]" * 2_000, '"x":[{},[],[[]]]'])
def test_what_else_a_manifest_has_changes_no_reference(member: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing reference is a layer removed under an image."""
    for most in (references._OBJECTS_LIMIT, 0):
        monkeypatch.setattr(references, "_OBJECTS_LIMIT", most)
        found = references_of(_with(BUILT, member))
        assert (set(found.blobs), found.children) == (_expected(BUILT)[0], ())
        assert found.subject == packed(SUBJECT.digest)
        found = references_of(_with(INDEX, member))
        assert (found.blobs, set(found.children)) == ((), _expected(INDEX)[1])


def test_many_objects_are_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5 MB of arrays would take 150 MB of memory in every mark."""

    def never(*_: Any) -> None:
        raise AssertionError("the document is built")

    monkeypatch.setattr(json, "loads", never)
    found = references_of(_with(BUILT, '"x":[' + "[]," * 100_000 + "1]"))
    assert set(found.blobs) == _expected(BUILT)[0]


def test_an_unusual_manifest_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readings of a large one took seconds."""
    reads: list[int] = []

    def counting(data: bytes, *members: frozenset[str]) -> dict[str, Any]:
        reads.append(len(data))
        return read_stored(data, *members)

    monkeypatch.setattr("moorage.registry.media.read_stored", counting)
    assert set(references_of(_with(BUILT, '"x":"\\n"')).blobs) == _expected(BUILT)[0]
    assert len(reads) == 1


def test_layers_of_schema_1_are_references() -> None:
    """It is not served, and kept for a registry that does serve it."""
    assert references_of(encode(SCHEMA_1)) == References(tuple(packed(part.digest) for part in BUILT.blobs))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"schemaVersion":3}', b'{"schemaVersion":1,"fsLayers":[1]}']
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        references_of(data)
