"""Trash: records of deleted content, from which it is restored until `storage.delete.undo` has passed.

    _trash/tags/TAG/STAMP               a tag, by its name: the manifest it named, and those it had named before
    _trash/manifests/ALG/HEX/STAMP      a manifest, by its digest
    _trash/layers/ALG/HEX/STAMP         a blob
    _trash/repository/STAMP.NNNNN       a whole repository, in pages
    _trash/repository/STAMP.end         the removal of that repository has ended

A record holds no bytes.  While it is young, garbage collection keeps the manifest or blob that it names, with
everything that this refers to, and the link can be written again.  It is durable before the link
goes, so a crash in between leaves a record of content that still exists, which is harmless.

A record is JSON, `{"version": 1, "digest": ..., "by": ..., "reason": ...}`; a page of a repository is one such
header, then a line for each tag, manifest and layer.  The time of the deletion is that in the stamp (`stamps.py`),
so the age of a record is known without reading it.  Records are written once and never changed: a process that has
read one need not read it again.

A moved tag has no record: its earlier manifests are in its history, and keep their revision links.

Above: `tags.py`, `manifests.py`, `blobs.py`, and garbage collection.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from moorage.concurrency import map_bounded
from moorage.errors import RegistryError
from moorage.registry import layout
from moorage.registry.stamps import new_stamp, stamp_time, utc_now
from moorage.storage.driver import Key, KeyMissing, ObjectTooLarge
from moorage.types import Digest, Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = [
    "DELETED_BY_CLIENT",
    "EARLIER_KIND",
    "EARLIER_LIMIT",
    "LAYER_KIND",
    "MANIFEST_KIND",
    "TAG_KIND",
    "Earlier",
    "RepositoryDeletion",
    "RepositoryPages",
    "Trash",
    "TrashEntry",
    "TrashUnreadable",
    "trash_time",
]

TAG_KIND: Final = "tag"
MANIFEST_KIND: Final = "manifest"
LAYER_KIND: Final = "layer"
EARLIER_KIND: Final = "earlier"
"""Of a deleted repository: a manifest that a tag had named before, and that is in its history."""

DELETED_BY_CLIENT: Final = "deleted by a client"
"""Reason of a deletion through the API."""

EARLIER_LIMIT: Final = 100
"""Earlier manifests of a deleted tag that its record names: the newest ones."""

_VERSION: Final = 1
_PAGE_BYTES: Final = 1 << 20
_LIMIT_BYTES: Final = 4 << 20
_FORM: Final = re.compile(
    r".*/_trash/(?:tags/(?P<tag>[^/]+)"
    r"|(?P<family>manifests|layers)/(?P<algorithm>[a-z0-9]+)/(?P<hex>[a-f0-9]+)"
    r"|(?P<page>repository))/(?P<stamp>[^/]+?)(?:\.(?P<part>\d{5,}|end))?"
)
_END: Final = "end"
_log: Final = structlog.get_logger("moorage.registry")


class TrashUnreadable(Exception):
    """A record that is damaged, or of an unknown version.  `digest` is that in its key, if there is one."""

    def __init__(self, reason: str, digest: Digest | None = None) -> None:
        super().__init__(reason)
        self.digest = digest


class Earlier(NamedTuple):
    """A manifest that a tag had named before, and when it did so last."""

    digest: Digest
    at: datetime


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """Deleted content.  `kind` is one of tag, manifest, layer, and, of a deleted repository only, earlier.

    `digest` is that of the manifest (for a tag, the one it named) or of the blob; `stored` is the digest under
    which the bytes of a layer are stored.  `stamp` is that of the deletion, common to all entries of a repository.
    """

    key: Key
    kind: str
    at: datetime
    by: str
    reason: str
    digest: Digest
    tag: Tag | None = None
    stored: Digest | None = None
    earlier: tuple[Earlier, ...] = ()
    stamp: str = ""
    of_repository: bool = False

    @property
    def manifests(self) -> tuple[Digest, ...]:
        """Return the manifests that the entry keeps, with all that these refer to."""
        if self.kind == LAYER_KIND:
            return ()
        return tuple(dict.fromkeys((self.digest, *(past.digest for past in self.earlier))))

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """Return the digests of the blob that the entry keeps: in the path of its link, and of its bytes."""
        if self.kind != LAYER_KIND:
            return ()
        return tuple(dict.fromkeys((self.digest, self.stored or self.digest)))


class RepositoryDeletion(NamedTuple):
    """A deletion of a whole repository.  `continues` is the stamp of an interrupted one, which it completed.

    `ended`: everything recorded was removed.
    """

    stamp: str
    at: datetime
    pages: tuple[Key, ...]
    continues: str
    ended: bool


def trash_time(key: Key) -> datetime | None:
    """Return the time of a deletion by the key of its record; None for a key that is none."""
    match = _FORM.fullmatch(key)
    return None if match is None else stamp_time(match["stamp"])


class Trash:
    """Records of deletions in one store.  Methods raise StorageUnavailable, or StorageExhausted when writing.

    `keep_s`: seconds for which deleted content can be restored; 0: nothing is recorded.
    """

    def __init__(self, driver: Driver, *, keep_s: float, now: Callable[[], datetime] = utc_now) -> None:
        self._driver = driver
        self._keep = timedelta(seconds=keep_s)
        self._now = now
        self.enabled = keep_s > 0

    # Recording, before the link goes.

    async def add_tag(
        self,
        name: RepoName,
        tag: Tag,
        digest: Digest,
        *,
        by: str,
        reason: str,
        earlier: Sequence[Earlier] = (),
    ) -> None:
        """Record that the tag, which names `digest`, is about to be deleted."""
        fields = {"digest": str(digest), **_encode_earlier(earlier)}
        await self._write(layout.trashed_tag(name, tag), fields, by, reason)

    async def add_manifest(self, name: RepoName, digest: Digest, *, by: str, reason: str) -> None:
        """Record that a manifest is about to be deleted by its digest."""
        await self._write(layout.trashed_manifest(name, digest), {"digest": str(digest)}, by, reason)

    async def add_layer(self, name: RepoName, digest: Digest, stored: Digest, *, by: str, reason: str) -> None:
        """Record that a blob, whose bytes are those of `stored`, is about to be removed from the repository."""
        fields = {"digest": str(digest)} | ({} if stored == digest else {"stored": str(stored)})
        await self._write(layout.trashed_layer(name, digest), fields, by, reason)

    async def _write(self, home: Key, fields: dict[str, Any], by: str, reason: str) -> None:
        if not self.enabled:
            return
        content = {"version": _VERSION, **fields, "by": by, "reason": reason}
        await self._driver.write(layout.below(home, new_stamp(self._now())), json.dumps(content).encode())

    def repository_pages(self, name: RepoName, *, by: str, reason: str, continues: str = "") -> RepositoryPages:
        """Return a writer of the record of a whole repository.

        `continues` is the stamp of an interrupted deletion, of whose record this one is the rest.
        """
        header = {"version": _VERSION, "by": by, "reason": reason}
        if continues:
            header["continues"] = continues
        return RepositoryPages(
            self._driver if self.enabled else None, layout.trashed_repository(name), new_stamp(self._now()), header
        )

    # Reading.

    def keeps(self, key: Key, now: datetime | None = None) -> bool:
        """Return whether the record is younger than `keep_s`; a key without a stamp is no record, and is not."""
        at = trash_time(key)
        return at is not None and (now or self._now()) - at < self._keep

    async def keys(self, name: RepoName, under: Key | None = None) -> AsyncIterator[Sequence[Key]]:
        """Yield the keys of all records of a repository, or of those below `under`, in pages, in any order."""
        async for page in self._driver.scan(layout.trash(name) if under is None else under):
            yield [stat.key for stat in page if trash_time(stat.key) is not None]

    async def read(self, key: Key) -> Sequence[TrashEntry]:
        """Return the content of one record; nothing if it is gone.  Raises TrashUnreadable."""
        match = _FORM.fullmatch(key)
        at = None if match is None else stamp_time(match["stamp"])
        if match is None or at is None:
            raise TrashUnreadable(f"{key} is no record of a deletion")
        if match["part"] == _END:
            return ()
        try:
            data = (await self._driver.read(key, limit=_LIMIT_BYTES)).data
        except KeyMissing:
            return ()
        except ObjectTooLarge:
            raise TrashUnreadable(f"{key} is too large", _digest_in(match)) from None
        try:
            return list(_decode(key, match, at, data))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, RegistryError) as error:
            raise TrashUnreadable(f"{key} cannot be read: {error}", _digest_in(match)) from None

    async def deletions(self, name: RepoName) -> Sequence[RepositoryDeletion]:
        """Return the recorded deletions of the whole repository, oldest first.  Raises TrashUnreadable."""
        home = layout.trashed_repository(name)
        parts: dict[str, set[str]] = {}
        async for names in self._driver.children(home):
            for text in names:
                stamp, _, part = text.rpartition(".")
                if stamp_time(stamp) is not None:
                    parts.setdefault(stamp, set()).add(part)
        found = []
        for stamp in sorted(parts):
            at = stamp_time(stamp)
            pages = tuple(layout.below(home, f"{stamp}.{part}") for part in sorted(parts[stamp] - {_END}))
            if at is None or not pages:
                continue
            try:
                data = (await self._driver.read(pages[0], limit=_LIMIT_BYTES)).data
                header = json.loads(data.partition(b"\n")[0])
                continues = str(header.get("continues", ""))
            except (KeyMissing, ObjectTooLarge, ValueError, AttributeError, RecursionError) as error:
                raise TrashUnreadable(f"{pages[0]} cannot be read: {error}") from None
            found.append(RepositoryDeletion(stamp, at, pages, continues, _END in parts[stamp]))
        return found

    async def entries(
        self,
        name: RepoName,
        *,
        under: Key | None = None,
        unreadable: Callable[[Key, str], None] | None = None,
    ) -> AsyncIterator[Sequence[TrashEntry]]:
        """Yield what was deleted from a repository, also what is older than `keep_s`, in pages, in any order.

        `under`: only records below this key.  A record that cannot be read is passed to `unreadable` with the
        reason, by default to the log, and left out.
        """
        complain = unreadable or _warn

        async def read(key: Key) -> Sequence[TrashEntry]:
            try:
                return await self.read(key)
            except TrashUnreadable as error:
                complain(key, str(error))
                return ()

        async for keys in self.keys(name, under):
            found = [entry for entries in await map_bounded(keys, read) for entry in entries]
            if found:
                yield found

    # Removing.

    async def remove(self, keys: Iterable[Key]) -> None:
        """Remove records: what they name can no longer be restored."""
        await self._driver.delete(list(keys))

    async def expire(self, name: RepoName, *, now: datetime | None = None, dry_run: bool = False) -> Sequence[Key]:
        """Remove the records of a repository that are older than `keep_s`, or with `dry_run` only find them."""
        now = now or self._now()
        expired: list[Key] = []
        async for keys in self.keys(name):
            expired += [key for key in keys if not self.keeps(key, now)]
        if expired and not dry_run:
            await self._driver.delete(expired)
        return expired


class RepositoryPages:
    """Writer of the record of a whole repository (`Trash.repository_pages`).  Memory: one page of about 1 MiB."""

    def __init__(self, driver: Driver | None, home: Key, stamp: str, header: dict[str, Any]) -> None:
        self._driver = driver
        self._home = home
        self._header = json.dumps(header)
        self._continues: str = header.get("continues", "")
        self._lines: list[str] = []
        self._bytes = 0
        self._number = 0
        self.stamp = stamp

    async def add_tag(self, tag: Tag, digest: Digest) -> None:
        await self._add({"tag": tag, "digest": str(digest)})

    async def add_earlier(self, tag: Tag, past: Earlier) -> None:
        await self._add({"of": tag, **_encode_earlier([past])})

    async def add_manifest(self, digest: Digest) -> None:
        await self._add({"manifest": str(digest)})

    async def add_layer(self, digest: Digest, stored: Digest) -> None:
        await self._add({"layer": str(digest)} | ({} if stored == digest else {"stored": str(stored)}))

    async def _add(self, fields: dict[str, Any]) -> None:
        line = json.dumps(fields, separators=(",", ":"))
        if self._bytes + len(line) > _PAGE_BYTES:
            await self._flush()
        self._lines.append(line)
        self._bytes += len(line) + 1

    async def _flush(self) -> None:
        if self._driver is not None:
            data = "\n".join((self._header, *self._lines)).encode()
            await self._driver.write(layout.below(self._home, f"{self.stamp}.{self._number:05}"), data)
        self._lines.clear()
        self._bytes = 0
        self._number += 1

    async def close(self) -> None:
        """Make everything added so far durable, before it is removed; more may be added after."""
        if self._lines:
            await self._flush()

    async def end(self) -> None:
        """Note that everything recorded has been removed, or that of the deletion that this one continues."""
        stamp = self.stamp if self._number else self._continues
        if self._driver is not None and stamp:
            await self._driver.write(layout.below(self._home, f"{stamp}.{_END}"), b"")


def _encode_earlier(earlier: Sequence[Earlier]) -> dict[str, Any]:
    newest = sorted(earlier, key=lambda past: past.at, reverse=True)[:EARLIER_LIMIT]
    return {"earlier": [[str(past.digest), past.at.isoformat()] for past in newest]} if newest else {}


def _decode(key: Key, match: re.Match[str], at: datetime, data: bytes) -> Iterable[TrashEntry]:
    """Yield the entries of a record.  Raises ValueError, KeyError, TypeError, RegistryError."""
    header, *lines = data.decode().split("\n")
    common = json.loads(header)
    if common["version"] != _VERSION:
        raise ValueError(f"version {common['version']}, and this Moorage knows {_VERSION}")
    by, reason = str(common["by"]), str(common["reason"])
    if match["page"] is None:
        tag = None if match["tag"] is None else parse_tag(match["tag"])
        kind = TAG_KIND if tag is not None else MANIFEST_KIND if match["family"] == "manifests" else LAYER_KIND
        yield _entry(key, kind, at, by, reason, common, Digest.parse(common["digest"]), tag, match["stamp"])
        return
    for line in lines:
        fields = json.loads(line)
        tag = None
        if "of" in fields:
            kind, tag, text = EARLIER_KIND, parse_tag(fields["of"]), fields["earlier"][0][0]
        elif TAG_KIND in fields:
            kind, tag, text = TAG_KIND, parse_tag(fields[TAG_KIND]), fields["digest"]
        else:
            kind = MANIFEST_KIND if MANIFEST_KIND in fields else LAYER_KIND
            text = fields[kind]
        digest = Digest.parse(text)
        yield _entry(key, kind, at, by, reason, fields, digest, tag, match["stamp"], of_repository=True)


def _digest_in(match: re.Match[str]) -> Digest | None:
    try:
        return Digest.parse(f"{match['algorithm']}:{match['hex']}")
    except RegistryError:
        return None


def _entry(
    key: Key,
    kind: str,
    at: datetime,
    by: str,
    reason: str,
    fields: dict[str, Any],
    digest: Digest,
    tag: Tag | None,
    stamp: str,
    *,
    of_repository: bool = False,
) -> TrashEntry:
    stored = Digest.parse(fields["stored"]) if "stored" in fields else digest if kind == LAYER_KIND else None
    earlier = tuple(
        Earlier(Digest.parse(text), datetime.fromisoformat(when)) for text, when in fields.get("earlier", ())
    )
    if any(past.at.tzinfo is None for past in earlier):
        raise ValueError("a time has no zone")
    return TrashEntry(key, kind, at, by, reason, digest, tag, stored, earlier, stamp, of_repository)


def _warn(key: Key, reason: str) -> None:
    _log.warning(
        "a record of a deletion cannot be read, and what it names cannot be restored", key=key, cause=reason
    )
