"""Explanations: what keeps a manifest or blob, or what has removed it.

    explain_in        one repository, read again, judged by `reachability.py` as a collection judges it
    explain_digest    the whole store: a mark finds the repositories that need the digest, each is then explained

The verdict is that of `judge` and `Marker`, not a second opinion: content has reasons here exactly if a collection
that began now would keep it.  Nothing is written.

Above: `cli/why.py`.  Below: `mark.py`, `reachability.py`, `registry/trash.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid
from moorage.gc.mark import Marker
from moorage.gc.reachability import (
    HistoryEntry,
    KeptBy,
    Reason,
    RepositoryContent,
    TrashItem,
    judge,
    reasons_of_layer,
    reasons_of_manifest,
)
from moorage.gc.references import packed, references_of, unpacked
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.links import read_link
from moorage.registry.tags import TagStore, as_tag
from moorage.registry.trash import Trash, TrashUnreadable
from moorage.registry.walk import list_digests, requests_in_flight
from moorage.storage.driver import KeyMissing, ObjectTooLarge
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from moorage.gc.options import CollectionOptions, Holds
    from moorage.gc.reachability import Verdict
    from moorage.gc.references import RawDigest, References
    from moorage.registry.trash import TrashEntry
    from moorage.storage.driver import Driver, Key, Stat
    from moorage.types import Digest

__all__ = ["DigestExplanation", "KeepReason", "RepositoryExplanation", "explain_digest", "explain_in"]

_ALIAS = "alias"


class KeepReason(NamedTuple):
    """A reason for which content is kept.  `kind` is that of `reachability.KeptBy`, or alias: a link of another
    algorithm leads to it; `by` the manifest that needs it; `until` the end of the reason, if it has one.
    """

    kind: str
    by: Digest | None = None
    tag: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RepositoryExplanation:
    """A digest in one repository.  `has_manifest`, `has_layer`: it links it as such.

    `manifest` and `layer` are the reasons for which these links are kept, and the bytes with them; `deleted` the
    records of its deletion, newest first.
    """

    name: RepoName
    has_manifest: bool
    has_layer: bool
    manifest: tuple[KeepReason, ...] = ()
    layer: tuple[KeepReason, ...] = ()
    deleted: tuple[TrashEntry, ...] = ()

    @property
    def keeps(self) -> bool:
        """Return whether the repository keeps the bytes."""
        return bool(self.manifest or self.layer)


@dataclass(frozen=True, slots=True)
class DigestExplanation:
    """A digest in the whole store.  `stat` is that of its bytes, `young_until` the end of their grace time.

    `kept`: the next collection keeps the bytes.
    """

    digest: Digest
    repositories: tuple[RepositoryExplanation, ...]
    stat: Stat | None
    young_until: datetime | None
    kept: bool


@dataclass(slots=True)
class _Repository:
    """One repository as it is read for an explanation."""

    content: RepositoryContent[RawDigest]
    known: dict[RawDigest, References[RawDigest] | None] = field(default_factory=dict)
    aliases: dict[RawDigest, set[RawDigest]] = field(default_factory=dict)
    """Layers of another algorithm, by the digest that their links name."""
    unparsed: set[RawDigest] = field(default_factory=set)
    """Digests that links of unknown algorithms name."""
    trash: list[TrashEntry] = field(default_factory=list)

    def references(self, raw: RawDigest) -> References[RawDigest] | None:
        return self.known.get(raw)


async def explain_in(
    driver: Driver,
    name: RepoName,
    digest: Digest,
    options: CollectionOptions,
    *,
    now: datetime,
    holds: Holds | None = None,
) -> RepositoryExplanation:
    """Explain a digest in one repository.  Raises StorageUnavailable.  Memory: the names in the repository."""
    return await _explained(driver, name, digest, options, now, await _read(driver, name, options, now, holds))


async def explain_digest(
    driver: Driver,
    digest: Digest,
    options: CollectionOptions,
    *,
    now: datetime,
    holds: Holds | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DigestExplanation:
    """Explain a digest in the whole store.  Raises StorageUnavailable.  Costs a mark, without its cache."""
    marker = Marker(driver, options, now=now, holds=holds, progress=progress)
    marked = await marker.mark()
    number = marker.cache.digests.find(packed(digest))
    names = []
    if number is not None:
        for name, record in marker.cache.records.items():
            if number in record.needs or number in record.layers or number in record.revisions:
                names.append(RepoName(name))
    found = [await explain_in(driver, name, digest, options, now=now, holds=holds) for name in sorted(names)]
    stat = await BlobStore(driver).stat(digest)
    if stat is None:
        return DigestExplanation(digest, tuple(found), None, None, kept=False)
    young = stat.modified.timestamp() + options.grace_s
    return DigestExplanation(
        digest,
        tuple(found),
        stat,
        datetime.fromtimestamp(young, UTC) if young > now.timestamp() else None,
        kept=digest not in marked.blobs,
    )


async def _explained(
    driver: Driver,
    name: RepoName,
    digest: Digest,
    options: CollectionOptions,
    now: datetime,
    found: _Repository,
) -> RepositoryExplanation:
    raw, at, content = packed(digest), now.timestamp(), found.content
    verdict = judge(content, found.references, options, at)
    manifest = reasons_of_manifest(raw, content, found.references, verdict, options, at)
    layer = [_keep(reason) for reason in await _layer_reasons(driver, name, raw, options, at, found, verdict)]
    for alias in sorted(found.aliases.get(raw, ())):
        if await _layer_reasons(driver, name, alias, options, at, found, verdict):
            layer.append(KeepReason(_ALIAS, unpacked(alias)))  # noqa: PERF401  the condition waits
    if raw in found.unparsed:
        layer.append(KeepReason(_ALIAS))
    deleted = [entry for entry in found.trash if digest in {*entry.manifests, *entry.blobs}]
    return RepositoryExplanation(
        name,
        raw in content.revisions,
        raw in content.layers,
        tuple(dict.fromkeys(map(_keep, manifest))),
        tuple(dict.fromkeys(layer)),
        tuple(sorted(deleted, key=lambda entry: entry.at, reverse=True)),
    )


async def _layer_reasons(
    driver: Driver,
    name: RepoName,
    raw: RawDigest,
    options: CollectionOptions,
    now: float,
    found: _Repository,
    verdict: Verdict[RawDigest],
) -> list[Reason[RawDigest]]:
    """Return what keeps a layer, its age if nothing else does: a collection asks only then."""
    reasons = reasons_of_layer(raw, found.content, found.references, verdict, options, now)
    if not reasons and raw in found.content.layers:
        modified = await _modified(driver, layout.layer_link(name, unpacked(raw)))
        if modified is not None and modified + options.grace_s > now:
            reasons.append(Reason(KeptBy.YOUNG, until=modified + options.grace_s))
    return reasons


def _keep(reason: Reason[RawDigest]) -> KeepReason:
    until = None if math.isinf(reason.until) else datetime.fromtimestamp(reason.until, UTC)
    return KeepReason(reason.kind.value, None if reason.by is None else unpacked(reason.by), reason.tag, until)


# Reading a repository.


async def _read(
    driver: Driver, name: RepoName, options: CollectionOptions, now: datetime, holds: Holds | None
) -> _Repository:
    at = now.timestamp()
    revisions: dict[RawDigest, float] = {}
    async for digest, modified in _with_times(
        driver, layout.revisions(name), lambda d: layout.revision_link(name, d)
    ):
        revisions[packed(digest)] = modified
    layers: set[RawDigest] = set()
    async for page in list_digests(driver, layout.layers(name)):
        layers.update(map(packed, page))
    found = _Repository(RepositoryContent(revisions, layers, held=holds is not None and holds(name)))
    await _read_aliases(driver, name, found)
    await _read_tags(driver, name, found, at)
    await _read_trash(driver, name, found, options, now)
    found.content.uploading = await _is_uploading(driver, name, at - options.grace_s)
    trashed = [raw for item in found.content.trash if not item.is_layer for raw in item.digests]
    wanted = list(dict.fromkeys((*revisions, *trashed)))

    store = BlobStore(driver)

    async def load(raw: RawDigest) -> None:
        try:
            found.known[raw] = references_of(await store.content(unpacked(raw)))
        except (KeyMissing, ObjectTooLarge, ManifestInvalid):
            found.known[raw] = None

    await map_bounded(wanted, load, limit=requests_in_flight(driver))
    return found


async def _with_times(
    driver: Driver, prefix: Key, key: Callable[[Digest], Key]
) -> AsyncIterator[tuple[Digest, float]]:
    """Yield the digests of a tree whose links exist, with the times of these."""
    async for page in list_digests(driver, prefix):
        times = await map_bounded(
            page, lambda digest: _modified(driver, key(digest)), limit=requests_in_flight(driver)
        )
        for digest, modified in zip(page, times, strict=True):
            if modified is not None:
                yield digest, modified


async def _modified(driver: Driver, key: Key) -> float | None:
    try:
        return (await driver.stat(key)).modified.timestamp()
    except KeyMissing:
        return None


async def _read_aliases(driver: Driver, name: RepoName, found: _Repository) -> None:
    """Read the links of layers below other algorithms than sha256, which may name sha256 content."""
    home = layout.layers(name)
    async for algorithms in driver.children(home):
        for algorithm in algorithms:
            if algorithm == "sha256":
                continue
            path = layout.below(home, algorithm)
            async for names in driver.children(path):
                for text in names:
                    target = await read_link(driver, layout.below(layout.below(path, text), "link"))
                    if target is None:
                        continue
                    if algorithm == "sha512":
                        found.aliases.setdefault(packed(target), set()).add(bytes.fromhex(text))
                    else:
                        found.unparsed.add(packed(target))


async def _read_tags(driver: Driver, name: RepoName, found: _Repository, now: float) -> None:
    store = TagStore(driver)
    tags: dict[str, RawDigest] = {}
    history: list[HistoryEntry[RawDigest]] = []

    async def read(text: str) -> None:
        tag = as_tag(text)
        if tag is None:
            return
        digest = await store.resolve(name, tag)
        linked = await _modified(driver, layout.tag_link(name, tag))
        if digest is not None:
            tags[text] = packed(digest)
        entries = _with_times(
            driver, layout.tag_history(name, tag), lambda past: layout.tag_history_link(name, tag, past)
        )
        async for past, modified in entries:
            at = modified if linked is None else max(modified, linked)
            # A tag whose link is torn may have named any of them.
            torn = digest is None and linked is not None
            history.append(HistoryEntry(text, packed(past), now if torn else at))

    async for page in store.names(name):
        await map_bounded(page, read, limit=requests_in_flight(driver))
    found.content.tags = tags
    found.content.history = history


async def _read_trash(
    driver: Driver, name: RepoName, found: _Repository, options: CollectionOptions, now: datetime
) -> None:
    trash = Trash(driver, keep_s=options.undo_s)
    items: list[TrashItem[RawDigest]] = []
    async for keys in trash.keys(name):
        for key in keys:
            keeps = trash.keeps(key, now)
            try:
                entries: Sequence[TrashEntry] = await trash.read(key)
            except TrashUnreadable as error:
                if keeps and error.digest is not None:
                    items.append(TrashItem((packed(error.digest),), now.timestamp(), is_layer=False))
                continue
            found.trash += entries
            if keeps:
                items += _items(entries)
    found.content.trash = items


def _items(entries: Iterable[TrashEntry]) -> list[TrashItem[RawDigest]]:
    return [
        TrashItem(tuple(map(packed, digests)), entry.at.timestamp(), is_layer=is_layer)
        for entry in entries
        for is_layer, digests in ((False, entry.manifests), (True, entry.blobs))
        if digests
    ]


async def _is_uploading(driver: Driver, name: RepoName, since: float) -> bool:
    async for page in driver.children(layout.uploads(name)):
        for uuid in page:
            home = layout.upload_home(name, uuid)
            for part in ("startedat", "data", "state"):
                modified = await _modified(driver, layout.below(home, part))
                if modified is not None and modified > since:
                    return True
    return False
