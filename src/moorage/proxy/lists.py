"""Lists of mirrored repositories: tags and referrers, from the upstream registry, else from the store.

A list of tags is remembered for some seconds, since clients request it page by page.  The catalog lists what is
stored: no upstream registry lists everything that it has.

Above: `registry.py`.  Below: `upstreams.py`; `registry/interface.py`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.errors import NameUnknown
from moorage.proxy.blobs import refuse_write
from moorage.proxy.upstream_errors import as_refusal
from moorage.registry.interface import UNKNOWN_CALLER, Page, ReferrersPage
from moorage.upstream.errors import UpstreamError, UpstreamMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.proxy.upstreams import Place, Upstreams
    from moorage.registry.interface import Caller, Referrers, Repositories, Tags
    from moorage.types import Digest, Referrer, RepoName, Tag

__all__ = ["MirroredReferrers", "MirroredRepositories", "MirroredTags"]

_LISTED_S: Final = 15.0
_LISTS: Final = 100
_PAGE_BYTES: Final = 3 << 20
_log: Final = structlog.get_logger("moorage.proxy")


def _note_failure(place: Place, error: UpstreamError, what: str) -> None:
    _log.warning(
        f"{what} of an upstream registry cannot be read; what is cached is listed",
        upstream=place.host, repository=place.local, cause=str(error),
    )  # fmt: skip


class MirroredTags:
    """See `interface.Tags`."""

    def __init__(self, inner: Tags, upstreams: Upstreams) -> None:
        self._inner = inner
        self._upstreams = upstreams
        self._listed: TTLCache[RepoName, Sequence[Tag]] = TTLCache(_LISTS, _LISTED_S)
        self._flights: SingleFlight[RepoName, Sequence[Tag]] = SingleFlight("tags from upstream")

    async def list(self, name: RepoName, *, last: str = "", limit: int | None = None) -> Page:
        place = self._upstreams.place_of(name)
        if place is None:
            return await self._inner.list(name, last=last, limit=limit)
        try:
            tags = self._listed.get(place.local)
            if tags is None:
                tags = await self._flights.run(place.local, lambda: self._fetch(place))
        except UpstreamMissing as error:
            raise NameUnknown(name, detail={"name": name, "upstream": str(error)}) from error
        except UpstreamError as error:
            try:
                page = await self._inner.list(place.local, last=last, limit=limit)
            except NameUnknown as unknown:
                raise as_refusal(error, unknown) from error
            _note_failure(place, error, "tags")
            return page
        start = bisect_right(tags, last)
        stop = len(tags) if limit is None else start + limit
        return Page(tuple(tags[start:stop]), more=limit is not None and stop < len(tags))

    async def _fetch(self, place: Place) -> Sequence[Tag]:
        tags = sorted(set(await place.list_tags()))
        self._listed.put(place.local, tags)
        return tags

    async def close(self) -> None:
        await self._flights.close()


class MirroredReferrers:
    """See `interface.Referrers`."""

    def __init__(self, inner: Referrers, upstreams: Upstreams) -> None:
        self._inner = inner
        self._upstreams = upstreams

    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> ReferrersPage:
        place = self._upstreams.place_of(name)
        if place is None:
            return await self._inner.list(name, subject, artifact_types=artifact_types, after=after)
        try:
            found = await place.list_referrers(subject)
        except UpstreamMissing:
            found = ()
        except UpstreamError as error:
            _note_failure(place, error, "referrers")
            return await self._inner.list(place.local, subject, artifact_types=artifact_types, after=after)
        return _page(found, artifact_types, after)


def _page(found: Sequence[Referrer], artifact_types: Sequence[str], after: str) -> ReferrersPage:
    """Return the page behind the digest text `after`."""
    wanted = [entry for entry in found if not artifact_types or entry.artifact_type in artifact_types]
    entries: list[Referrer] = []
    size = 0
    for entry in sorted(wanted, key=lambda entry: str(entry.digest)):
        if str(entry.digest) <= after:
            continue
        size += len(entry.descriptor)
        if size > _PAGE_BYTES and entries:
            return ReferrersPage(tuple(entries), str(entries[-1].digest))
        entries.append(entry)
    return ReferrersPage(tuple(entries), None)


class MirroredRepositories:
    """See `interface.Repositories`."""

    def __init__(self, inner: Repositories, upstreams: Upstreams) -> None:
        self._inner = inner
        self._upstreams = upstreams

    async def list(self, *, last: str = "", limit: int) -> Page:
        return await self._inner.list(last=last, limit=limit)

    async def delete(self, name: RepoName, *, caller: Caller = UNKNOWN_CALLER) -> object:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)
        return await self._inner.delete(name, caller=caller)
