"""`auth.htpasswd`: Basic authentication against a password file; every user in it may do everything.

Credentials of another kind (a Bearer token) count as none.

Used by: `wiring/authentication.py`.  Source: docs/reference/auth.md, section 2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from moorage.auth.access import EVERYTHING, Basic, Principal, challenge
from moorage.errors import Unauthorized

if TYPE_CHECKING:
    from moorage.auth.access import AccessRequest, Credentials
    from moorage.auth.password_file import PasswordFile
    from moorage.auth.rate_limit import LoginRateLimit

__all__ = ["HtpasswdAuthority"]


class HtpasswdAuthority:
    """Authenticates by password; see `access.Authority`."""

    def __init__(self, realm: str, users: PasswordFile, rate_limit: LoginRateLimit) -> None:
        self._challenge = challenge("Basic", realm=realm)
        self._users = users
        self._rate_limit = rate_limit

    async def admit(self, credentials: Credentials | None, request: AccessRequest) -> Principal:
        if isinstance(credentials, Basic) and (
            self._users.is_verified(credentials.user, credentials.password)
            or await self._rate_limit.check(request.remote, credentials, self._users.verify)
        ):
            return _principal(credentials.user)
        raise Unauthorized(self._challenge, [(need.type, need.name, need.action) for need in request.needs])

    async def refresh(self) -> None:
        await self._users.refresh()

    async def close(self) -> None:
        await self._users.close()


@lru_cache(maxsize=1024)
def _principal(user: bytes) -> Principal:
    return Principal(user.decode(errors="backslashreplace"), EVERYTHING)
