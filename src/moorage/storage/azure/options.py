"""Options of the Azure driver; a field named as a setting of `storage.azure` has its value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["AzureOptions"]

_MIB: Final = 1 << 20
_CLOUDS: Final = {
    "core.usgovcloudapi.net": "login.microsoftonline.us",
    "core.chinacloudapi.cn": "login.chinacloudapi.cn",
}
"""Authority hosts of the other clouds; see AzureAuthorityHosts of the package azure.identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureOptions:
    """`credential_type` is `shared_key`, `client_secret` or `default_credentials`.

    `attempts` are made of a request whose failures are transient, with `retry_delay` times the number of the
    attempt between them, in seconds.
    """

    accountname: str
    container: str
    credential_type: str = "shared_key"
    accountkey: str = field(default="", repr=False)
    tenantid: str = ""
    clientid: str = ""
    secret: str = field(default="", repr=False)
    realm: str = "core.windows.net"
    serviceurl: str = ""
    rootdirectory: str = ""
    skipverify: bool = False
    cabundle: str = ""
    useragent: str = ""
    chunk: int = 8 * _MIB
    """Bytes of a block.  A blob has 50,000 at most, so this bounds a layer at 390 GiB."""
    small: int = _MIB
    """A last block of fewer bytes is sent again with the next write: small pieces would use up the 50,000."""
    list_page: int = 250
    """Objects in a page of a walk: reading 1000 holds the event loop for 0.4 s, so they come in quarters."""
    attempts: int = 5
    retry_delay: float = 0.1

    @property
    def prefix(self) -> str:
        """Prefix of every key, made of `rootdirectory` as by CNCF Distribution 3: no leading slash."""
        return f"{self.rootdirectory.rstrip('/')}/".lstrip("/")

    @property
    def url(self) -> str:
        return self.serviceurl.rstrip("/") or f"https://{self.accountname}.blob.{self.realm}"

    @property
    def authority(self) -> str:
        """Authority host for identities of this cloud; "" leaves it to the environment."""
        return _CLOUDS.get(self.realm, "")
