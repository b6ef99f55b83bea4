"""Pushed manifests have one reading; stored ones keep the reading that encoding/json of Go gave them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import ManifestInvalid
from moorage.registry import manifest_json
from moorage.registry.manifest_json import (
    DESCRIPTOR_MEMBERS,
    MANIFEST_MEMBERS,
    NESTING_LIMIT,
    PLATFORM_MEMBERS,
    fold,
    read_pushed,
    read_stored,
)
from moorage.testing.builders import EMPTY, encode, image, index

LONG_S, KELVIN = "\u017f", "\u212a"
DESCRIPTOR = EMPTY.entry
IMAGE: dict[str, Any] = image(annotations={"k": "v"}, subject=image(seed=1)).document
INDEX: dict[str, Any] = index(image()).document
DESCRIPTORS = {"config": "config", "subject": "subject", "layers": "layers[1]", "manifests": "manifests[1]"}
"""Positions of descriptors, and their names in messages."""


def refused(data: bytes) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        read_pushed(data)
    assert len(caught.value.subject) < 300
    assert caught.value.subject.isprintable()
    return caught.value.subject


def variants(name: str) -> set[str]:
    """Other spellings that encoding/json takes for `name`."""
    found = {name.upper(), name.lower(), name.title(), name.swapcase(), name[:-1] + name[-1].upper()}
    found |= {name.replace("s", LONG_S), name.replace("S", LONG_S), name.replace("k", KELVIN)}
    return found - {name}


def within(place: str, entry: dict[str, Any]) -> bytes:
    """A manifest with `entry` where `place` has its descriptors, after another one where it is a list."""
    return encode({"schemaVersion": 2, place: [DESCRIPTOR, entry] if place in {"layers", "manifests"} else entry})


@pytest.mark.slow
def test_folding_is_that_of_go() -> None:
    """Of all characters, exactly two outside ASCII equal an ASCII letter under Unicode's simple folding."""
    for code in range(0x80, sys.maxunicode + 1):
        folded = fold(chr(code))
        expected = {LONG_S: "s", KELVIN: "k"}.get(chr(code))
        assert folded == expected if expected else not folded.isascii(), hex(code)
    assert fold("AZaz09._-@[`{") == "azaz09._-@[`{"


@pytest.mark.parametrize("name", sorted(MANIFEST_MEMBERS))
def test_a_pushed_manifest_spells_its_keys_as_specified(name: str) -> None:
    """With `layers` and `Layers`, clients in Go pull the second, which no registry has checked."""
    for variant in variants(name):
        for document in ({**IMAGE, variant: []}, {variant: [], "schemaVersion": 2}):
            assert refused(encode(document)) == (
                f"the key {variant!a} must be written {name}: some clients ignore case"
            )


@pytest.mark.parametrize("place", DESCRIPTORS)
@pytest.mark.parametrize("name", sorted(DESCRIPTOR_MEMBERS))
def test_a_pushed_descriptor_spells_its_keys_as_specified(name: str, place: str) -> None:
    """`Digest` beside `digest` makes clients in Go pull another blob."""
    for variant in variants(name):
        message = refused(within(place, {**DESCRIPTOR, variant: None}))
        assert f"the key {variant!a} in {DESCRIPTORS[place]} must be written {name}" in message


@pytest.mark.parametrize("place", DESCRIPTORS)
@pytest.mark.parametrize("name", sorted(PLATFORM_MEMBERS))
def test_a_pushed_platform_spells_its_keys_as_specified(name: str, place: str) -> None:
    """`OS` beside `os` makes clients in Go choose another child."""
    for variant in variants(name):
        message = refused(within(place, {**DESCRIPTOR, "platform": {variant: "x"}}))
        assert f"the key {variant!a} in {DESCRIPTORS[place]}.platform must be written {name}" in message


def test_other_keys_are_free() -> None:
    """Annotations, extensions, and what is a specified name in another position only."""
    free = {"Layers": "x", "MEDIATYPE": "y", "layer" + LONG_S: "z", "Digest": "d"}
    descriptor = {**DESCRIPTOR, "annotations": free, "Layers": 1, "OS": 2, "x": {"Digest": 3}}
    document = {**IMAGE, "annotations": free, "Digest": 1, "Size": 2, "layers": [descriptor], "x": {"Layers": 3}}
    assert read_pushed(encode(document)) == document


