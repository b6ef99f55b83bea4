"""The dialect's structure: anchors, merges, duplicates, documents, and text that is no YAML."""

from __future__ import annotations

import base64

import pytest

from moorage.config import yaml
from moorage.config.build import _raw
from moorage.config.problems import ConfigError, Problem
from moorage.config.tree import Map, Scalar


def data(text: str) -> object:
    """The tree as plain data."""
    node, _ = yaml.read(text, "f", [])
    assert node is not None
    return _raw(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\na: 2", {"a": 2}),
        ("# head\n---\na: 1\n---\n", {"a": 1}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}}),
        ("x: &x {a: 1}\ny: {b: 3, <<: *x}", {"x": {"a": 1}, "y": {"b": 3, "a": 1}}),
        ("y: {<<: [{a: 1}, {a: 2, b: 3}]}", {"y": {"a": 1, "b": 3}}),
        ('y: {"<<": 1}', {"y": {"<<": 1}}),
        ("a: &v [1, 2]\nb: *v", {"a": [1, 2], "b": [1, 2]}),
        ("on: 1\n12: 2", {"on": 1, "12": 2}),
        ("a: !!str 0123\nb: !!int '5'\nc: !foo yes", {"a": "0123", "b": 5, "c": "yes"}),
        ("a: !!binary " + base64.b64encode(b"h\xc3\xa9").decode(), {"a": "hé"}),
        ("a: |\n  yes\n", {"a": "yes\n"}),
        ("a: 'yes'\nb: \"0123\"", {"a": "yes", "b": "0123"}),
    ],
)
def test_structure_is_read_as_yaml_v2_reads_it(text: str, value: object) -> None:
    """Files that work with the reference use every one of these."""
    assert data(text) == value


def test_lines_are_remembered() -> None:
    """A message without its line makes people search."""
    node, _ = yaml.read("a: 1\nb:\n  c: x\n", "config.yml", [])
    assert isinstance(node, Map)
    below = node.entries["b"]
    assert isinstance(below, Map)
    assert str(below.keys["c"]) == "config.yml:3"
    assert below.entries["c"] == Scalar("x", below.keys["c"])


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_is_nothing(text: str) -> None:
    """An empty file has missing keys, which is another message than broken YAML."""
    node, _ = yaml.read(text, "f", [])
    assert node is None or (isinstance(node, Scalar) and node.text == "")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [", "f:1: not YAML"),
        ("a: 1\n\tb: 2", "f:2: not YAML"),
        ("@x", "not YAML"),
        ("a: \x00", "not YAML"),
        ("a: *nowhere", "undefined alias"),
        ("&a [*a]", "an alias within its own value"),
        ("a: {<<: 5}", "<< merges mappings only"),
        ("? [a]\n: 1", "expected a scalar as key"),
        ("a: !!binary x", "expected base64 of UTF-8 text"),
        ("[" * 2000, "nested too deeply"),
        ("a: 1\n---\nb: [", "f:3: not YAML"),
    ],
)
def test_what_is_no_yaml_is_reported_with_its_line(text: str, part: str) -> None:
    """Anything mounted in place of the file must not cause a traceback."""
    with pytest.raises(ConfigError, match="f") as caught:
        yaml.read(text, "f", [])
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("a: 1\na: 2", ["f:2: a: duplicate key; the first is on line 1; remove one"]),
        ("a:\n  b: {c: 1,\n    c: 2}", ["f:3: a.b.c: duplicate key; the first is on line 2; remove one"]),
        ("a:\n- b: 1\n  b: 2", ["f:3: a[0].b: duplicate key; the first is on line 2; remove one"]),
        ("a: 1\n'a':", ["f:2: a: duplicate key; the first is on line 1; remove one"]),
        (
            "a: 1\na: 2\na: 3",
            [
                "f:2: a: duplicate key; the first is on line 1; remove one",
                "f:3: a: duplicate key; the first is on line 1; remove one",
            ],
        ),
        ("x: &x {b: 1}\ny: &y {c: 1}\nz:\n  <<: *x\n  <<: *y",
         ["f:5: z.<<: duplicate key; the first is on line 4; remove one"]),
        ("x: &x\n  b: 1\n  b: 2\ny: *x\nz: {<<: *x}",
         ["f:3: x.b: duplicate key; the first is on line 2; remove one"]),
        ("a: 1\n---\nb: 2",
         ["f:3: another YAML document begins here (---) and would be ignored; remove the separator"]),
    ],
)  # fmt: skip
def test_what_would_be_dropped_in_silence_is_an_error(text: str, reported: list[str]) -> None:
    """yaml.v2 takes the last of duplicate keys and the first document: an empty second `auth:` wins."""
    problems: list[Problem] = []
    yaml.read(text, "f", problems)
    assert [(str(problem), problem.kind) for problem in problems] == [(line, "error") for line in reported]


@pytest.mark.parametrize(
    "text",
    ["x: &x {a: 1}\ny: {<<: *x, a: 2}", "y: {<<: [{a: 1}, {a: 2}]}", "a: {b: 1}\nb: {b: 1}", "- {a: 1}\n- {a: 1}",
     "a: 1\n---\n", "a: 1\n...\n", "---\na: 1\n--- \n# nothing\n"],
)  # fmt: skip
def test_merges_and_empty_documents_are_no_duplicates(text: str) -> None:
    """A merge is there to be overridden."""
    problems: list[Problem] = []
    yaml.read(text, "f", problems)
    assert problems == []


def test_aliases_cannot_fill_the_memory() -> None:
    """Ten lines of nested aliases stand for a thousand million values."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match="more than 100000 values"):
        yaml.read("\n".join(lines), "f", [])
