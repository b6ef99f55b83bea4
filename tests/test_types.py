"""Names, tags and digests: what is accepted at the edge is what the specification's grammar allows."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import DigestInvalid, NameInvalid, TagInvalid
from moorage.types import Digest, parse_reference, parse_repo_name, parse_tag


@pytest.mark.parametrize(
    "name",
    ["a", "library/alpine", "a.b/c_d/e__f/g--h", "0", "tags/list", "x/manifests/y", "a" * 255],
)
def test_names_of_the_grammar_are_taken(name: str) -> None:
    """A legal repository that we refused could not be moved here from another registry."""
    assert parse_repo_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "a/", "/a", "a//b", "a/../b", ".a", "a.", "a___b", "a._b", "_catalog", "a\n", "\u00e9", "a:5000/b",
     "a" * 256, "\u0661"],
)  # fmt: skip
def test_names_outside_the_grammar_are_refused(name: str) -> None:
    """A name like `a/../b` that got through would become a storage key."""
    with pytest.raises(NameInvalid):
        parse_repo_name(name)


@pytest.mark.parametrize("tag", ["latest", "_x", "1.0-rc_1", "A" * 128, "sha256-" + "a" * 64])
def test_tags_of_the_grammar_are_taken(tag: str) -> None:
    """Cosign and the referrers fallback use long tags with dashes."""
    assert parse_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".a", "-a", "A" * 129, "a b", "a\n", "a/b", "ä"])
def test_tags_outside_the_grammar_are_refused(tag: str) -> None:
    """A tag with a slash would name another key."""
    with pytest.raises(TagInvalid):
        parse_tag(tag)


@pytest.mark.parametrize(
    "text",
    ["", "sha256", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64,
     "md5:" + "a" * 32, "sha256:" + "a" * 64 + "\n", "SHA256:" + "a" * 64],
)  # fmt: skip
def test_misspelt_digests_are_refused(text: str) -> None:
    """Upper-case hex would give one blob two names."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_survives_its_text(data: bytes, algorithm: str) -> None:
    """Links store the text; what is read back must be the same digest."""
    digest = Digest.of(data, algorithm)
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert Digest.parse(str(digest)) == digest


def test_a_colon_makes_a_reference_a_digest() -> None:
    """`sha256:bad` must be a bad digest (400), never a tag that is merely unknown."""
    with pytest.raises(DigestInvalid):
        parse_reference("sha256:bad")
    assert parse_reference("v1") == "v1"
    assert parse_reference(str(Digest.of(b""))) == Digest.of(b"")
