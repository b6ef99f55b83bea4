"""Patterns: what they mean, that they mean no more, and that none takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.auth.local.patterns import RepositoryPattern
from moorage.errors import NameInvalid
from moorage.patterns import Glob
from moorage.types import parse_repo_name


def parse(text: str) -> RepositoryPattern:
    return RepositoryPattern.parse(text, lambda place: place in {"user", "project_path"})


def matches(pattern: str, name: str, **places: str) -> bool:
    glob = parse(pattern).glob(places.get)
    return glob is not None and glob.matches(name)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("team/app", ["team/app"], ["team", "team/app/x", "team/ap", "xteam/app", "team/app2"]),
        ("team/*", ["team/a", "team/a-b.c"], ["team", "team/a/b", "teams/a", "a/team/b"]),
        ("team/**", ["team/a", "team/a/b/c"], ["team", "teams/a", "a/team/b"]),
        ("**", ["a", "a/b/c"], []),
        ("*", ["a"], ["a/b"]),
        ("**/app", ["a/app", "a/b/app"], ["app", "a/apps", "a/app/b", "a/xapp"]),
        ("a/**/b", ["a/x/b", "a/x/y/b"], ["a/b", "a/x/c", "b/x/b"]),
        ("app-*", ["app-1", "app-1-2"], ["app", "app-1/x", "xapp-1"]),
        ("*/*/prod", ["a/b/prod"], ["a/prod", "a/b/c/prod"]),
        ("a*b*c", ["axbxc", "abbc", "abc"], ["axb", "ab/c"]),
    ],
)
def test_a_pattern_is_read_off(pattern: str, yes: list[str], no: list[str]) -> None:
    """`team/**` must not reach the repository `teams/a`, nor `team` itself."""
    assert [name for name in yes if not matches(pattern, name)] == []
    assert [name for name in no if matches(pattern, name)] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"), ("/team/*", "single slashes"), ("team//*", "single slashes"),
        ("team/", "single slashes"), ("team/**x", "whole component"), ("team**", "whole component"),
        ("***", "whole component"), ("Team/*", "no repository has such a name"),
        ("team/[ab]", "no repository has such a name"), ("host:5000/x", "no repository has such a name"),
        ("team/-", "no repository can have this name"), ("a..b", "no repository can have this name"),
        ("{usr}/**", "{usr} is nothing that can be filled in"), ("{user/**", "between { and }"),
        ("a}/**", "between { and }"), ("{}/a", "between { and }"), ("{user|upper}", "between { and }"),
    ],
)  # fmt: skip
def test_a_pattern_that_can_mean_nothing_is_refused(text: str, message: str) -> None:
    """A typing error would silently grant nothing, or too much."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert message in str(caught.value)


def test_places_are_filled_with_what_can_stand_there_and_never_read_as_a_pattern() -> None:
    """A user called `*` or `../team` would own all repositories."""
    assert matches("{user}/**", "ann/app", user="ann")
    assert not matches("{user}/**", "bob/app", user="ann")
    for name in ("*", "**", "", "a/b", "Ann", "..", "a b", "{user}", "-", "team/**"):
        assert not matches("{user}/**", f"{name}/app", user=name), name
        assert not matches("{user}/**", "team/app", user=name), name
    assert not matches("{user}/**", "ann/app")
    assert not matches("{user}/**", "ann/app", user="Ann")
    assert matches("{user|lower}/**", "ann/app", user="Ann")
    assert not matches("{user|lower}/**", "ann/app")
    assert matches("ci/{project_path}/*", "ci/acme/app/x", project_path="acme/app")
    assert not matches("ci/{project_path}/*", "ci/acme/app/x", project_path="acme/*")
    assert parse("{user}/x/{project_path|lower}").placeholders == {"user", "project_path"}


