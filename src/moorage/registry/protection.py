"""Protection of tags: those that are immutable, and content under a legal hold.

    push      a protected tag that names another manifest keeps it: the push is refused
    deletion  a protected tag, and every manifest or blob that one needs, stays: the deletion is refused

An immutable tag that may be deleted (`deletable`) is protected from pushes only.

Two pushes of different manifests to one immutable tag that does not exist yet: the link of the tag is written on
the condition that it is absent, and a second writer is refused.  A store without conditional writes
(`docs/retention.md`) cannot know: both pushes may get a 201 and the last one remains; later ones are refused.

Cost.  A push or a deletion in a repository that no rule names costs one cached look-up.  A push to a protected tag
reads its link twice more.  A deletion by digest in a repository with protected tags reads all of these, and the
manifests that they need; it is rare, and refusing too little cannot be undone.

Above: `manifests.py`, `blobs.py`.  Below: `tags.py`, `holds.py`, `manifest_contents.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import (
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    PreconditionFailed,
    Protected,
    Unavailable,
)
from moorage.patterns import Glob
from moorage.registry import media
from moorage.registry.holds import NO_HOLDS, LegalHolds, matches_any
from moorage.registry.links import LAYER, REVISION
from moorage.registry.tags import as_tag
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.registry.links import Links
    from moorage.registry.manifest_contents import ManifestContents
    from moorage.registry.media import Parsed
    from moorage.registry.tags import TagStore
    from moorage.storage.driver import When
    from moorage.types import RepoName, Tag

__all__ = ["UNPROTECTED", "ImmutableRule", "Protection", "ProtectionCheck", "cosign_subject"]

_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class ImmutableRule:
    """Tags that cannot be moved.  `key` names the rule in messages: `immutability.rules[0]`."""

    key: str
    repositories: tuple[Glob, ...]
    tags: tuple[Glob, ...]
    exceptions: tuple[Glob, ...] = ()
    deletable: bool = False

    @classmethod
    def parse(
        cls,
        key: str,
        repositories: Iterable[str],
        *,
        tags: Iterable[str] = ("*",),
        exceptions: Iterable[str] = (),
        deletable: bool = False,
    ) -> ImmutableRule:
        """Return the rule of an entry of checked settings.  Raises ValueError."""
        return cls(
            key,
            tuple(map(Glob.parse, repositories)),
            tuple(map(Glob.parse, tags)),
            tuple(map(Glob.parse, exceptions)),
            deletable,
        )

    def covers(self, tag: Tag) -> bool:
        return matches_any(self.tags, tag) and not matches_any(self.exceptions, tag)


class Protection:
    """Rules of immutability and holds of the settings; pure, without a store."""

    def __init__(self, rules: Sequence[ImmutableRule] = (), holds: LegalHolds = NO_HOLDS) -> None:
        self._rules = tuple(rules)
        self.holds = holds
        self._of = lru_cache(maxsize=1000)(self._matching)

    def _matching(self, name: RepoName) -> tuple[ImmutableRule, ...]:
        return tuple(rule for rule in self._rules if matches_any(rule.repositories, name))

    def concerns(self, name: RepoName) -> bool:
        """Return whether any rule or hold names the repository."""
        return bool((self._rules and self._of(name)) or self.holds.of(name))

    def from_moving(self, name: RepoName, tag: Tag) -> str | None:
        """Return the reason why the tag cannot be moved to another manifest; None if it can."""
        reason = self.holds.holds(name, tag)
        if reason is not None:
            return f"is held: {reason}"
        for rule in self._of(name) if self._rules else ():
            if rule.covers(tag):
                return f"is immutable by {rule.key}"
        return None

    def from_deletion(self, name: RepoName, tag: Tag) -> str | None:
        """Return the reason why the tag cannot be deleted; None if it can."""
        reason = self.holds.holds(name, tag)
        if reason is not None:
            return f"is held: {reason}"
        for rule in self._of(name) if self._rules else ():
            if rule.covers(tag) and not rule.deletable:
                return f"is immutable by {rule.key}"
        return None


UNPROTECTED: Final = Protection()


class ProtectionCheck:
    """Applies the protection to one store.  Methods raise Protected, StorageUnavailable."""

    def __init__(self, protection: Protection, tags: TagStore, links: Links, contents: ManifestContents) -> None:
        self._protection = protection
        self._tags = tags
        self._links = links
        self._contents = contents

    # Pushes.

    def concerns(self, name: RepoName) -> bool:
        """Return whether any rule or hold names the repository."""
        return self._protection.concerns(name)

    def of(self, name: RepoName, tags: Iterable[Tag]) -> frozenset[Tag]:
        """Return those of the tags that cannot be moved."""
        if not self._protection.concerns(name):
            return frozenset()
        return frozenset(tag for tag in tags if self._protection.from_moving(name, tag) is not None)

    async def check_push(self, name: RepoName, tag: Tag, digest: Digest) -> When:
        """Refuse to move a protected tag; return the condition under which it may be set to `digest`."""
        current, when = await self._tags.current(name, tag)
        if current is None or current == digest or not await self._links.exists(REVISION, name, current):
            return when
        reason = self._protection.from_moving(name, tag)
        raise Protected(f"the tag {tag} of {name} {reason}; it names {current}, push to another tag")

    async def set_tag(self, name: RepoName, tag: Tag, digest: Digest) -> None:
        """Set a protected tag, unless a concurrent push sets it to another manifest first."""
        for _ in range(_ATTEMPTS):
            when = await self.check_push(name, tag, digest)
            try:
                await self._tags.set(name, tag, digest, when)
            except PreconditionFailed:
                continue  # set meanwhile: to the same manifest, or it is refused now
            return
        raise Unavailable(f"the tag {tag} of {name} is being changed by other requests", retry_after_s=1)

    # Deletions.

    async def check_tag_deletion(self, name: RepoName, tag: Tag) -> None:
        """Refuse the deletion of a protected tag, and of the signatures of what one needs (`sha256-HEX.sig`)."""
        if not self._protection.concerns(name):
            return
        reason = self._protection.from_deletion(name, tag)
        if reason is not None:
            raise Protected(f"the tag {tag} of {name} {reason}")
        subject = cosign_subject(tag)
        if subject is not None:
            await self.check_deletion(name, subject, what=f"the tag {tag}")

    async def check_repository_deletion(self, name: RepoName) -> None:
        """Refuse the deletion of a whole repository that has protected tags or held content."""
        if not self._protection.concerns(name):
            return
        reason = self._protection.holds.holds_repository(name)
        if reason is not None:
            raise Protected(f"the repository {name} is held: {reason}")
        for root, cause in await self._roots(name):
            if await self._links.exists(REVISION, name, root) or await self._links.exists(LAYER, name, root):
                raise Protected(f"the repository {name} has {cause}")

    async def check_deletion(self, name: RepoName, digest: Digest, *, what: str = "") -> None:
        """Refuse the deletion of a manifest or blob that is held, or part of a protected tag or held manifest.

        A manifest with a subject is part of what its subject is part of.
        """
        if not self._protection.concerns(name):
            return
        reason = self._protection.holds.holds(name, digest)
        if reason is not None:
            raise Protected(f"{what or digest} in {name} is held: {reason}")
        wanted = await self._with_subjects(name, digest)
        for root, cause in await self._roots(name):
            if root in wanted or await self._needs(name, root, wanted):
                raise Protected(f"{what or digest} is part of {cause}")

    async def _with_subjects(self, name: RepoName, digest: Digest) -> set[Digest]:
        """Return the digest, and the subject of its manifest, the subject of that one, and so on."""
        found = {digest}
        current = digest
        while (parsed := await self._parsed(name, current)) is not None:
            if parsed.subject is None or parsed.subject in found:
                break
            current = parsed.subject
            found.add(current)
        return found

    async def _roots(self, name: RepoName) -> list[tuple[Digest, str]]:
        """Return the manifests of protected tags and the held ones, each with the reason."""
        found: list[tuple[Digest, str]] = [
            (held, f"{held} in {name}, which is held: {self._protection.holds.holds(name, held)}")
            for held in sorted(self._protection.holds.digests(name))
        ]

        async def look_up(text: str) -> None:
            tag = as_tag(text)
            reason = None if tag is None else self._protection.from_deletion(name, tag)
            if tag is None or reason is None:
                return
            target = await self._tags.resolve(name, tag)
            if target is not None:
                found.append((target, f"the tag {tag} of {name}, which {reason}"))

        async for page in self._tags.names(name):
            await map_bounded(page, look_up)
        return found

    async def _needs(self, name: RepoName, root: Digest, wanted: set[Digest]) -> bool:
        """Return whether the manifest `root` refers to one of `wanted`, directly or by its platforms."""
        seen: set[Digest] = set()
        queue = [root]
        while queue:
            current = queue.pop()
            if current in seen:
                continue
            seen.add(current)
            parsed = await self._parsed(name, current)
            if parsed is None:
                continue
            children = [child.digest for child in parsed.children]
            if not wanted.isdisjoint(children) or not wanted.isdisjoint(blob.digest for blob in parsed.blobs):
                return True
            queue += children
        return False

    async def _parsed(self, name: RepoName, digest: Digest) -> Parsed | None:
        """Return a manifest of the repository; None for anything else, and for one that is not served."""
        if not await self._links.exists(REVISION, name, digest):
            return None  # most are blobs, which are large
        try:
            return media.parse((await self._contents.load(digest)).data)
        except (ManifestUnknown, ManifestInvalid):
            return None


_COSIGN: Final = re.compile(r"(sha256|sha512)-([a-f0-9]+)(?:\.[a-z0-9.]+)?", re.ASCII)


def cosign_subject(tag: str) -> Digest | None:
    """Return the manifest that a tag such as `sha256-HEX.sig` (cosign) or `sha256-HEX` (referrers) belongs to."""
    match = _COSIGN.fullmatch(tag)
    if match is None:
        return None
    try:
        return Digest.parse(f"{match[1]}:{match[2]}")
    except DigestInvalid:
        return None
