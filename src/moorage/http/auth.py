"""The guard before every endpoint: credentials in, a principal out, or a 401 with the challenge.

It runs after the route is found and the repository's name is parsed, before anything is looked up: what nobody can
have (a path that is no route) needs no credentials, and a 401 tells nothing of what exists.

Source: reference/auth.md section 1; RFC 7617 (Basic), RFC 6750 (Bearer).
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.auth.access import CATALOG, Asked, Basic, Bearer, Need
from moorage.errors import NameInvalid
from moorage.http.routes import Access
from moorage.http.urls import seen_from_outside
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.access import Authority, Credentials, Principal
    from moorage.http.context import Call

__all__ = ["Guard", "credentials_of"]

_ACTIONS: Final = {
    Access.PULL: ("pull",),
    Access.PUSH: ("pull", "push"),
    Access.CANCEL: ("pull", "push"),
    Access.DELETE: ("delete",),
}


class Guard:
    """Asks `authority` about every call."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def admit(self, call: Call, access: Access) -> Principal:
        """Raises Unauthorized, TooManyRequests, Unavailable, and what `Call.name` raises."""
        headers = call.request.headers
        header = headers.get("authorization")
        scheme, host = seen_from_outside(call.request)
        asked = Asked(
            needs=self._needs(call, access),
            instead=(Need("repository", call.name(), "delete"),) if access is Access.CANCEL else (),
            host=host,
            scheme=scheme,
            remote=call.options.clients.decisive_address(call.request.scope),
            given=bool(header),
        )
        return await self._authority.admit(credentials_of(header), asked)

    def _needs(self, call: Call, access: Access) -> tuple[Need, ...]:
        if access is Access.CATALOG:
            return (CATALOG,)
        if access is Access.IDENTITY:
            return ()
        name = call.name()
        needs = [Need("repository", name, action) for action in _ACTIONS[access]]
        if source := call.query("from"):
            # What cannot be a repository is mounted from by nobody, and the mount becomes an upload.
            with suppress(NameInvalid):
                needs.append(Need("repository", parse_repo_name(source), "pull"))
        return tuple(needs)


def credentials_of(header: str | None) -> Credentials | None:
    """What an Authorization header holds; None for another scheme and for what cannot be read."""
    scheme, _, rest = (header or "").partition(" ")
    read: Callable[[str], Credentials | None] | None = {"basic": _basic, "bearer": _bearer}.get(scheme.lower())
    return read(rest.strip()) if read is not None else None


def _bearer(text: str) -> Bearer | None:
    return Bearer(text) if text else None


def _basic(text: str) -> Basic | None:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    if not colon or b"\0" in decoded:
        return None
    return Basic(user, password)
