"""`auth.silly`: whoever sends any Authorization header may do everything.  For tests of clients, and nothing else.

Used by: `wiring/app.py`.  Source: docs/reference/auth.md, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.auth.access import EVERYTHING, Principal, challenge
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from moorage.auth.access import AccessRequest, Credentials

__all__ = ["WARNING", "SillyAuthority"]

WARNING: Final = (
    "auth.silly lets EVERYBODY do EVERYTHING who sends any Authorization header, whatever is in it: "
    "it is for tests of clients; use auth.htpasswd or auth.token to keep strangers out"
)


class SillyAuthority:
    """See `access.Authority`."""

    def __init__(self, realm: str, service: str) -> None:
        self._realm, self._service = realm, service

    async def admit(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        del credentials
        if asked.given:
            return Principal("silly", EVERYTHING)
        # One scope for each record, not one for each repository: the reference's silly provider does not merge.
        scope = " ".join(f"{need.type}:{need.name}:{need.action}" for need in asked.needs)
        told = challenge("Bearer", realm=self._realm, service=self._service, scope=scope)
        raise Unauthorized(told, [(need.type, need.name, need.action) for need in asked.needs])

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass
