"""Manifests as bytes: what they are, what they name, and whether their structure holds.  Pure.

Stored manifests carry no media type beside them, so the bytes decide: `mediaType` if there, else an index has
`manifests` and an image manifest has `layers` or `config`.  The bytes are the identity; nothing here writes JSON.

Source: image-spec 1.1 manifest.md and image-index.md; reference/http-api.md 5.1 and 5.2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from moorage.errors import DigestInvalid, ManifestInvalid
from moorage.types import Digest

__all__ = [
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEXES",
    "MEDIA_TYPES",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Child",
    "Layer",
    "Parsed",
    "essence",
    "parse",
]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPES: Final = frozenset({OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

_SCHEMA_1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_SCHEMA_VERSION: Final = 2
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_SCHEMA_1_TEXT: Final = "schema 1 manifests are not supported; push the image again with a Docker of 2017 or later"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer or config: bytes that must be a blob of the repository, unless `elsewhere`."""

    media_type: str
    digest: Digest
    urls: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> bool:
        """A foreign layer that is fetched from its URLs and need not be here."""
        if self.media_type == _DOCKER_FOREIGN:
            return True
        return self.media_type.startswith(_OCI_FOREIGN) and bool(self.urls)


@dataclass(frozen=True, slots=True)
class Child:
    """An entry of an index; `platform` is (os, architecture) if it says so."""

    digest: Digest
    platform: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a manifest says.  `artifact_type` is what a referrers list shows: its own, else the config's type."""

    media_type: str
    blobs: tuple[Layer, ...]
    children: tuple[Child, ...]
    subject: Digest | None
    artifact_type: str | None
    annotations: dict[str, str]
    config_type: str | None


def essence(content_type: str) -> str:
    """A media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def parse(data: bytes, content_type: str | None = None) -> Parsed:
    """Check a manifest that was pushed as `content_type`, or read one that was stored (None).

    Raises ManifestInvalid, with what is wrong in one line.
    """
    document = _json(data)
    own = _text(document, "mediaType")
    media_type = _media_type(document, own, content_type)
    version = document.get("schemaVersion")
    if version != _SCHEMA_VERSION or isinstance(version, bool):
        raise ManifestInvalid(_SCHEMA_1_TEXT if version == 1 else "schemaVersion must be 2")
    subject = document.get("subject")
    is_index = media_type in INDEXES
    config = None if is_index else _layer(document.get("config"), "config")
    artifact_type = _text(document, "artifactType") or None
    return Parsed(
        media_type=media_type,
        blobs=() if config is None else (config, *_layers(document)),
        children=_children(document) if is_index else (),
        subject=None if subject is None else _digest(subject, "subject"),
        artifact_type=artifact_type or (config.media_type if config else None) or None,
        annotations=_annotations(document),
        config_type=config.media_type if config else None,
    )


def _json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ManifestInvalid("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ManifestInvalid("its JSON is nested too deeply") from error
    except ValueError as error:
        raise ManifestInvalid(f"it is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid("it is not a JSON object")
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of one manifest must see the same image, so a key may not stand there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _media_type(document: dict[str, Any], own: str, content_type: str | None) -> str:
    is_list, is_image = "manifests" in document, "layers" in document or "config" in document
    if "fsLayers" in document or own in _SCHEMA_1 or (content_type and essence(content_type) in _SCHEMA_1):
        raise ManifestInvalid(_SCHEMA_1_TEXT)
    if content_type is None:
        found = own or (OCI_INDEX if is_list else OCI_MANIFEST)
    else:
        found = essence(content_type)
        if found not in MEDIA_TYPES:
            known = ", ".join(sorted(MEDIA_TYPES))
            raise ManifestInvalid(f"Content-Type is {content_type or 'missing'!s}; it must be one of {known}")
        if own and own != found:
            raise ManifestInvalid(f"its mediaType is {own}, but it was pushed as {found}")
        if not own and found in {DOCKER_MANIFEST, DOCKER_LIST}:
            raise ManifestInvalid(f"it was pushed as {found}, which needs a mediaType in the manifest")
    if found not in MEDIA_TYPES:
        raise ManifestInvalid(f"its mediaType {found} is not one that this registry serves")
    if found in INDEXES and is_image:
        raise ManifestInvalid("an index must not have config or layers")
    if found not in INDEXES and is_list:
        raise ManifestInvalid("an image manifest must not have manifests")
    return found


def _layers(document: dict[str, Any]) -> tuple[Layer, ...]:
    layers = document.get("layers")
    return tuple(_layer(item, f"layers[{i}]") for i, item in enumerate(_list(layers, "layers")))


def _children(document: dict[str, Any]) -> tuple[Child, ...]:
    found = []
    for i, item in enumerate(_list(document.get("manifests"), "manifests")):
        digest = _digest(item, f"manifests[{i}]")
        platform = item.get("platform")
        if platform is not None and not isinstance(platform, dict):
            raise ManifestInvalid(f"manifests[{i}].platform is not an object")
        found.append(Child(digest, (_text(platform, "os"), _text(platform, "architecture")) if platform else None))
    return tuple(found)


def _layer(item: Any, where: str) -> Layer:
    digest = _digest(item, where)
    urls = item.get("urls") or []
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ManifestInvalid(f"{where}.urls is not a list of texts")
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or "#" in url:
            raise ManifestInvalid(f"{where}.urls holds {url!r}; it must be http or https, without a fragment")
    return Layer(_text(item, "mediaType"), digest, tuple(urls))


def _digest(item: Any, where: str) -> Digest:
    if not isinstance(item, dict):
        raise ManifestInvalid(f"{where} is missing or not a descriptor")
    size = item.get("size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ManifestInvalid(f"{where}.size is not a number of bytes")
    try:
        return Digest.parse(_text(item, "digest"))
    except DigestInvalid as error:
        raise ManifestInvalid(
            f"{where}.digest {_text(item, 'digest')!r} is not a sha256 or sha512 digest"
        ) from error


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    found = document.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ManifestInvalid("annotations is not a map of texts")
    return found


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ManifestInvalid(f"{key} is not a text")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ManifestInvalid(f"{where} is not a list")
    return value
