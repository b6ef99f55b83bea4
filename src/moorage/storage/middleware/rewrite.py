"""`rewrite`: parts of the URL that the driver signed are exchanged, for a proxy that exchanges them back.

Where there is no URL (files, memory) there is nothing to rewrite, and the bytes leave as they would without it;
CNCF Distribution makes up `//host` there, and pulls break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from moorage.storage.driver import SignedUrl

if TYPE_CHECKING:
    from moorage.storage.driver import Key

__all__ = ["Rewrite"]


class Rewrite:
    """See `rule.Rule`.  An empty part leaves the URL's own."""

    makes = False

    def __init__(self, *, scheme: str = "", host: str = "", trim_path_prefix: str = "") -> None:
        self._scheme = scheme
        self._host = host
        self._prefix = trim_path_prefix

    async def apply(self, found: SignedUrl | None, key: Key, client: str) -> SignedUrl | None:
        del key, client
        if found is None:
            return None
        parts = urlsplit(found.url)
        path = parts.path.removeprefix(self._prefix)
        if path and not path.startswith("/"):
            path = f"/{path}"
        changed = parts._replace(scheme=self._scheme or parts.scheme, netloc=self._host or parts.netloc, path=path)
        return SignedUrl(urlunsplit(changed))

    async def close(self) -> None:
        """Return: nothing runs."""
