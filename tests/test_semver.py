"""Versions and ranges of versions, as npm and Cargo read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.semver import Version, VersionRange, parse_version

MATCHES = [
    ("^1.2", "1.2.0 1.9.3 v1.4.0 1.2.3_build.7", "1.1.9 2.0.0 1.3.0-rc.1"),
    ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"),
    ("^0.0.3", "0.0.3", "0.0.4 0.1.0"),
    ("^0", "0.0.1 0.9.9", "1.0.0"),
    ("^0.0", "0.0.9", "0.1.0"),
    ("~1.4", "1.4.0 1.4.9", "1.5.0 1.3.9"),
    ("~1", "1.0.0 1.9.0", "2.0.0"),
    ("~1.4.2", "1.4.2 1.4.9", "1.4.1 1.5.0"),
    ("1.x", "1.0.0 1.9.9", "0.9.9 2.0.0"),
    ("1.2.*", "1.2.7", "1.3.0"),
    ("1.2", "1.2.7", "1.3.0"),
    ("=1.2.3", "1.2.3", "1.2.4 1.2.3-rc1"),
    ("*", "0.0.0 9.9.9", "9.9.9-rc1"),
    (">=1.0 <2.0", "1.0.0 1.99.0", "0.9.9 2.0.0 2.0.0-rc1"),
    (">= 1.0, < 2.0", "1.5.0", "2.0.0"),
    (">1.2", "1.3.0", "1.2.9"),
    ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
    (">1.2.3", "1.2.4", "1.2.3"),
    ("<1.2", "1.1.9", "1.2.0"),
    ("<=1.2.3", "1.2.3", "1.2.4"),
    ("1.x || >=3", "1.5.0 3.1.0", "2.0.0"),
    (">=1.3.0-rc.2", "1.3.0-rc.2 1.3.0-rc.10 1.3.0 2.0.0", "1.3.0-rc.1 1.4.0-rc.9"),
]


@pytest.mark.parametrize(("text", "inside", "outside"), MATCHES)
def test_a_range_contains_what_npm_says(text: str, inside: str, outside: str) -> None:
    """A range that an operator knows from elsewhere, and means something else here, deletes releases."""
    versions = VersionRange.parse(text)
    for tag in inside.split():
        version = parse_version(tag)
        assert version is not None
        assert versions.matches(version), tag
    for tag in outside.split():
        version = parse_version(tag)
        assert version is not None
        assert not versions.matches(version), tag


def test_order_of_the_specification() -> None:
    """The example of section 11."""
    texts = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
             "1.0.0-rc.1", "1.0.0"]  # fmt: skip
    found = [version.order for text in texts if (version := parse_version(text)) is not None]
    assert len(found) == len(texts)
    assert found == sorted(found)


@pytest.mark.parametrize("tag", ["latest", "1.2", "v1", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3.4", "x1.2.3"])
def test_other_tags_are_no_versions(tag: str) -> None:
    """A tag that moves from version to version must not be counted as one of them."""
    assert parse_version(tag) is None


@pytest.mark.parametrize(
    "text", ["", " ", "a", ">", "1.x.3", "1-rc", "1 ||", "|| 1", "=>1", "1.2.3 - 2.0", "01.0"]
)
def test_text_that_is_no_range_is_refused(text: str) -> None:
    """The check of the settings shows this message."""
    with pytest.raises(ValueError, match="expected"):
        VersionRange.parse(text)


@pytest.mark.parametrize(
    "text", [">2 <1", "^1 ^2", ">1.2.3 <1.2.4", "<0.0.0", ">*", "=1.0.0 =2.0.0", ">=1 <1 || >2 <2"]
)
def test_a_range_that_nothing_satisfies_is_recognized(text: str) -> None:
    """It selects no tag, so that the rule never keeps and never deletes anything."""
    assert VersionRange.parse(text).is_empty


@given(st.sampled_from([text for text, _, _ in MATCHES]), st.sampled_from([text for text, _, _ in MATCHES]))
def test_a_range_with_a_version_is_not_empty(one: str, other: str) -> None:
    """A satisfiable range that is called impossible cannot be configured at all."""
    if "||" in one + other:
        return
    both = VersionRange.parse(f"{one} {other}")
    samples = [Version(major, minor, patch) for major in range(4) for minor in range(6) for patch in range(11)]
    if any(both.matches(version) for version in samples):
        assert not both.is_empty
