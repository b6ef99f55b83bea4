"""Decisions of retention: which tags and manifests of a repository go, and which rule decides.

    tag        kept if a rule keeps it, if no rule selects it, if it is immutable or held; else deleted
    manifest   kept if a kept tag leads to it (`families.closure`), if it is held or young; else deleted with its
               last tag, or, if no tag led to it before, when it is older than `untagged.after`

A tag of a family follows the manifest to which it belongs.  Everything of a family is kept or deleted together,
except for what another family needs as well.

A manifest that was pushed within `YOUNG` may be part of a push in progress, whose tag or index does not exist yet,
and is kept.  If a manifest of the repository cannot be read, it is unknown what it needs: no manifest is deleted.

Pure: no store, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.retention.families import closure, in_order_of_removal, subject_of, top_level, with_subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from moorage.registry.tags import TagState
    from moorage.retention.families import Facts
    from moorage.retention.rules import RetentionPolicy, TagRule
    from moorage.types import Digest, Reference, RepoName, Tag

__all__ = ["YOUNG", "Pulls", "RemovedManifest", "RetentionPlan", "TagDecision", "TagVerdict", "decide", "unneeded"]

YOUNG: Final = timedelta(hours=1)
_UNTAGGED: Final = "untagged"


class TagVerdict(NamedTuple):
    """`rule` is the name of the deciding rule, "" if none did; `reason` describes the condition."""

    keep: bool
    rule: str
    reason: str


class TagDecision(NamedTuple):
    """Decision on one tag."""

    state: TagState
    keep: bool
    rule: str
    reason: str


class RemovedManifest(NamedTuple):
    """A manifest that goes, and the rule that decides."""

    digest: Digest
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """Decisions on one repository; `manifests` are those that go, in order of their removal.

    `freeable_bytes`: bytes of the manifests that go, and of blobs that no remaining manifest of the repository
    names; other repositories may still need them.
    """

    name: RepoName
    tags: tuple[TagDecision, ...] = ()
    manifests: tuple[RemovedManifest, ...] = ()
    freeable_bytes: int = 0

    @property
    def removed_tags(self) -> list[TagDecision]:
        return [decision for decision in self.tags if not decision.keep]


@dataclass(frozen=True, slots=True)
class Pulls:
    """Times of the last pulls.  `since`: when recording began, None if it has not."""

    last: Callable[[RepoName, Reference], datetime | None]
    since: datetime | None


def decide(policy: RetentionPolicy, facts: Facts, pulls: Pulls, now: datetime) -> RetentionPlan:
    """Return the plan for one repository."""
    if not policy.concerns(facts.name):
        return RetentionPlan(facts.name)
    alive = facts.alive()
    followers = {state.tag: subject for state in alive if (subject := subject_of(facts, state)) is not None}
    judged = [state for state in alive if state.tag not in followers]
    verdicts = _judge(policy, facts, judged, pulls, now)
    for tag in followers:
        reason = policy.protection.from_deletion(facts.name, tag)
        if reason is not None:
            verdicts[tag] = TagVerdict(keep=True, rule="", reason=reason)
    manifests = _manifests(policy, facts, verdicts, followers, pulls, now)
    going = {removed.digest: removed for removed in manifests}
    decisions = []
    for state in alive:
        verdict = verdicts.get(state.tag)
        if verdict is None:
            removed = going.get(followers[state.tag])
            verdict = (
                TagVerdict(keep=True, rule="", reason=f"belongs to {followers[state.tag]}")
                if removed is None
                else TagVerdict(keep=False, rule=removed.rule, reason=f"belongs to {removed.digest}")
            )
        decisions.append(TagDecision(state, *verdict))
    return RetentionPlan(facts.name, tuple(decisions), tuple(manifests), _freeable(facts, going))


def unneeded(
    policy: RetentionPolicy, facts: Facts, candidates: Iterable[Digest], going_tags: Iterable[Tag], now: datetime
) -> set[Digest]:
    """Return those of `candidates` that nothing keeps when `going_tags` are gone."""
    candidates = set(candidates)
    if not candidates or not facts.is_readable:
        return set()
    going = set(going_tags)
    staying = [state for state in facts.alive() if state.tag not in going]
    roots = {state.digest for state in staying}
    roots |= {subject for state in staying if (subject := subject_of(facts, state)) is not None}
    roots |= policy.protection.holds.digests(facts.name)
    roots |= {digest for digest, manifest in facts.manifests.items() if now - manifest.modified < YOUNG}
    roots = with_subjects(facts, roots)
    reached = closure(facts, [state.digest for state in facts.alive()])
    roots |= set(top_level(facts, facts.manifests.keys() - reached - candidates))
    return candidates - closure(facts, roots)


def _judge(
    policy: RetentionPolicy, facts: Facts, judged: list[TagState], pulls: Pulls, now: datetime
) -> dict[Tag, TagVerdict]:
    """Return the verdict on each tag that stands for itself."""
    verdicts: dict[Tag, TagVerdict] = {}
    for rule in policy.rules:
        if not rule.concerns(facts.name):
            continue
        selected = [state for state in judged if rule.tags.selects(state.tag)]
        for state, verdict in zip(selected, _apply(rule, facts, selected, pulls, now), strict=True):
            before = verdicts.get(state.tag)
            if before is None or (verdict.keep and not before.keep):
                verdicts[state.tag] = verdict
    for state in judged:
        reason = policy.protection.from_deletion(facts.name, state.tag)
        if reason is not None:
            verdicts[state.tag] = TagVerdict(keep=True, rule="", reason=reason)
        elif not facts.manifests[state.digest].readable:
            verdicts[state.tag] = TagVerdict(keep=True, rule="", reason="its manifest cannot be read")
        else:
            verdicts.setdefault(state.tag, TagVerdict(keep=True, rule="", reason="no rule selects it"))
    return verdicts


def _apply(rule: TagRule, facts: Facts, selected: list[TagState], pulls: Pulls, now: datetime) -> list[TagVerdict]:
    """Return the verdict of one rule on each tag that it selects."""
    newest = sorted(selected, key=lambda state: (state.modified, state.tag), reverse=True)
    rank = {state.tag: index for index, state in enumerate(newest, 1)}
    verdicts = []
    for state in selected:
        age = now - state.modified
        kept = ""
        if rule.keep_all:
            kept = "keepall"
        elif rule.keep_last is not None and rank[state.tag] <= rule.keep_last:
            kept = f"among the last {rule.keep_last}"
        elif rule.pushed_within is not None and age < rule.pushed_within:
            kept = f"pushed {_days(age)} ago"
        elif rule.pulled_within is not None:
            kept = _kept_by_pull(facts, state, rule.pulled_within, pulls, now)
        reason = kept or f"number {rank[state.tag]} of {len(selected)}, pushed {_days(age)} ago"
        verdicts.append(TagVerdict(bool(kept), rule.name, reason))
    return verdicts


def _kept_by_pull(facts: Facts, state: TagState, within: timedelta, pulls: Pulls, now: datetime) -> str:
    """Return the reason why the time of the last pull keeps a tag; "" if it does not.  A push counts as a pull."""
    if pulls.since is None or now - pulls.since < within:
        began = "not recorded" if pulls.since is None else f"recorded for {_days(now - pulls.since)} only"
        return f"pulls are {began}"
    times = [pulls.last(facts.name, state.tag), state.modified]
    times += [pulls.last(facts.name, digest) for digest in closure(facts, [state.digest])]
    age = now - max(time for time in times if time is not None)
    return f"pulled {_days(age)} ago" if age < within else ""


def _manifests(
    policy: RetentionPolicy,
    facts: Facts,
    verdicts: dict[Tag, TagVerdict],
    followers: dict[Tag, Digest],
    pulls: Pulls,
    now: datetime,
) -> list[RemovedManifest]:
    """Return the manifests that go, with the rule that decides."""
    causes: dict[Digest, tuple[str, str]] = {}
    going_tags = {tag for tag, verdict in verdicts.items() if not verdict.keep}
    for tag in sorted(going_tags):
        for digest in closure(facts, [facts.tags[tag].digest]):
            causes.setdefault(digest, (verdicts[tag].rule, f"of the tag {tag}"))
    tagged = closure(facts, [state.digest for state in facts.alive()])
    if policy.untagged_after is not None and policy.deletes_untagged(facts.name):
        named = _last_named(facts)
        for top in top_level(facts, facts.manifests.keys() - tagged):
            idle = now - max(_last_use(facts, top, pulls), named.get(top, facts.manifests[top].modified))
            if idle >= policy.untagged_after:
                for digest in closure(facts, [top]):
                    causes.setdefault(digest, (_UNTAGGED, f"without a tag for {_days(idle)}"))
    # Tags of families that follow what goes do not keep it; protected ones, which have a verdict, do.
    free = followers.keys() - verdicts.keys()
    gone = unneeded(policy, facts, causes, going_tags | free, now)
    return [RemovedManifest(digest, *causes[digest]) for digest in in_order_of_removal(facts, sorted(gone))]


def _last_use(facts: Facts, digest: Digest, pulls: Pulls) -> datetime:
    """Return when a manifest without a tag was last pushed, or its family pulled, as far as that is known."""
    times = [pulls.last(facts.name, member) for member in closure(facts, [digest])]
    return max([facts.manifests[digest].modified, *(time for time in times if time is not None)])


def _last_named(facts: Facts) -> dict[Digest, datetime]:
    """Return until when, at most, tags named the manifests of their histories, and those of deleted tags.

    A tag was moved away from an earlier manifest when it was last set, or before.
    """
    named = dict(facts.recent)
    for state in facts.tags.values():
        for digest in state.entries:
            named[digest] = max(state.modified, named.get(digest, state.modified))
    return named


def _freeable(facts: Facts, going: dict[Digest, RemovedManifest]) -> int:
    kept = {
        blob for digest, manifest in facts.manifests.items() if digest not in going for blob, _ in manifest.blobs
    }
    blobs = {blob: size for digest in going for blob, size in facts.manifests[digest].blobs if blob not in kept}
    return sum(blobs.values()) + sum(facts.manifests[digest].size for digest in going)


def _days(age: timedelta) -> str:
    hours = max(0, int(age.total_seconds())) // 3600
    if not hours:
        return f"{max(0, int(age.total_seconds())) // 60} min"
    return f"{hours // 24} days" if hours >= 48 else f"{hours} h"  # noqa: PLR2004  two days