def test_a_pushed_key_occurs_once_anywhere() -> None:
    """Readers differ in which of the two they take."""
    for data in (b'{"a":1,"a":1}', b'{"x":[{"y":1,"y":2}]}', b'{"annotations":{"a":"1","a":"1"}}'):
        assert refused(data) == "it is not JSON: a key occurs twice in one object"


@pytest.mark.parametrize("digits", [4_300, 4_301, 1_000_000])
def test_long_numbers_are_numbers(digits: int) -> None:
    """Python refuses to convert more than 4,300 digits, in words of its own."""
    for number in (b"9" * digits, b"-" + b"9" * digits, b"9" * digits + b".5", b"1e" + b"9" * digits):
        data = b'{"schemaVersion":2,"x":[' + number + b'],"size":' + number + b"}"
        assert read_pushed(data)["schemaVersion"] == 2
        assert read_stored(data) == {"schemaVersion": 2}
        assert read_stored(b'{"config":{"size":' + number + b'},"schemaVersion":' + number + b"}") == {
            "config": {}
        }


def test_nesting_of_a_push_is_bounded() -> None:
    """Neither a recursion limit of the interpreter nor the stack decides what is taken."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        depth = NESTING_LIMIT - 1
        assert read_pushed(b'{"x":' + opening * depth + b"1" + closing * depth + b"}")
        assert "nested more than 64 levels" in refused(b'{"x":' + opening * NESTING_LIMIT + b"1")
        assert "nested more than 64 levels" in refused(opening * (1 << 20))
    # Brackets in texts are no nesting, and siblings are none.
    assert read_pushed(encode({"x": "[{" * 10_000, '"[\\"': [[]] * 1_000}))


@pytest.mark.parametrize("item", ["[]", "{}", "1", '""', '{"":0}', "null", "[[],0]"])
def test_values_of_a_push_are_bounded(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 MB of `{},` cost 0.6 s and 100 MB to parse; the specification needs a few values for each descriptor."""
    monkeypatch.setattr(manifest_json, "VALUES_LIMIT", 1_000)
    few, many = ",".join([item] * 200), ",".join([item] * 1_000)
    assert read_pushed(f'{{"x":[{few}]}}'.encode())
    assert "more than 1000 values" in refused(f'{{"x":[{many}]}}'.encode())


