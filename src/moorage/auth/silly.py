"""`auth.silly`: any Authorization header grants everything.  Only for tests of clients.

Used by: `wiring/authentication.py`.  Source: docs/reference/auth.md, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.auth.access import EVERYTHING, Principal, challenge
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from moorage.auth.access import AccessRequest, Credentials

__all__ = ["WARNING", "SillyAuthority"]

WARNING: Final = (
    "auth.silly grants EVERYTHING to EVERY request with an Authorization header, without checking its value: "
    "it is for tests of clients; use auth.htpasswd or auth.token to restrict access"
)


class SillyAuthority:
    """Admits any credentials; see `access.Authority`."""

    def __init__(self, realm: str, service: str) -> None:
        self._realm = realm
        self._service = service

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        del credentials
        if request.has_credentials:
            return Principal("silly", EVERYTHING)
        # One scope for each record, not for each repository: CNCF Distribution's silly provider does not merge.
        scope = " ".join(f"{need.type}:{need.name}:{need.action}" for need in request.needs)
        value = challenge("Bearer", realm=self._realm, service=self._service, scope=scope)
        raise Unauthorized(value, [(need.type, need.name, need.action) for need in request.needs])

    async def refresh(self) -> None:
        pass

    async def close(self) -> None:
        pass
