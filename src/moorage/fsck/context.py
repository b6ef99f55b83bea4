"""The state that all parts of a check share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.fsck.findings import KINDS, Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from moorage.fsck.inventory import Inventory
    from moorage.registry.blob_store import BlobStore
    from moorage.registry.collection_gate import CollectionGate, CollectionSnapshot
    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["CheckContext"]

_COLLECTING: Final = (
    "not repaired, since garbage collection runs or has run meanwhile: check again when it has ended"
)


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Store, inventory and options of one check.

    `settled_before`: an object written later may belong to a push that has not ended yet.  `begun`: state of
    garbage collection from before the inventory.  Once a run has changed it, nothing is repaired any more: the
    check has seen bytes that may be gone.  `is_sparse`: manifests of this repository may lack config and layers.
    """

    driver: Driver
    manifests: StoredManifests
    inventory: Inventory
    settled_before: datetime
    repair: bool
    reported: Callable[[Finding], None]
    gate: CollectionGate
    begun: CollectionSnapshot
    is_sparse: Callable[[RepoName], bool]

    @property
    def blobs(self) -> BlobStore:
        return self.inventory.store

    async def report(
        self, kind: str, key: Key, problem: str, fix: Callable[[], Awaitable[bool]] | None = None
    ) -> bool:
        """Report a finding, repaired by `fix` if the check repairs; return whether it was repaired."""
        repaired = False
        if self.repair and fix is not None and KINDS[kind].repair:
            undisturbed = await self.gate.undisturbed(self.begun)
            if undisturbed:
                repaired = await fix()
                undisturbed = await self.gate.undisturbed(self.begun)
            if not undisturbed:
                repaired = False
                problem += f"; {_COLLECTING}"
        self.reported(Finding(kind, key, problem, Outcome.REPAIRED if repaired else Outcome.FOUND))
        return repaired
