"""`auth.htpasswd`: names and passwords of a file with every request; who is in it may do everything.

Credentials of another kind (a Bearer token) are as good as none.

Used by: `wiring/app.py`.  Source: docs/reference/auth.md, section 2.
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
    """See `access.Authority`."""

    def __init__(self, realm: str, users: PasswordFile, slowing: LoginRateLimit) -> None:
        self._challenge = challenge("Basic", realm=realm)
        self._users, self._slowing = users, slowing

    async def admit(self, credentials: Credentials | None, asked: AccessRequest) -> Principal:
        if isinstance(credentials, Basic) and (
            self._users.knows(credentials.user, credentials.password)
            or await self._slowing.guess(asked.remote, credentials, self._users.verify)
        ):
            return _principal(credentials.user)
        raise Unauthorized(self._challenge, [(need.type, need.name, need.action) for need in asked.needs])

    async def refresh(self) -> None:
        await self._users.refresh()

    async def close(self) -> None:
        await self._users.close()


@lru_cache(maxsize=1024)
def _principal(user: bytes) -> Principal:
    return Principal(user.decode(errors="backslashreplace"), EVERYTHING)
