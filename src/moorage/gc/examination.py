"""Examination of a few repositories at once: lists them, reads what is not known yet, judges each.

One call of the store serves all repositories of a batch: a local disk costs one hop to a thread, a bucket a few
round trips.  Of a repository that was examined before only changes are read: names that are new, and manifests
whose references are not in the cache.

Directories of entries count as links, except those of manifests, which are looked at once: CNCF Distribution
leaves such a directory behind when a manifest is deleted.  One without a link is looked at again in every mark,
since a push into it changes no directory that is watched.

A link below `sha256` is not read: its path is its content.  Links of other algorithms are, as CNCF Distribution
writes aliases: `_layers/sha512/X/link` names the sha256 digest under which the bytes are stored.

Above: `mark.py`.  Below: `examined.py`, `reachability.py`, `references.py`, `cache.py`.  Repositories that need no
examination: `comparison.py`.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING, Final

from moorage.errors import DigestInvalid, ManifestInvalid
from moorage.gc.cache import Record
from moorage.gc.comparison import Comparison
from moorage.gc.examined import ExaminedRepository
from moorage.gc.reachability import HistoryEntry, RepositoryContent, TrashItem, judge
from moorage.gc.references import RAW_BYTES, packed, raw_digests, references_of, unpacked
from moorage.registry import layout
from moorage.registry.tags import as_tag
from moorage.registry.trash import Trash, TrashUnreadable, trash_time
from moorage.storage.driver import READ_LIMIT_BYTES, Key, RequestCost
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from moorage.gc.cache import MarkCache
    from moorage.gc.marked import Marked
    from moorage.gc.options import CollectionOptions, Holds
    from moorage.gc.references import RawDigest, References
    from moorage.gc.repositories import RepositoryNames
    from moorage.storage.driver import Bulk, Driver

__all__ = ["Examiner"]

_LINK_LIMIT: Final = 1024
_CANONICAL: Final = "sha256"
_LAYERS: Final = "_layers"
_REVISIONS: Final = "_manifests/revisions"
_TAGS: Final = "_manifests/tags"
_MANIFESTS: Final = layout.MANIFESTS_NAME
_READ_AT_ONCE: Final = 500


class Examiner:
    """Examines repositories of one store for one mark.  `bulk` answers for the keys of the batch."""

    def __init__(
        self,
        driver: Driver,
        cache: MarkCache,
        options: CollectionOptions,
        now: datetime,
        holds: Holds | None,
        marked: Marked,
    ) -> None:
        self._cache = cache
        self._options = options
        self._at = now
        self._now = now.timestamp()
        self._holds = holds
        self._marked = marked
        self.comparison = Comparison(driver.bulk, cache, options, self._now)
        self._recalls = driver.request_cost is RequestCost.NETWORK
        self._trash = Trash(driver, keep_s=options.undo_s)

    # Examination.

    async def examine(self, found: Sequence[RepositoryNames], bulk: Bulk) -> None:
        """Examine repositories, and report what is dead in them."""
        batch = []
        for names in found:
            record = self._cache.records.get(names.name)
            thorough = record is None or self.comparison.is_due(names.name, record)
            batch.append(ExaminedRepository(names, record, thorough, f"{layout.REPOSITORIES}/{names.name}/"))
        await self._list(batch, bulk)
        await self._look_at_revisions(batch, bulk)
        await self._read_aliases(batch, bulk)
        await self._look_at_uploads(batch, bulk)
        for one in batch:
            if "_trash" in one.names.reserved:
                await self._read_trash(one)
        if self._options.delete_untagged:
            await self._find_tags(batch, bulk)
        await self._read_manifests(batch, bulk)
        for one in batch:
            self._judge(one)
        await self._read_recalled(batch, bulk)
        await self._read_history(batch, bulk)
        await self._look_at_dead(batch, bulk)
        await self._finish(batch, bulk)

    async def _list(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """List layers and revisions, each directory after its fingerprint."""
        families: list[tuple[ExaminedRepository, str]] = []
        for one in batch:
            if _LAYERS in one.names.reserved:
                families.append((one, _LAYERS))
            if _MANIFESTS in one.names.reserved:
                families += [(one, _MANIFESTS), (one, _REVISIONS)]
                if self._options.delete_untagged:
                    families.append((one, _TAGS))
        entries: list[tuple[ExaminedRepository, str]] = []
        for (one, path), names in zip(families, await self._watch(families, bulk), strict=True):
            if path == _MANIFESTS:
                one.has_tags = "tags" in names
                one.has_deleted = one.thorough and "_deleted" in names
                # It shows when one of the two appears; from then on their own directories show a change.
                has_revisions = "revisions" in names
                if not has_revisions:
                    del one.watched[_REVISIONS]
                if not one.has_tags:
                    one.watched.pop(_TAGS, None)
                if has_revisions and (one.has_tags or not self._options.delete_untagged):
                    del one.watched[_MANIFESTS]
            elif path == _TAGS:
                one.tag_names = names
            else:
                entries += [(one, f"{path}/{algorithm}") for algorithm in names]
                one.only_sha256 = one.only_sha256 or (path == _LAYERS and list(names) == [_CANONICAL])
                if path == _REVISIONS and list(names) == [_CANONICAL]:
                    # One of another algorithm is looked for when a blob of another one is dead (`mark.py`).
                    one.watched.pop(_REVISIONS, None)
        for (one, path), names in zip(entries, await self._watch(entries, bulk), strict=True):
            self._add_entries(one, path, names)

    async def _watch(self, found: Sequence[tuple[ExaminedRepository, str]], bulk: Bulk) -> Sequence[Sequence[str]]:
        keys = [Key(one.root + path) for one, path in found]
        for (one, path), print_ in zip(found, await bulk.fingerprints(keys), strict=True):
            one.watched[path] = print_
        return await bulk.names(keys)

    def _add_entries(self, one: ExaminedRepository, path: str, names: Sequence[str]) -> None:
        algorithm = path.rpartition("/")[2]
        is_layer = path.startswith(_LAYERS)
        known: dict[RawDigest, int] = {}
        if one.record is not None:
            digest = self._cache.digests.digest
            known = {
                digest(number): number for number in (one.record.layers if is_layer else one.record.revisions)
            }
        if algorithm not in RAW_BYTES:
            if is_layer:
                one.aliases.update((f"{path}/{name}", None) for name in names)
            return
        numbers: list[int] = []
        for raw in raw_digests(names, algorithm):
            number = known.get(raw)
            numbers.append(self._cache.digests.number(raw) if number is None else number)
        if not is_layer:
            one.new += numbers
            return
        one.layers.update(dict.fromkeys(numbers))
        if algorithm != _CANONICAL:
            one.aliases.update((self._layer_path(number), number) for number in numbers)

    async def _look_at_revisions(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Find out which entries have a link, and when it was written."""
        asked: list[tuple[ExaminedRepository, int]] = []
        for one in batch:
            before: dict[int, float] = {}
            if one.record is not None:
                before = dict(zip(one.record.revisions, one.record.modified, strict=True))
            for number in one.new:
                if number in before and not one.thorough:
                    one.revisions[number] = before[number]
                else:
                    asked.append((one, number))
            one.has_deleted = one.has_deleted or not before.keys() <= set(one.new)
        stats = await bulk.find([self._revision_key(one, number) for one, number in asked])
        for (one, number), stat in zip(asked, stats, strict=True):
            if stat is None:
                digest = unpacked(self._cache.digests.digest(number))
                one.empty.append(f"{_REVISIONS}/{digest.algorithm}/{digest.hex}")
                one.has_deleted = one.has_deleted or one.thorough
            else:
                one.revisions[number] = stat.modified_s
                if stat.size == 0:
                    self._note(one, stat.key, "the link is empty; its manifest is kept")

    async def _read_aliases(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        asked = [(one, path) for one in batch for path in one.aliases]
        if not asked:
            return
        keys = [Key(f"{one.root}{path}/link") for one, path in asked]
        for (one, path), key, data in zip(asked, keys, await bulk.read(keys, limit=_LINK_LIMIT), strict=True):
            target = self._decode(one, key, data) if data is not None else None
            number = one.aliases[path]
            if target is None:
                continue
            if number is None:
                one.extra.add(target)
            else:
                one.targets[number] = target

    def _decode(self, one: ExaminedRepository, key: Key, data: bytes) -> int | None:
        """Return the number of the digest in a link; None, and a report, if it has none."""
        try:
            return self._cache.digests.number(packed(Digest.parse(data.decode("ascii").strip())))
        except (DigestInvalid, UnicodeDecodeError):
            self._note(one, key, "the link holds no digest; what its path names is kept")
            return None

    async def _look_at_uploads(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        asked = [one for one in batch if "_uploads" in one.names.reserved]
        uploads = [Key(f"{one.root}_uploads") for one in asked]
        keys: list[Key] = []
        owners: list[ExaminedRepository] = []
        for one, home, names in zip(asked, uploads, await bulk.names(uploads), strict=True):
            one.uploads = bool(names)
            for name in names:
                keys += [Key(f"{home}/{name}/startedat"), Key(f"{home}/{name}/data"), Key(f"{home}/{name}/state")]
                owners += [one] * 3
        for one, stat in zip(owners, await bulk.find(keys), strict=True):
            if stat is not None and stat.modified_s + self._options.grace_s > self._now:
                one.uploading = True

    async def _read_trash(self, one: ExaminedRepository) -> None:
        name = RepoName(one.names.name)
        number = self._cache.digests.number
        async for keys in self._trash.keys(name):
            for key in keys:
                at = trash_time(key)
                if at is None or not self._trash.keeps(key, self._at):
                    self._marked.trash.add(key)
                    one.reported = True
                    continue
                try:
                    entries = await self._trash.read(key)
                except TrashUnreadable as error:
                    self._note(one, key, f"{error}; what its key names is kept")
                    if error.digest is not None:
                        raw = number(packed(error.digest))
                        one.trash.append(TrashItem((raw,), at.timestamp(), is_layer=False))
                    continue
                for entry in entries:
                    for is_layer, digests in ((False, entry.manifests), (True, entry.blobs)):
                        if digests:
                            numbers = tuple(number(packed(digest)) for digest in digests)
                            one.trash.append(TrashItem(numbers, at.timestamp(), is_layer))

    async def _find_tags(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Read where tags point; in a bucket, only those whose time in the listing is not that of the last mark.

        An equal time proves nothing, as a tag may be written twice in one tick: see `_read_recalled`.
        """
        asked = [(one, tag) for one in batch if self._recalls for tag in one.tag_names]
        keys = [Key(f"{one.root}{_TAGS}/{tag}/current/link") for one, tag in asked]
        for (one, tag), stat in zip(asked, await bulk.find(keys), strict=True):
            known = None if one.record is None or one.thorough else one.record.tags.get(tag)
            if stat is not None:
                one.tag_times[tag] = stat.modified_s
                if known is not None and known[0] == stat.modified_s:
                    one.tags[tag] = known[1]
                    one.recalled.append(tag)
        await self._read_tags([(one, set(one.tag_names) - set(one.recalled)) for one in batch], bulk)

    async def _read_recalled(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Read all tags of the repositories in which anything is dead, and judge by these.

        Where what was recalled needs all manifests and layers, nothing is removed, wherever the tags point.
        """
        again = [
            one for one in batch if one.recalled and (one.has_deleted or one.judged.dead or one.judged.dangling)
        ]
        for one in again:
            for tag in one.recalled:
                del one.tags[tag]
        await self._read_tags([(one, one.recalled) for one in again], bulk)
        for one in again:
            self._judge(one)

    async def _read_tags(self, asked: Iterable[tuple[ExaminedRepository, Iterable[str]]], bulk: Bulk) -> None:
        """Read where tags point."""
        tags = [(one, tag) for one, names in asked for tag in names if as_tag(tag) is not None]
        keys = [Key(f"{one.root}{_TAGS}/{tag}/current/link") for one, tag in tags]
        for (one, tag), key, data in zip(tags, keys, await bulk.read(keys, limit=_LINK_LIMIT), strict=True):
            if data is None:
                continue  # an unfinished push: its history counts
            number = self._decode(one, key, data)
            if number is None:
                one.torn_tags.add(tag)
            else:
                one.tags[tag] = number

    async def _read_manifests(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Read the references of manifests that are not in the cache."""
        cache = self._cache
        asked: dict[int, ExaminedRepository] = {}
        for one in batch:
            trashed = (number for item in one.trash if not item.is_layer for number in item.digests)
            for number in chain(one.revisions, trashed):
                if not cache.has_references(number):
                    asked[number] = one
        numbers = list(asked)
        for start in range(0, len(numbers), _READ_AT_ONCE):
            part = numbers[start : start + _READ_AT_ONCE]
            keys = [layout.blob_data(unpacked(cache.digests.digest(number))) for number in part]
            for number, data in zip(part, await bulk.read(keys, limit=READ_LIMIT_BYTES), strict=True):
                if data is not None:
                    try:
                        cache.add_references(number, references_of(data))
                    except ManifestInvalid:
                        continue  # reported in every repository that has it

    # Judgement.

    def _judge(self, one: ExaminedRepository) -> None:
        name = one.names.name
        content = RepositoryContent(
            one.revisions,
            one.layers,
            one.tags,
            one.history,
            one.trash,
            uploading=one.uploading,
            held=not one.names.valid or (self._holds is not None and self._holds(RepoName(name))),
        )
        known: dict[int, References[int] | None] = {}
        cached = self._cache.references

        def references(number: int) -> References[int] | None:
            if number not in known:
                known[number] = cached(number)
            return known[number]

        one.verdict = judge(content, references, self._options, self._now)

    async def _read_history(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Read the history of tags where it may keep a manifest, or be removed, and judge again."""
        asked = [one for one in batch if one.has_tags and (one.has_deleted or one.judged.dead)]
        if not asked:
            return
        if not self._options.delete_untagged:
            homes = [Key(f"{one.root}{_TAGS}") for one in asked]
            for one, names in zip(asked, await bulk.names(homes), strict=True):
                one.tag_names = names
        tags = [(one, tag) for one in asked for tag in one.tag_names if as_tag(tag) is not None]
        homes = [Key(f"{one.root}{_TAGS}/{tag}/index") for one, tag in tags]
        paths: list[tuple[ExaminedRepository, str, str, Key]] = []
        for (one, tag), home, names in zip(tags, homes, await bulk.names(homes), strict=True):
            known = [algorithm for algorithm in names if algorithm in RAW_BYTES]
            paths += [(one, tag, algorithm, Key(f"{home}/{algorithm}")) for algorithm in known]
        found: list[tuple[ExaminedRepository, str, int, Key]] = []
        listed = await bulk.names([path for *_, path in paths])
        for (one, tag, algorithm, path), names in zip(paths, listed, strict=True):
            for raw in raw_digests(names, algorithm):
                number = self._cache.digests.number(raw)
                if number not in one.judged.needed:
                    found.append((one, tag, number, Key(f"{path}/{raw.hex()}/link")))
        await self._add_history(found, bulk)

    async def _add_history(self, found: Sequence[tuple[ExaminedRepository, str, int, Key]], bulk: Bulk) -> None:
        if not found:
            return
        if not self._options.delete_untagged:
            tags = dict.fromkeys((one.names.name, tag) for one, tag, *_ in found)
            owners = {one.names.name: one for one, *_ in found}
            await self._read_tags([(owners[name], [tag]) for name, tag in tags], bulk)
        own = await bulk.find([key for *_, key in found])
        links = await bulk.find([Key(f"{one.root}{_TAGS}/{tag}/current/link") for one, tag, *_ in found])
        for (one, tag, number, _), entry, link in zip(found, own, links, strict=True):
            if entry is None:
                continue
            at = entry.modified_s if link is None else max(entry.modified_s, link.modified_s)
            # A tag whose link is torn may have named any of them.
            one.history.append(HistoryEntry(tag, number, self._now if tag in one.torn_tags else at))
        for one in {id(one): one for one, *_ in found}.values():
            self._judge(one)

    async def _look_at_dead(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Look once more at the links of manifests that are dead: a push may have written one again."""
        asked = [(one, number) for one in batch for number in one.judged.dead]
        if not asked:
            return
        stats = await bulk.find([self._revision_key(one, number) for one, number in asked])
        again: dict[int, ExaminedRepository] = {}
        for (one, number), stat in zip(asked, stats, strict=True):
            if stat is None:
                del one.revisions[number]
                again[id(one)] = one
            elif stat.modified_s != one.revisions[number]:
                one.revisions[number] = stat.modified_s
                again[id(one)] = one
        for one in again.values():
            self._judge(one)

    # Results.

    async def _finish(self, batch: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Look at the age of dangling layer links, and report."""
        asked = [(one, number) for one in batch for number in one.judged.dangling]
        stats = await bulk.find([Key(f"{one.root}{self._layer_path(number)}/link") for one, number in asked])
        dead: dict[int, list[int]] = {}
        kept: dict[int, list[int]] = {}
        for (one, number), stat in zip(asked, stats, strict=True):
            if stat is None:
                one.empty.append(self._layer_path(number))
            elif stat.modified_s + self._options.grace_s > self._now:
                kept.setdefault(id(one), []).append(number)
                one.judged.until = min(one.judged.until, stat.modified_s + self._options.grace_s)
            else:
                dead.setdefault(id(one), []).append(number)
        await self._look_at_empty([one for one in batch if one.has_nothing], bulk)
        for one in batch:
            self._report(one, dead.get(id(one), []), kept.get(id(one), []))

    async def _look_at_empty(self, found: Sequence[ExaminedRepository], bulk: Bulk) -> None:
        """Find repositories without tags among those that have nothing else."""
        homes = [Key(f"{one.root}{_TAGS}") for one in found]
        for one, names in zip(found, await bulk.names(homes), strict=True):
            if not names:
                one.is_empty = True
                self._marked.repositories.add(RepoName(one.names.name))

    def _report(self, one: ExaminedRepository, dead_layers: Sequence[int], young: Sequence[int]) -> None:
        marked = self._marked
        verdict = one.judged
        name = RepoName(one.names.name)
        digest = self._cache.digests.digest
        for number in verdict.unreadable:
            key = layout.blob_data(unpacked(digest(number)))
            self._note(one, key, f"the manifest cannot be read; {name} keeps all its layers")
        marked.layers.replace(name, dead_layers)
        marked.revisions.replace(name, verdict.dead)
        marked.history.replace(name, ((entry.tag, entry.digest) for entry in verdict.dead_history))
        self._count(len(one.revisions), len(one.layers))
        settled = not (dead_layers or verdict.dead or verdict.dead_history or one.is_empty or one.reported)
        self._cache.replace(one.names.name, self._record(one, settled=settled, young=young))

    def _record(self, one: ExaminedRepository, *, settled: bool, young: Sequence[int]) -> Record:
        verdict = one.judged
        needs = {*verdict.needed, *verdict.layers, *one.extra, *young}
        if verdict.all_layers is not None:
            needs.update(one.layers)
        for item in one.trash:
            needs.update(item.digests)
        needs.update(target for number, target in one.targets.items() if number in needs)
        examined = self._now if one.thorough or one.record is None else one.record.examined
        until = verdict.until
        if one.uploading:
            until = self._now  # until the upload has ended
        digests = self._cache.digests
        if one.only_sha256 and not (digests.has_wide and any(map(digests.is_wide, verdict.layers))):
            # No manifest names a layer of another algorithm; for a dead blob of one `mark.py` looks.
            one.watched.pop(_LAYERS, None)
        return Record(
            tuple(one.watched),
            tuple(one.watched.values()),
            one.names.reserved,
            array("I", one.layers),
            array("I", one.revisions),
            array("d", one.revisions.values()),
            array("I", needs),
            tuple(one.empty),
            until,
            examined,
            settled,
            {tag: (at, one.tags[tag]) for tag, at in one.tag_times.items() if tag in one.tags},
        )

    def _count(self, manifests: int, layers: int) -> None:
        counts = self._marked.counts
        counts.repositories += 1
        counts.manifests += manifests
        counts.layers += layers

    def _note(self, one: ExaminedRepository, key: Key, reason: str) -> None:
        one.reported = True
        self._marked.note(key, reason)

    def _layer_path(self, number: int) -> str:
        digest = unpacked(self._cache.digests.digest(number))
        return f"{_LAYERS}/{digest.algorithm}/{digest.hex}"

    def _revision_key(self, one: ExaminedRepository, number: int) -> Key:
        digest = unpacked(self._cache.digests.digest(number))
        return Key(f"{one.root}{_REVISIONS}/{digest.algorithm}/{digest.hex}/link")
