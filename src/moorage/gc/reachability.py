"""Reachability in one repository: which of its manifests and layer links are needed, and by what.

A manifest is needed if

    a tag names it                                 a tag such as `sha256-HEX.sig` is one like any other
    a needed index lists it                        an entry that the repository does not have is passed over
    its subject is needed                          signatures, SBOMs and attestations follow their image
    it is young, or can be restored, or is held    restored: from the trash, or from the history of a tag
    it cannot be read                              so nothing is known of its family

or if untagged manifests are not deleted at all.  Index, platforms and referrers thus stay and go together.

A layer link is needed if a needed manifest of the same repository names it as config, layer or entry of an index
(the entries of a build cache are layers).  All are needed while a needed manifest cannot be read, and while an
upload is in progress.  Whether an unneeded link is young is asked of the store later, since there are few.

Nothing of another repository counts here, and nothing is judged before the whole repository is known.

Pure functions, over digests of any type.  Above: `mark.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from moorage.gc.options import CollectionOptions
    from moorage.gc.references import References

__all__ = [
    "HistoryEntry",
    "KeptBy",
    "Reason",
    "RepositoryContent",
    "TrashItem",
    "Verdict",
    "judge",
    "reasons_of_layer",
    "reasons_of_manifest",
]

_D = TypeVar("_D")


class KeptBy(Enum):
    """Kinds of reasons for which content is kept."""

    TAG = "tag"
    INDEX = "index"
    SUBJECT = "subject"
    MANIFEST = "manifest"
    YOUNG = "young"
    HISTORY = "history"
    TRASH = "trash"
    HOLD = "hold"
    UPLOAD = "upload"
    UNREADABLE = "unreadable"
    UNTAGGED_KEPT = "untagged manifests are kept"


@dataclass(frozen=True, slots=True)
class Reason(Generic[_D]):
    """A reason for which content is kept: by which manifest or tag, and until when (seconds since 1970)."""

    kind: KeptBy
    by: _D | None = None
    tag: str = ""
    until: float = math.inf


class HistoryEntry(NamedTuple, Generic[_D]):
    """An entry of a tag's history; `at` is the later one of its own time and that of the tag's link."""

    tag: str
    digest: _D
    at: float


class TrashItem(NamedTuple, Generic[_D]):
    """A manifest or layer that can be restored.  `digests`: that of its path, and that of its link."""

    digests: tuple[_D, ...]
    at: float
    is_layer: bool


@dataclass(slots=True)
class RepositoryContent(Generic[_D]):
    """One repository as its store has it.  Times are seconds since 1970, of the last write."""

    revisions: Mapping[_D, float]
    layers: Collection[_D]
    tags: Mapping[str, _D] = field(default_factory=dict)
    history: Sequence[HistoryEntry[_D]] = ()
    trash: Sequence[TrashItem[_D]] = ()
    uploading: bool = False
    held: bool = False
    """Nothing of it may be removed."""


@dataclass(slots=True)
class Verdict(Generic[_D]):
    """Judgement of one repository.

    `needed` has needed manifests with the reason that was found first, also deleted ones that can be restored.
    `layers` are the digests that these name; `all_layers` the reason for which every layer link is kept.
    `until` is the first moment at which a time in this judgement runs out.
    """

    needed: dict[_D, Reason[_D]] = field(default_factory=dict)
    dead: list[_D] = field(default_factory=list)
    layers: set[_D] = field(default_factory=set)
    dangling: list[_D] = field(default_factory=list)
    dead_history: list[HistoryEntry[_D]] = field(default_factory=list)
    unreadable: list[_D] = field(default_factory=list)
    all_layers: Reason[_D] | None = None
    until: float = math.inf


def judge(
    content: RepositoryContent[_D],
    references: Callable[[_D], References[_D] | None],
    options: CollectionOptions,
    now: float,
) -> Verdict[_D]:
    """Judge a repository.  `references` returns those of a manifest, None if it cannot be read."""
    verdict: Verdict[_D] = Verdict()
    for digest, reason in _roots(content, options, now):
        if digest not in verdict.needed:
            verdict.needed[digest] = reason
    if options.delete_untagged:
        _follow(content, references, verdict)
    verdict.dead = [digest for digest in content.revisions if digest not in verdict.needed]
    if options.delete_untagged:
        # What keeps a manifest beside a time may end unseen; a time is always seen to end.
        times = (reason.until for reason in verdict.needed.values())
        verdict.until = min(times, default=math.inf)
    _judge_layers(content, references, verdict)
    _judge_history(content, options, now, verdict)
    for item in content.trash:
        if item.at + options.undo_s > now:
            verdict.until = min(verdict.until, item.at + options.undo_s)
    return verdict


def _roots(
    content: RepositoryContent[_D], options: CollectionOptions, now: float
) -> Iterator[tuple[_D, Reason[_D]]]:
    """Yield what is needed for itself, the most lasting reasons first."""
    revisions = content.revisions
    if content.held:
        yield from ((digest, Reason(KeptBy.HOLD)) for digest in revisions)
    if not options.delete_untagged:
        kept: Reason[_D] = Reason(KeptBy.UNTAGGED_KEPT)
        yield from ((digest, kept) for digest in revisions)
    for tag, digest in content.tags.items():
        if digest in revisions:
            yield digest, Reason(KeptBy.TAG, tag=tag)
    for item in content.trash:
        until = item.at + options.undo_s
        if until > now and not item.is_layer:
            yield from ((digest, Reason(KeptBy.TRASH, until=until)) for digest in item.digests)
    recoverable = max(options.grace_s, options.undo_s)
    for entry in content.history:
        if entry.at + recoverable > now and entry.digest in revisions:
            yield entry.digest, Reason(KeptBy.HISTORY, tag=entry.tag, until=entry.at + recoverable)
    for digest, modified in revisions.items():
        if modified + options.grace_s > now:
            yield digest, Reason(KeptBy.YOUNG, until=modified + options.grace_s)


def _follow(
    content: RepositoryContent[_D],
    references: Callable[[_D], References[_D] | None],
    verdict: Verdict[_D],
) -> None:
    """Add the families of what is needed.  Manifests that cannot be read are needed."""
    referrers: dict[_D, list[_D]] = {}
    for digest in content.revisions:
        found = references(digest)
        if found is None:
            verdict.needed.setdefault(digest, Reason(KeptBy.UNREADABLE))
        elif found.subject is not None:
            referrers.setdefault(found.subject, []).append(digest)
    waiting = list(verdict.needed)
    while waiting:
        digest = waiting.pop()
        found = references(digest)
        family: list[tuple[_D, Reason[_D]]] = []
        if found is not None:
            family = [(child, Reason(KeptBy.INDEX, by=digest)) for child in found.children]
        family += [(referrer, Reason(KeptBy.SUBJECT, by=digest)) for referrer in referrers.get(digest, ())]
        for member, reason in family:
            if member in content.revisions and member not in verdict.needed:
                verdict.needed[member] = reason
                waiting.append(member)


def _judge_layers(
    content: RepositoryContent[_D], references: Callable[[_D], References[_D] | None], verdict: Verdict[_D]
) -> None:
    for digest in verdict.needed:
        found = references(digest)
        if found is None:
            verdict.unreadable.append(digest)
        else:
            verdict.layers.update(found.blobs)
            verdict.layers.update(found.children)
    if content.held:
        verdict.all_layers = Reason(KeptBy.HOLD)
    elif verdict.unreadable:
        verdict.all_layers = Reason(KeptBy.UNREADABLE, by=verdict.unreadable[0])
    elif content.uploading:
        verdict.all_layers = Reason(KeptBy.UPLOAD)
    else:
        verdict.dangling = [digest for digest in content.layers if digest not in verdict.layers]


def _judge_history(
    content: RepositoryContent[_D], options: CollectionOptions, now: float, verdict: Verdict[_D]
) -> None:
    """Find entries that name no needed manifest and not where their tag points, and are too old to be restored."""
    if content.held:
        return
    recoverable = max(options.grace_s, options.undo_s)
    for entry in content.history:
        if entry.digest in verdict.needed or content.tags.get(entry.tag) == entry.digest:
            continue
        if entry.at + recoverable > now:
            verdict.until = min(verdict.until, entry.at + recoverable)
        else:
            verdict.dead_history.append(entry)


def reasons_of_manifest(
    digest: _D,
    content: RepositoryContent[_D],
    references: Callable[[_D], References[_D] | None],
    verdict: Verdict[_D],
    options: CollectionOptions,
    now: float,
) -> list[Reason[_D]]:
    """Return everything that keeps a manifest, for people.  Empty: nothing does."""
    if digest not in verdict.needed:
        return []
    found = [reason for root, reason in _roots(content, options, now) if root == digest]
    own = references(digest)
    if own is None:
        found.append(Reason(KeptBy.UNREADABLE))
    elif own.subject in verdict.needed:
        found.append(Reason(KeptBy.SUBJECT, by=own.subject))
    for index in verdict.needed:
        listed = references(index)
        if listed is not None and digest in listed.children:
            found.append(Reason(KeptBy.INDEX, by=index))
    return found


def reasons_of_layer(
    digest: _D,
    content: RepositoryContent[_D],
    references: Callable[[_D], References[_D] | None],
    verdict: Verdict[_D],
    options: CollectionOptions,
    now: float,
) -> list[Reason[_D]]:
    """Return everything that keeps a layer of the repository, except that its link may be young."""
    found: list[Reason[_D]] = []
    for manifest in verdict.needed:
        named = references(manifest)
        if named is not None and (digest in named.blobs or digest in named.children):
            found.append(Reason(KeptBy.MANIFEST, by=manifest))
    found += [
        Reason(KeptBy.TRASH, until=item.at + options.undo_s)
        for item in content.trash
        if item.is_layer and digest in item.digests and item.at + options.undo_s > now
    ]
    if verdict.all_layers is not None and digest in content.layers:
        found.append(verdict.all_layers)
    return found
