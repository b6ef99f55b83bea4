"""Options of the Google Cloud Storage driver; a field named as a setting of `storage.gcs` has its value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GOOGLE", "GcsOptions"]

_MIB: Final = 1 << 20
GOOGLE: Final = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsOptions:
    """`endpoint` "" is Google's, or where the environment's STORAGE_EMULATOR_HOST points.

    `keyfile` wins over `credentials`; without either Google's usual places are searched (`gcs/credentials.py`).
    """

    bucket: str
    rootdirectory: str = ""
    endpoint: str = ""
    keyfile: str = ""
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cabundle: str = ""
    useragent: str = ""
    chunksize: int = 16 * _MIB
    maxconcurrency: int = 50
    """Calls at the same time; streams of bytes out are not counted, as in the reference."""
    sources: int = 32
    """The most that one compose takes: Google's limit.  Tests set a small one to cross it with few bytes."""
    attempts: int = 5
    """Attempts of a request that fails for a passing reason."""

    @property
    def prefix(self) -> str:
        """Prefix of every key, made of `rootdirectory` as by CNCF Distribution: without slashes at both ends."""
        root = self.rootdirectory.strip("/")
        return f"{root}/" if root else ""
