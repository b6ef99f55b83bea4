"""Tags and names that a job selects."""

from __future__ import annotations

import pytest

from moorage.patterns import Glob
from moorage.registry.tag_selection import TagSelector
from moorage.replication.platforms import ImagePlatform, read_entries, select_entries
from moorage.replication.selection import RepositorySelection, is_signature_tag, newest_tags
from moorage.testing import builders
from moorage.types import parse_repo_name, parse_tag

TAGS = [
    parse_tag(tag) for tag in ("1.9.0", "1.10.0", "v1.11.0-rc.1", "latest", "2024-05-01", "2024-11-30", "edge")
]
ALPINE = parse_repo_name("library/alpine")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["v1.11.0-rc.1"]),
        (3, ["v1.11.0-rc.1", "1.10.0", "1.9.0"]),
        (5, ["v1.11.0-rc.1", "1.10.0", "1.9.0", "2024-11-30", "2024-05-01"]),
    ],
)
def test_the_newest_tags_are_those_with_the_highest_versions(count: int, expected: list[str]) -> None:
    """As text, 1.9.0 is above 1.10.0; registries report no times."""
    assert newest_tags(TAGS, count) == expected


def test_conditions_come_before_the_newest() -> None:
    tags = TagSelector.parse(semver="^1")
    assert RepositorySelection(Glob.parse("a"), tags, newest=1).select_tags(TAGS) == ["1.10.0"]


def test_tags_of_signatures_are_no_images_of_their_own() -> None:
    """They would be copied without what they sign, and count as missing when it goes."""
    tag = parse_tag("sha256-" + "0" * 64)
    assert is_signature_tag(tag)
    assert is_signature_tag(parse_tag(f"{tag}.sig"))
    assert not is_signature_tag(parse_tag("sha256-abc"))
    assert RepositorySelection(Glob.parse("a")).select_tags([tag, *TAGS]) == sorted(TAGS)


@pytest.mark.parametrize(
    ("match", "expected"),
    [((), None), (("3.20", "3.19"), ["3.19", "3.20"]), (("3.*", "latest"), None)],
)
def test_named_tags_need_no_list(match: tuple[str, ...], expected: list[str] | None) -> None:
    """A list of 10,000 tags of Docker Hub takes a minute."""
    selection = RepositorySelection(Glob.parse("a"), TagSelector.parse(match=match))
    assert selection.literal_tags == expected
    assert selection.named_tags == {tag for tag in match if "*" not in tag}


@pytest.mark.parametrize(
    ("target", "expected"),
    [("", "library/alpine"), ("mirror/", "mirror/library/alpine"), ("base/alpine", "base/alpine")],
)
def test_names_in_the_target(target: str, expected: str) -> None:
    assert RepositorySelection(Glob.parse("library/*"), target=target).target_name(ALPINE) == expected


@pytest.mark.parametrize(
    ("selected", "platform", "expected"),
    [
        ("linux/arm", "linux/arm/v7", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/amd64", "windows/amd64", False),
    ],
)
def test_variants_of_platforms(selected: str, platform: str, *, expected: bool) -> None:
    assert ImagePlatform.parse(selected).selects(ImagePlatform.parse(platform)) is expected


@pytest.mark.parametrize("text", ["linux", "Linux/amd64", "linux/", "linux/a/b/c", ""])
def test_texts_that_are_no_platforms(text: str) -> None:
    with pytest.raises(ValueError, match="such as linux/amd64"):
        ImagePlatform.parse(text)


def test_attestations_come_with_their_images() -> None:
    """BuildKit lists them as images for unknown/unknown."""
    one, two = builders.image(seed=1), builders.image(seed=2, platform="linux/arm64")
    attestations = [builders.image(seed=seed, platform="unknown/unknown") for seed in (3, 4)]
    entries = [*builders.index(one, two, *attestations).document["manifests"]]
    for entry, subject in zip(entries[2:], (one, two), strict=True):
        entry["annotations"] = {"vnd.docker.reference.digest": str(subject.digest)}
    found = read_entries(builders.encode({"manifests": entries}))
    selected = select_entries(found, [ImagePlatform.parse("linux/arm64")])
    assert [entry.digest for entry in selected] == [two.digest, attestations[1].digest]
    assert select_entries(found, []) == found
