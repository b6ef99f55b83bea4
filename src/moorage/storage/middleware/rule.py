"""What a storage middleware is: a look at where a client would be sent, and perhaps another place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from moorage.storage.driver import Key, SignedUrl

__all__ = ["Rule"]


class Rule(Protocol):
    """One entry of `middleware.storage`."""

    makes: bool
    """Whether it sends clients somewhere although the driver does not."""

    async def apply(self, found: SignedUrl | None, key: Key, client: str) -> SignedUrl | None:
        """The place for the bytes under `key` instead of `found`, which the driver and the rules before this one
        chose.  `client` is the address of whoever asks, "" if unknown.
        """

    async def close(self) -> None:
        """End what runs beside the requests."""
