"""Decisions of the policy: permissions of each identity, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.auth.local.helpers import may, policy

from moorage.auth.access import CATALOG, Need
from moorage.auth.local import policy as policies
from moorage.auth.local.patterns import RepositoryPattern
from moorage.auth.local.policy import ACTIONS, ANONYMOUS, AccessPolicy, AccessRule, Identity

if TYPE_CHECKING:
    from pathlib import Path

HASH: Final = f"sha256:{'a' * 22}:{'0' * 64}"
ANN, BOB, EVE = (Identity("user", name) for name in ("ann", "bob", "eve"))
CI: Final = Identity("robot", "ci")

POLICY: Final = f"""
groups:
  dev: [ann, bob]
robots:
  ci:
    secret: {HASH}
    expires: never
    access:
      - {{repositories: ci/**, allow: [pull, push]}}
issuers:
  - name: gitlab
    issuer: https://ci.example
    audience: registry.example
    rules:
      - claims: {{project_path: "acme/*", ref: [main, "release-*"]}}
        repositories: ["{{project_path}}", "{{project_path}}/**"]
        allow: [pull, push]
access:
  - who: anonymous
    repositories: library/**
    allow: pull
  - who: authenticated
    repositories: "{{user}}/**"
    allow: [pull, push, delete]
  - who: [group:dev, robot:ci]
    repositories: [team/**]
    allow: [pull, push]
  - {{who: ann, repositories: team/**, allow: delete}}
  - {{who: user:bob, catalog: true}}
"""


def job(**claims: str) -> Identity:
    return Identity("foreign", "job", "gitlab", tuple(sorted((name, (value,)) for name, value in claims.items())))


@pytest.mark.parametrize(
    ("identity", "name", "actions"),
    [
        (ANONYMOUS, "library/app", "pull"), (ANONYMOUS, "team/app", ""), (ANONYMOUS, "ann/app", ""),
        (ANN, "library/app", "pull"), (ANN, "team/app", "pull push delete"), (ANN, "ann/app", "pull push delete"),
        (ANN, "bob/app", ""), (BOB, "team/app", "pull push"), (BOB, "bob/app", "pull push delete"),
        (EVE, "team/app", ""), (EVE, "library/app", "pull"), (EVE, "eve/app", "pull push delete"),
        (CI, "ci/x", "pull push"), (CI, "team/app", "pull push"), (CI, "library/app", "pull"), (CI, "ann/app", ""),
        (job(project_path="acme/app", ref="main"), "acme/app", "pull push"),
        (job(project_path="acme/app", ref="release-1"), "acme/app/web", "pull push"),
        (job(project_path="acme/app", ref="main"), "acme/other", ""),
        (job(project_path="acme/app", ref="main"), "library/app", "pull"),
        (job(project_path="acme/app", ref="feature"), "acme/app", ""),
        (job(project_path="evil/app", ref="main"), "evil/app", ""),
        (job(project_path="acme/app", ref="main"), "team/app", ""),
        (Identity("foreign", "x", "other", job(project_path="acme/app", ref="main").claims), "acme/app", ""),
        (Identity("robot", "ann"), "ann/app", ""), (Identity("robot", "bob"), "team/app", ""),
        (Identity("user", "ci"), "ci/x", "pull push delete"), (Identity("user", "group:dev"), "team/app", ""),
        (Identity("user", "anonymous"), "team/app", ""),
    ],
)  # fmt: skip
def test_an_identity_has_the_sum_of_the_rules_that_name_it(
    tmp_path: Path, identity: Identity, name: str, actions: str
) -> None:
    """Robots and jobs are not "authenticated": they have what they were given by name, and what all have."""
    assert may(policy(tmp_path, POLICY).grants_of(identity), name) == actions


def test_the_catalog_is_for_those_who_were_given_it(tmp_path: Path) -> None:
    """It discloses the names of all repositories."""
    found = policy(tmp_path, POLICY)
    assert found.grants_of(BOB).allows(CATALOG)
    for identity in (ANONYMOUS, ANN, CI):
        assert not found.grants_of(identity).allows(CATALOG)
    assert not found.grants_of(BOB).allows(Need("registry", "catalog", "pull"))
    assert not found.grants_of(BOB).allows(Need("registry", "other", "*"))


def test_an_action_that_no_rule_can_name_is_nobodys(tmp_path: Path) -> None:
    """`*` in a request would otherwise be a right that was never looked up."""
    found = policy(tmp_path, "access: [{who: ann, repositories: '**', allow: [pull, push, delete]}]")
    for need in (Need("repository", "a", "*"), Need("repository", "a", ""), Need("other", "a", "pull")):
        assert not found.grants_of(ANN).allows(need)


def test_who_reads_everything_may_mount_from_anywhere(tmp_path: Path) -> None:
    """And only he: one who reads almost everything must not learn of the rest by digests."""
    found = policy(
        tmp_path,
        """
        access:
          - {who: ann, repositories: "**", allow: pull}
          - {who: bob, repositories: "**", allow: push}
          - {who: bob, repositories: ["*", "*/**"], allow: pull}
        """,
    )
    assert found.grants_of(ANN).reads_everything
    assert not found.grants_of(BOB).reads_everything
    assert not found.grants_of(ANONYMOUS).reads_everything


def test_a_job_is_known_only_by_a_rule_about_its_claims(tmp_path: Path) -> None:
    """Anyone can get a token of a public CI system; it would be a login."""
    found = policy(tmp_path, POLICY)
    assert found.has_rule_for(job(project_path="acme/app", ref="main"))
    assert not found.has_rule_for(job(project_path="acme/app"))
    assert not found.has_rule_for(job(project_path="evil/app", ref="main"))
    assert found.claims_of("gitlab") == {"project_path", "ref"}
    assert found.claims_of("other") == frozenset()


def test_a_place_needs_exactly_one_value(tmp_path: Path) -> None:
    """A repository would be named after an arbitrary one of several groups."""
    found = policy(tmp_path, POLICY)
    two = Identity("foreign", "job", "gitlab", (("project_path", ("acme/app", "acme/x")), ("ref", ("main",))))
    assert found.has_rule_for(two)
    assert may(found.grants_of(two), "acme/app") == ""


def test_names_in_logs_tell_kinds_apart() -> None:
    """A robot called like a person must not be taken for her."""
    shown = [each.display_name for each in (ANONYMOUS, ANN, CI, job())]
    assert shown == ["", "ann", "robot+ci", "gitlab:job"]


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of repositories come from strangers."""
    monkeypatch.setattr(policies, "_CACHED", 3)
    found = policy(tmp_path, POLICY)
    for number in range(10):
        assert may(found.grants_of(ANN), f"ann/x{number}") == "pull push delete"
        found.grants_of(Identity("user", f"u{number}"))
    assert len(found._grants) <= 3
    assert len(found.grants_of(ANN)._decided) <= 3


def test_a_rule_says_what_it_says(tmp_path: Path) -> None:
    """`moorage auth explain` prints it."""
    shown = [rule.summary for rule in policy(tmp_path, POLICY).rules]
    assert "who group:dev, robot:ci; repositories team/**; allow pull, push" in shown
    assert "who user:bob; catalog" in shown
    assert any("project_path acme/*; ref main or release-*" in text for text in shown)


SUBJECTS = st.sampled_from(["anonymous", "authenticated", "user:ann", "group:dev", "robot:ci"])
RULES = st.builds(
    lambda who, pattern, allow: AccessRule(
        "here", who, (RepositoryPattern.parse(pattern, lambda _: True),), allow
    ),
    st.frozensets(SUBJECTS, min_size=1),
    st.sampled_from(["a/*", "a/**", "**", "a/b", "{user}/**", "*"]),
    st.frozensets(st.sampled_from(ACTIONS), min_size=1),
)
NAMES = ("a", "a/b", "a/b/c", "ann/x", "dev")
OF: Final = {
    ANN: {"anonymous", "authenticated", "user:ann", "group:dev"},
    EVE: {"anonymous", "authenticated"},
    CI: {"anonymous", "robot:ci"},
    ANONYMOUS: {"anonymous"},
}


@given(st.lists(RULES, max_size=6), st.sampled_from(sorted(OF, key=str)))
def test_rules_add_up_whatever_their_order(rules: list[AccessRule], identity: Identity) -> None:
    """Rules in combination would grant more than each of them."""
    groups = {"dev": frozenset({"ann"})}
    together = AccessPolicy(groups, rules=tuple(rules)).grants_of(identity)
    reverse = AccessPolicy(groups, rules=tuple(reversed(rules))).grants_of(identity)
    alone = [AccessPolicy(groups, rules=(rule,)).grants_of(identity) for rule in rules if rule.who & OF[identity]]
    for name in NAMES:
        for action in ACTIONS:
            need = Need("repository", name, action)
            expected = any(each.allows(need) for each in alone)
            assert together.allows(need) == reverse.allows(need) == expected
            assert bool(together.rules_granting(need)) == expected
