"""Platforms of the entries of an index, and the selection of some of them.

An index is never changed, since its digest would change: entries of other platforms are only not copied.

Above: `images.py`, `cli/copy.py`.  Below: nothing.
Source: image-spec 1.1 "Image Index" (platform); BuildKit, "Image attestation storage".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.errors import DigestInvalid
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["ImagePlatform", "IndexEntry", "platform_of_config", "read_entries", "select_entries"]

_TEXT: Final = re.compile(r"[a-z0-9_.-]+/[a-z0-9_.-]+(?:/[a-z0-9_.-]+)?", re.ASCII)
_EXPECTED: Final = "expected a platform as OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64"
_ATTESTED: Final = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class ImagePlatform:
    """A platform; as a selection, an empty `variant` stands for every variant."""

    system: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> ImagePlatform:
        """Parse `linux/arm64` or `linux/arm/v7`.  Raises ValueError."""
        if _TEXT.fullmatch(text) is None:
            raise ValueError(f"{_EXPECTED}, found {text!r}")
        return cls(*text.split("/"))

    def selects(self, other: ImagePlatform) -> bool:
        same = (self.system, self.architecture) == (other.system, other.architecture)
        # The variant of arm64 is v8, whether it is written or not.
        return same and (not self.variant or self.variant == other.variant or self._is_arm64_v8(other))

    def _is_arm64_v8(self, other: ImagePlatform) -> bool:
        return self.architecture == "arm64" and {self.variant, other.variant} <= {"", "v8"}

    def __str__(self) -> str:
        return "/".join(filter(None, (self.system, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of an index.  `attests`: the entry that it is an attestation of, as BuildKit writes them."""

    digest: Digest
    media_type: str
    platform: ImagePlatform | None
    attests: str = ""


def read_entries(index: bytes) -> list[IndexEntry]:
    """Return the entries of an index that has been parsed; those without a supported digest are left out."""
    found = []
    for entry in json.loads(index).get("manifests") or ():
        if not isinstance(entry, dict):
            continue
        try:
            digest = Digest.parse(str(entry.get("digest")))
        except DigestInvalid:
            continue
        annotations = entry.get("annotations")
        attests = annotations.get(_ATTESTED, "") if isinstance(annotations, dict) else ""
        found.append(
            IndexEntry(digest, str(entry.get("mediaType", "")), _platform(entry.get("platform")), str(attests))
        )
    return found


def platform_of_config(config: bytes) -> ImagePlatform | None:
    """Return the platform of an image's config, None if it has none."""
    try:
        return _platform(json.loads(config))
    except ValueError:
        return None


def _platform(document: Any) -> ImagePlatform | None:
    if not isinstance(document, dict) or not document.get("os"):
        return None
    texts = [document.get(name) for name in ("os", "architecture", "variant")]
    return ImagePlatform(*(text if isinstance(text, str) else "" for text in texts))


def select_entries(entries: Sequence[IndexEntry], selected: Collection[ImagePlatform]) -> list[IndexEntry]:
    """Return the entries of the selected platforms, with their attestations, and those without any platform."""
    if not selected:
        return list(entries)
    kept = [
        entry
        for entry in entries
        if not entry.attests and (entry.platform is None or any(one.selects(entry.platform) for one in selected))
    ]
    digests = {str(entry.digest) for entry in kept}
    return kept + [entry for entry in entries if entry.attests in digests]
