"""Decisions of retention: pure, from facts to what goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from moorage.patterns import Glob
from moorage.registry.holds import Hold, LegalHolds
from moorage.registry.protection import ImmutableRule, Protection
from moorage.registry.tag_selection import TagSelector
from moorage.registry.tags import TagState
from moorage.retention.decide import Pulls, RetentionPlan, decide
from moorage.retention.families import Facts, ManifestFacts
from moorage.retention.rules import RetentionPolicy, TagRule
from moorage.storage.driver import Key, Stat
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.types import Reference

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAME = RepoName("team/app")
LONG = timedelta(days=400)
EVERY = (Glob.parse("**"),)


def digest(label: str) -> Digest:
    return Digest.of(label.encode())


def days(count: float) -> timedelta:
    return timedelta(days=count)


def state(tag: str, label: str, age: timedelta, earlier: Mapping[str, timedelta] | None = None) -> TagState:
    entries = {digest(other): NOW - at for other, at in (earlier or {}).items()} | {digest(label): NOW - age}
    return TagState(Tag(tag), digest(label), Stat(Key(tag), 71, NOW - age), entries)


def manifest(age: timedelta = LONG, **fields: Any) -> ManifestFacts:
    return ManifestFacts(NOW - age, **fields)


def facts(tags: list[TagState], manifests: Mapping[str, ManifestFacts] | None = None) -> Facts:
    found = {found.digest: manifest() for found in tags} | {
        digest(label): entry for label, entry in (manifests or {}).items()
    }
    return Facts(NAME, {found.tag: found for found in tags}, found)


def pulls(times: Mapping[Reference, timedelta], since: timedelta | None = LONG) -> Pulls:
    return Pulls(
        lambda _, reference: NOW - times[reference] if reference in times else None,
        None if since is None else NOW - since,
    )


NONE = pulls({})


def plan(policy: RetentionPolicy, found: Facts, pulled: Pulls = NONE) -> RetentionPlan:
    return decide(policy, found, pulled, NOW)


def gone(made: RetentionPlan) -> set[str]:
    return {decision.state.tag for decision in made.removed_tags}


def rule(**fields: Any) -> RetentionPolicy:
    return RetentionPolicy((TagRule("r", EVERY, **fields),))


AGES = [state(f"v{age}", f"m{age}", days(age)) for age in (1, 10, 20, 40, 80)]


def test_the_last_tags_are_kept() -> None:
    made = plan(rule(keep_last=2), facts(AGES))
    assert gone(made) == {"v20", "v40", "v80"}
    assert {removed.digest for removed in made.manifests} == {digest("m20"), digest("m40"), digest("m80")}
    assert {decision.rule for decision in made.removed_tags} == {"r"}


def test_one_condition_is_enough_to_stay() -> None:
    assert gone(plan(rule(keep_last=1, pushed_within=days(30)), facts(AGES))) == {"v40", "v80"}


def test_keep_last_zero_deletes_what_is_selected() -> None:
    policy = rule(keep_last=0, tags=TagSelector.parse(match=["v1*"]))
    assert gone(plan(policy, facts(AGES))) == {"v1", "v10"}


def test_a_rule_that_keeps_wins_over_one_that_deletes() -> None:
    releases = TagRule("releases", EVERY, TagSelector.parse(match=["v40"]), keep_all=True)
    policy = RetentionPolicy((TagRule("few", EVERY, keep_last=1), releases))
    made = plan(policy, facts(AGES))
    assert gone(made) == {"v10", "v20", "v80"}
    (kept,) = [decision for decision in made.tags if decision.state.tag == "v40"]
    assert (kept.rule, kept.reason) == ("releases", "keepall")


def test_tags_that_no_rule_selects_stay() -> None:
    policy = rule(keep_last=0, tags=TagSelector.parse(regex="v[12]0", exceptions=["v20"]))
    assert gone(plan(policy, facts(AGES))) == {"v10"}
    other = RetentionPolicy((TagRule("r", (Glob.parse("other/*"),), keep_last=0),))
    assert gone(plan(other, facts(AGES))) == set()


def test_versions_are_selected_by_their_range() -> None:
    tags = [state(tag, tag, days(5)) for tag in ("1.4.0", "v1.9.2", "2.0.0", "1.5.0-rc.1", "latest", "1.5")]
    assert gone(plan(rule(keep_last=0, tags=TagSelector.parse(semver="^1.2")), facts(tags))) == {"1.4.0", "v1.9.2"}


def test_a_pull_by_tag_by_digest_or_of_a_platform_keeps_a_tag() -> None:
    """Docker resolves the tag by HEAD and pulls by digest, so few pulls name the tag."""
    tags = [
        *(state(tag, tag, days(90)) for tag in ("named", "digest", "old", "never")),
        state("idx", "idx", days(90)),
    ]
    found = facts(tags, {"idx": manifest(children=(digest("child"),)), "child": manifest()})
    pulled = pulls(
        {Tag("named"): days(1), digest("digest"): days(2), digest("child"): days(3), Tag("old"): days(60)}
    )
    assert gone(plan(rule(pulled_within=days(30)), found, pulled)) == {"old", "never"}


def test_a_push_counts_as_a_pull() -> None:
    """An image that was just built has not been pulled yet."""
    assert gone(plan(rule(pulled_within=days(30)), facts(AGES))) == {"v40", "v80"}


def test_pulls_decide_only_when_they_have_been_recorded_long_enough() -> None:
    """An unrecorded pull is no proof of disuse: the day after the rule was configured would empty the registry."""
    for since in (None, days(29)):
        made = plan(rule(pulled_within=days(30)), facts(AGES), pulls({}, since))
        assert gone(made) == set()
        assert any("recorded" in decision.reason for decision in made.tags)


BOTH = {"idx": manifest(children=(digest("a"), digest("b"))), "a": manifest(), "b": manifest(),
        "sig": manifest(subject=digest("idx")), "sbom of a": manifest(subject=digest("a")),
        "sig of sbom": manifest(subject=digest("sbom of a"))}  # fmt: skip


def test_a_family_goes_with_its_tag_and_the_index_first() -> None:
    """After a crash in between, no index is left without its platforms."""
    cosign = f"sha256-{digest('idx').hex}.sig"
    found = facts([state("v1", "idx", days(50)), state(cosign, "cosign", days(1))], BOTH)
    made = plan(rule(keep_last=0, tags=TagSelector.parse(match=["v1"])), found)
    assert gone(made) == {"v1", cosign}
    order = [removed.digest for removed in made.manifests]
    assert set(order) == set(found.manifests)
    assert order.index(digest("idx")) < min(order.index(digest(label)) for label in ("a", "b", "sig"))
    assert order.index(digest("a")) < order.index(digest("sbom of a")) < order.index(digest("sig of sbom"))


def test_signatures_are_not_judged_while_their_subject_lives() -> None:
    """A tag of cosign, and a tag whose manifest has a subject, neither count nor go."""
    cosign = f"sha256-{digest('idx').hex}.sig"
    tags = [state("v1", "idx", days(50)), state(cosign, "cosign", days(1)), state("v1-sbom", "sig", days(2))]
    made = plan(rule(keep_last=1), facts(tags, BOTH))
    assert gone(made) == set()
    assert made.manifests == ()


def test_an_orphaned_signature_is_an_ordinary_tag() -> None:
    cosign = f"sha256-{digest('gone').hex}.sig"
    assert gone(plan(rule(keep_last=0), facts([state(cosign, "s", days(1))]))) == {cosign}


def test_a_platform_that_another_index_has_stays() -> None:
    shared = {"one": manifest(children=(digest("a"), digest("b"))),
              "two": manifest(children=(digest("b"), digest("c"))),
              "a": manifest(), "b": manifest(), "c": manifest()}  # fmt: skip
    made = plan(rule(keep_last=1), facts([state("v1", "one", days(9)), state("v2", "two", days(1))], shared))
    assert {removed.digest for removed in made.manifests} == {digest("one"), digest("a")}


def test_a_manifest_with_another_tag_stays() -> None:
    tags = [state("v1", "m", days(9)), state("stable", "m", days(9))]
    made = plan(rule(keep_last=0, tags=TagSelector.parse(match=["v*"])), facts(tags))
    assert (gone(made), made.manifests) == ({"v1"}, ())


def test_a_manifest_that_was_just_pushed_again_stays() -> None:
    """It may be a platform of an index that is being pushed."""
    found = facts([state("v1", "m", days(9))], {"m": manifest(timedelta(minutes=5))})
    made = plan(rule(keep_last=0), found)
    assert (gone(made), made.manifests) == ({"v1"}, ())


def test_a_young_signature_keeps_its_family() -> None:
    found = facts([state("v1", "idx", days(50))], BOTH | {"sig": manifest(days(0), subject=digest("idx"))})
    assert plan(rule(keep_last=0), found).manifests == ()


def untagged(after: timedelta) -> RetentionPolicy:
    return RetentionPolicy(untagged_after=after)


def test_untagged_families_go_when_they_are_old() -> None:
    found = facts([state("v1", "kept", days(50))], BOTH)
    made = plan(untagged(days(30)), found)
    assert {removed.digest for removed in made.manifests} == {digest(label) for label in BOTH}
    assert {removed.rule for removed in made.manifests} == {"untagged"}
    assert plan(untagged(LONG + days(1)), found).manifests == ()


def test_an_untagged_manifest_is_as_old_as_its_last_use() -> None:
    """Pushed long ago, its tag was moved yesterday: it has been untagged for a day."""
    moved = facts([state("v1", "new", days(2), {"old": days(90)})], {"old": manifest()})
    assert plan(untagged(days(7)), moved).manifests == ()
    assert [removed.digest for removed in plan(untagged(days(1)), moved).manifests] == [digest("old")]
    lone = facts([], {"m": manifest()})
    assert plan(untagged(days(7)), lone, pulls({digest("m"): days(3)})).manifests == ()
    deleted = Facts(NAME, {}, lone.manifests, {digest("m"): NOW - days(3)})
    assert plan(untagged(days(7)), deleted).manifests == ()
    assert len(plan(untagged(days(7)), lone).manifests) == 1


def test_without_the_setting_untagged_manifests_stay() -> None:
    assert plan(rule(keep_last=0), facts([state("v1", "m", days(9))], {"other": manifest()})).manifests[
        0
    ].digest == (digest("m"))


def protected(*rules: ImmutableRule, holds: LegalHolds | None = None) -> Protection:
    return Protection(rules, holds or LegalHolds())


def test_holds_win_over_everything() -> None:
    family = [state("v1", "idx", days(50)), state("v2", "m", days(60))]
    by_tag = LegalHolds([Hold.parse(["team/*"], "case 7", tags=["v1"])])
    policy = RetentionPolicy((TagRule("r", EVERY, keep_last=0),), days(1), protection=protected(holds=by_tag))
    made = plan(policy, facts(family, BOTH))
    assert gone(made) == {"v2"}
    assert [removed.digest for removed in made.manifests] == [digest("m")]
    by_digest = LegalHolds([Hold.parse(["team/*"], "case 7", digests=[str(digest("sig"))])])
    policy = RetentionPolicy((TagRule("r", EVERY, keep_last=0),), days(1), protection=protected(holds=by_digest))
    made = plan(policy, facts(family, BOTH))
    assert [removed.digest for removed in made.manifests] == [digest("m")], "a held signature keeps its image"
    everything = LegalHolds([Hold.parse(["team/*"], "case 7")])
    policy = RetentionPolicy((TagRule("r", EVERY, keep_last=0),), days(1), protection=protected(holds=everything))
    assert plan(policy, facts(family, BOTH)) == RetentionPlan(NAME)


def test_immutable_tags_stay_unless_they_may_be_deleted() -> None:
    for deletable in (False, True):
        immutable = ImmutableRule.parse("immutability.rules[0]", ["**"], tags=["v1*"], deletable=deletable)
        policy = RetentionPolicy((TagRule("r", EVERY, keep_last=0),), protection=protected(immutable))
        assert gone(plan(policy, facts(AGES))) == {"v20", "v40", "v80"} | ({"v1", "v10"} if deletable else set())


def test_nothing_follows_from_a_manifest_that_cannot_be_read() -> None:
    """Its platforms are unknown, so any manifest may be one."""
    found = facts([*AGES, state("torn", "torn", days(9))], {"torn": manifest(readable=False)})
    made = plan(rule(keep_last=0), found)
    assert gone(made) == {"v1", "v10", "v20", "v40", "v80"}
    assert made.manifests == ()


def test_freeable_bytes_leave_out_shared_blobs() -> None:
    common, own = digest("common"), digest("own")
    found = facts(
        [state("v1", "one", days(9)), state("v2", "two", days(1))],
        {"one": manifest(blobs=((common, 1000), (own, 50)), size=7), "two": manifest(blobs=((common, 1000),))},
    )
    assert plan(rule(keep_last=1), found).freeable_bytes == 57


def test_dead_tags_are_left_alone_and_do_not_count() -> None:
    found = facts([state("v1", "m", days(9)), state("v2", "n", days(1))])
    alive = Facts(NAME, found.tags, {digest("m"): manifest()})
    assert gone(plan(rule(keep_last=1), alive)) == set()
