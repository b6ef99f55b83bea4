"""References of a manifest, read from its bytes: fast for what clients push, and never fewer than there are.

`json` reads a manifest in a sixth of the time of `media.parse`.  The fast result is used only if it has every
digest that occurs in the bytes: then none is hidden behind another spelling of a member's name, a second member of
the same name or an escaped text, of which clients read one or the other.  Otherwise `media.parse` decides.
Docker's schema 1, which is not served, has its layers in `fsLayers`.

The bytes are not hashed.

Above: `mark.py`.  Below: `registry/media.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from moorage.errors import DigestInvalid, ManifestInvalid
from moorage.registry import media
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "RAW_BYTES",
    "RawDigest",
    "References",
    "packed",
    "raw_digests",
    "references_of",
    "unpacked",
]

RawDigest = bytes
"""A digest as its 32 (sha256) or 64 bytes (sha512): a million of them must fit in memory."""

_D = TypeVar("_D")

_DIGEST: Final = re.compile(r"sha(?:256:[a-f0-9]{64,}|512:[a-f0-9]{128,})")
_SCHEMA_VERSION: Final = 2
_SHA256_BYTES: Final = 32
RAW_BYTES: Final = {"sha256": _SHA256_BYTES, "sha512": 64}
_HEX: Final = re.compile(r"[a-f0-9]*+")
_OBJECTS_LIMIT: Final = 100_000
"""Objects and arrays that `json` may build: 1.7 million take 0.8 s and 150 MB."""


@dataclass(frozen=True, slots=True)
class References(Generic[_D]):
    """Digests that a manifest names: `blobs` are config and layers, `children` the entries of an index."""

    blobs: tuple[_D, ...] = ()
    children: tuple[_D, ...] = ()
    subject: _D | None = None


def packed(digest: Digest) -> RawDigest:
    """Return a digest as bytes."""
    return bytes.fromhex(digest.hex)


def unpacked(raw: RawDigest) -> Digest:
    """Return the digest of bytes."""
    return Digest("sha256" if len(raw) == _SHA256_BYTES else "sha512", raw.hex())


def raw_digests(names: Sequence[str], algorithm: str) -> list[RawDigest]:
    """Return the digests among the names of a directory; other names are left out.

    Checked and converted together: one by one, this would be a tenth of a mark.
    """
    size = RAW_BYTES[algorithm]
    if not {2 * size}.issuperset(map(len, names)) or _HEX.fullmatch("".join(names)) is None:
        names = [name for name in names if len(name) == 2 * size and _HEX.fullmatch(name) is not None]
    raw = bytes.fromhex("".join(names))
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def references_of(data: bytes) -> References[RawDigest]:
    """Return the references of a stored manifest.  Raises ManifestInvalid with the reason in one line."""
    found = _fast(data)
    return found if found is not None else _slow(data)


def _fast(data: bytes) -> References[RawDigest] | None:
    if data.count(b"[") + data.count(b"{") > _OBJECTS_LIMIT:
        return None
    try:
        text = data.decode()
        document = json.loads(text)
        if document["schemaVersion"] != _SCHEMA_VERSION or "\\" in text:
            return None
        own = document.get("mediaType")
        children = document.get("manifests")
        if own in media.INDEXES if own else children is not None:
            names = [entry["digest"] for entry in children]
            found = []
        elif own and own not in media.MEDIA_TYPES:
            return None
        else:
            names = []
            found = [entry["digest"] for entry in document["layers"]]
            found.append(document["config"]["digest"])
        blobs = len(found)
        found += names
        subject = document.get("subject")
        if subject is not None:
            found.append(subject["digest"])
        if sorted(_DIGEST.findall(text)) != sorted(found) or not {71, 135}.issuperset(map(len, found)):
            return None
        raw = [bytes.fromhex(digest[7:]) for digest in found]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    end = blobs + len(names)
    return References(tuple(raw[:blobs]), tuple(raw[blobs:end]), raw[end] if subject is not None else None)


def _slow(data: bytes) -> References[RawDigest]:
    try:
        parsed = media.parse(data)
    except ManifestInvalid:
        if not media.is_schema_1(data):
            raise
        return References(_schema_1_layers(data))
    return References(
        tuple(packed(layer.digest) for layer in parsed.blobs),
        tuple(packed(child.digest) for child in parsed.children),
        None if parsed.subject is None else packed(parsed.subject),
    )


def _schema_1_layers(data: bytes) -> tuple[RawDigest, ...]:
    """Return the layers of Docker's schema 1, `fsLayers[].blobSum`."""
    try:
        document: Any = json.loads(data)
        texts = [entry["blobSum"] for entry in document["fsLayers"]]
        return tuple(packed(Digest.parse(text)) for text in texts)
    except (ValueError, TypeError, KeyError, RecursionError, DigestInvalid) as error:
        raise ManifestInvalid("it is of schema 1, and its fsLayers cannot be read") from error
