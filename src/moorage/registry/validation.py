"""Rules of the configuration for manifests, and the check that a repository has what a manifest names.

Above: `manifests.py`.  Below: `links.py`, `blob_store.py`, `media.py`.
Source: distribution-spec 1.1 "Pushing Manifests".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import Denied, ManifestBlobUnknown, ManifestInvalid
from moorage.registry import media
from moorage.registry.blob_store import Purpose
from moorage.registry.links import LAYER, REVISION

if TYPE_CHECKING:
    import re

    from moorage.registry.blob_store import BlobStore
    from moorage.registry.collection_gate import CollectionGate, CollectionSnapshot
    from moorage.registry.links import LinkKind, Links
    from moorage.registry.media import Parsed
    from moorage.storage.driver import Key
    from moorage.types import Digest, RepoName

__all__ = ["NeededContent", "ReferenceCheck", "ValidationRules"]

_MISSING_ENOUGH: Final = 100
"""Missing references after which a push is refused without looking up the others."""


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """The `validation` and `policy` sections.

    Without `allow_urls` and `deny_urls` every URL is accepted that `media.parse` accepts (the reference then
    accepts none, and fails the conformance suite's non-distributable layers); with either, only http(s) ones that
    pass. `platforms` None: all children of an index must exist; empty: none; else only those of these (os,
    architecture) pairs, so none without a platform.  `layers` False: config and layers need not exist.  `classes`
    empty: any kind of image.
    """

    allow_urls: tuple[re.Pattern[str], ...] = ()
    deny_urls: tuple[re.Pattern[str], ...] = ()
    platforms: frozenset[tuple[str, str]] | None = None
    classes: frozenset[str] = frozenset()
    layers: bool = True

    @classmethod
    def sparse(cls) -> ValidationRules:
        """Return rules that accept any manifest, of which nothing needs to exist."""
        return cls(platforms=frozenset(), layers=False)

    def check(self, parsed: Parsed) -> None:
        """Raise ManifestInvalid or Denied for a manifest that the configuration does not allow."""
        for layer in parsed.blobs:
            for url in layer.urls:
                self._check_url(url)
        if (
            self.classes
            and parsed.config_type is not None
            and media.class_of(parsed.config_type) not in self.classes
        ):
            raise Denied(f"policy.repository.classes does not allow {parsed.config_type}")

    def _check_url(self, url: str) -> None:
        if not self.allow_urls and not self.deny_urls:
            return
        allowed = not self.allow_urls or any(pattern.search(url) for pattern in self.allow_urls)
        denied = any(pattern.search(url) for pattern in self.deny_urls)
        if not allowed or denied or not media.is_web_url(url):
            raise ManifestInvalid(f"validation.manifests.urls does not allow {url[:200]!a}")

    def needs_layer(self, layer: media.Layer) -> bool:
        """Return whether this config or layer must exist."""
        return self.layers and not layer.external

    def needs_child(self, child: media.Child) -> bool:
        """Return whether this child of an index must exist."""
        return self.platforms is None or (child.platform is not None and child.platform in self.platforms)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A blob, or with `child` a manifest, that a manifest names; `size` None: of any size.

    Without `needed` it may be absent.
    """

    digest: Digest
    size: int | None
    child: bool
    needed: bool


@dataclass(slots=True)
class NeededContent:
    """A manifest and what it relies on: digests of bytes, and links, each with the digest in its key.

    `doomed`: those that garbage collection is removing.
    """

    stored: set[Digest]
    links: dict[Key, Digest]
    doomed: set[Digest] = field(default_factory=set)


class ReferenceCheck:
    """Check that a repository has everything that a manifest names."""

    def __init__(self, store: BlobStore, links: Links, rules: ValidationRules, gate: CollectionGate) -> None:
        self._store = store
        self._links = links
        self._rules = rules
        self._gate = gate

    async def run(
        self, name: RepoName, digest: Digest, parsed: Parsed, begun: CollectionSnapshot
    ) -> NeededContent:
        """Return the references of the manifest `digest`, with itself; condemned digests are rescued.

        What may be absent is looked up, too: if the repository has it, garbage collection must not remove it.

        Raises ManifestBlobUnknown with what this repository does not have: everything, if it is not much.
        Raises ManifestInvalid if a blob has another size than its descriptor, and its bytes are whole.
        """
        rules = self._rules
        blobs = (
            _Reference(blob.digest, blob.size, child=False, needed=rules.needs_layer(blob))
            for blob in parsed.blobs
        )
        children = (
            _Reference(child.digest, None, child=True, needed=rules.needs_child(child))
            for child in parsed.children
        )
        waiting = list(dict.fromkeys((*blobs, *children)))
        absent: dict[str, None] = {}
        found = NeededContent({digest}, {REVISION(name, digest): digest})
        if begun.in_progress and not await self._gate.admits(begun, name, digest):
            found.doomed.add(digest)

        async def missing(reference: _Reference) -> str | None:
            # BuildKit's cache index has blobs as children, so both kinds of links count for one.
            for kind in (REVISION, LAYER) if reference.child else (LAYER,):
                stored = await self._links.recent(kind, name, reference.digest)
                if stored is None:
                    continue
                if begun.in_progress and not await self._gate.admits(begun, name, reference.digest, stored):
                    found.doomed |= {reference.digest, stored}
                    return None
                size = await self._store.rely(stored, Purpose.REFER, expected=reference.size)
                if size is not None and reference.size not in {None, size}:
                    size = await self._whole(name, kind, reference, stored)
                if size is not None:
                    found.links[kind(name, reference.digest)] = reference.digest
                    found.stored.add(stored)
                    return None
            return str(reference.digest) if reference.needed else None

        while waiting and len(absent) < _MISSING_ENOUGH:
            checked, waiting = waiting[:_MISSING_ENOUGH], waiting[_MISSING_ENOUGH:]
            absent |= dict.fromkeys(digest for digest in await map_bounded(checked, missing) if digest is not None)
        if absent:
            raise ManifestBlobUnknown(list(absent), unchecked=len(waiting))
        return found

    async def _whole(self, name: RepoName, kind: LinkKind, reference: _Reference, stored: Digest) -> int | None:
        """Return the size of a blob whose bytes are those of its digest, by reading them; else unlink it.

        Every process reads the link, so from then on the blob is unknown to clients, and they upload it again.  An
        upload publishes the bytes before it writes the link: if another one has replaced them by the time the link
        is gone, the link is written again.
        """
        size = await self._store.prove(stored)
        if size is None:

            async def is_torn() -> bool:
                nonlocal size
                size = await self._store.rely(stored, Purpose.LINK)
                return size is None

            if await self._links.remove(kind, name, reference.digest, stored, confirm=is_torn):
                await self._store.forget(stored)  # another process may have shared its size meanwhile
        if size not in {None, reference.size}:
            raise ManifestInvalid(
                f"the descriptor of {reference.digest} has size {reference.size}; the blob has {size} bytes"
            )
        return size