@pytest.mark.parametrize("part", [b'""', b"]", b'{"":', b"[1", b'"":'])
def test_counting_the_values_of_a_push_is_bounded(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends a little after the limit, not at the end of 4 MB."""
    monkeypatch.setattr(manifest_json, "VALUES_LIMIT", 1_000)
    counted: list[int] = []

    class Counting:
        def subn(self, replacement: bytes, data: bytes, most: int) -> tuple[bytes, int]:
            rest, texts = re.compile(rb'"[^"]*"').subn(replacement, data, most)
            counted.append(texts)
            return rest, texts

    monkeypatch.setattr(manifest_json, "_STRING_IN_BYTES", Counting())
    refused(b'{"x":[' + b"[]," * 100 + part * 20_000)
    assert counted
    assert max(counted) <= 2_001


def test_values_before_a_text_without_an_end_are_counted() -> None:
    """A parser reads them before it reports that the document is not JSON."""
    many = b'{"x":[' + b"[]," * 100_000
    assert "more than 100000 values" in refused(many + b'"')
    assert "is not JSON" in refused(many[:3_000] + b'"' + b"[]," * 100_000)


def test_text_is_no_number_of_values() -> None:
    """An annotation may hold another document."""
    text = json.dumps({"a": [{}] * 100_000, "b": "\\"}) + "," * 300_000
    assert read_pushed(encode({"annotations": {"a": text, "b": "x"}}))["annotations"]["a"] == text


@pytest.mark.parametrize(
    "data", [b"", b"1", b"[]", b"null", b'"x"', b"\xef\xbb\xbf{}", b"{", b"{}{}", b"{} x", b"{,}"]
)
def test_what_is_no_object_is_refused_by_both(data: bytes) -> None:
    """A layer that was linked as a manifest, or the half of a file."""
    refused(data)
    with pytest.raises(ManifestInvalid, match="it is not"):
        read_stored(data)


def test_a_push_is_utf_8() -> None:
    """RFC 8259 section 8.1; other readers fail on it."""
    assert refused(b'{"annotations":{"a":"\xe9"}}') == "it is not UTF-8 text"


# --- stored ------------------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "other case": (b'{"MEDIATYPE":"m","\xc5\xbfchemaVersion":2}', {"mediaType": "m", "schemaVersion": 2}),
    "Kelvin sign": (
        b'{"layers":[{"digest":"d","\xe2\x84\xaaind":1,"URL\xc5\xbf":["u"]}]}',
        {"layers": [{"digest": "d", "urls": ["u"]}]},
    ),
    "last wins": (b'{"mediaType":"a","MediaType":"b","mediaType":"c"}', {"mediaType": "c"}),
    "last wins, other case": (b'{"mediaType":"a","mediaType":"b","mediatype":"c"}', {"mediaType": "c"}),
    "null leaves a text": (b'{"mediaType":"a","mediaType":null,"schemaVersion":2,"schemaVersion":null}',
                           {"mediaType": "a", "schemaVersion": 2}),
    "null removes a list": (b'{"manifests":[{"digest":"d"}],"Manifests":null}', {}),
    "null": (b'{"mediaType":null,"layers":null,"config":null,"annotations":null,"schemaVersion":null}', {}),
    "half a pair as a type": (b'{"artifactType":"\\udc00"}', {"artifactType": "\ufffd"}),
    "Latin-1": (b'{"annotations":{"a":"\xe9\xe9"}}', {"annotations": {"a": "\ufffd\ufffd"}}),
    "cut UTF-8": (b'{"annotations":{"a":"\xe2\x82"}}', {"annotations": {"a": "\ufffd\ufffd"}}),
    "surrogate in UTF-8": (b'{"annotations":{"a":"\xed\xa0\x80"}}', {"annotations": {"a": "\ufffd\ufffd\ufffd"}}),
    "half a pair": (b'{"annotations":{"a":"\\ud83dx\\ude00"}}', {"annotations": {"a": "\ufffdx\ufffd"}}),
    "a pair": (b'{"annotations":{"a":"\\ud83d\\ude00"}}', {"annotations": {"a": "\U0001f600"}}),
    "null annotation": (b'{"annotations":{"a":null,"b":"c"}}', {"annotations": {"a": "", "b": "c"}}),
    "number as annotation": (b'{"annotations":{"a":1,"b":"c","d":[{}]}}', {"annotations": {"b": "c"}}),
    "annotation keys": (b'{"annotations":{"Digest":"a","digest":"b"}}',
                        {"annotations": {"Digest": "a", "digest": "b"}}),
    "wrong types": (
        b'{"schemaVersion":"2","mediaType":1,"config":[],"layers":{},"manifests":"x","subject":1,"annotations":[]}',
        {},
    ),
    "fractions": (b'{"schemaVersion":2.0,"config":{"size":1e2}}', {"config": {}}),
    "64 bits": (b'{"config":{"size":9223372036854775807},"subject":{"size":9223372036854775808}}',
                {"config": {"size": 2**63 - 1}, "subject": {}}),
    "entries": (b'{"layers":[1,null,{},"x",[],{"size":1},{"digest":"d","size":2}]}',
                {"layers": [{"digest": "d", "size": 2}]}),
    "platform": (b'{"manifests":[{"digest":"d","platform":{"OS":"linux","architecture":"arm","variant":"v7"}}]}',
                 {"manifests": [{"digest": "d", "platform": {"os": "linux", "architecture": "arm"}}]}),
    "schema 1": (b'{"schemaVersion":1,"fsLayers":[],"history":[{}],"signatures":[[]]}',
                 {"schemaVersion": 1}),
    "white space": (b' {\n"mediaType" :\t"a" ,\r"layers" : [ ] , "x" : [ [ ] , { } ] } \n',
                    {"mediaType": "a", "layers": []}),
    "unknown": (b'{"x":[],"y":{},"z":"]}\\"","w":[[],{},"[",[{"a":"\\\\"}]],"v":true,"mediaType":"m"}',
                {"mediaType": "m"}),
}  # fmt: skip
"""Documents, and what encoding/json of Go 1.26 makes of them; where it reports an error, what is left."""


@pytest.mark.parametrize("name", FAULTS)
def test_stored_manifests_are_read_as_go_reads_them(name: str) -> None:
    """Distribution has served them; under another reading they would be other images, or none."""
    data, expected = FAULTS[name]
    assert read_stored(data) == expected


@pytest.mark.parametrize("built", [image(annotations={"k": "v"}, subject=image(seed=1)), index(image()), EMPTY])
def test_both_readers_agree_on_what_is_pushed(built: Any) -> None:
    """What is checked on a push is what is found when the bytes are read again."""
    assert read_stored(built.data) == read_pushed(built.data)


def test_only_what_is_asked_for_is_read() -> None:
    """Listing referrers needs no layers."""
    data = encode(IMAGE)
    assert read_stored(data, frozenset({"mediaType", "subject"})) == {
        "mediaType": IMAGE["mediaType"],
        "subject": IMAGE["subject"],
    }


def test_stored_nesting_has_the_limit_of_go() -> None:
    """encoding/json takes 10,000 levels, which is more than a parser that recurses can have."""
    deep = b"[" * 9_000 + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]" * 9_000
    assert read_stored(b'{"x":' + deep + b',"mediaType":"m"}') == {"mediaType": "m"}
    assert read_stored(b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}") == {}
    for deep in (b"[" * 10_002 + b"]" * 10_002, b"[0," * 10_002 + b"0" + b"]" * 10_002, b"[" * 100_000):
        with pytest.raises(ManifestInvalid, match="is not JSON: nested more than 10000 levels deep"):
            read_stored(b'{"x":' + deep + b"}")


@pytest.mark.parametrize(
    ("item", "most"), [("[" * 60 + "]" * 60, 2), ('""', 0), ("[]", 0), ('{"a":"]\\""}', 0), ("[[1,2],[3]]", 2)]
)
def test_what_is_skipped_takes_few_steps(item: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a step for each bracket and each text, 3.5 MB took 2 s, at every read of the manifest."""
    steps: list[int] = []
    pattern = manifest_json._STRUCTURE

    class Counting:
        def match(self, text: str, at: int) -> re.Match[str] | None:
            steps.append(at)
            return pattern.match(text, at)

    monkeypatch.setattr(manifest_json, "_STRUCTURE", Counting())
    data = f'{{"x":[{",".join([item] * 1_000)}],"mediaType":"m"}}'.encode()
    assert read_stored(data) == {"mediaType": "m"}
    assert 0 < len(steps) <= most * 1_000 + 2


def test_a_cut_document_is_refused() -> None:
    """Half a manifest never looks like a whole one."""
    data = encode(IMAGE)
    for cut in range(len(data)):
        with pytest.raises(ManifestInvalid):
            read_stored(data[:cut])


_NAMES = st.sampled_from(
    [*sorted(MANIFEST_MEMBERS | DESCRIPTOR_MEMBERS | PLATFORM_MEMBERS), "Layers", "x", "O" + LONG_S, ""]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None)
@given(
    document=st.dictionaries(_NAMES, _VALUES, max_size=6),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_any_json_is_read(document: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    """No member is lost or confused by what surrounds it."""
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = read_stored(data)
    folded = {fold(name) for name in document}
    assert {fold(name) for name in found} <= folded
    for name in ("mediaType", "artifactType"):
        if [other for other in document if fold(other) == fold(name)] == [name]:
            value = document[name]
            assert found.get(name) == (value if isinstance(value, str) else None)


@settings(derandomize=True, deadline=None)
@given(data=st.binary(max_size=64) | st.text(alphabet='{}[]":,\\ 1atn').map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """A torn file in the store, or anything at all in a request: never another exception."""
    for read in (read_pushed, read_stored):
        try:
            found = read(data)
        except ManifestInvalid:
            continue
        assert isinstance(found, dict)


def test_every_member_that_is_read_is_a_specified_one() -> None:
    assert manifest_json._MANIFEST.keys() == MANIFEST_MEMBERS - {"fsLayers"}
    assert manifest_json._DESCRIPTOR.keys() < DESCRIPTOR_MEMBERS
    assert manifest_json._PLATFORM.keys() < PLATFORM_MEMBERS
