"""Families: an index, its platforms, and the manifests whose subject is one of them, recursively.

A tag belongs to the family of another manifest, and is not judged by itself while that one lives, if it has the
form of cosign (`sha256-HEX.sig`), or its manifest has a subject.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.registry.protection import cosign_subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from moorage.registry.tags import TagState
    from moorage.types import Digest, RepoName, Tag

__all__ = [
    "Facts",
    "FamilyGraph",
    "ManifestFacts",
    "closure",
    "in_order_of_removal",
    "subject_of",
    "top_level",
    "with_subjects",
]


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """A manifest of the repository.  `modified`: when it was last pushed; `blobs`: digest and size of its blobs.

    `readable` is False if its bytes are missing or damaged, so that its references are unknown.
    """

    modified: datetime
    children: tuple[Digest, ...] = ()
    subject: Digest | None = None
    blobs: tuple[tuple[Digest, int], ...] = ()
    size: int = 0
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """Content of a repository.  `recent`: manifests that a deleted tag named, with the time of the deletion."""

    name: RepoName
    tags: Mapping[Tag, TagState]
    manifests: Mapping[Digest, ManifestFacts]
    recent: Mapping[Digest, datetime] = field(default_factory=dict)

    @property
    def is_readable(self) -> bool:
        return all(manifest.readable for manifest in self.manifests.values())

    def alive(self) -> list[TagState]:
        """Return the tags whose manifest the repository has."""
        return [state for state in self.tags.values() if state.digest in self.manifests]


def subject_of(facts: Facts, state: TagState) -> Digest | None:
    """Return the living manifest to whose family a tag belongs; None if it stands for itself."""
    subject = cosign_subject(state.tag)
    if subject is None or subject not in facts.manifests:
        subject = facts.manifests[state.digest].subject
    return subject if subject in facts.manifests and subject != state.digest else None


class FamilyGraph:
    """Relations between the manifests of a repository, for several questions: each manifest is looked at once."""

    def __init__(self, facts: Facts) -> None:
        self._manifests = facts.manifests
        self._followers: dict[Digest, list[Digest]] = {}
        for digest, manifest in facts.manifests.items():
            if manifest.subject is not None:
                self._followers.setdefault(manifest.subject, []).append(digest)
        for state in facts.alive():
            subject = cosign_subject(state.tag)
            if subject is not None:
                self._followers.setdefault(subject, []).append(state.digest)

    def closure(self, roots: Iterable[Digest]) -> set[Digest]:
        """Return the manifests that live while `roots` do: platforms, referrers, and those of cosign's tags."""
        found: set[Digest] = set()
        queue = list(roots)
        while queue:
            digest = queue.pop()
            if digest in found or digest not in self._manifests:
                continue
            found.add(digest)
            queue += self._manifests[digest].children
            queue += self._followers.get(digest, ())
        return found


def closure(facts: Facts, roots: Iterable[Digest]) -> set[Digest]:
    """Return the manifests that live while `roots` do; see `FamilyGraph`, for several calls."""
    return FamilyGraph(facts).closure(roots)


def with_subjects(facts: Facts, digests: Iterable[Digest]) -> set[Digest]:
    """Return manifests with their subjects, and the subjects of these: what a referrer belongs to."""
    found: set[Digest] = set()
    for digest in digests:
        current: Digest | None = digest
        while current is not None and current in facts.manifests and current not in found:
            found.add(current)
            current = facts.manifests[current].subject
    return found


def top_level(facts: Facts, digests: Iterable[Digest]) -> list[Digest]:
    """Return those of the manifests that no other one contains, and whose subject the repository does not have."""
    children = {child for manifest in facts.manifests.values() for child in manifest.children}
    cosigned = {state.digest for state in facts.alive() if cosign_subject(state.tag) in facts.manifests}
    return [
        digest
        for digest in digests
        if digest not in children
        and digest not in cosigned
        and facts.manifests[digest].subject not in facts.manifests
    ]


def in_order_of_removal(facts: Facts, digests: Sequence[Digest]) -> list[Digest]:
    """Return manifests so that each comes before its platforms and its referrers.

    After a crash in between, no index is left without its platforms.
    """
    remaining = set(digests)
    ordered: list[Digest] = []
    seen: set[Digest] = set()

    def visit(digest: Digest) -> None:
        stack = [(digest, False)]
        while stack:
            current, done = stack.pop()
            if done:
                ordered.append(current)
                continue
            if current in seen or current not in remaining:
                continue
            seen.add(current)
            stack.append((current, True))
            stack += [
                (child, False) for child in (*facts.manifests[current].children, *referrers.get(current, ()))
            ]

    referrers: dict[Digest, list[Digest]] = {}
    for digest in digests:
        subject = facts.manifests[digest].subject
        if subject is not None:
            referrers.setdefault(subject, []).append(digest)
    for digest in digests:
        visit(digest)
    return ordered[::-1]
