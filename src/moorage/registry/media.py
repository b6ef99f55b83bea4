"""Media types and structure of manifests: parses their bytes, without I/O.

Manifests are stored without their media type, so the bytes decide: `mediaType`, else a manifest with `manifests`
is an index.  A push whose bytes would be read back as another type is therefore refused.  The bytes are the
identity; nothing here writes JSON.

Pushed manifests must conform to the specification.  Stored ones, perhaps from a registry that accepted more, are
served if CNCF Distribution served them: a member that cannot be read is absent, a descriptor whose digest is not
supported is left out (`manifest_json.py` has a reader for each).

Source: image-spec 1.1 "Image Manifest" and "Image Index".
"""

from __future__ import annotations

from binascii import a2b_base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from moorage.errors import Denied, DigestInvalid, ManifestInvalid
from moorage.registry.manifest_json import read_pushed, read_stored, well_formed
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "DESCRIPTORS_LIMIT",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEXES",
    "MEDIA_TYPES",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Child",
    "Layer",
    "Parsed",
    "check_class",
    "class_of",
    "default_image",
    "essence",
    "is_schema_1",
    "is_web_url",
    "parse",
    "stored_description",
    "stored_subject",
    "stored_type",
]

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPES: Final = frozenset({OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

DESCRIPTORS_LIMIT: Final = 10_000
"""Entries of `layers` or `manifests` of a pushed manifest: each is looked up."""

_SCHEMA_1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_SCHEMA_VERSION: Final = 2
_DEFAULT_PLATFORM: Final = ("linux", "amd64")
_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
_OCI_FOREIGN: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_SIZE_LIMIT: Final = 1 << 63
"""Clients read sizes into 64 signed bits and refuse the whole manifest otherwise."""
_QUOTED_CHARS: Final = 120
_UNSUPPORTED_SHOWN: Final = 3
_TYPE_MEMBERS: Final = frozenset({"schemaVersion", "mediaType"})
_DESCRIPTION_MEMBERS: Final = _TYPE_MEMBERS | {"artifactType", "config", "subject", "annotations"}
_DESCRIPTOR_TEXTS: Final = frozenset({"mediaType", "digest", "artifactType", "data"})
_DESCRIPTOR_LISTS: Final = frozenset({"urls"})
_PLATFORM_TEXTS: Final = frozenset({"architecture", "os", "os.version", "variant"})
_PLATFORM_LISTS: Final = frozenset({"os.features", "features"})
"""Members by their type in Go (image-spec `specs-go/v1`); a null is the empty value."""
_SCHEMA_1_TEXT: Final = "schema 1 manifests are not supported; push the image again with a Docker of 2017 or later"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer or config: bytes that must be a blob of the repository, unless `external`.

    `size` is what the manifest claims, in bytes, if it does.
    """

    media_type: str
    digest: Digest
    urls: tuple[str, ...] = ()
    size: int | None = field(default=None, compare=False)

    @property
    def external(self) -> bool:
        """Return whether it is a foreign layer, which clients fetch from its URLs."""
        foreign = self.media_type == _DOCKER_FOREIGN or self.media_type.startswith(_OCI_FOREIGN)
        return foreign and bool(self.urls)


@dataclass(frozen=True, slots=True)
class Child:
    """An entry of an index; `platform` is (os, architecture) if present, `size` the claimed one in bytes."""

    digest: Digest
    platform: tuple[str, str] | None
    size: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed manifest.  `artifact_type` is that of referrers lists: its own, else the config's media type.

    `unsupported` quotes the first digests of a stored manifest that are not sha256 or sha512; what they name is
    not in `blobs`, `children` and `subject`.
    """

    media_type: str
    blobs: tuple[Layer, ...]
    children: tuple[Child, ...]
    subject: Digest | None
    artifact_type: str | None
    annotations: dict[str, str]
    config_type: str | None
    unsupported: tuple[str, ...] = ()


def essence(content_type: str) -> str:
    """Return a media type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_web_url(url: str) -> bool:
    """Return whether a client can fetch a foreign layer from the URL: http or https, a host, no fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address, for one
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and "#" not in url


def class_of(config_type: str) -> str:
    """Return `image` or `plugin` by the config's media type, as CNCF Distribution does; else the type itself."""
    if config_type in {
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    }:
        return "image"
    return "plugin" if config_type == "application/vnd.docker.plugin.v1+json" else config_type


def check_class(parsed: Parsed, classes: Collection[str] | None) -> None:
    """Raise Denied for an image of a class that is not in `classes`; None allows every class."""
    if classes is None or parsed.config_type is None:
        return
    found = class_of(parsed.config_type)
    if found not in classes:
        raise Denied(f"the token is for another class of content than {found}")


def default_image(index: bytes) -> Digest | None:
    """Return the first image for linux/amd64 of a stored index.  Raises ManifestInvalid as `stored_type`."""
    for child in parse(index).children:
        if child.platform == _DEFAULT_PLATFORM:
            return child.digest
    return None


def stored_type(data: bytes) -> str:
    """Return the media type of stored bytes.  Raises ManifestInvalid if they are no manifest, or of schema 1."""
    document = read_stored(data, _TYPE_MEMBERS)
    if not document.get("mediaType"):
        document = read_stored(data, _TYPE_MEMBERS | {"manifests"})
    return _stored_type(document)


def is_schema_1(data: bytes) -> bool:
    """Return whether stored bytes are an image manifest of Docker's schema 1, which is not served."""
    try:
        return _is_schema_1(read_stored(data, _TYPE_MEMBERS))
    except ManifestInvalid:
        return False


def parse(data: bytes, content_type: str | None = None) -> Parsed:
    """Check a manifest that was pushed as `content_type`, or read one that was stored (None).

    Raises ManifestInvalid with the reason in one line; for stored bytes only if they are not served at all.
    """
    return _stored(read_stored(data)) if content_type is None else _pushed(read_pushed(data), content_type)


def stored_subject(data: bytes) -> Digest | None:
    """Return the subject of a stored manifest.  Raises ManifestInvalid as `stored_type`."""
    return _stored(read_stored(data, _TYPE_MEMBERS | {"subject"})).subject


def stored_description(data: bytes) -> Parsed:
    """Parse stored bytes without layers and children, which take most of the time and memory.

    Raises ManifestInvalid as `stored_type`.
    """
    document = read_stored(data, _DESCRIPTION_MEMBERS)
    if not document.get("mediaType"):
        document = read_stored(data, _DESCRIPTION_MEMBERS | {"manifests"})
    return _stored(document)


# --- pushed ------------------------------------------------------------------------------------------------------


def _pushed(document: dict[str, Any], content_type: str) -> Parsed:
    media_type = _pushed_type(document, _text(document, "mediaType"), content_type)
    version = document.get("schemaVersion")
    if version != _SCHEMA_VERSION or type(version) is not int:  # clients read neither true nor 2.0
        raise ManifestInvalid(_SCHEMA_1_TEXT if version == 1 else "schemaVersion must be 2")
    subject = document.get("subject")
    is_index = media_type in INDEXES
    config = None if is_index else _layer(document.get("config"), "config")
    blobs = () if config is None else (config, *_layers(document))
    _check_urls(blobs)
    artifact_type = _text(document, "artifactType") or None
    return Parsed(
        media_type=media_type,
        blobs=blobs,
        children=_children(document) if is_index else (),
        subject=None if subject is None else _digest(subject, "subject"),
        artifact_type=artifact_type or (config.media_type if config else None) or None,
        annotations=_annotations(document),
        config_type=config.media_type if config else None,
    )


def _pushed_type(document: dict[str, Any], own: str, content_type: str) -> str:
    found = essence(content_type)
    if found in _SCHEMA_1 or own in _SCHEMA_1 or "fsLayers" in document:
        raise ManifestInvalid(_SCHEMA_1_TEXT)
    if found not in MEDIA_TYPES:
        known = ", ".join(sorted(MEDIA_TYPES))
        sent = _quoted(content_type) if content_type else "missing"
        raise ManifestInvalid(f"Content-Type is {sent}; it must be one of {known}")
    if own and own != found:
        raise ManifestInvalid(f"its mediaType is {_quoted(own)}, but it was pushed as {found}")
    if not own and found in {DOCKER_MANIFEST, DOCKER_LIST}:
        raise ManifestInvalid(f"it was pushed as {found}, which needs a mediaType in the manifest")
    if found in INDEXES and not (document.get("layers") is document.get("config") is None):
        raise ManifestInvalid("an index must not have config or layers")
    if found not in INDEXES and document.get("manifests") is not None:
        raise ManifestInvalid("an image manifest must not have manifests")
    # image-spec: REQUIRED; without a mediaType, the bytes are known for an index by it.
    if found in INDEXES and ("manifests" not in document or (not own and document["manifests"] is None)):
        raise ManifestInvalid("an index must have manifests; the list may be empty")
    return found


def _layers(document: dict[str, Any]) -> tuple[Layer, ...]:
    return tuple(_layer(item, f"layers[{i}]") for i, item in enumerate(_list(document, "layers")))


def _children(document: dict[str, Any]) -> tuple[Child, ...]:
    found = []
    for i, item in enumerate(_list(document, "manifests")):
        digest = _digest(item, f"manifests[{i}]")
        platform = item.get("platform")
        known = (_text(platform, "os"), _text(platform, "architecture")) if platform else None
        found.append(Child(digest, known, item.get("size")))
    return tuple(found)


def _layer(item: Any, where: str) -> Layer:
    digest = _digest(item, where)
    return Layer(_text(item, "mediaType"), digest, tuple(item.get("urls") or ()), item.get("size"))


def _check_urls(blobs: tuple[Layer, ...]) -> None:
    """Check that an external layer can be fetched by clients; URLs of other layers are only hints."""
    for layer in blobs:
        for url in layer.urls if layer.external else ():
            if not is_web_url(url):
                raise ManifestInvalid(
                    f"the URL {_quoted(url)} of {layer.digest} is not http(s), or has a fragment"
                )


def _digest(item: Any, where: str) -> Digest:
    if not isinstance(item, dict):
        raise ManifestInvalid(f"{where} is missing or not a descriptor")
    size = item.get("size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZE_LIMIT:
        raise ManifestInvalid(f"{where}.size is not a number of bytes")
    _check_types(item, where)
    text = _text(item, "digest")
    try:
        return Digest.parse(text)
    except DigestInvalid as error:
        raise ManifestInvalid(f"{where}.digest {_quoted(text)} is not a sha256 or sha512 digest") from error


def _check_types(item: dict[str, Any], where: str) -> None:
    """Check the optional members of a descriptor; clients in Go refuse a manifest with one of another type."""
    platform = item.get("platform")
    if platform is not None and not isinstance(platform, dict):
        raise ManifestInvalid(f"{where}.platform is not an object")
    _check_members(item, where, _DESCRIPTOR_TEXTS, _DESCRIPTOR_LISTS)
    _check_members(platform or {}, f"{where}.platform", _PLATFORM_TEXTS, _PLATFORM_LISTS)
    if item.get("annotations") is not None and not _are_texts(item["annotations"], dict):
        raise ManifestInvalid(f"{where}.annotations is not a map of texts")
    try:
        # As encoding/base64 of Go, which passes over line ends.
        a2b_base64((item.get("data") or "").replace("\r", "").replace("\n", ""), strict_mode=True)
    except ValueError as error:
        raise ManifestInvalid(f"{where}.data is not base64") from error


def _check_members(found: dict[str, Any], where: str, texts: frozenset[str], lists: frozenset[str]) -> None:
    for name, value in found.items():
        if value is None:
            continue
        if name in texts and not isinstance(value, str):
            raise ManifestInvalid(f"{where}.{name} is not a text")
        if name in lists and not _are_texts(value, list):
            raise ManifestInvalid(f"{where}.{name} is not a list of texts")


def _are_texts(found: Any, kind: type[list[Any] | dict[str, Any]]) -> bool:
    values = found.values() if isinstance(found, dict) else found
    return isinstance(found, kind) and all(isinstance(value, str) for value in values)


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    found = document.get("annotations")
    if found is None:
        return {}
    if not _are_texts(found, dict):
        raise ManifestInvalid("annotations is not a map of texts")
    return {well_formed(key): well_formed(value) for key, value in found.items()}


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ManifestInvalid(f"{key} is not a text")
    return well_formed(value)


def _list(document: dict[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ManifestInvalid(f"{key} is not a list")
    if len(value) > DESCRIPTORS_LIMIT:
        raise ManifestInvalid(f"{key} has {len(value)} entries; at most {DESCRIPTORS_LIMIT} are taken")
    return value


# --- stored ------------------------------------------------------------------------------------------------------


def _stored(document: dict[str, Any]) -> Parsed:
    """Return the manifest of a document of `read_stored`, whose members have their type or are absent."""
    media_type = _stored_type(document)
    is_index = media_type in INDEXES
    entries = document.get("manifests" if is_index else "layers", [])
    config = {} if is_index else document.get("config", {})
    subject = document.get("subject", {})
    unsupported: list[str] = []

    def digest_of(entry: dict[str, Any]) -> Digest | None:
        text = entry.get("digest", "")
        try:
            return Digest.parse(text)
        except DigestInvalid:
            if text and len(unsupported) < _UNSUPPORTED_SHOWN:
                unsupported.append(_quoted(text))
            return None

    known = [(entry, digest) for entry in (config, *entries) if (digest := digest_of(entry)) is not None]
    config_type = None if is_index else config.get("mediaType", "")
    return Parsed(
        media_type=media_type,
        blobs=() if is_index else tuple(_stored_layer(*found) for found in known),
        children=tuple(_stored_child(*found) for found in known) if is_index else (),
        subject=digest_of(subject),
        artifact_type=document.get("artifactType") or config_type or None,
        annotations=document.get("annotations", {}),
        config_type=config_type,
        unsupported=tuple(unsupported),
    )


def _stored_type(document: dict[str, Any]) -> str:
    """Return the media type, as CNCF Distribution 2.8 and 3.1 (`registry/storage/manifeststore.go`, `Get`)."""
    own, version = document.get("mediaType", ""), document.get("schemaVersion")
    if _is_schema_1(document):
        raise ManifestInvalid(_SCHEMA_1_TEXT)
    if version != _SCHEMA_VERSION:
        raise ManifestInvalid("schemaVersion must be 2")
    found = own or (OCI_INDEX if "manifests" in document else OCI_MANIFEST)
    if found not in MEDIA_TYPES:
        raise ManifestInvalid(f"its mediaType {_quoted(found)} is not one that this registry serves")
    return found


def _is_schema_1(document: dict[str, Any]) -> bool:
    return document.get("schemaVersion") == 1 or document.get("mediaType", "") in _SCHEMA_1


def _stored_layer(entry: dict[str, Any], digest: Digest) -> Layer:
    return Layer(entry.get("mediaType", ""), digest, tuple(entry.get("urls", ())), _stored_size(entry))


def _stored_child(entry: dict[str, Any], digest: Digest) -> Child:
    platform = entry.get("platform")
    known = (platform.get("os", ""), platform.get("architecture", "")) if platform else None
    return Child(digest, known, _stored_size(entry))


def _stored_size(entry: dict[str, Any]) -> int | None:
    size: int | None = entry.get("size")
    return None if size is None or size < 0 else size


def _quoted(text: str) -> str:
    """Return a text of a client, fit for one line of a message and of a log."""
    return ascii(text if len(text) <= _QUOTED_CHARS else f"{text[:_QUOTED_CHARS]}...")
