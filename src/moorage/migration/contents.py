"""A bounded survey of the store: uploads in progress, schema 1, empty blobs, torn links, foreign objects.

One listing, at most `limit` objects of it, and the bytes of a bounded number of manifests.  Damage shows
in sizes: a blob of no bytes, a link that is no digest.  `moorage storage check` reads the rest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.concurrency import for_each, one_page
from moorage.errors import ManifestInvalid
from moorage.fsck.inventory import LINK_SIZES, Inventory
from moorage.migration.advice import Advice, Group
from moorage.registry import layout, media
from moorage.registry.torn_blobs import is_empty_in_error
from moorage.registry.walk import list_objects
from moorage.storage.driver import KeyMissing, ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from moorage.registry.layout import ParsedKey
    from moorage.registry.walk import ListedObject
    from moorage.storage.driver import Driver, Key, Stat
    from moorage.types import Digest, RepoName

__all__ = ["Contents", "describe", "survey"]

_SAMPLES: Final = 3
_MANIFESTS: Final = 2000
_AT_ONCE: Final = 16
_LINKS: Final = {"layer", "revision", "tag"}
_STATES: Final = ("hashstates/", "state", "blocks")
"""Objects of an upload by which another process continues it without hashing its bytes again."""


@dataclass(slots=True)
class _Upload:
    """One upload in progress: bytes, when it began as far as the listing shows, whether it has a hash state."""

    size: int = 0
    began: datetime | None = None
    state: bool = False


@dataclass(slots=True)
class Contents:
    """`objects` were listed; `complete` is false if there are more than the limit."""

    inventory: Inventory
    complete: bool = True
    kinds: Counter[str] = field(default_factory=Counter)
    uploads: dict[str, _Upload] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    torn_count: int = 0
    revisions: dict[tuple[RepoName, Digest], None] = field(default_factory=dict)
    schema_1: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    manifests_read: int = 0

    def add(self, found: ListedObject) -> None:
        self.inventory.add(found)
        stat, parsed = found
        if parsed is None:
            return
        self.kinds[parsed.kind] += 1
        if parsed.kind == "upload" and parsed.name is not None:
            self._add_upload(layout.upload_home(parsed.name, parsed.upload), stat)
        elif parsed.kind in _LINKS and stat.size not in LINK_SIZES:
            self.torn_count += 1
            if len(self.torn) < _SAMPLES:
                self.torn.append(stat.key)
        if parsed.kind == "revision":
            self._add_revision(parsed)

    def _add_upload(self, home: Key, stat: Stat) -> None:
        rest = stat.key.removeprefix(f"{home}/")
        upload = self.uploads.setdefault(home, _Upload())
        if rest == "startedat" or upload.began is None or stat.modified < upload.began:
            upload.began = stat.modified
        upload.state |= rest.startswith(_STATES)
        if not rest.startswith("hashstates/"):
            upload.size += stat.size

    def _add_revision(self, parsed: ParsedKey) -> None:
        if len(self.revisions) < _MANIFESTS and parsed.name is not None and parsed.digest is not None:
            self.revisions[parsed.name, parsed.digest] = None


async def survey(
    driver: Driver, limit: int, begin: Callable[[str], None], advanced: Callable[[int], None]
) -> Contents:
    """List about `limit` objects (0: all) and read some manifests.  Raises StorageError.

    `begin` is called with the name of each phase, `advanced` with how much was done.
    """
    contents = Contents(Inventory(driver))
    begin("objects listed")
    async for page in list_objects(driver):
        for found in page:
            contents.add(found)
        advanced(len(page))
        if limit and contents.inventory.objects >= limit:
            contents.complete = False
            break
    begin("manifests read")

    async def read(revision: tuple[RepoName, Digest]) -> None:
        name, digest = revision
        await _judge(contents, f"{name}@{digest}", digest)
        advanced(1)

    await for_each(one_page(list(contents.revisions)), read, limit=_AT_ONCE)
    for digest, size in contents.inventory.all():
        # Read again: the blob may have been pushed since, and Swift lists an object in segments with 0 bytes.
        if is_empty_in_error(digest, size) and await contents.inventory.size_now(digest) == 0:
            contents.empty.append(str(digest))
    return contents


async def _judge(contents: Contents, shown: str, digest: Digest) -> None:
    try:
        data = await contents.inventory.store.content(digest)
    except (KeyMissing, ObjectTooLarge):
        contents.unreadable.append(shown)
        return
    contents.manifests_read += 1
    try:
        media.stored_type(data)
    except ManifestInvalid:
        (contents.schema_1 if media.is_schema_1(data) else contents.unreadable).append(shown)


def describe(contents: Contents, *, purged_before: datetime | None, secret: bool) -> Iterator[Advice]:
    """Yield what was found; the first purge removes uploads begun before `purged_before` (None: never)."""
    inventory = contents.inventory
    more = "" if contents.complete else "; only a part was listed, --limit 0 lists all"
    text = (
        f"{len(inventory.names)} repositories, {inventory.blobs} blobs ({inventory.blob_bytes >> 20} MiB), "
        f"{inventory.objects} objects{more}"
    )
    yield Advice(Group.KEPT, "contents", "store", text)
    yield from _uploads(contents, purged_before, secret=secret)
    if contents.schema_1:
        yield Advice(
            Group.REFUSED,
            "schema-1",
            _some(contents.schema_1),
            f"{len(contents.schema_1)} of {contents.manifests_read} manifests read: schema 1, which is not served",
            "before the switch, pull them from the old registry and push them with a Docker of 2017 or later",
        )
    yield from _damage(contents)
    if contents.kinds["referrer"] or contents.kinds["deleted"]:
        text = "Moorage has served this store before; the old registry ignored what it added"
        yield Advice(Group.KEPT, "served-before", "store", text)


def _uploads(contents: Contents, purged_before: datetime | None, *, secret: bool) -> Iterator[Advice]:
    uploads = contents.uploads
    if not uploads:
        return
    size = sum(upload.size for upload in uploads.values())
    stateless = sum(not upload.state for upload in uploads.values())
    old = [
        home
        for home, upload in uploads.items()
        if purged_before is not None and upload.began is not None and upload.began < purged_before
    ]
    text = f"{len(uploads)} uploads in progress ({size >> 20} MiB)"
    if secret:
        text += ", which their clients can continue"
    else:
        text += ", which their clients must begin again: http.secret is not set"
    if stateless:
        text += f"; {stateless} of them have no hash state, so their bytes are read once more"
    yield Advice(Group.KEPT if secret else Group.CHANGED, "uploads", _some(list(uploads)), text)
    if old:
        text = f"{len(old)} uploads are older than storage.maintenance.uploadpurging.age: removed within an hour"
        remedy = "set uploadpurging.enabled to false to keep them"
        yield Advice(Group.CHANGED, "uploads-stale", _some(old), text, remedy)


def _damage(contents: Contents) -> Iterator[Advice]:
    """Damage that the old registry has as well: the switch may happen with it, so nothing of it is required."""
    remedy = "run `moorage storage check CONFIG`; --repair repairs what can be repaired"
    empty = contents.empty
    if empty:
        text = f"{len(empty)} blobs have no bytes (a crash): unknown here, so that the next push replaces them"
        yield Advice(Group.CHANGED, "blob-empty", _some(empty), text, remedy)
    if contents.torn_count:
        text = f"{contents.torn_count} links hold no digest (a crash): what they link is unknown, here and there"
        yield Advice(Group.CHANGED, "link-torn", _some(contents.torn, contents.torn_count), text, remedy)
    if contents.unreadable:
        text = f"{len(contents.unreadable)} manifests are missing, too large or no manifests, and are not served"
        yield Advice(Group.CHANGED, "manifest-unreadable", _some(contents.unreadable), text, remedy)
    strangers = contents.inventory.strangers
    if strangers:
        text = f"{len(strangers)} objects are no part of a registry, and are left alone"
        yield Advice(Group.IGNORED, "unknown-key", _some([str(key) for key in strangers]), text)


def _some(names: list[str], count: int = 0) -> str:
    rest = max(count, len(names)) - _SAMPLES
    return ", ".join(names[:_SAMPLES]) + (f" and {rest} more" if rest > 0 else "")
