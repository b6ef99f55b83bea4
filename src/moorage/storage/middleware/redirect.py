"""`redirect`: every client is redirected to one base URL, unsigned, instead of the driver's URL.

The path is that of the object below the registry's root: BASE/docker/registry/v2/blobs/sha256/ab/abc.../data.  A
path in `baseurl` is joined before it, as in 3.x; 2.8 drops it.

The server at that URL decides who may read: the registry's own rules end at the redirect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.storage.driver import SignedUrl

if TYPE_CHECKING:
    from moorage.storage.driver import Key

__all__ = ["RedirectRule"]


class RedirectRule:
    """See `rule.Rule`.  `base_url` has a scheme and a host."""

    makes = True

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")

    async def apply(self, found: SignedUrl | None, key: Key, client: str) -> SignedUrl:
        del found, client
        return SignedUrl(f"{self._base}/{key}")

    async def close(self) -> None:
        """Return: nothing runs."""
