"""Options of the S3 driver, and limits of stores; a field named as a setting of `storage.s3` has its value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["S3Limits", "S3Options"]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class S3Limits:
    """Amazon's limits, which other stores share.  Tests set small ones to exceed them with few bytes."""

    part_bytes: int = 5 * _GIB
    """The most that one part has, and that CopyObject copies."""
    parts: int = 10_000
    group_bytes: int = _GIB
    """Chunks are first joined to objects of about this size where there are more than `parts` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """`regionendpoint` "" is Amazon's; `forcepathstyle` None: see `style`.

    Static keys are used when both are there, `sessiontoken` with them; else botocore's chain: environment,
    profiles, web identity, containers, instance metadata.
    """

    bucket: str
    rootdirectory: str = ""
    region: str = ""
    regionendpoint: str = ""
    forcepathstyle: bool | None = None
    redirectendpoint: str = ""
    accesskey: str = field(default="", repr=False)
    secretkey: str = field(default="", repr=False)
    sessiontoken: str = field(default="", repr=False)
    secure: bool = True
    skipverify: bool = False
    cabundle: str = ""
    encrypt: bool = False
    keyid: str = ""
    storageclass: str = ""
    objectacl: str = ""
    useragent: str = ""
    usedualstack: bool = False
    accelerate: bool = False
    usefipsendpoint: bool = False
    log_requests: bool = False
    chunksize: int = 10 * _MIB
    multipartcopychunksize: int = 32 * _MIB
    multipartcopymaxconcurrency: int = 8
    multipartcopythresholdsize: int = 32 * _MIB
    limits: S3Limits = field(default_factory=S3Limits)
    attempts: int = 5
    """Attempts of a request whose failures are transient."""
    answer_s: float = 30.0
    """Longest silence of a store in seconds; sending a chunk may take longer while bytes flow."""

    @property
    def prefix(self) -> str:
        """Prefix of every key, made of `rootdirectory` as by CNCF Distribution."""
        return f"{self.rootdirectory.rstrip('/')}/".lstrip("/")

    @property
    def endpoint_url(self) -> str:
        """URL of the endpoint with its scheme; "" for Amazon's own."""
        if not self.regionendpoint or "://" in self.regionendpoint:
            return self.regionendpoint.rstrip("/")
        return f"{'https' if self.secure else 'http'}://{self.regionendpoint.rstrip('/')}"

    @property
    def style(self) -> str:
        """Addressing style, in botocore's terms; never its `auto`, which signs URLs for Amazon's global host.

        With a custom endpoint the bucket is in the path, unless configured otherwise, and so is a bucket with
        dots, which no certificate of Amazon's covers as part of a host.
        """
        path = (
            bool(self.regionendpoint) or "." in self.bucket if self.forcepathstyle is None else self.forcepathstyle
        )
        return "path" if path else "virtual"