def test_everything_around_several_places_counts() -> None:
    """`ci/{user}/x/{project_path}` without its beginning would grant other repositories."""
    filled = {"user": "ann", "project_path": "acme/app"}
    assert matches("ci/{user}/x/{project_path}/*", "ci/ann/x/acme/app/y", **filled)
    assert not matches("ci/{user}/x/{project_path}/*", "ann/x/acme/app/y", **filled)
    assert not matches("ci/{user}/x/{project_path}/*", "acme/app/y", **filled)
    assert not matches("ci/{user}/x/{project_path}/*", "ci/ann/x/acme/app", **filled)
    assert matches("ci/{user}/x/{project_path}", "ci/ann/x/acme/app", **filled), "a literal, when it is filled"
    assert not matches("ci/{user}/x/{project_path}", "ci/ann/x/acme/app/y", **filled)


COMPONENTS = st.text(alphabet="ab", min_size=1, max_size=4)
NAMES = st.lists(COMPONENTS, min_size=1, max_size=5).map("/".join)
PARTS = st.one_of(
    st.just("**"), st.text(alphabet="ab*", min_size=1, max_size=4).filter(lambda part: "**" not in part)
)
PATTERNS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


def naive(pattern: list[str], name: list[str]) -> bool:
    """The definition: a component for a component, `**` for one or more."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(naive(pattern[1:], name[taken:]) for taken in range(1, len(name) + 1))
    return bool(name) and naive_part(pattern[0], name[0]) and naive(pattern[1:], name[1:])


def naive_part(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_part(pattern[1:], text[taken:]) for taken in range(len(text) + 1))
    return text[:1] == pattern[0] and naive_part(pattern[1:], text[1:])


@given(PATTERNS, NAMES)
def test_no_pattern_matches_other_names_than_its_definition_does(pattern: str, name: str) -> None:
    """A reader of the file could not tell whom it admits."""
    assert matches(pattern, name) == naive(pattern.split("/"), name.split("/"))


@given(st.text(alphabet="aA-._/*{}|user", max_size=20), st.text(alphabet="aA-._/*", max_size=12))
def test_whatever_is_accepted_matches_names_only(text: str, user: str) -> None:
    """No pattern makes its reader fail, and a place that was filled still is part of a name."""
    try:
        pattern = parse(text)
    except ValueError:
        return
    glob = pattern.glob({"user": user}.get)
    if glob is not None and glob.is_literal:
        try:
            parse_repo_name(glob.text)
        except NameInvalid:
            assert pattern.placeholders, "a literal that is no name was to be refused"


def test_matching_takes_no_longer_than_the_name_is_long() -> None:
    """Names come from strangers: with backtracking this one would take years."""
    begun = time.process_time()
    assert not Glob.parse("**a" * 60 + "b").matches("a" * 255)
    assert not Glob.parse("/".join(["**"] * 40) + "/b").matches("/".join("a" * 120))
    assert not Glob.parse("*a" * 60 + "b").matches("a" * 255)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("refs/heads/main", ["refs/heads/main"], ["refs/heads/main2", "refs/heads/mai"]),
        ("refs/tags/*", ["refs/tags/v1", "refs/tags/"], ["refs/tags/a/b", "refs/heads/v1"]),
        ("repo:acme/app:**", ["repo:acme/app:ref:refs/heads/x"], ["repo:acme/app2:ref:x", "repo:acme/app"]),
        ("*", ["", "abc"], ["a/b", "/", "/a"]),
        ("**", ["", "a/b"], []),
        ("**a*c", ["ac", "aa/ac", "x/a/abc"], ["aa/c", "ac/"]),
    ],
)
def test_values_of_claims_are_matched_whole(pattern: str, yes: list[str], no: list[str]) -> None:
    """A pattern that matched a part of a value would let `acme/app-evil` in for `acme/app`."""
    glob = Glob.parse(pattern)
    assert [value for value in yes if not glob.matches(value)] == []
    assert [value for value in no if glob.matches(value)] == []


@pytest.mark.parametrize("text", ["", "a***"])
def test_a_value_that_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Glob.parse(text)
