"""Google Cloud Storage as an object store: `storage/object_store/interface.py` documents each call.

Single requests are in `requests.py`, joins in `compose.py`, resumable uploads in `resumable_upload.py`, signed
URLs in `signing.py`.

Source: https://cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Key, KeyMissing, SignedUrl, Stat
from moorage.storage.gcs.compose import Compose
from moorage.storage.gcs.reader import GcsReader
from moorage.storage.gcs.requests import SESSION_TYPE, GcsRequests
from moorage.storage.gcs.resumable_upload import ResumableUploads
from moorage.storage.gcs.signing import UrlSigner
from moorage.storage.keys import is_key
from moorage.storage.object_store.helpers import check_start, probe, stat_from
from moorage.storage.object_store.interface import NamePage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from aiohttp import ClientResponse

    from moorage.storage.driver import Reader
    from moorage.storage.gcs.options import GcsOptions

__all__ = ["GcsStore"]

_PAGE: Final = 1000
_NAMED: Final = "nextPageToken,prefixes,items(name,contentType)"
_PATTERN: Final = frozenset("*?[]{}\\")


class GcsStore:
    """See `interface.JoiningStore`."""

    name = "gcs"
    any_length = True
    removes_exactly = True

    def __init__(self, options: GcsOptions, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.chunk = options.chunksize
        self._requests = GcsRequests(options, sleep=sleep)
        self._location = self._requests.location
        self.connection = self._requests.connection
        self._signer = UrlSigner(self.connection)
        self._uploads = ResumableUploads(self._requests)
        self.get = self._requests.get
        self.head = self._requests.head
        self.put = self._requests.put
        self.delete = self._requests.delete
        self.remove_unchanged = self._requests.remove_unchanged
        self.describe = self._location.describe
        self.close = self.connection.close
        self.join = Compose(self._requests).join
        self.large = self._uploads.large
        self.legacy_size = self._uploads.legacy_size
        self.adopt = self._uploads.adopt
        self.abort = self._uploads.abort

    @property
    def resent(self) -> int:
        return self.connection.retry.resent

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        reader = await self._reader(key, start, stop)
        try:
            yield reader
        finally:
            reader.close()

    async def _reader(self, key: Key, start: int, stop: int | None) -> GcsReader:
        response = None
        if stop is None or stop > start:
            response = await self._requests.open(key, start, stop)
        if response is None:
            return GcsReader(self._requests, await stat_from(self, key, start))
        try:
            if response.headers.get("Content-Type") == SESSION_TYPE:
                raise KeyMissing(key)
            return await self._opened(key, response, start, stop)
        except BaseException:
            response.close()
            raise

    async def _opened(self, key: Key, response: ClientResponse, start: int, stop: int | None) -> GcsReader:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdecimal() else int(response.headers.get("Content-Length", -1))
        version = response.headers.get("X-Goog-Generation", "")
        written = response.headers.get("Last-Modified", "")
        if size < 0 or not written:
            stat = await self.head(key)
        else:
            stat = Stat(key, size, parsedate_to_datetime(written).astimezone(UTC))
        check_start(key, start, stat.size)
        end = stat.size if stop is None else min(stop, stat.size)
        return GcsReader(self._requests, stat, response, start, end, version)

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        """See `interface.Pages`.  Google may return an empty page that is not the last; such are skipped.

        Google's token is valid only with the parameters of the first request, so the token of a page here also
        holds where the listing began.
        """
        if token:
            after, _, token = token.partition("/")
        whole = self._location.path(f"{prefix}/")
        params = {"delimiter": "/", "maxResults": str(limit), "fields": _NAMED}
        if after:
            params["startOffset"] = f"{whole}{after}"
        while True:
            page = await self._requests.list_page(whole, params | ({"pageToken": token} if token else {}))
            paths = [entry["name"] for entry in page.get("items", ()) if entry.get("contentType") != SESSION_TYPE]
            paths = sorted([*(path for path in paths if path != f"{whole}{after}"), *page.get("prefixes", ())])
            token = page.get("nextPageToken", "")
            names = [name for path in paths if (name := path[len(whole) :].removesuffix("/"))]
            if names or not token:
                return NamePage(names, f"{after}/{token}" if token else "")

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        async for page in self._requests.walk(f"{prefix}/", {}):
            stats = [stat for stat, kind in page if kind != SESSION_TYPE and is_key(stat.key)]
            if stats:
                yield stats

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        url = await self._signer.url(self._location.path(key), method, expires_s)
        return None if url is None else SignedUrl(url)

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        """See `interface.JoiningStore`: session objects of CNCF Distribution.  Resumable uploads begun here are in
        no listing, and Google removes them after a week.
        """
        whole = self._location.path(f"{under}/")
        more = {} if _PATTERN & set(whole) else {"matchGlob": f"{whole}**/_uploads/*/data"}
        old: list[Key] = []
        async for page in self._requests.walk(f"{under}/", more):
            old += [stat.key for stat, kind in page if kind == SESSION_TYPE and stat.modified < before]
        for key in old if abort else ():
            await self.abort(key)
        return old

    async def probe(self) -> None:
        await probe(self)
