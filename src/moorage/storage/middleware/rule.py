"""Interface of a storage middleware: receives the URL that a client would be redirected to, and may replace it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from moorage.storage.driver import Key, SignedUrl

__all__ = ["Rule"]


class Rule(Protocol):
    """One entry of `middleware.storage`."""

    makes: bool
    """True if the rule redirects clients also where the driver signs no URLs."""

    async def apply(self, found: SignedUrl | None, key: Key, client: str) -> SignedUrl | None:
        """Return the URL for the bytes under `key` instead of `found`, the one of the driver and of the rules
        before this one.  `client` is the address of the client, "" if unknown.
        """

    async def close(self) -> None:
        """End what runs beside the requests."""
