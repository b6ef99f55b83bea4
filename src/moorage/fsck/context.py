"""What every part of a check is given: the store, what was listed, whether to repair, and whom to tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.fsck.findings import KINDS, Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from moorage.fsck.inventory import Inventory
    from moorage.registry.blob_store import BlobStore
    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver, Key

__all__ = ["Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """`settled_before`: what was written later may belong to a push that has not ended yet."""

    driver: Driver
    manifests: StoredManifests
    inventory: Inventory
    settled_before: datetime
    repair: bool
    tell: Callable[[Finding], None]

    @property
    def blobs(self) -> BlobStore:
        return self.inventory.store

    async def found(
        self, kind: str, key: Key, problem: str, fix: Callable[[], Awaitable[bool]] | None = None
    ) -> bool:
        """Tell of it, after mending it where that is wanted and possible; whether it is right now."""
        mended = False
        if self.repair and fix is not None and KINDS[kind].repair:
            mended = await fix()
        self.tell(Finding(kind, key, problem, Outcome.REPAIRED if mended else Outcome.FOUND))
        return mended
