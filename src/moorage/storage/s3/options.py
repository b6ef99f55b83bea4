"""What an S3 driver is told: `config/sections/storage.py` S3 in the driver's words, and what stores allow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["S3Limits", "S3Options"]

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class S3Limits:
    """Amazon's, which everybody else keeps to.  Tests set small ones to cross them with few bytes."""

    part_bytes: int = 5 * _GIB
    """The most that one part has, and that CopyObject copies."""
    parts: int = 10_000
    group_bytes: int = _GIB
    """Chunks are first joined to objects of about this size where there are more than `parts` of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """`endpoint` "" is Amazon's; `path_style` None: see `style`.

    Static keys are used when both are there, `session_token` with them; else botocore's chain: environment,
    profiles, web identity, containers, instance metadata.
    """

    bucket: str
    root: str = ""
    region: str = ""
    endpoint: str = ""
    path_style: bool | None = None
    redirect_endpoint: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    secure: bool = True
    verify: bool = True
    ca_bundle: str = ""
    encrypt: bool = False
    kms_key: str = ""
    storage_class: str = ""
    acl: str = ""
    user_agent: str = ""
    dual_stack: bool = False
    accelerate: bool = False
    fips: bool = False
    log_requests: bool = False
    chunk: int = 10 * _MIB
    copy_chunk: int = 32 * _MIB
    copy_concurrency: int = 8
    copy_threshold: int = 32 * _MIB
    limits: S3Limits = field(default_factory=S3Limits)
    attempts: int = 5
    """How often a request is made that fails for a passing reason."""
    answer_s: float = 30.0
    """How long a store may say nothing; sending a chunk takes longer, as long as it flows."""

    @property
    def prefix(self) -> str:
        """What stands before every key; as the reference makes it of `rootdirectory`."""
        return f"{self.root.rstrip('/')}/".lstrip("/")

    @property
    def endpoint_url(self) -> str:
        """With its scheme; "" for Amazon's own."""
        if not self.endpoint or "://" in self.endpoint:
            return self.endpoint.rstrip("/")
        return f"{'https' if self.secure else 'http'}://{self.endpoint.rstrip('/')}"

    @property
    def style(self) -> str:
        """In botocore's words; never its `auto`, which signs URLs for Amazon's global host.

        A custom endpoint means the bucket in the path, unless somebody said otherwise, and so does a bucket with
        dots, which no certificate of Amazon's covers as part of a host.
        """
        path = bool(self.endpoint) or "." in self.bucket if self.path_style is None else self.path_style
        return "path" if path else "virtual"
