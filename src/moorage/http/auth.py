"""Access check before every endpoint: returns a principal, or raises a 401 with the challenge.

It runs after the route is found and the repository's name is parsed, before anything is looked up: a path
without a route needs no credentials, and a 401 does not disclose what exists.

Source: docs/reference/auth.md, section 1; RFC 7617 (Basic), RFC 6750 (Bearer).
"""

from __future__ import annotations

import binascii
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage.auth.access import CATALOG, AccessRequest, Basic, Bearer, Need
from moorage.errors import NameInvalid
from moorage.http.routes import Access
from moorage.http.urls import seen_from_outside
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.auth.access import Authority, Credentials, Principal
    from moorage.http.context import Call
    from moorage.types import RepoName

__all__ = ["Guard", "credentials_of"]

_ACTIONS: Final = {
    Access.PULL: ("pull",),
    Access.PUSH: ("pull", "push"),
    Access.CANCEL: ("pull", "push"),
    Access.DELETE: ("delete",),
}


class _LazyAccessRequest(AccessRequest):
    """Origin of a request, computed on demand: a granted request saves 25 us."""

    __slots__ = ("_call",)

    def __init__(
        self, call: Call, needs: tuple[Need, ...], alternative: tuple[Need, ...], *, has_credentials: bool
    ) -> None:
        self._call = call
        self.needs = needs
        self.alternative = alternative
        self.has_credentials = has_credentials

    @property
    def host(self) -> str:  # type: ignore[override]  # a field in the base class
        return seen_from_outside(self._call.scope)[1]

    @property
    def scheme(self) -> str:  # type: ignore[override]
        return seen_from_outside(self._call.scope)[0]

    @property
    def forwarded(self) -> bool:  # type: ignore[override]
        headers = self._call.headers
        return b"x-forwarded-proto" in headers or b"forwarded" in headers

    @property
    def remote(self) -> str:  # type: ignore[override]
        return self._call.options.clients.decisive_address(self._call.scope)


class Guard:
    """Requires the access of every call from `authority`."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def admit(self, call: Call, access: Access) -> Principal:
        """Return the principal.  Raises Unauthorized, TooManyRequests, Unavailable, and errors of `Call.name`."""
        header = call.header(b"authorization")
        alternative = (Need("repository", call.name(), "delete"),) if access is Access.CANCEL else ()
        request = _LazyAccessRequest(call, self._needs(call, access), alternative, has_credentials=bool(header))
        return await self._authority.admit(credentials_of(header), request)

    def _needs(self, call: Call, access: Access) -> tuple[Need, ...]:
        if access is Access.CATALOG:
            return (CATALOG,)
        if access is Access.IDENTITY:
            return ()
        needs = _on_repository(call.name(), access)
        if call.scope["query_string"] and (source := call.query("from")):
            # An invalid repository name has no blobs to mount; the mount becomes an upload.
            with suppress(NameInvalid):
                needs = (*needs, Need("repository", parse_repo_name(source), "pull"))
        return needs


@lru_cache(maxsize=1024)
def _on_repository(name: RepoName, access: Access) -> tuple[Need, ...]:
    return tuple(Need("repository", name, action) for action in _ACTIONS[access])


def credentials_of(header: str | None) -> Credentials | None:
    """Return the credentials of an Authorization header; None for another scheme or a malformed value."""
    scheme, _, rest = (header or "").partition(" ")
    read = _READERS.get(scheme.lower())
    return read(rest.strip()) if read is not None else None


def _bearer(text: str) -> Bearer | None:
    return Bearer(text) if text else None


def _basic(text: str) -> Basic | None:
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    if not colon or b"\0" in decoded:
        return None
    return Basic(user, password)


_READERS: Final[Mapping[str, Callable[[str], Credentials | None]]] = {"basic": _basic, "bearer": _bearer}
