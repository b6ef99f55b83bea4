"""Scopes: what a client asks for, in all the spellings there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.auth.access import CATALOG, EVERYTHING, ListedGrants, Need, scopes
from moorage.auth.local.policy import ACTIONS
from moorage.auth.local.scopes import TooManyScopes, granted, needs_of


def shown(*texts: str) -> list[str]:
    return scopes(needs_of(texts))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["repository:a/b:pull"], ["repository:a/b:pull"]),
        (["repository:a:push,pull"], ["repository:a:push,pull"]),
        (["repository:a:pull", "repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull", "repository:a:pull,push"], ["repository:a:pull,push"]),
        (["repository:a:*"], ["repository:a:pull,push,delete"]),
        (["repository:a:pull,*"], ["repository:a:pull,push,delete"]),
        (["repository(plugin):a:pull"], ["repository:a:pull"]),
        (["registry:catalog:*"], ["registry:catalog:*"]),
        (["registry:catalog:search"], []), (["registry:other:*"], []), (["other:a:pull"], []),
        (["repository:A:pull"], []), (["repository:../a:pull"], []), (["repository:host:5000/a:pull"], []),
        (["repository:a:write"], []), (["repository:a:write,pull"], ["repository:a:pull"]),
        (["repository:a:"], []), (["repository::pull"], []), (["a"], []), ([""], []), (["  "], []), ([], []),
    ],
)  # fmt: skip
def test_what_is_asked_for(texts: list[str], expected: list[str]) -> None:
    """Clients repeat the parameter, or put several into one; old ones name a class."""
    assert shown(*texts) == expected


def test_more_than_a_token_is_made_for_is_refused() -> None:
    """A token of megabytes would be sent with every request, and refused by every proxy."""
    many = [f"repository:a{number}:pull" for number in range(100)]
    assert len(needs_of(many)) == 100
    with pytest.raises(TooManyScopes, match="more than 100 repositories in one token"):
        needs_of([" ".join(many), "repository:b:pull"])


def test_what_is_no_scope_takes_none_after_it_along() -> None:
    """Clients send several in one parameter."""
    assert shown("nonsense repository:a:pull", "!! repository:b:push") == [
        "repository:a:pull",
        "repository:b:push",
    ]


def test_a_token_holds_the_intersection() -> None:
    """Never more than asked, never more than granted."""
    grants = ListedGrants({("repository", "a"): frozenset({"pull"}), ("repository", "b"): frozenset({"push"})})
    needs = needs_of(["repository:a:pull,push repository:c:pull registry:catalog:*"])
    assert granted(needs, grants) == [{"type": "repository", "name": "a", "actions": ["pull"]}]
    assert granted([], EVERYTHING) == []
    assert granted([CATALOG], EVERYTHING) == [{"type": "registry", "name": "catalog", "actions": ["*"]}]


@given(st.lists(st.text(alphabet="repositygac:*,()/l un", max_size=60), max_size=5))
def test_whatever_is_asked_only_known_words_come_out(texts: list[str]) -> None:
    """A token would grant a repository that was never checked."""
    for need in needs_of(texts):
        assert need == CATALOG or (need.type == "repository" and need.action in ACTIONS)
    access = granted(needs_of(texts), EVERYTHING)
    listed = ListedGrants.of_claim(access)
    assert not listed.allows(Need("repository", "never/asked", "pull"))
    assert all(listed.allows(need) for need in needs_of(texts))
