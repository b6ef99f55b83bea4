"""Table of contents of a bundle, `moorage.json`: its images, all content in order, and what it leaves out.

    format      1
    request     how the export was called; an unfinished one is continued by an equal request only
    base        the bundle that an incremental one continues: its name and its id; null without one
    images      name, tag, digest, media type and size of each image, and of each tag of a signature
    referrers   descriptors of the manifests that refer to the images
    content     manifests, then blobs, each with the repositories that use it
    omitted     blobs that the other side has, with the repositories that have them there

It is written first, so that the length of the whole file is known before the first blob; an interrupted export
continues where the file ends.  Other programs pass over it.  The id of a bundle is the digest of this document.

Above: `writer.py`, `reader.py`, `export.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from moorage.bundle.errors import BundleInvalid
from moorage.errors import RegistryError
from moorage.registry import media
from moorage.types import Digest

__all__ = [
    "CONTENTS_LIMIT_BYTES",
    "CONTENTS_NAME",
    "BaseBundle",
    "BundleContents",
    "BundledImage",
    "ContentItem",
    "ExportParameters",
]

CONTENTS_NAME: Final = "moorage.json"
CONTENTS_LIMIT_BYTES: Final = 16 << 20
"""About 90,000 blobs."""
_FORMAT: Final = 1
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME: Final = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class ExportParameters:
    """The parameters of an export; `since` and `have` are digests of what was given, "" if nothing was."""

    images: tuple[str, ...]
    platforms: tuple[str, ...] = ()
    referrers: bool = True
    volume_bytes: int | None = None
    since: str = ""
    have: str = ""


@dataclass(frozen=True, slots=True)
class BaseBundle:
    """The bundle that an incremental one continues."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class BundledImage:
    """An image; without a name, it has none in the archive.  `reference` is that of messages."""

    name: str
    tag: str
    digest: Digest
    media_type: str = ""
    size: int = 0

    @property
    def reference(self) -> str:
        """Return `name:tag` or `name@digest`, as the archive has it."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" if self.tag else f"{self.name}@{self.digest}"


@dataclass(frozen=True, slots=True)
class ContentItem:
    """A manifest or blob, and the repositories that use it."""

    digest: Digest
    size: int
    repositories: tuple[str, ...]
    is_manifest: bool = False


@dataclass(frozen=True, slots=True)
class BundleContents:
    """See the module; `referrers` are descriptors as JSON objects."""

    request: ExportParameters
    images: tuple[BundledImage, ...]
    content: tuple[ContentItem, ...]
    referrers: tuple[dict[str, Any], ...] = ()
    omitted: tuple[ContentItem, ...] = ()
    base: BaseBundle | None = None

    def encode(self) -> bytes:
        """Return the bytes of `moorage.json`."""
        document = {
            "format": _FORMAT,
            "request": asdict(self.request),
            "base": None if self.base is None else asdict(self.base),
            "images": [_image(image) for image in self.images],
            "referrers": list(self.referrers),
            "content": [_item(item) for item in self.content],
            "omitted": [_item(item) for item in self.omitted],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def index(self) -> bytes:
        """Return the bytes of `index.json`: the images by their names, then what refers to them."""
        entries = []
        for image in self.images:
            annotations = {_REF_NAME: image.reference, _CONTAINERD_NAME: image.reference}
            entries.append({**_descriptor(image.media_type, image.digest, image.size), "annotations": annotations})
        document = {
            "schemaVersion": 2,
            "mediaType": media.OCI_INDEX,
            "manifests": [*entries, *self.referrers],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @property
    def id(self) -> str:
        return str(Digest.of(self.encode()))

    @classmethod
    def parse(cls, data: bytes, title: str) -> BundleContents:
        """Return the contents of the bytes of `moorage.json`.  Raises BundleInvalid."""
        try:
            return cls.decode(json.loads(data), title)
        except (ValueError, RecursionError) as error:
            raise BundleInvalid(f"{title}: {CONTENTS_NAME} is not JSON; copy the file again") from error

    @classmethod
    def decode(cls, document: Any, title: str) -> BundleContents:
        """Return the contents of a parsed `moorage.json`.  Raises BundleInvalid."""
        try:
            if document["format"] != _FORMAT:
                raise BundleInvalid(
                    f"{title} has format {document['format']!a} of {CONTENTS_NAME}; this version reads {_FORMAT}"
                )
            request = document["request"]
            base = document["base"]
            return cls(
                ExportParameters(
                    tuple(map(_text, request["images"])),
                    tuple(map(_text, request["platforms"])),
                    bool(request["referrers"]),
                    None if request["volume_bytes"] is None else int(request["volume_bytes"]),
                    _text(request["since"]),
                    _text(request["have"]),
                ),
                tuple(map(_read_image, document["images"])),
                tuple(map(_read_item, document["content"])),
                tuple(dict(entry) for entry in document["referrers"]),
                tuple(map(_read_item, document["omitted"])),
                None if base is None else BaseBundle(_text(base["name"]), _text(base["id"])),
            )
        except (KeyError, TypeError, ValueError, RegistryError) as error:
            raise BundleInvalid(
                f"{title}: {CONTENTS_NAME} cannot be read ({error}); copy the file again"
            ) from error


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(digest), "size": size}


def _image(image: BundledImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "tag": image.tag,
        "digest": image.digest,
        "media_type": image.media_type,
        "size": image.size,
    }


def _item(item: ContentItem) -> dict[str, Any]:
    found: dict[str, Any] = {"digest": item.digest, "size": item.size, "repositories": item.repositories}
    return {**found, "manifest": True} if item.is_manifest else found


def _read_item(document: Any) -> ContentItem:
    size = document["size"]
    if type(size) is not int or size < 0:
        raise ValueError("a size is not a number of bytes")
    names = tuple(map(_text, document["repositories"]))
    return ContentItem(Digest.parse(_text(document["digest"])), size, names, document.get("manifest") is True)


def _read_image(document: Any) -> BundledImage:
    name, tag = _text(document["name"]), _text(document["tag"])
    return BundledImage(
        name, tag, Digest.parse(_text(document["digest"])), _text(document["media_type"]), int(document["size"])
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, found {value!a}")  # noqa: TRY004  one error for all
    return value
