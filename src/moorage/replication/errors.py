"""Reasons why an image was not copied; each message is one line with the place, the cause and the remedy.

    ReplicationError
    ├── ImageMissing        the source has no such repository, tag or digest
    ├── ImageIncomplete     the source lacks content that the image names
    ├── PlatformMissing     the image has none of the requested platforms
    ├── SourceDamaged       the source sends bytes that do not have the digest
    ├── TagMoved            the tag was moved again and again during the copy
    ├── TargetRefused       the target does not accept the content
    └── UnsupportedImage    a manifest of a kind that cannot be copied unchanged

Failures of a connection stay what they are: UpstreamError (`upstream/errors.py`), Unavailable (`errors.py`).
"""

from __future__ import annotations

__all__ = [
    "ImageIncomplete",
    "ImageMissing",
    "PlatformMissing",
    "ReplicationError",
    "SourceDamaged",
    "TagMoved",
    "TargetRefused",
    "UnsupportedImage",
]


class ReplicationError(Exception):
    """An image that was not copied; the tag of the target is unchanged."""


class ImageMissing(ReplicationError):
    """The source has no such repository, tag or digest."""


class ImageIncomplete(ReplicationError):
    """The source lacks content that the image names."""


class PlatformMissing(ReplicationError):
    """The image has none of the requested platforms."""


class SourceDamaged(ReplicationError):
    """The source sends bytes that do not have the requested digest."""


class TagMoved(ReplicationError):
    """The tag of the source was moved again and again during the copy."""


class TargetRefused(ReplicationError):
    """The target does not accept the content; `refusal` is its own error."""

    def __init__(self, message: str, refusal: Exception | None = None) -> None:
        super().__init__(message)
        self.refusal = refusal


class UnsupportedImage(ReplicationError):
    """A manifest of a kind that cannot be copied unchanged, such as Docker's schema 1."""
