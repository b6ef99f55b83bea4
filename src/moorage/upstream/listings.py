"""Lists of another registry: tags and repositories, page by page.

The next page is the Link of the last one, on the same host only; a page that was read before ends the list with an
error.  Names that our grammar does not allow are an error as well: they could not be requested.

Above: `client.py`, `referrers.py`.  Below: `session.py`.
Source: distribution-spec 1.1 "Content Discovery"; RFC 8288 (Link).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from yarl import URL

from moorage.errors import RegistryError
from moorage.registry.media import essence
from moorage.types import parse_repo_name, parse_tag
from moorage.upstream.answers import parse_json
from moorage.upstream.authorization import CATALOG_SCOPE, repository_scope
from moorage.upstream.errors import UpstreamInvalid, UpstreamRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from moorage.types import RepoName, Tag
    from moorage.upstream.session import RegistrySession
    from moorage.upstream.transport import UpstreamResponse

__all__ = ["list_repositories", "list_tags", "page_document", "page_invalid", "pages"]

_T = TypeVar("_T")

_OK: Final = 200
_PAGE_SIZE: Final = 1000
_PAGE_LIMIT_BYTES: Final = 32 << 20
"""Some registries send all tags at once."""

_PAGE_SIZE_REFUSED: Final = "PAGINATION_NUMBER_INVALID"
_NEXT: Final = re.compile(r'<([^>]*)>\s*;[^<]*\brel\s*=\s*"?next\b', re.IGNORECASE)


async def list_tags(session: RegistrySession, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
    """Yield the pages of a repository's tags."""
    path, scopes = f"/v2/{name}/tags/list", (repository_scope(name),)
    async for url, document in _sized_pages(session, path, scopes):
        yield _names(session, url, document, "tags", parse_tag)


async def list_repositories(session: RegistrySession) -> AsyncIterator[Sequence[RepoName]]:
    """Yield the pages of the catalog."""
    async for url, document in _sized_pages(session, "/v2/_catalog", (CATALOG_SCOPE,)):
        yield _names(session, url, document, "repositories", parse_repo_name)


async def _sized_pages(
    session: RegistrySession, path: str, scopes: tuple[str, ...]
) -> AsyncIterator[tuple[URL, dict[str, Any]]]:
    """Yield pages of `_PAGE_SIZE`, or of the registry's own size if it refuses that one."""
    begun = False
    try:
        async for page in pages(session, session.url(path, f"n={_PAGE_SIZE}"), scopes):
            begun = True
            yield page
    except UpstreamRefused as error:
        if begun or _PAGE_SIZE_REFUSED not in error.codes:
            raise
        async for page in pages(session, session.url(path), scopes):
            yield page


async def pages(
    session: RegistrySession, url: URL, scopes: tuple[str, ...], *, media_type: str = ""
) -> AsyncIterator[tuple[URL, dict[str, Any]]]:
    """Yield the JSON of each page; with `media_type`, end before a page of another one."""
    seen: set[str] = set()
    following: URL | None = url
    headers = {"Accept": media_type} if media_type else {}
    while following is not None:
        seen.add(str(following))
        async with session.send("GET", following, expected={_OK}, scopes=scopes, headers=headers) as response:
            if media_type and essence(response.headers.get("Content-Type", "")) != media_type:
                return
            body = await response.read(_PAGE_LIMIT_BYTES)
            document = page_document(session, following, body)
            next_url = _next(session, following, response)
        if next_url is not None and str(next_url) in seen:
            raise page_invalid(session, following, "its next page is one that was read before")
        yield following, document
        following = next_url


def page_document(session: RegistrySession, url: URL, body: bytes | None) -> dict[str, Any]:
    if body is None:
        raise page_invalid(session, url, f"the page is over {_PAGE_LIMIT_BYTES >> 20} MiB")
    try:
        return parse_json(body)
    except ValueError:
        raise page_invalid(session, url, "the page is not a JSON object") from None


def _next(session: RegistrySession, url: URL, response: UpstreamResponse) -> URL | None:
    """Return the next page by the Link header.  Raises `UpstreamInvalid` for another host."""
    match = _NEXT.search(", ".join(response.headers.getall("Link", [])))
    if match is None:
        return None
    try:
        target = url.join(URL(match[1], encoded=True))
    except ValueError:
        raise page_invalid(session, url, "the Link to its next page is not a URL") from None
    if target.host != url.host or target.explicit_port != url.explicit_port:
        raise page_invalid(session, url, "the Link to its next page leads to another host")
    # Registries behind a proxy that ends TLS often write http; the page is requested as the first one was.
    return target.with_scheme(url.scheme).with_user(None)


def _names(
    session: RegistrySession, url: URL, document: dict[str, Any], key: str, parse: Callable[[str], _T]
) -> list[_T]:
    """Parse the names of a page; `null` is an empty list, as CNCF Distribution writes it."""
    entries = document.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise page_invalid(session, url, f"its {key} are not a list of names")
    try:
        return [parse(entry) for entry in entries]
    except RegistryError as error:
        raise page_invalid(session, url, f"a name that cannot be requested: {error.subject[:200]!a}") from None


def page_invalid(session: RegistrySession, url: URL, reason: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"GET {url.raw_path}: {reason}", registry=session.host)
